"""Expert trajectories: networks trained on the real set, their weights kept after every epoch and before the first.

    weights[e, t] = theta_e after t epochs of plain SGD at a constant rate,    float32 [E, T + 1, F]

F: all leaves of a network in one row (``jax.flatten_util.ravel_pytree``). The array lies under $DDJAX_CACHE/experts/
<hash> as ``weights.npy``, memory-mapped, beside ``manifest.json`` (recipe, accuracies on the validation split). Every
expert has batches, views and a start of its own, decided by (seed, its number). A killed stage goes on with the expert
it was at. Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, section 3.1.
"""

import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ddjax import estimate, schema, survey, teachers, train
from ddjax.checkpoint import Checkpoint
from ddjax.data.sampler import epoch_batches
from ddjax.data.sources import beside
from ddjax.errors import CheckpointError, ConfigError, DataError
from ddjax.files import atomic_write, content_hash, locked, read_json, to_json
from ddjax.keys import key, numpy_rng
from ddjax.tally import size
from ddjax.train import Fold, Recipe
from ddjax.types import Augment, Experts, Net, Tree

SCHEMA = 1
FLAGS = {  # what decides the trajectories of a store, and how a run says it
    "rate": "--method.expert_lr", "batch": "--method.expert_batch", "epochs": "--method.expert_epochs",
    "precision": "--compute.precision",
}  # fmt: skip
RECIPE = Recipe(momentum=0.0, weight_decay=0.0, shape="steps")  # without drops: a constant rate


class Store(NamedTuple):
    """Experts that are there; ``weights`` is a memory map, accuracies are fractions on the validation split."""

    net: Net
    card: Any
    weights: np.ndarray  # [E, T + 1, F]
    accuracy: list[float]  # of each expert after its last epoch
    folder: Path
    given: bool = False  # by method.store; else of the cache

    @property
    def size(self) -> int:
        """Numbers in the weights of one network."""
        return self.weights.shape[2]

    def pairs(self, experts: Experts, seed: int, start: int, count: int) -> tuple[jax.Array, jax.Array]:
        """Weights ``[count, F]`` at the first and the last point that steps ``start .. start + count - 1`` are fed."""
        drawn = draws(experts, len(self.weights), seed, start, count)
        first, last = (np.stack([self.weights[e, t + span] for e, t in drawn]) for span in (0, experts.span))
        for rows, span in ((first, 0), (last, experts.span)):
            whole = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
            if not whole.all():
                e, t = drawn[int(np.argmin(whole))]
                told = f"the weights of expert {e} after {t + span} epochs are zero or no numbers"
                raise DataError(f"{named(self.folder, self.given)}: {told}. {way_out(self.given)}")
        return jax.device_put(first), jax.device_put(last)

    def forward(self):
        """``(weights [F], x [B, H, W, D] normalised) -> logits [B, C]``, compiled; batch norm by the batch itself."""
        rebuild, state = unravel(self.net)

        @jax.jit
        def logits(row: jax.Array, x: jax.Array) -> jax.Array:
            return self.net.apply(rebuild(row), state, x, train=True).logits

        return logits

    def logits(self, x: jax.Array, labels: np.ndarray) -> np.ndarray:
        """Mean logits ``[N, C]`` of ``x`` after the last epoch, over the experts that are right; all, where none is."""
        forward = self.forward()
        said = np.stack([np.asarray(forward(jnp.asarray(row), x)) for row in self.weights[:, -1]])
        right = (said.argmax(axis=2) == labels[None]).astype(np.float32)
        right = np.where(right.sum(axis=0)[None] > 0, right, 1.0)[:, :, None]
        return ((said * right).sum(axis=0) / right.sum(axis=0)).astype(np.float32)

    def classified(self, data: Any, ipc: int, rng: np.random.Generator) -> np.ndarray:
        """Positions ``[C ipc]``, class by class: random ones of those that the first expert classifies right, where too
        few, of those of the next ones; where all are passed, of the rest."""
        labels, order = data.train.labels, rng.permutation(len(data.train))
        classes, forward = len(data.class_names), self.forward()
        taken = [np.zeros(0, np.int64) for _ in range(classes)]
        for row in (*self.weights[:, -1], None):
            right = np.ones(len(order), bool) if row is None else self._right(forward, jnp.asarray(row), data)
            for c in range(classes):
                ours = order[(labels[order] == c) & right[order]]
                taken[c] = np.concatenate([taken[c], ours[~np.isin(ours, taken[c])]])[:ipc]
            if all(len(held) == ipc for held in taken):
                break
        return np.concatenate(taken)

    def _right(self, forward, row: jax.Array, data: Any) -> np.ndarray:
        """Which images of the train split this expert classifies as what they are."""
        split, found = data.train, []
        batch = survey.images_at_once(split)
        for start in range(0, len(split), batch):
            index = np.minimum(np.arange(start, start + batch), len(split) - 1)
            x = survey.normalise(jnp.asarray(split.gather(index)), self.card.mean, self.card.std)
            found.append(np.asarray(forward(row, x)).argmax(axis=1) == split.labels[index])
        return np.concatenate(found)[: len(split)]


def unravel(net: Net) -> tuple[Any, Tree]:
    """``row [F] -> params`` of a network, and its first state."""
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0))
    _, state = net.init(jax.random.key(0))
    return ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))[1], state


def numbers(net: Net) -> int:
    """F: numbers in the weights of a network."""
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def top(experts: Experts, step: int) -> int:
    """The epoch below which step ``step`` starts: from ``first`` to ``high``, linearly within ``grow`` steps."""
    if not experts.grow:
        return experts.high
    return min(experts.high, experts.first + int((experts.high - experts.first) * step / experts.grow))


def draws(experts: Experts, there: int, seed: int, start: int, count: int) -> list[tuple[int, int]]:
    """(expert, epoch) of steps ``start .. start + count - 1``: all ``there`` experts in turn, in random order."""
    which = epoch_batches(seed, "experts", start, count, there, 1)[:, 0]
    steps = range(start, start + count)
    epochs = [numpy_rng(seed, "expert-epoch", i).integers(experts.low, top(experts, i)) for i in steps]
    return [(int(e), int(t)) for e, t in zip(which, epochs, strict=True)]


def kept(per_epoch: int, epochs: int) -> Fold:
    """A fold that keeps the weights as rows ``[T + 1, F]``: the first, then those after every ``per_epoch`` updates."""

    def init(params: Tree, state: Tree) -> jax.Array:
        first = ravel_pytree(params)[0]
        return jnp.zeros((epochs + 1, first.shape[0]), first.dtype).at[0].set(first)

    def update(carry: jax.Array, step, params, state, grads, batch) -> jax.Array:
        row = ravel_pytree(params)[0]  # written after every update: the last one of an epoch stays
        return jax.lax.dynamic_update_index_in_dim(carry, row, step // per_epoch + 1, 0)

    return Fold(init, update)


# ------------------------------------------------------------------------------------------- the stage


def build(experts: Experts, job: Any) -> Store:
    """The experts of a run: those in the folder ``experts.store``, or of this recipe, from the cache or trained now.

    ConfigError: a store of another architecture, data set or too few epochs; sizes that disk or memory do not hold.
    """
    net, data = job.net(experts.arch), job.data
    recipe = described(experts, net, data, job.run.seed, job.run.compute.precision)
    folder = place(experts, recipe, job.cache)
    if not experts.store:
        with locked(folder.parent / f".{folder.name}"):
            if len(accuracies(folder)) < experts.count:
                check_room(experts, net, folder, recipe["batch"])
                _train(experts, job, net, recipe, folder)
    return opened(folder, experts, recipe, net, data.card)


def check(experts: Experts, net: Net, data: Any, run: Any) -> None:
    """What can be told before anything runs: a store that is there fits; disk and device hold what is to be trained."""
    recipe, cache = described(experts, net, data, run.seed, run.compute.precision), run.compute.cache_folder()
    folder = place(experts, recipe, cache)
    if experts.store or len(accuracies(folder)) >= experts.count:
        opened(folder, experts, recipe, net, data.card)
    else:
        check_room(experts, net, folder, recipe["batch"])


def place(experts: Experts, recipe: dict[str, Any], cache: Path) -> Path:
    """The folder of a store: the one given, or that of its recipe in the cache."""
    return Path(experts.store) if experts.store else cache / "experts" / content_hash(recipe)


def described(experts: Experts, net: Net, data: Any, seed: int, precision: str) -> dict[str, Any]:
    """What decides the trajectories; which of their points a method asks for does not."""
    return {
        "schema": SCHEMA, "data": data.hash, "card": data.card.hash, "arch": net.name, "shape": list(net.image_shape),
        "classes": net.classes, "precision": precision, "seed": seed, "count": experts.count, "epochs": experts.epochs,
        "rate": experts.rate, "batch": min(experts.batch, len(data.train)), "ops": list(admitted(experts, data)),
    }  # fmt: skip


def admitted(experts: Experts, data: Any) -> tuple[str, ...]:
    """The ops of the experts' augmentation that the data set admits: no flip where its own views have none."""
    return tuple(op for op in experts.ops if op != "flip" or data.card.augment.flip)


def accuracies(folder: Path) -> list[float]:
    """Of the experts in the cache that are finished; [] without any."""
    return manifest(folder, given=False)["accuracy"] if (folder / "manifest.json").exists() else []


def check_room(experts: Experts, net: Net, folder: Path, batch: int) -> None:
    """ConfigError that names the bytes, where neither the disk nor a device holds the experts."""
    each, cache, laid = 4 * (experts.epochs + 1) * numbers(net), folder.parent.parent, folder / "weights.npy"
    needed, free = experts.count * each, shutil.disk_usage(existing(cache)).free
    free += laid.stat().st_size if laid.exists() else 0  # a run that goes on took its room before
    if needed > free:
        raise ConfigError(
            f"experts: {experts.count} trajectories of {experts.epochs} + 1 times {numbers(net):,} weights take "
            f"{size(needed)}, and {str(cache)!r} has {size(free)} free. Allowed: --compute.cache on a larger disk. "
            f"Nearest: --method.{experts.fields[0]} {max(1, free // each)}."
        )
    needed, most = 3 * each + estimate.alone(net, batch), estimate.device_bytes()  # held, donated, saved
    if needed > most:
        raise ConfigError(
            f"experts: training one and keeping its {experts.epochs} + 1 sets of {numbers(net):,} weights takes "
            f"{size(needed)}, and the device has {size(most)}. Allowed: fewer "
            f"--method.{experts.fields[1]}, a smaller --method.arch, or smaller batches of the experts."
        )


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return path if path.exists() else existing(path.parent)


def _train(experts: Experts, job: Any, net: Net, recipe: dict[str, Any], folder: Path) -> None:
    """Trains what is missing, as many experts side by side as there are devices, each in rows of its own."""
    data, over, log = job.data, job.over, job.log
    batch = recipe["batch"]
    views = Augment(dsa=tuple(recipe["ops"]))
    trainer = teachers.Trainer(net, RECIPE, data, batch, job.run.seed, over, job.run.compute.checkpoint_every, views)
    steps, fold = experts.epochs * trainer.per_epoch, kept(trainer.per_epoch, experts.epochs)
    weights, found = (
        laid_out(folder / "weights.npy", (experts.count, experts.epochs + 1, numbers(net))),
        accuracies(folder),
    )
    scratch = folder.parent / f".{folder.name}" / "steps"
    with log.progress("experts", steps * experts.count) as bar:
        bar.advance(steps * len(found))
        while len(found) < experts.count:
            group = range(len(found), min(len(found) + over.devices, experts.count))
            starts = [net.init(key(job.run.seed, "expert-init", e)) for e in group]
            members = teachers.stack([train.member_of(RECIPE, *one, experts.rate, fold=fold) for one in starts])
            with Checkpoint(scratch) as checkpoint:
                members = trainer.fit(
                    members, steps, "experts", fold=fold, checkpoint=checkpoint,
                    tag=content_hash([recipe, list(group)]), streams=tuple(f"expert-{e}" for e in group),
                    advance=lambda n, **shown: bar.advance(n * len(group), **shown),  # noqa: B023
                )  # fmt: skip
                right = survey.accuracy(
                    net, members.params, members.state, data.val, data.card.mean, data.card.std, over=over
                )
                weights[group.start : group.stop] = np.asarray(members.fold)
                weights.flush()
                found = [*found, *(float(a) for a in right)]
                atomic_write(folder / "manifest.json", to_json(recipe | {"accuracy": found}))
                checkpoint.clear()
    log.say(f"experts: validation accuracy after the last epoch: {[round(a, 3) for a in found]}")


def laid_out(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """The array ``weights.npy``, as an earlier run left it or new; its room on the disk is taken at once."""
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name("making.npy")
    np.lib.format.open_memmap(made, mode="w+", dtype=np.float32, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):  # else a full disk would be a signal in the middle of a write
        with open(made, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, made.stat().st_size)
    os.replace(made, path)
    return np.lib.format.open_memmap(path, mode="r+")


# ------------------------------------------------------------------------------------ reading a store


def manifest(folder: Path, *, given: bool = True) -> dict[str, Any]:
    """What a store says of itself; ConfigError or DataError with the way out. ``given``: by ``method.store``."""
    path, where = folder / "manifest.json", named(folder, given)
    if not path.is_file():
        allowed = "allowed: a folder such as $DDJAX_CACHE/experts/<hash>."
        raise ConfigError(f"{where} holds no experts; {allowed}{'' if folder.exists() else beside(folder)}")
    try:
        said = read_json(path)
    except DataError as error:
        raise DataError(f"{where}: {error} {way_out(given)}") from None
    if isinstance(said, dict) and said.get("schema") not in (SCHEMA, None):
        raise CheckpointError(f"{where} has schema {said['schema']!r}; this ddjax reads {SCHEMA}. {way_out(given)}")
    wrong = schema.problems(f"experts-{SCHEMA}", said)
    if wrong:
        raise DataError(f"{where}: manifest.json: {' '.join(wrong)} {way_out(given)}")
    return said


def named(folder: Path, given: bool) -> str:
    """How an error calls a store."""
    return f"{'method.store' if given else 'experts'} = {str(folder)!r}"


def way_out(given: bool) -> str:
    """What to do about a damaged store."""
    if given:
        return "Allowed: the folder whole; copy it again, or give no --method.store (they are trained then)."
    return "Remove the folder, and the experts are trained anew."


def fitting(folder: Path, experts: Experts, recipe: dict[str, Any]) -> dict[str, Any]:
    """A store's manifest; ConfigError where it is of other experts than ``recipe`` says: a set would tell untruths."""
    said, given = manifest(folder, given=bool(experts.store)), "or no --method.store (they are trained then)"
    others = [
        f"{name} {short(said[name])}, this run {short(recipe[name])}"
        for name in ("data", "classes", "shape", "arch")
        if said[name] != recipe[name]
    ]
    if others:
        alone = others[0].startswith("arch ")
        remedy = f"--method.arch {said['arch']}" if alone else "experts of this data set"
        raise ConfigError(
            f"method.store = {str(folder)!r} is an expert store of another {others[0].split()[0]}: it has "
            f"{'; '.join(others)}. Allowed: the same. Nearest: {remedy}, {given}."
        )
    there = len(said["accuracy"])
    flags = [f"{flag} {said[name]}" for name, flag in FLAGS.items() if said[name] != recipe[name]]
    flags += [f"--method.dsa {bool(said['ops'])}"] if bool(said["ops"]) != bool(recipe["ops"]) else []
    flags += [f"--method.experts {there}"] if there < experts.count else []
    if flags:
        raise ConfigError(
            f"method.store = {str(folder)!r}: its {there} experts were trained otherwise than the flags say; "
            f"allowed: {' '.join(flags)}, {given}."
        )
    return said


def short(value: Any) -> str:
    """A value of a manifest as an error shows it: hashes by their first letters."""
    return repr(f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else value)


def opened(folder: Path, experts: Experts, recipe: dict[str, Any], net: Net, card: Any) -> Store:
    """The experts of a folder, which must fit."""
    said, given = fitting(folder, experts, recipe), bool(experts.store)
    where, wanted = f"{named(folder, given)}: weights.npy", (said["epochs"] + 1, numbers(net))
    try:
        weights = np.load(folder / "weights.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{where} cannot be read: {error}. {way_out(given)}") from error
    if weights.dtype != np.float32 or weights.shape[1:] != wanted or len(weights) < len(said["accuracy"]):
        told = f"{weights.dtype} {weights.shape}, not float32 of {len(said['accuracy'])} x {wanted[0]} x {wanted[1]}"
        raise DataError(f"{where} is {told}, as its manifest says. {way_out(given)}")
    count = min(experts.count, len(said["accuracy"]))
    return Store(net, card, weights[:count], said["accuracy"][:count], folder, given)
