"""What every further evaluation is given: the run, the set, random real images beside it, students to train."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddjax import evaluate, judge, lineup, relabel
from ddjax.baselines import FullData, random_images
from ddjax.files import content_hash
from ddjax.protocols import Protocol
from ddjax.synset import DistilledSet

SCHEMA = 3  # of what the evaluations compute; a change raises it


class Table(NamedTuple):
    """What an evaluation found: rows of values (fractions, not percent), what it says, its main numbers by name.

    ``units``: how people read a column, ``%`` or ``points`` (differences); others are shown as they are.
    """

    columns: list[str]
    rows: list[list[Any]]
    note: str
    values: dict[str, Any]
    units: dict[str, str] = {}  # noqa: RUF012  never changed


class Part:
    """Some images of a split, under labels of their own; looks like a split to whoever evaluates on it."""

    def __init__(self, split: Any, rows: np.ndarray, labels: np.ndarray | None = None):
        """``rows`` of ``split``; ``labels`` int32 for them, or None: the split's own."""
        self.split, self.rows, self.shape = split, np.asarray(rows), split.shape
        self.labels = (split.labels[self.rows] if labels is None else labels).astype(np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Images uint8 ``[k, H, W, D]`` at ``indices``."""
        return self.split.gather(self.rows[np.asarray(indices)])


class Parts(NamedTuple):
    """The splits that students are chosen and judged by."""

    val: Any
    test: Any


class Case(NamedTuple):
    """One set in one run. ``own``: the set with its labels; ``other``: random real images, labels of that source."""

    job: Any  # judge.Job
    made: DistilledSet
    own: evaluate.Row
    other: evaluate.Row
    scratch: Path

    @property
    def arch(self) -> str:
        """The architecture that is looked at: the first one asked for."""
        return self.job.run.evaluate.archs[0]

    @property
    def rule(self) -> Protocol:
        """The run's protocol."""
        return self.job.run.evaluate.rule()

    @property
    def classes(self) -> int:
        """How many classes the set has."""
        return len(self.made.class_names)

    @property
    def ipc(self) -> int:
        """Images of each class."""
        return self.made.ipc

    @property
    def numbers(self) -> list[int]:
        """The students' seeds."""
        return list(range(self.job.run.seed, self.job.run.seed + self.job.run.evaluate.seeds))

    def with_seeds(self, most: int) -> "Case":
        """The same with at most so many seeds."""
        asked = self.job.run.evaluate
        fewer = dataclasses.replace(asked, seeds=min(most, asked.seeds))
        return self._replace(job=self.job._replace(run=dataclasses.replace(self.job.run, evaluate=fewer)))

    def tag(self, name: str) -> str:
        """The hash of what decides the evaluation ``name``."""
        run, data = self.job.run, self.job.data
        return content_hash({
            "schema": SCHEMA, "name": name, "data": data.hash, "card": data.card.hash, "protocol": repr(self.rule),
            "arch": self.arch, "seeds": self.numbers, "precision": run.compute.precision,
            "images": self.made.images, "labels": self.made.labels, "source": self.own.label_source,
            "teacher": self.made.meta.get("teacher"),
        })  # fmt: skip

    def students(self, size: int, **changed: Any) -> evaluate.Students:
        """The students of a set of ``size`` images under the run's protocol (``changed``: see judge.students)."""
        return judge.students(self.job, self.made, changed.pop("arch", self.arch), size, **changed)

    def lines(
        self, group: evaluate.Students, row: evaluate.Row, *, data: Any = None, results: Path | None = None
    ) -> list[dict[str, Any]]:
        """The row's lines, rate chosen on validation, every seed: the run's own where they stand in its results.

        Else they are made now and kept in ``results``, or in this evaluation's scratch.
        """
        job = self.job
        if data is None:
            done = evaluate.finished(job.folder.results, evaluate.cell_of(group, row), self.numbers)
            if done is not None:
                return done
        return evaluate.evaluate_row(
            group, row, data or job.data, seeds=job.run.evaluate.seeds, seed=job.run.seed,
            results=results or self.scratch / "results.jsonl", scratch=self.scratch,
            every=job.run.compute.checkpoint_every, log=job.log,
        )  # fmt: skip

    def judged(
        self, group: evaluate.Students, row: evaluate.Row, *, data: Any = None, file: str = "results"
    ) -> dict[int, float]:
        """Test accuracy by seed; ``file``: where its lines are kept (a name's other images end its older lines)."""
        lines = self.lines(group, row, data=data, results=self.scratch / f"{file}.jsonl")
        return {line["seed"]: line["accuracy"] for line in lines}

    def hard(self) -> evaluate.Row:
        """The set's images with their classes as labels."""
        labels = relabel.Hard(self.made.labels, self.classes)
        return evaluate.Row(self.own.name, "hard", self.own.images, labels, labels=self.made.labels)

    def random_hard(self) -> evaluate.Row:
        """Random real images, as many, with their classes as labels."""
        images = random_images(self.job.data, self.ipc, self.job.run.seed)
        labels = np.repeat(np.arange(self.classes, dtype=np.int32), self.ipc)
        return evaluate.Row("random_hard", "hard", images, relabel.Hard(labels, self.classes))

    def shared_teacher(self) -> FullData:
        """The network on all training images, from the shared cache or trained now."""
        return lineup.shared_teacher(self.job)


def mean(seeds: dict[int, float]) -> float:
    """The mean accuracy."""
    return float(np.mean(list(seeds.values())))
