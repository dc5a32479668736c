"""The rows that stand beside every distilled set: what else the same images per class and labels could buy.

random_hard   random real images, their classes as labels
random_soft   the same random images, labels from the same source as the distilled set's
kmeans        real images nearest to k-means centres, class by class, hard labels
herding       real images chosen greedily towards the class mean (Welling, ICML 2009), hard labels
base_labels   the distilled images, labels from the one converged model instead of the pool
full_data     one network trained on all of the training set within a stated budget; kept in the shared cache
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax import cost, survey, teachers, train
from ddjax.checkpoint import Checkpoint
from ddjax.evaluate import Row
from ddjax.files import atomic_folder, atomic_write, content_hash, locked, read_json, to_json
from ddjax.kernels import select
from ddjax.keys import key, numpy_rng
from ddjax.mesh import Spread
from ddjax.models import weights
from ddjax.relabel import Hard, Pool
from ddjax.types import Net, Tree

EPOCHS, SECONDS = 20, 600.0  # the most that the network on all data may cost
RATE, BATCH = 3e-3, 128
RECIPE = train.Recipe(optimiser="adamw", weight_decay=0.01)


class FullData(NamedTuple):
    """The network trained on everything: weights, test accuracy, and what it cost."""

    params: Tree
    state: Tree
    accuracy: float
    budget: dict[str, Any]


def full_data(
    net: Net, data, *, seed: int, over: Spread, every: int, cache: Path, log, precision: str = "float32"
) -> FullData:
    """One network on all training images, at most 20 epochs or 10 minutes; cached under a content hash.

    How many epochs fit is measured once, before training, and written down: a resumed run keeps to it.
    """
    recipe = {"recipe": RECIPE._asdict(), "rate": RATE, "batch": BATCH, "most": [EPOCHS, SECONDS]}
    recipe |= {"data": data.hash, "card": data.card.hash, "precision": precision}
    tag = content_hash({"net": net.name, "shape": net.image_shape, "seed": seed, **recipe})
    folder, scratch = cache / "baselines" / tag, cache / "baselines" / f".{tag}"
    with locked(scratch):
        if not (folder / "manifest.json").exists():
            trainer = teachers.Trainer(net, RECIPE, data, min(BATCH, len(data.train)), seed, over, every)
            _train_on_all(trainer, folder, scratch, tag, log)
    manifest = read_json(folder / "manifest.json")
    params, state = weights.load_net(folder / "base.safetensors", net)
    return FullData(params, state, manifest["accuracy"], manifest["budget"])


def _train_on_all(trainer: teachers.Trainer, folder: Path, scratch: Path, tag: str, log) -> None:
    net, data = trainer.net, trainer.data

    def fresh() -> train.Member:
        member = train.init_member(net, RECIPE, key(trainer.seed, "full-data-init"), RATE)
        return jax.tree.map(lambda a: jnp.asarray(a)[None], member)

    plan = scratch / "epochs.json"
    if not plan.exists():
        clock = []

        def tick(n: int, **shown: float) -> None:
            clock.append(time.monotonic())

        chunk = min(train.CHUNK, trainer.every)  # as below, so that one compiled program serves both
        trainer.fit(fresh(), 2 * chunk, "full_data", chunk=chunk, advance=tick)
        fits = int(SECONDS / ((clock[1] - clock[0]) / chunk * trainer.per_epoch))
        atomic_write(plan, to_json({"epochs": max(1, min(EPOCHS, fits))}))
    epochs = read_json(plan)["epochs"]
    steps, began = epochs * trainer.per_epoch, time.monotonic()
    with Checkpoint(scratch / "steps") as checkpoint, log.progress("full_data", steps) as bar:
        members = trainer.fit(fresh(), steps, "full_data", checkpoint=checkpoint, advance=bar.advance, tag=tag)
        spent = time.monotonic() - began
        right = survey.accuracy(
            net, members.params, members.state, data.test, data.card.mean, data.card.std, over=trainer.over
        )
        budget = {"epochs": epochs, "steps": steps, "images": len(data.train), "seconds": round(spent, 1)}
        budget |= {"optimiser": RECIPE.optimiser, "lr": RATE, "batch": trainer.batch}
        manifest = {"schema": 1, "hash": tag, "arch": net.name, "accuracy": float(right[0]), "budget": budget}
        with atomic_folder(folder) as out:
            weights.save_net(out / "base.safetensors", *jax.tree.map(lambda a: a[0], (members.params, members.state)))
            (out / "manifest.json").write_text(to_json(manifest))
        checkpoint.clear()


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
    *, ipc: int, seed: int,
) -> list[Row]:  # fmt: skip
    """The baseline rows among ``names`` that need students.

    ``soft``: the source of the set's own soft labels; ``base``: the base model's.
    """
    labels, classes = data.train.labels, net.classes
    hard = Hard(np.repeat(np.arange(classes, dtype=np.int32), ipc), classes)

    def real(index: np.ndarray) -> jax.Array:
        return jnp.asarray(data.train.gather(index))

    def coreset(name: str) -> Row:
        if trained:
            space = survey.features(net, trained.params, trained.state, data.train, data.card.mean, data.card.std)
        else:
            space = data.train.gather(np.arange(len(labels))).reshape(len(labels), -1).astype(np.float32) / 255.0
        if name == "kmeans":
            index = select.kmeans(numpy_rng(seed, "kmeans"), space, labels, ipc)
        else:
            index = select.herding(space, labels, ipc)
        return Row(name, "hard", real(index), hard, budget={"features": "full_data" if trained else "pixels"})

    random = real(select.random_per_class(numpy_rng(seed, "random-baseline"), labels, ipc))
    found = []
    for name in names:
        if name == "random_hard":
            found.append(Row(name, "hard", random, hard))
        elif name == "random_soft" and soft:
            found.append(Row(name, soft.name, random, soft))
        elif name in ("kmeans", "herding"):
            found.append(coreset(name))
        elif name == "base_labels" and base and own.label_source != "base":
            found.append(Row(name, "base", own.images, base))
    return found
