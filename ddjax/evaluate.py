"""Students trained from scratch on a small set, judged under a frozen protocol.

For each row (a set with its labels) and architecture: the learning rate is chosen from the protocol's grid by accuracy
on the validation split, one seed each; then all seeds train in one compiled program; accuracy after the last step, on
the test split. Rows of one shape share the program: labels and images are arguments of it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax import cost, relabel, survey, train
from ddjax.api import make_callable
from ddjax.checkpoint import Checkpoint
from ddjax.files import (
    append_line,
    atomic_write,
    content_hash,
    mend_lines,
    read_json,
    read_lines,
    remove_folder,
    to_json,
)
from ddjax.keys import key
from ddjax.log import duration
from ddjax.mesh import Spread
from ddjax.protocols import Protocol
from ddjax.types import Net, Tree


class Row(NamedTuple):
    """One line of the table: a set of images and where its labels come from."""

    name: str
    label_source: str
    images: jax.Array | np.ndarray  # [M, H, W, D] normalised float32, or uint8
    source: Any  # relabel.Hard | relabel.Pool
    table: np.ndarray | None = None  # targets computed before; None: made here
    budget: dict[str, Any] | None = None


class Inputs(NamedTuple):
    """What one step of one student is fed."""

    index: Any  # [B]
    v: Any  # []
    targets: Any  # [B, C] fp16
    soft: Any  # []


class Students(NamedTuple):
    """Everything about one architecture that its rows share: the compiled programs."""

    net: Net
    protocol: Protocol
    plan: relabel.Plan
    over: Spread
    mean: tuple[float, ...]
    std: tuple[float, ...]
    run: Callable
    init: Callable
    store: dict[str, Callable]  # label programs by label source


def students(net: Net, protocol: Protocol, plan: relabel.Plan, mean, std, *, over: Spread) -> Students:
    """Build the programs of one architecture; nothing is compiled before it is first run."""
    recipe = protocol.recipe()

    def make_batch(data: Tree, x: Inputs) -> train.Example:
        images, base = data
        normal = survey.normalise(images[x.index], mean, std)
        seen, _ = relabel.seen(plan, normal, base, jnp.arange(plan.batch, dtype=jnp.int32), x.v)
        return train.Example(seen, x.targets, x.soft)

    run = train.make_run(train.make_step(net, recipe, make_batch), over)
    init = jax.jit(lambda k, lr: train.init_member(net, recipe, k, lr))
    return Students(net, protocol, plan, over, mean, std, run, init, {})


def targets(group: Students, row: Row) -> np.ndarray:
    """The row's targets for every view of the plan, fp16 ``[V, B, C]``."""
    if row.table is not None:
        return row.table
    images = survey.normalise(jnp.asarray(row.images), group.mean, group.std)
    if row.source.soft and row.source.name not in group.store:
        group.store[row.source.name] = relabel.storer(group.plan, row.source)
    return relabel.targets(group.plan, row.source, images, store=group.store.get(row.source.name))


def train_students(
    group: Students, row: Row, table: np.ndarray, rates: list[float], seeds: list[int], steps: int, **fit: Any
) -> train.Member:
    """Members trained on a row: member ``i`` has rate ``rates[i]`` and seed ``seeds[i]``."""
    members = [group.init(key(seed, "student-init"), jnp.float32(lr)) for seed, lr in zip(seeds, rates, strict=True)]
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    index, soft = group.plan.index(), np.full((), float(row.source.soft), np.float32)
    data = (jnp.asarray(row.images), group.plan.key())

    def chunks(start: int, n: int) -> train.Chunk:
        v = np.stack([group.plan.order(seed, start, n) for seed in seeds])
        xs = Inputs(index[v], v, table[v], np.broadcast_to(soft, v.shape))
        return train.Chunk(data, jax.device_put(xs))

    return train.fit(group.run, members, chunks, steps=steps, **fit)


def accuracy(group: Students, members: train.Member, split) -> np.ndarray:
    """Fraction right of each student on a split."""
    return survey.accuracy(group.net, members.params, members.state, split, group.mean, group.std, over=group.over)


def sound(members: train.Member) -> np.ndarray:
    """Which members' weights are all finite ``[M]``."""
    leaves = [np.isfinite(np.asarray(leaf)) for leaf in jax.tree.leaves(members.params)]
    return np.logical_and.reduce([leaf.reshape(len(leaf), -1).all(axis=1) for leaf in leaves])


def evaluate_row(
    group: Students, row: Row, data, *, seeds: int, seed: int, results: Path, scratch: Path, every: int, log
) -> list[dict[str, Any]]:
    """All lines of one cell (row x architecture), appended to ``results``; a finished cell is read back instead.

    ``scratch`` holds the cell's checkpoints and the outcome of the rate search until the cell is done.
    """
    cell, numbers = cell_of(group, row), list(range(seed, seed + seeds))
    done = finished(results, cell, numbers)
    if done is not None:
        return done
    began, table = time.monotonic(), targets(group, row)
    rates, steps = list(group.protocol.rates), group.protocol.steps(len(row.images))
    tag = content_hash({"cell": cell, "plan": repr(group.plan), "targets": table, "images": np.asarray(row.images)})
    found = scratch / tag[:16] / "rates.json"
    with log.progress(f"evaluate {row.name}, {row.label_source} labels, {group.net.name}", 2 * steps) as bar:

        def trained(part: str, rates: list[float], seeds: list[int], finite: bool) -> train.Member:
            with Checkpoint(scratch / tag[:16] / part) as checkpoint:
                return train_students(
                    group, row, table, rates, seeds, steps, stage=f"evaluate {row.name} ({part})", every=every,
                    checkpoint=checkpoint, config_hash=tag, advance=bar.advance, finite=finite,
                )  # fmt: skip

        if not found.exists():
            tried = trained("rates", rates, [seed] * len(rates), False)
            right = np.where(sound(tried), accuracy(group, tried, data.val), -1.0)
            atomic_write(found, to_json(right.tolist()))
        else:
            bar.advance(steps)
        validation = read_json(found)
        best = int(np.argmax(validation))
        final = trained("seeds", [rates[best]] * seeds, numbers, True)
    right = accuracy(group, final, data.test)
    spent = (time.monotonic() - began) / seeds
    lines = [
        {
            "schema": 1, **cell, "seed": number, "accuracy": float(a), "epoch": steps // group.plan.per_epoch,
            "steps": steps, "lr": rates[best], "validation_accuracy": validation[best], "budget": row.budget,
            "wall_s": round(spent, 3), "peak_memory_bytes": cost.peak_memory_bytes(),
        }
        for number, a in zip(numbers, right, strict=True)
    ]  # fmt: skip
    write_cell(results, cell, lines)
    remove_folder(found.parent)
    return lines


def cell_of(group: Students, row: Row) -> dict[str, Any]:
    """What names a cell in results.jsonl; ``inputs`` is the hash of its images and views."""
    images = content_hash({"plan": repr(group.plan), "images": np.asarray(row.images)})
    return {
        "name": row.name, "arch": group.net.name, "label_source": row.label_source, "protocol": group.protocol.id,
        "inputs": images[:16],
    }  # fmt: skip


def standing(results: Path, cell: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The lines of a cell that count, by seed: those after the last one of other inputs under the same name."""
    found: dict[int, dict[str, Any]] = {}
    for line in read_lines(results):
        if all(line.get(k) == v for k, v in cell.items() if k != "inputs"):
            if line.get("inputs") != cell.get("inputs"):
                found.clear()
            else:
                found[line["seed"]] = line
    return found


def finished(results: Path, cell: dict[str, Any], numbers: list[int]) -> list[dict[str, Any]] | None:
    """The lines of a cell that is done for the seeds ``numbers``, else None."""
    found = standing(results, cell)
    return [found[n] for n in numbers] if set(numbers) <= found.keys() else None


def announce(group: Students, rows: list[Row], *, seeds: int, seed: int, results: Path, every: int, log) -> None:
    """Say first how long the cells that are not done yet will take: a stretch of the training is timed."""
    numbers = list(range(seed, seed + seeds))
    left = [row for row in rows if finished(results, cell_of(group, row), numbers) is None]
    if not left:
        return
    steps, grid = group.protocol.steps(len(rows[0].images)), len(group.protocol.rates)
    table = np.zeros((group.plan.count, group.plan.batch, group.net.classes), np.float16)

    chunk = min(train.CHUNK, every)

    def seconds(steps: int) -> float:
        began = time.monotonic()
        train_students(group, left[0], table, [1e-3] * seeds, numbers, steps, stage="evaluate (timing)", chunk=chunk)
        return time.monotonic() - began

    seconds(1)  # compiles
    each = seconds(1)
    each = each if each > 1.0 else seconds(chunk) / chunk
    total = len(left) * steps * (seeds + grid) / seeds * each
    log.say(
        f"evaluate: {len(left)} rows x ({grid} rates + {seeds} seeds) x {steps} steps on {group.net.name}, "
        f"about {duration(total)} and compilation."
    )


def write_cell(results: Path, cell: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Append the lines of a cell that are not there yet."""
    mend_lines(results)
    known = standing(results, cell)
    for line in lines:
        if line["seed"] not in known:
            append_line(results, line)


make_callable(__name__)
