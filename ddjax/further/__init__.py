"""Further evaluations of a set, asked for by name (``--evaluate.further optimisers coverage …``), kept in further.json.

One file, one evaluation: a function of a :class:`Case` that returns a :class:`Table`. Each is run after the rows of
results.jsonl, written as soon as it is done, and skipped where the same inputs were evaluated before; what is trained
on the way is kept cell by cell until then.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddjax import cost, evaluate, lineup
from ddjax.files import atomic_write, read_json, remove_folder, to_json
from ddjax.further import augmentation, continual, coverage, nas, optimisers, privacy
from ddjax.further.case import Case, Table
from ddjax.synset import DistilledSet

FURTHER: dict[str, Callable[[Case], Table]] = {
    "optimisers": optimisers.run,
    "coverage": coverage.run,
    "nas": nas.run,
    "continual": continual.run,
    "privacy": privacy.run,
    "augmentation": augmentation.run,
}
FILE = "further.json"
SCHEMA = 1


def run(job: Any, made: DistilledSet, rows: list[evaluate.Row], *, soft: Any) -> Path | None:
    """RUN/further.json: every evaluation that the run asks for; returns the file, None where none is asked for.

    ``{"schema": 1, NAME: {"columns", "rows", "note", "values", "arch", "protocol", "inputs", "cost"}}``; accuracies are
    fractions. ``rows``: the line-up, the set first; ``soft``: the set's own soft labels' source, or None.
    """
    wanted, path = job.run.evaluate.further, job.folder.folder / FILE
    if not wanted:
        return None
    other = lineup.counterpart(job, rows, soft)
    for name in wanted:
        case = Case(job, made, rows[0], other, job.folder.scratch("evaluate") / f"further-{name}")
        tag = case.tag(name)
        found: dict[str, Any] = read_json(path) if path.exists() else {"schema": SCHEMA}
        if found.get(name, {}).get("inputs") == tag:
            job.log.say(f"{name}: done before, inputs unchanged; skipped.")
            continue
        began = time.monotonic()
        table = FURTHER[name](case)
        spent = {"wall_s": round(time.monotonic() - began, 3), "peak_memory_bytes": cost.peak_memory_bytes()}
        about = {"arch": case.arch, "protocol": case.rule.id, "inputs": tag, "cost": spent}
        atomic_write(path, to_json(found | {name: {**table._asdict(), **about}}))
        remove_folder(case.scratch)
        job.log.say(f"{name}: {table.note}")
    return path
