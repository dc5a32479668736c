"""The teacher stage: one base model, a pool of weak models made from it, and what the real data look like to them.

prior       snapshots of the base model's own training, log-spaced: models as weak as a student's path
posterior   the finished base model pruned (density 1 - rho, rho uniform) and briefly tuned with the mask held;
            members outside the acceptance band are drawn again
mixed       half and half

Kept as artefacts under a content hash in the shared cache: ``base.safetensors``, ``pool.safetensors``,
``manifest.json`` (recipe, accuracies on the validation split). Source: Yu et al., Teddy, ECCV 2024; the recipe's
details are ours (inferred).
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax import survey, train
from ddjax.checkpoint import Checkpoint
from ddjax.data.cards import Card
from ddjax.data.feed import Feed
from ddjax.data.sampler import epoch_batches
from ddjax.errors import ConfigError, DataError
from ddjax.files import atomic_folder, content_hash, from_cache, locked, read_json, to_json
from ddjax.kernels import augment as views
from ddjax.kernels import labels as losses
from ddjax.kernels.prune import apply_mask, magnitude_mask
from ddjax.keys import key, numpy_rng
from ddjax.mesh import Spread
from ddjax.models import weights
from ddjax.train import Example, Fold, Recipe
from ddjax.types import Augment, Net, Teachers, Tree

SCHEMA = 1  # of the artefacts; a change of what training does raises it
ROUNDS = 6  # draws of pruned members before giving up


class Store(NamedTuple):
    """What the stage hands on; accuracies are fractions on the validation split."""

    net: Net
    base: Teachers  # P = 1
    base_accuracy: float
    pool: Teachers
    pool_accuracy: list[float]
    hash: str
    folder: Path

    def of(self, which: str) -> Teachers:
        """The weak ``pool``, or the ``base`` model as a pool of one."""
        return self.base if which == "base" else self.pool


@functools.lru_cache(maxsize=8)
def program(
    net: Net, recipe: Recipe, card: Card, count: int, over: Spread, fold: Fold | None, augment: Augment
) -> Callable:
    """The compiled training of ``count`` networks on augmented views of real images; kept, so that it compiles once."""

    def make_batch(data, x):
        images, labels = data
        index, step, rows, base = x
        view = views.draw_view(jax.random.fold_in(base, step), augment, index, step, image_size=net.image_shape[:2])
        seen = views.apply_view(survey.normalise(images[index], card.mean, card.std), view, augment=augment)
        onehot = losses.onehot(labels[index], net.classes)
        return Example(over.batch(seen, count), views.mix_labels(onehot, view), jnp.float32(0.0), rows)

    return train.make_run(train.make_step(net, recipe, make_batch, fold), over)


class Trainer(NamedTuple):
    """Training on real images: the net, its recipe and where the pixels come from."""

    net: Net
    recipe: Recipe
    data: Any  # data.Dataset
    batch: int
    seed: int
    over: Spread
    every: int
    augment: Augment | None = None  # None: the card's own views

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self.data.train) // self.batch)

    def fit(
        self,
        members: train.Member,
        steps: int,
        stage: str,
        *,
        fold=None,
        checkpoint=None,
        advance=None,
        tag="",
        chunk=50,
        streams: tuple[str, ...] = (),
    ):
        """Train ``members`` on the train split for ``steps`` steps, all on the same batches and views.

        ``streams``: the names of random streams, one for each member; each has batches and views of its own then.
        """
        count, names = jax.tree.leaves(members.params)[0].shape[0], streams or (stage,)
        bases = jnp.stack([key(self.seed, f"{name}-views") for name in names])

        def taken(start: int, n: int) -> np.ndarray:
            parts = [epoch_batches(self.seed, name, start, n, len(self.data.train), self.batch) for name in names]
            return np.concatenate(parts, axis=1)

        feed = Feed(self.data.train, batch=len(names) * self.batch, seed=self.seed, name=stage, rows=taken)

        def chunks(start: int, n: int) -> train.Chunk:
            def by_member(index: Any) -> jax.Array:
                parts = jnp.asarray(index).reshape(n, len(names), self.batch).transpose(1, 0, 2)
                return jnp.broadcast_to(parts, (count, n, self.batch))

            images, labels, index = feed.chunk(start, n)
            numbers = jnp.broadcast_to(jnp.arange(start, start + n, dtype=jnp.int32)[None], (count, n))
            keys = jnp.broadcast_to(bases[:, None], (count, n))
            return train.Chunk((images, labels), (by_member(index), numbers, by_member(taken(start, n)), keys))

        augment = self.data.card.augment if self.augment is None else self.augment
        run = program(self.net, self.recipe, self.data.card, count, self.over, fold, augment)
        return train.fit(
            run, members, chunks, steps=steps, stage=stage, every=self.every, checkpoint=checkpoint, chunk=chunk,
            config_hash=tag, advance=advance or (lambda n, **shown: None),
        )  # fmt: skip


def snapshot_epochs(rule: str | tuple[int, ...], size: int, epochs: int) -> tuple[int, ...]:
    """After which epochs the ``size`` snapshots are taken: given, or spaced over 1 .. 0.8 E by log or evenly."""
    if isinstance(rule, tuple):
        return rule
    last = max(size, round(0.8 * epochs))
    if last > epochs:
        raise ConfigError(
            f"teacher.pool.size = {size} snapshots do not fit in teacher.epochs = {epochs}; allowed: size <= epochs. "
            f"Nearest valid: --teacher.pool.size {epochs}."
        )
    space = np.geomspace if rule == "log" else np.linspace
    chosen = np.round(space(1, last, size)).astype(int)
    for i in range(1, size):  # strictly rising, never past the last
        chosen[i] = max(chosen[i], chosen[i - 1] + 1)
    for i in range(size - 2, -1, -1):
        chosen[i] = min(chosen[i], chosen[i + 1] - 1)
    return tuple(int(e) for e in chosen)


def snapshots(steps: tuple[int, ...]) -> Fold:
    """A fold that keeps ``(params, state)`` as they stand after ``steps[i]`` updates, stacked ``[P, ...]``."""
    at = jnp.asarray(steps, jnp.int32)

    def init(params: Tree, state: Tree) -> Tree:
        return jax.tree.map(lambda a: jnp.zeros((len(steps), *a.shape), a.dtype), (params, state))

    def update(carry, step, params, state, grads, batch):
        hit = at == step + 1

        def write(carry):
            return jax.tree.map(lambda s, a: s.at[jnp.argmax(hit)].set(a), carry, (params, state))

        return jax.lax.cond(hit.any(), write, lambda carry: carry, carry)

    return Fold(init, update)


def stack(trees: list[Tree]) -> Tree:
    """Equal trees stacked on a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def train_base(trainer: Trainer, config, taken: tuple[int, ...], checkpoint, advance, tag: str):
    """The base model ``(params, state)`` and the snapshots after the epochs ``taken`` (None without any)."""
    fold = snapshots(tuple(e * trainer.per_epoch for e in taken)) if taken else None
    params, state = trainer.net.init(key(trainer.seed, "teacher-init"))
    member = train.member_of(trainer.recipe, params, state, config.lr, fold=fold)
    members = jax.tree.map(lambda a: a[None], member)
    steps = config.epochs * trainer.per_epoch
    members = trainer.fit(members, steps, "teachers", fold=fold, checkpoint=checkpoint, advance=advance, tag=tag)
    first = jax.tree.map(lambda a: a[0], members)
    return (first.params, first.state), (first.fold if taken else None)


def weaken(trainer: Trainer, config, base: tuple[Tree, Tree], size: int, judge: Callable, log) -> Tree:
    """``size`` pruned and tuned members ``(params, state)`` stacked, all within the acceptance band."""
    pool, low, high = config.pool, *config.pool.accept
    whole = float(judge(jax.tree.map(lambda a: a[None], base))[0])
    if whole == 0:
        raise DataError(
            "teacher: the accuracy of the base model is 0 on the validation split, so no pruned model can be compared "
            "with it. Train it longer (teacher.epochs) or check teacher.weights."
        )
    kept, seen = [], []
    masked = jax.jit(lambda k, p, density: magnitude_mask(k, p, density, jitter=0.1))
    for attempt in range(ROUNDS):
        rho = numpy_rng(trainer.seed, "prune", attempt).uniform(pool.prune[0], pool.prune[1], size)
        members = []
        for i, ratio in enumerate(rho):
            mask = masked(key(trainer.seed, "prune-jitter", attempt * size + i), base[0], jnp.float32(1.0 - ratio))
            params = apply_mask(base[0], mask)
            members.append(train.member_of(trainer.recipe, params, base[1], 0.1 * config.lr, mask=mask))
        steps = pool.tune_epochs * trainer.per_epoch
        with log.progress(f"teachers: pool, draw {attempt + 1} of at most {ROUNDS}", steps) as bar:
            tuned = trainer.fit(stack(members), steps, f"tune-{attempt}", advance=bar.advance)
        share = judge((tuned.params, tuned.state)) / whole
        seen += [round(float(s), 3) for s in share]
        for i in np.flatnonzero((share >= low) & (share <= high)):
            kept.append(jax.tree.map(lambda a, i=i: a[i], (tuned.params, tuned.state)))
        if len(kept) >= size:
            return stack(kept[:size])
    raise DataError(
        f"teacher.pool.accept = {pool.accept}: only {len(kept)} of {size} pruned members fell in the band after "
        f"{ROUNDS} draws; their accuracies over the base model's {whole:.3f} were {sorted(seen)}. Widen the band or "
        f"change teacher.pool.prune = {pool.prune} (more pruning: weaker members)."
    )


def weights_file(path: str) -> Path:
    """The file that ``teacher.weights`` means: a safetensors file, or base.safetensors of a folder."""
    found = Path(path) / "base.safetensors" if Path(path).is_dir() else Path(path)
    if not found.is_file():
        raise ConfigError(
            f"teacher.weights = {path!r} is no file; allowed: a safetensors file that ddjax wrote, or a folder with "
            "base.safetensors (such as $DDJAX_CACHE/teachers/<hash>)."
        )
    return found


def given_weights(path: str, net: Net) -> tuple[Tree, Tree]:
    """``(params, state)`` of a base model trained before; CheckpointError lists all that does not fit ``net``."""
    return weights.load_net(weights_file(path), net)


def lean(config, pooled: bool):
    """The recipe without its pool (None) where nobody asks for one and it does not come free with the base model."""
    pool = config.pool
    fits = not isinstance(pool.snapshots, str) or pool.size <= config.epochs
    free = pool.mode == "prior" and fits and not config.weights
    return config if pooled or free else dataclasses.replace(config, pool=None)


def taken_epochs(config) -> tuple[int, ...]:
    """After which epochs of the base model's training a snapshot becomes a member of the pool; () for none."""
    if config.pool is None or config.weights:
        return ()
    size = config.pool.size
    count = {"prior": size, "posterior": 0, "mixed": (size + 1) // 2}[config.pool.mode]
    return snapshot_epochs(config.pool.snapshots, count, config.epochs) if count else ()


def pool_by(config, taken: tuple[int, ...]) -> str:
    """How the pool really came to be: prior | posterior | mixed | base (no pool was asked for)."""
    if config.pool is None:
        return "base"
    return "posterior" if not taken else "prior" if len(taken) == config.pool.size else "mixed"


def recipe_hash(config, data, net: Net, seed: int, precision: str = "float32") -> str:
    """What decides the teachers: data and its card, network, precision, recipe, seed and the weights given."""
    given = None
    if config.weights:
        given = content_hash(weights_file(config.weights).read_bytes())
    recipe = dataclasses.asdict(config) | {"weights": given}
    return content_hash({
        "schema": SCHEMA, "data": data.hash, "card": data.card.hash, "net": net.name, "shape": net.image_shape,
        "precision": precision, "teacher": recipe, "seed": seed,
    })  # fmt: skip


def build(
    config,
    data,
    net: Net,
    *,
    seed: int,
    over: Spread,
    every: int,
    cache: Path,
    log,
    precision: str = "float32",
    pooled: bool = True,
) -> Store:
    """The base model and its pool: from the cache where this recipe was run before, else trained and kept there.

    ``pooled`` False: nobody asks for the pool; where it would cost something, the base model stands for it.
    """
    config = lean(config, pooled)
    tag = recipe_hash(config, data, net, seed, precision)
    folder = cache / "teachers" / tag
    with locked(cache / "teachers" / f".{tag}"):
        if not (folder / "manifest.json").exists():
            _make(config, data, net, seed, over, every, folder, tag, log)
    with from_cache(folder):
        manifest = read_json(folder / "manifest.json")
        params, state = weights.load_net(folder / "base.safetensors", net)
        base = Teachers(*jax.tree.map(lambda a: a[None], (params, state)))
        accuracy = [float(a) for a in manifest["pool_accuracy"]]
        pool = Teachers(*weights.load_net(folder / "pool.safetensors", net, stacked=len(accuracy)))
        return Store(net, base, float(manifest["accuracy"]), pool, accuracy, tag, folder)


def _make(config, data, net: Net, seed: int, over: Spread, every: int, folder: Path, tag: str, log) -> None:
    recipe = Recipe(optimiser=config.optimiser, weight_decay=config.weight_decay)
    trainer = Trainer(net, recipe, data, min(config.batch, len(data.train)), seed, over, every)
    mean, std = data.card.mean, data.card.std

    def judge(stacked: tuple[Tree, Tree]) -> np.ndarray:
        return survey.accuracy(net, *stacked, data.val, mean, std, over=over)

    taken, size, parts = taken_epochs(config), config.pool.size if config.pool else 1, []
    if config.weights and config.pool and config.pool.mode == "prior":
        log.say("teacher.weights: a finished model has no snapshots, so the pool is made by pruning (posterior).")
    with Checkpoint(folder.parent / f".{folder.name}" / "steps") as checkpoint:
        if config.weights:
            base = given_weights(config.weights, net)
        else:
            with log.progress("teachers", config.epochs * trainer.per_epoch) as bar:
                base, kept = train_base(trainer, config, taken, checkpoint, bar.advance, tag)
            parts += [kept] if taken else []
        if config.pool is None:
            parts.append(jax.tree.map(lambda a: a[None], base))
        elif size > len(taken):
            parts.append(weaken(trainer, config, base, size - len(taken), judge, log))
        pool = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
        accuracy = float(judge(jax.tree.map(lambda a: a[None], base))[0])
        members = judge(pool)
        strong = members >= 0.2 * accuracy  # cross-entropy at a near-random member only teaches its mistakes
        if not strong.any():
            raise DataError(
                f"teacher.pool = {config.pool}: all {size} members are below 20 % of the base model's accuracy "
                f"{accuracy:.3f}. Take later epochs (teacher.pool.snapshots), or train longer (teacher.epochs)."
            )
        if not strong.all():
            log.say(f"teachers: dropped {int((~strong).sum())} of {size} members below 20 % of the base accuracy.")
            pool = jax.tree.map(lambda a: a[np.flatnonzero(strong)], pool)
        manifest = {
            "schema": SCHEMA,
            "hash": tag,
            "arch": net.name,
            "recipe": dataclasses.asdict(config) | {"weights": bool(config.weights)},
            "pool_by": pool_by(config, taken),
            "accuracy": accuracy,
            "pool_accuracy": [float(a) for a in members[strong]],
            "data": data.hash,
            "seed": seed,
        }
        with atomic_folder(folder) as out:
            weights.save_net(out / "base.safetensors", *base)
            weights.save_net(out / "pool.safetensors", *pool)
            (out / "manifest.json").write_text(to_json(manifest))
        checkpoint.clear()
    for name, value in {"base": round(accuracy, 3), "pool": [round(float(a), 3) for a in members]}.items():
        log.say(f"teachers: validation accuracy of {name}: {value}")


def equip(store: Store, needs, data, *, over: Spread) -> Teachers:
    """The teachers that a method asked for, with the statistics, gradients and class means it needs."""
    chosen, card, net = store.of(needs.pool), data.card, store.net
    args = (net, chosen.params, chosen.state, data.train, card.mean, card.std)
    if needs.statistics != "none":
        chosen = chosen._replace(statistics=survey.moments(*args, scope=needs.statistics, over=over))
    if needs.gradients:
        chosen = chosen._replace(gradients=survey.gradients(*args, over=over))
    if needs.class_probs:
        chosen = chosen._replace(class_probs=survey.class_probabilities(*args, over=over))
    return chosen
