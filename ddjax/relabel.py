"""The label stage: targets for every view that a student will see, computed once and replayed by all of them.

    z(view) = (1/P) sum_j f_j(view)            (pool; base: the one converged model)

A plan fixes the views: batch ``v`` of the plan holds images ``index[v]`` seen through the view drawn from
``fold_in(key, v)``. A stored label is found again by ``v`` and the position in the batch, so students replay exactly
the crops that were labelled. Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition",
ECCV 2022 (labels per recorded view).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from ddjax.data import sampler
from ddjax.errors import DataError
from ddjax.files import atomic_folder, file_hash, read_json, to_json, usual_rights
from ddjax.kernels import augment as views
from ddjax.keys import key, numpy_rng
from ddjax.mesh import Spread
from ddjax.rundir import stop_if_asked
from ddjax.types import Augment, Net, Teachers, View


class Plan(NamedTuple):
    """The views of one set: ``epochs`` epochs of ``per_epoch`` batches of ``batch`` of its ``size`` images."""

    seed: int
    size: int
    batch: int
    epochs: int
    augment: Augment
    ragged: bool = False  # whether an epoch ends with a short batch, filled up; else the rest is left out

    def __repr__(self) -> str:
        shown = {name: value for name, value in self._asdict().items() if name != "ragged" or value}
        return f"Plan({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.size // self.batch) if self.ragged else max(1, self.size // self.batch)

    @property
    def count(self) -> int:
        """How many batches of views the plan holds."""
        return self.epochs * self.per_epoch

    def index(self) -> np.ndarray:
        """Which images each batch holds, int32 ``[count, B]``."""
        return self.batches(self.seed, "views", 0, self.count)[0]

    def batches(self, seed: int, name: str, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images int32 ``[count, B]`` of the batches from ``start`` on, of epochs shuffled by ``seed``, and how many
        of each batch count ``[count]``."""
        if self.ragged:
            return sampler.whole_epochs(seed, name, start, count, self.size, self.batch)
        index = sampler.epoch_batches(seed, name, start, count, self.size, self.batch)
        return index, np.full(count, self.batch, np.int32)

    def held(self, v: np.ndarray) -> np.ndarray:
        """How many images count in the batches ``v`` of the plan; fewer than B only in an epoch's ragged last."""
        rest = self.size - (self.per_epoch - 1) * self.batch
        last = (np.asarray(v) % self.per_epoch == self.per_epoch - 1) & self.ragged
        return np.where(last, rest, self.batch).astype(np.int32)

    def key(self) -> jax.Array:
        """The key from which every view is drawn."""
        return key(self.seed, "views")

    def order(self, seed: int, start: int, count: int) -> np.ndarray:
        """Which batch of the plan a student of ``seed`` sees at steps ``start ...``: its own shuffle of the epochs."""
        steps = np.arange(start, start + count)
        epoch = steps // self.per_epoch
        rounds = {
            r: numpy_rng(seed, "view-order", r).permutation(self.epochs) for r in set((epoch // self.epochs).tolist())
        }
        shuffled = np.array([rounds[e // self.epochs][e % self.epochs] for e in epoch.tolist()])
        return (shuffled * self.per_epoch + steps % self.per_epoch).astype(np.int32)


def plan(
    seed: int, size: int, batch: int, steps: int, augment: Augment, epochs: int | None = None, *, ragged: bool = False
) -> Plan:
    """The plan for students of ``steps`` steps; at most ``epochs`` epochs are stored and replayed in turn."""
    one = Plan(seed, size, batch, 1, augment, ragged and bool(size % batch))
    needed = math.ceil(steps / one.per_epoch)
    return one._replace(epochs=min(needed, epochs or needed))


def seen(plan: Plan, images: jax.Array, base: jax.Array, index: jax.Array, v: jax.Array) -> tuple[jax.Array, View]:
    """Batch ``v``: the images ``index [B]`` of ``images [N, H, W, D]`` through their view, and the view.

    Views that were recorded elsewhere (`ddjax.exchange.softlabels.Recorded`) are looked up instead of drawn.
    """
    if not isinstance(plan, Plan):
        return plan.seen(images, base, index, v)
    drawn = views.draw_view(
        jax.random.fold_in(base, v), plan.augment, index, v, image_size=(images.shape[1], images.shape[2])
    )
    if plan.augment == Augment():
        return images[index], drawn
    return views.apply_view(images[index], drawn, augment=plan.augment), drawn


class Hard:
    """The class of each image; under CutMix the two classes mixed by area."""

    soft = False
    name = "hard"

    def __init__(self, labels: np.ndarray, classes: int):
        self.table = jnp.asarray(np.eye(classes, dtype=np.float32)[labels])

    def labels(self, key: jax.Array, images: jax.Array, view: View) -> jax.Array:
        """One-hot rows ``[B, C]``, mixed where the view mixes."""
        return views.mix_labels(self.table[view.index], view)


class Learned(Hard):
    """The set's own labels, learned with its images: ``label_logits`` [M, C], the same for every view of an image."""

    name = "learned"

    def __init__(self, label_logits: np.ndarray):
        self.logits = np.asarray(label_logits, np.float32)
        self.table = jax.nn.softmax(jnp.asarray(self.logits))


class Pool:
    """The mean of the teachers' labels on the view itself (one teacher: the base labels).

    ``softened`` None averages raw logits; a temperature tau averages softmax(z / tau) and stores
    ``tau log`` of the mean, the logits that a student at that temperature sees the mean through.
    ``batched``: batch norm normalises by the statistics of the views it labels at once, not by its running ones: the
    batch-specific soft labels of SRe2L++ (Cui et al., "Dataset Distillation via Committee Voting", 2025).
    """

    soft = True

    def __init__(
        self, net: Net, teachers: Teachers, over: Spread, name: str = "pool", softened: float | None = None, *,
        batched: bool = False,
    ):  # fmt: skip
        self.net, self.teachers, self.over, self.name, self.softened = net, teachers, over, name, softened
        self.batched = batched

    def labels(self, key: jax.Array, images: jax.Array, view: View) -> jax.Array:
        """Logits ``[B, C]`` of the pool's mean label, inference mode (unless ``batched``)."""
        return self.pooled(self.teachers.params, self.teachers.state, images)

    def pooled(self, params, state, images: jax.Array) -> jax.Array:
        """The same for teachers that are arguments: ``params``, ``state`` stacked ``[P, ...]``."""
        tau = self.softened

        def one(p, s, x):
            logits = self.net.apply(p, s, x, train=self.batched).logits
            return logits if tau is None else jax.nn.softmax(logits / tau)

        mean = self.over.mean(one, 2)(params, state, images)
        return mean if tau is None else tau * jnp.log(jnp.maximum(mean, 1e-30))


class Stored:
    """Soft labels that were computed before, for every view of a plan."""

    soft = True
    name = "stored"

    def __init__(self, table: np.ndarray):
        self.table = table


def storer(plan: Plan, source: Pool) -> Callable:
    """``(params, state, images, base, index [n, B], v [n]) -> logits [n, B, C]``, compiled once for a plan."""

    @jax.jit
    def store(params, state, images: jax.Array, base: jax.Array, index: jax.Array, v: jax.Array) -> jax.Array:
        def one(inputs):
            x, _ = seen(plan, images, base, *inputs)
            return source.pooled(params, state, x).astype(jnp.float16)

        return jax.lax.map(one, (index, v))

    return store


def targets(
    plan: Plan, source: Hard | Pool, images: jax.Array, *, store: Callable | None = None, chunk: int = 25
) -> np.ndarray:
    """Every target of the plan: fp16 ``[count, B, C]``, logits when soft, probabilities when hard.

    ``store`` is the compiled program of :func:`storer` when several sets of the same shape share it.
    """
    index, numbers, base = plan.index(), np.arange(plan.count, dtype=np.int32), plan.key()
    if isinstance(source, Hard):
        if not plan.augment.mixes:
            return np.asarray(source.table, np.float16)[index]
        hard = jax.jit(lambda index, v: jax.lax.map(lambda i: hard_one(plan, source, images, base, *i), (index, v)))
        return np.asarray(hard(index, numbers), np.float16)
    store = store or storer(plan, source)
    out = []
    for start in range(0, plan.count, chunk):
        stop_if_asked()
        rows = np.minimum(np.arange(start, start + chunk), plan.count - 1)  # the last chunk is filled up, then cut
        found = store(source.teachers.params, source.teachers.state, images, base, index[rows], numbers[rows])
        out.append(np.asarray(found))
    table = np.concatenate(out)[: plan.count]
    if not np.isfinite(table).all():
        raise DataError(f"label: {(~np.isfinite(table)).sum()} of {table.size} stored logits are not finite in fp16.")
    return table


def hard_one(plan: Plan, source: Hard, images: jax.Array, base: jax.Array, index: jax.Array, v: jax.Array) -> jax.Array:
    """The mixed one-hot rows of one batch of views."""
    _, view = seen(plan, images, base, index, v)
    return source.labels(base, images, view)


def save(folder: Path, name: str, plan: Plan, table: np.ndarray | None, images: int, *, batched: bool = False) -> None:
    """Write RUN/labels: manifest.json, and the stored targets where the labels are soft (``batched``: see Pool)."""
    about = {
        "schema": 1, "label_source": name, "images": images, "batch": plan.batch, "epochs": plan.epochs,
        "views": plan.count * plan.batch, "augment": plan.augment.said(), "seed": plan.seed,
        "bytes": 4 * images if table is None else table.nbytes, "sha256": None,
    }  # fmt: skip
    about |= {"statistics": "batch"} if batched else {}
    with atomic_folder(folder) as out:
        if table is not None:
            save_file({"logits": table}, out / "labels.safetensors")
            about["sha256"] = file_hash(usual_rights(out / "labels.safetensors"))
        (out / "manifest.json").write_text(to_json(about))


def load(folder: Path) -> np.ndarray | None:
    """The stored targets fp16 ``[count, B, C]``; None where the labels are hard."""
    about = read_json(folder / "manifest.json")
    if about["sha256"] is None:
        return None
    path = folder / "labels.safetensors"
    if not path.is_file() or file_hash(path) != about["sha256"]:
        said = "is not the one its manifest describes (sha256 differs)" if path.is_file() else "does not exist"
        raise DataError(f"file = {str(path)!r} {said}. Copy the folder again, or make the labels again.")
    return load_file(path)["logits"]
