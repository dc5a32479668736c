"""Random real images with the labels of a teacher that stopped early: the row ``random_early_soft``.

The teacher is the network on all data; candidates are its snapshots, log-spaced over the first four fifths of its
epochs. For each, students of the first architecture (every rate of the protocol, one seed) learn the random images
with its labels; the snapshot whose best student is most accurate on the VALIDATION split gives the labels, the same
for every architecture. Source of the idea: Qin, Deng and Alvarez-Melis, "A Label is Worth a Thousand Images in Dataset
Distillation", NeurIPS 2024 (few images want a young teacher; there the epoch is chosen by students' accuracy too).
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax import evaluate
from ddjax.baselines import FullData
from ddjax.checkpoint import Checkpoint
from ddjax.files import atomic_write, content_hash, read_json, to_json
from ddjax.mesh import Spread
from ddjax.relabel import Pool
from ddjax.types import Net

NAME = "random_early_soft"


def row(
    group: evaluate.Students, net: Net, trained: FullData, images: jax.Array, data, *, over: Spread, seed: int,
    results: Path, scratch: Path, every: int, log,
) -> evaluate.Row:  # fmt: skip
    """The row with the labels of the chosen snapshot; a choice that ``results`` holds already is kept."""
    labels = np.repeat(np.arange(net.classes, dtype=np.int32), len(images) // net.classes)
    rows = [
        evaluate.Row(NAME, "early", images, Pool(net, trained.stopped(i), over, "early"), labels=labels)
        for i in range(len(trained.epochs))
    ]
    before = [line["budget"] for line in evaluate.standing(results, evaluate.cell_of(group, rows[0])).values()]
    if before and before[0]["tried_epochs"] == list(trained.epochs):
        return rows[trained.epochs.index(before[0]["stopped_epoch"])]._replace(budget=before[0])
    tag = content_hash({"cell": evaluate.cell_of(group, rows[0]), "seed": seed, "tried": list(trained.epochs)})
    kept = scratch / f"early-{tag[:16]}.json"
    found = read_json(kept) if kept.exists() else []
    with log.progress(f"{NAME}: which epoch to stop at", len(rows)) as bar:
        bar.advance(len(found))
        for i in range(len(found), len(rows)):
            with Checkpoint(scratch / f"early-{tag[:16]}-{i}") as checkpoint:
                found.append(_best(group, rows[i], data, seed, every, checkpoint, tag))
                checkpoint.clear()
            atomic_write(kept, to_json(found))
            bar.advance(1)
    best = int(np.argmax(found))
    budget: dict[str, Any] = {
        "teacher": "full_data", "stopped_epoch": trained.epochs[best], "epochs": trained.budget["epochs"],
        "teacher_accuracy": trained.snapshot_accuracy[best], "chosen_on": "validation",
        "tried_epochs": list(trained.epochs), "tried_accuracy": found,
    }  # fmt: skip
    return rows[best]._replace(budget=budget)


def _best(group: evaluate.Students, row: evaluate.Row, data, seed: int, every: int, checkpoint, tag: str) -> float:
    """Validation accuracy of the best of the protocol's rates, one seed each."""
    rates = list(group.rule.rates)
    members = evaluate.train_students(
        group, row, evaluate.targets(group, row), rates, [seed] * len(rates), group.rule.steps,
        stage=NAME, every=every, checkpoint=checkpoint, config_hash=tag, finite=False,
    )  # fmt: skip
    return float(np.where(evaluate.sound(members), evaluate.accuracy(group, members, data.val), -1.0).max())
