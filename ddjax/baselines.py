"""The rows that stand beside every distilled set: what else the same images per class and labels could buy.

random_hard        random real images, their classes as labels
random_soft        the same random images, labels from the same source as the set's; a set that brings no teacher: from
                   the network on all data (label source full_data)
random_early_soft  the same random images, labels from that network stopped early (see ddjax.early)
kmeans             real images nearest to k-means centres, class by class, hard labels
herding            real images chosen greedily towards the class mean (Welling, ICML 2009), hard labels
kcenter            real images chosen greedily, each farthest from those before it (Sener, Savarese, ICLR 2018), hard
forgetting         real images that the network on all data forgot most often (Toneva et al., ICLR 2019), hard
base_labels        the distilled images, labels from the one converged model instead of the pool
random_same_bytes  random real images, hard labels, as many as the bytes of the set's images and labels buy
full_data          one network trained on all of the training set within a stated budget; kept in the shared cache
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from ddjax import cost, storage, survey, teachers, train
from ddjax.checkpoint import Checkpoint
from ddjax.data.feed import RESIDENT_BYTES
from ddjax.evaluate import Row
from ddjax.files import atomic_folder, atomic_write, content_hash, from_cache, locked, read_json, to_json, usual_rights
from ddjax.kernels import select
from ddjax.keys import key, numpy_rng
from ddjax.mesh import Spread
from ddjax.models import weights
from ddjax.relabel import Hard, Pool
from ddjax.synset import DistilledSet
from ddjax.types import Net, Teachers, Tree

EPOCHS, SECONDS = 20, 600.0  # the most that the network on all data may cost
RATE, BATCH = 3e-3, 128
LEAST, STEPS = 16, 50  # so few images a batch, where the epoch of a small set would have fewer steps than this
RECIPE = train.Recipe(optimiser="adamw", weight_decay=0.01)
SNAPSHOTS = 5  # of the network on all data, kept for labels of a teacher that stopped early
NEED_TRAINED = ("full_data", "random_early_soft", "forgetting")
SCHEMA = 2  # of the artefact; a change of what its training does raises it


class FullData(NamedTuple):
    """The network trained on everything: weights, test accuracy, what it cost, and what was seen on the way."""

    params: Tree
    state: Tree
    accuracy: float
    budget: dict[str, Any]
    forgotten: np.ndarray  # int32 [N] how often each training image went from right to wrong
    snapshots: Teachers  # [S]
    epochs: tuple[int, ...]  # after which each snapshot was taken
    snapshot_accuracy: tuple[float, ...]  # on the validation split

    def teachers(self) -> Teachers:
        """The finished network as a pool of one."""
        return Teachers(*jax.tree.map(lambda a: a[None], (self.params, self.state)))

    def stopped(self, i: int) -> Teachers:
        """Snapshot ``i`` as a pool of one."""
        return Teachers(*jax.tree.map(lambda a: a[i : i + 1], (self.snapshots.params, self.snapshots.state)))


def watch(images: int, snapshots: int) -> train.Fold:
    """A fold that counts forgetting and keeps snapshots after the updates that its carry's ``at [S]`` names.

    ``forgotten[i]`` = how often image ``i`` was right in one batch and wrong in its next, as the training step itself
    judged it (augmented view, weights before the update): Toneva et al., ICLR 2019, Algorithm 1.
    """

    def init(params: Tree, state: Tree) -> dict[str, Tree]:
        room = jax.tree.map(lambda a: jnp.zeros((snapshots, *a.shape), a.dtype), (params, state))
        return {
            "right": jnp.zeros(images, bool), "forgotten": jnp.zeros(images, jnp.int32),
            "at": jnp.zeros(snapshots, jnp.int32), "snapshots": room,
        }  # fmt: skip

    def update(carry, step, params, state, grads, batch):
        now = jnp.argmax(batch.logits, axis=-1) == jnp.argmax(batch.targets, axis=-1)
        lost = carry["right"][batch.index] & ~now
        hit = carry["at"] == step + 1

        def keep(held):
            return jax.tree.map(lambda s, a: s.at[jnp.argmax(hit)].set(a), held, (params, state))

        return {
            "right": carry["right"].at[batch.index].set(now),
            "forgotten": carry["forgotten"].at[batch.index].add(lost.astype(jnp.int32)),
            "at": carry["at"],
            "snapshots": jax.lax.cond(hit.any(), keep, lambda held: held, carry["snapshots"]),
        }

    return train.Fold(init, update)


def full_data(
    net: Net, data, *, seed: int, over: Spread, every: int, cache: Path, log, precision: str = "float32"
) -> FullData:
    """One network on all training images, at most 20 epochs or 10 minutes; cached under a content hash.

    How many epochs fit is measured once, before training, and written down: a resumed run keeps to it.
    """
    batch = min(BATCH, max(LEAST, len(data.train) // STEPS), len(data.train))
    recipe = {"recipe": RECIPE._asdict(), "rate": RATE, "batch": batch, "most": [EPOCHS, SECONDS]}
    recipe |= {"data": data.hash, "card": data.card.hash, "precision": precision}
    recipe |= {"schema": SCHEMA, "snapshots": SNAPSHOTS}
    tag = content_hash({"net": net.name, "shape": net.image_shape, "seed": seed, **recipe})
    folder, scratch = cache / "baselines" / tag, cache / "baselines" / f".{tag}"
    with locked(scratch):
        if not (folder / "manifest.json").exists():
            trainer = teachers.Trainer(net, RECIPE, data, batch, seed, over, every)
            _train_on_all(trainer, folder, scratch, tag, log)
    with from_cache(folder):
        manifest = read_json(folder / "manifest.json")
        params, state = weights.load_net(folder / "base.safetensors", net)
        epochs, accuracy = (tuple(manifest["snapshots"][name]) for name in ("epochs", "accuracy"))
        snapshots = Teachers(*weights.load_net(folder / "snapshots.safetensors", net, stacked=len(epochs)))
        forgotten = load_file(folder / "forgotten.safetensors")["forgotten"]
        budget = dict(manifest["budget"])
        return FullData(params, state, float(manifest["accuracy"]), budget, forgotten, snapshots, epochs, accuracy)


def _train_on_all(trainer: teachers.Trainer, folder: Path, scratch: Path, tag: str, log) -> None:
    net, data, mean, std = trainer.net, trainer.data, trainer.data.card.mean, trainer.data.card.std
    fold = watch(len(data.train), SNAPSHOTS)

    def fresh(at: tuple[int, ...] = ()) -> train.Member:
        member = train.init_member(net, RECIPE, key(trainer.seed, "full-data-init"), RATE, fold)
        steps = jnp.asarray((*at, *[0] * (SNAPSHOTS - len(at))), jnp.int32)
        member = member._replace(fold=member.fold | {"at": steps})
        return jax.tree.map(lambda a: jnp.asarray(a)[None], member)

    epochs = planned_epochs(trainer, fresh, fold, scratch / "epochs.json")
    steps, began = epochs * trainer.per_epoch, time.monotonic()
    taken = teachers.snapshot_epochs("log", min(SNAPSHOTS, epochs), epochs)
    with Checkpoint(scratch / "steps") as checkpoint, log.progress("full_data", steps) as bar:
        members = trainer.fit(
            fresh(tuple(e * trainer.per_epoch for e in taken)), steps, "full_data", fold=fold, checkpoint=checkpoint,
            advance=bar.advance, tag=tag,
        )  # fmt: skip
        spent = time.monotonic() - began
        kept = jax.tree.map(lambda a: a[0, : len(taken)], members.fold["snapshots"])
        right = survey.accuracy(net, members.params, members.state, data.test, mean, std, over=trainer.over)
        early = survey.accuracy(net, kept[0], kept[1], data.val, mean, std, over=trainer.over)
        budget = {"epochs": epochs, "steps": steps, "images": len(data.train), "seconds": round(spent, 1)}
        budget |= {"optimiser": RECIPE.optimiser, "lr": RATE, "batch": trainer.batch}
        manifest = {
            "schema": SCHEMA, "hash": tag, "arch": net.name, "accuracy": float(right[0]), "budget": budget,
            "snapshots": {"epochs": list(taken), "accuracy": [float(a) for a in early]},
        }  # fmt: skip
        with atomic_folder(folder) as out:
            weights.save_net(out / "base.safetensors", *jax.tree.map(lambda a: a[0], (members.params, members.state)))
            weights.save_net(out / "snapshots.safetensors", *kept)
            save_file({"forgotten": np.asarray(members.fold["forgotten"][0])}, out / "forgotten.safetensors")
            usual_rights(out / "forgotten.safetensors")
            (out / "manifest.json").write_text(to_json(manifest))
        checkpoint.clear()


def planned_epochs(trainer: teachers.Trainer, fresh: Callable, fold: train.Fold, plan: Path) -> int:
    """How many epochs the budget holds: a stretch is timed once and the number kept in the file ``plan``."""
    if not plan.exists():
        clock = []

        def tick(n: int, **shown: float) -> None:
            clock.append(time.monotonic())

        chunk = min(train.CHUNK, trainer.every)  # as the training's own, so that one compiled program serves both
        trainer.fit(fresh(), 2 * chunk, "full_data", fold=fold, chunk=chunk, advance=tick)
        fits = int(SECONDS / ((clock[1] - clock[0]) / chunk * trainer.per_epoch))
        atomic_write(plan, to_json({"epochs": max(1, min(EPOCHS, fits))}))
    return read_json(plan)["epochs"]


def full_data_line(trained: FullData, arch: str, protocol: str, seed: int) -> dict[str, Any]:
    """The line of results.jsonl of the network on all data: one seed, its budget beside it."""
    return {
        "schema": 1, "name": "full_data", "arch": arch, "label_source": "hard", "protocol": protocol, "seed": seed,
        "accuracy": trained.accuracy, "epoch": trained.budget["epochs"], "steps": trained.budget["steps"],
        "lr": trained.budget["lr"], "validation_accuracy": None, "budget": trained.budget,
        "wall_s": trained.budget["seconds"], "peak_memory_bytes": cost.peak_memory_bytes(),
    }  # fmt: skip


def rows(
    names: tuple[str, ...], own: Row, soft: Pool | None, base: Pool | None, trained: FullData | None, net: Net, data,
    *, ipc: int, seed: int, spend: int = 0,
) -> list[Row]:  # fmt: skip
    """The baseline rows among ``names`` that need students, but for ``random_early_soft``.

    ``soft``: the source of the set's own soft labels; ``base``: the base model's; ``spend``: bytes of the set's images
    and labels.
    """
    labels, classes = data.train.labels, net.classes
    numbers = np.repeat(np.arange(classes, dtype=np.int32), ipc)
    hard = Hard(numbers, classes)

    def real(index: np.ndarray) -> jax.Array:
        return jnp.asarray(data.train.gather(index))

    @functools.cache
    def space() -> np.ndarray:
        return feature_space(trained, net, data)

    def coreset(name: str) -> Row:
        counts = trained.forgotten if trained else np.zeros(len(labels), np.int32)
        index = select.by_name(name, numpy_rng(seed, name), labels, ipc, space=space, forgotten=lambda: counts)
        budget = {"features": "full_data" if trained else "pixels"}
        if name == "forgetting":
            budget = {"forgotten": int(counts[index].sum())}
        return Row(name, "hard", real(index), hard, budget=budget)

    random = random_images(data, ipc, seed) if {"random_hard", "random_soft"} & set(names) else jnp.zeros(0)
    found = []
    for name in names:
        if name == "random_hard":
            found.append(Row(name, "hard", random, hard))
        elif name == "random_soft" and soft:
            found.append(Row(name, soft.name, random, soft, labels=numbers))
        elif name in select.BY_FEATURES or (name == "forgetting" and trained):
            found.append(coreset(name))
        elif name == "base_labels" and base and own.label_source != base.name:
            found.append(Row(name, base.name, own.images, base, labels=own.labels))
        elif name == "random_same_bytes" and spend:
            same = same_bytes(data, spend, classes, seed)
            if "random_hard" not in names or same.budget is None or same.budget["ipc"] != ipc:
                found.append(same)
    return found


def random_images(data, ipc: int, seed: int) -> jax.Array:
    """The random real images, ``ipc`` of each class, that every random row shares: uint8 ``[C * K, H, W, D]``."""
    index = select.random_per_class(numpy_rng(seed, "random-baseline"), data.train.labels, ipc)
    return jnp.asarray(data.train.gather(index))


def feature_space(trained: FullData | None, net: Net, data) -> np.ndarray:
    """What distances are measured in, ``[N, F]``: features of the network on all data; without one, pixels."""
    if trained:
        return survey.features(net, trained.params, trained.state, data.train, data.card.mean, data.card.std)
    flat = data.train.gather(np.arange(len(data.train))).reshape(len(data.train), -1)
    return flat.astype(np.float32) / np.float32(255.0)


def same_bytes(data, spend: int, classes: int, seed: int) -> Row:
    """Random real images (uint8, one int32 label each) for ``spend`` bytes, the same number of every class.

    ``K = floor(spend / (C (H W D + 4)))``, at least 1. A class with fewer images gives all it has, so that bytes worth
    more than the training set end as the whole training set; and no more than 8 GiB are taken, which is what may lie on
    a device. The row's budget says the bytes allowed and spent, K, and what cut it short.
    """
    labels, each = data.train.labels, int(np.prod(data.train.shape)) + 4
    asked = max(1, spend // (classes * each))
    most = int(np.bincount(labels, minlength=classes).max())
    ipc = min(asked, most, max(1, RESIDENT_BYTES // (classes * each)))
    rng = numpy_rng(seed, "random-baseline")
    parts = [np.flatnonzero(labels == c) for c in range(classes)]
    index = np.concatenate([rng.choice(part, min(ipc, len(part)), replace=False) for part in parts])
    cut = None if ipc == asked else "the training set" if ipc == most else "8 GiB"
    budget = {"bytes_allowed": spend, "bytes": len(index) * each, "ipc": ipc, "cut_by": cut}
    hard = Hard(labels[index].astype(np.int32), classes)
    return Row("random_same_bytes", "hard", jnp.asarray(data.train.gather(index)), hard, budget=budget)


def bytes_of(own: Row, made: DistilledSet) -> int:
    """Bytes of a set's images, their transform and the labels in use, as ``storage`` counts what is stored of ``made``:
    what ``random_same_bytes`` may spend.

    Labels in use: of the row ``own``; those that a teacher makes on the way are stored nowhere, and the classes are.
    """
    kept = storage.components(made)
    images = kept["images"] + kept.get("zca", 0)
    if own.table is not None and own.views is None:  # of the run: RUN/labels
        return images + own.table.nbytes
    name = storage.STORED if own.views is not None else "label_logits" if own.label_source == "learned" else "labels"
    return images + kept[name]
