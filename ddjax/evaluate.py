"""Students trained from scratch on a small set, judged under a frozen protocol.

For each row (a set with its labels) and architecture: where the protocol has several learning rates, the one whose
student is best on the validation split, one seed each; then all seeds train in one compiled program; accuracy after the
last step, on the test split (a protocol whose name says ``best-on-test`` looks at it oftener). Rows of one shape share
the program: labels and images are arguments of it.
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
from ddjax.errors import ConfigError
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
from ddjax.kernels import augment
from ddjax.keys import key, numpy_rng
from ddjax.log import duration
from ddjax.mesh import Spread
from ddjax.protocols import Protocol, Rule, Setting
from ddjax.types import Augment, Net, Tree

FRESH = (1 << 30, (1 << 31) - (1 << 24))  # where the numbers of views that a seed draws for itself begin


class Row(NamedTuple):
    """One line of the table: a set of images and where its labels come from."""

    name: str
    label_source: str
    images: jax.Array | np.ndarray  # [M, H, W, D] normalised float32, or uint8
    source: Any  # relabel.Hard | relabel.Learned | relabel.Pool | relabel.Stored
    table: np.ndarray | None = None  # targets computed before; None: made here
    budget: dict[str, Any] | None = None
    labels: np.ndarray | None = None  # int32 [M] the images' classes, where the labels are soft and the loss asks
    views: Any = None  # softlabels.Recorded: the views that its labels were stored for, in place of the plan's


class Inputs(NamedTuple):
    """What one step of one student is fed."""

    index: Any  # [B]
    v: Any  # []
    targets: Any  # [B, C] fp16
    soft: Any  # []
    held: Any = None  # [] how many images of the batch count


class Students(NamedTuple):
    """Everything about one architecture that its rows share: the compiled programs."""

    net: Net
    protocol: Protocol
    rule: Rule
    plan: relabel.Plan
    over: Spread
    mean: tuple[float, ...]
    std: tuple[float, ...]
    run: Callable
    init: Callable
    store: dict[str, Callable]  # label programs by label source


def students(
    net: Net, protocol: Protocol, plan: relabel.Plan, mean, std, *, over: Spread, setting: Setting | None = None
) -> Students:
    """Build the programs of one architecture; nothing is compiled before it is first run.

    ``setting`` is what the protocol is told of the problem; None: what the plan and the network say of it.
    """
    rule = protocol.at(setting or Setting(plan.size, net.classes, _Views(augment=plan.augment), net.name))
    recipe, fold = rule.recipe, train.average(rule.ema) if rule.ema else None

    def stored_batch(data: Tree, x: Inputs) -> train.Example:
        images, base = data
        normal = survey.normalise(images[x.index], mean, std)
        seen, _ = relabel.seen(plan, normal, base, jnp.arange(plan.batch, dtype=jnp.int32), x.v)
        return train.Example(seen, x.targets, x.soft)

    def fresh_batch(data: Tree, x: Inputs) -> train.Example:
        images, base, labels = data
        normal, own = survey.normalise(images[x.index], mean, std), labels[x.index]
        order = jnp.arange(plan.batch, dtype=jnp.int32)
        seen, view = relabel.seen(plan, normal, base, order, x.v)
        mixed = augment.mix_labels(own, view) if plan.augment.mixes else own
        weight = (order < x.held).astype(jnp.float32) if plan.ragged else None
        clean = augment.unmixed(normal, view, plan.augment) if recipe.clean else None
        targets = jnp.where(x.soft > 0.5, x.targets.astype(mixed.dtype), mixed)
        return train.Example(seen, targets, x.soft, weight=weight, hard=own, clean=clean)

    step = train.make_step(net, recipe, fresh_batch if rule.fresh else stored_batch, fold)
    init = jax.jit(lambda k, lr: train.init_member(net, recipe, k, lr, fold))
    return Students(net, protocol, rule, plan, over, mean, std, train.make_run(step, over), init, {})


class _Views(NamedTuple):
    """A card of which only the views are known."""

    augment: Augment
    id: str = "custom"


def targets(group: Students, row: Row) -> np.ndarray | None:
    """The row's targets for every view of the plan, fp16 ``[V, B, C]``; None where they are made on the way.

    Labels stored for another plan than this architecture's are made again; ConfigError where nobody can.
    """
    if row.table is not None and row.table.shape[:2] == (group.plan.count, group.plan.batch):
        return row.table
    if row.table is not None and isinstance(row.source, relabel.Stored):
        raise ConfigError(
            f"evaluate.archs: {group.net.name} is trained on {group.plan.count} batches of {group.plan.batch} under "
            f"{group.protocol.id}; the labels stored for {row.name} are {row.table.shape[0]} of {row.table.shape[1]}. "
            "Allowed: architectures of one batch size, or --label.source hard."
        )
    if group.rule.fresh and not row.source.soft:
        return None
    images = survey.normalise(jnp.asarray(row.images), group.mean, group.std)
    if row.source.soft and row.source.name not in group.store:
        group.store[row.source.name] = relabel.storer(group.plan, row.source)
    return relabel.targets(group.plan, row.source, images, store=group.store.get(row.source.name))


def label_table(group: Students, row: Row) -> np.ndarray:
    """What the loss on the images' own labels takes: probabilities ``[M, C]``, or centred values for the mean square.

    Of soft rows: their classes, which only some losses ask for.
    """
    classes, centred = group.net.classes, group.rule.recipe.hard == "mse"
    if row.source.soft:
        return (
            np.zeros((len(row.images), classes), np.float32)
            if row.labels is None
            else np.eye(classes, dtype="f4")[row.labels]
        )
    if centred and isinstance(row.source, relabel.Learned):
        return row.source.logits
    table = np.asarray(row.source.table, np.float32)
    return table - np.float32(1 / classes) if centred else table


def train_students(
    group: Students, row: Row, table: np.ndarray | None, rates: list[float], seeds: list[int], steps: int, **fit: Any
) -> train.Member:
    """Members trained on a row: member ``i`` has rate ``rates[i]`` and seed ``seeds[i]``.

    Soft labels, and ``table`` in general, are replayed in an order of each seed's own; where there is no table each
    seed draws its own batches and views.
    """
    members = [group.init(key(seed, "student-init"), jnp.float32(lr)) for seed, lr in zip(seeds, rates, strict=True)]
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    soft, data = np.full((), float(row.source.soft), np.float32), (jnp.asarray(row.images), group.plan.key())
    if group.rule.fresh:
        data = (*data, jnp.asarray(label_table(group, row)))
    feed = _replayed(group, table, seeds) if table is not None else _drawn(group, seeds)

    def chunks(start: int, n: int) -> train.Chunk:
        index, v, held, marks = feed(start, n)
        xs = Inputs(index, v, marks, np.broadcast_to(soft, v.shape), held if group.rule.fresh else None)
        return train.Chunk(data, jax.device_put(xs))

    return train.fit(group.run, members, chunks, steps=steps, **fit)


def _replayed(group: Students, table: np.ndarray, seeds: list[int]) -> Callable:
    """``(start, n) -> index, v, held, targets``: the batches of the plan, in each seed's order."""
    index = group.plan.index()

    def feed(start: int, n: int):
        v = np.stack([group.plan.order(seed, start, n) for seed in seeds])
        return index[v], v, group.plan.held(v), table[v]

    return feed


def _drawn(group: Students, seeds: list[int]) -> Callable:
    """The same with batches and views of each seed's own; targets come from the labels in the program."""
    first = [int(numpy_rng(seed, "fresh-views").integers(*FRESH)) for seed in seeds]

    def feed(start: int, n: int):
        made = [group.plan.batches(seed, "student-batches", start, n) for seed in seeds]
        index, held = (np.stack(part) for part in zip(*made, strict=True))
        v = np.stack([np.arange(start, start + n, dtype=np.int32) + np.int32(at) for at in first])
        return index, v, held, np.broadcast_to(np.float16(0), (*index.shape, group.net.classes))

    return feed


def accuracy(group: Students, members: train.Member, split) -> np.ndarray:
    """Fraction right of each student on a split; by the running average of its weights where the protocol keeps one."""
    params = members.fold if group.rule.ema else members.params
    return survey.accuracy(group.net, params, members.state, split, group.mean, group.std, over=group.over)


def sound(members: train.Member) -> np.ndarray:
    """Which members' weights are all finite ``[M]``."""
    leaves = [np.isfinite(np.asarray(leaf)) for leaf in jax.tree.leaves(members.params)]
    return np.logical_and.reduce([leaf.reshape(len(leaf), -1).all(axis=1) for leaf in leaves])


class Looks:
    """Accuracies on the test split that a protocol takes on the way, kept in a file until the cell is done."""

    def __init__(self, group: Students, split, file: Path):
        self.group, self.split, self.file = group, split, file
        self.seen: dict[str, list[float]] = read_json(file) if file.exists() else {}

    def __call__(self, step: int, members: train.Member) -> None:
        right = np.where(sound(members), accuracy(self.group, members, self.split), -1.0)
        self.seen[str(step)] = right.tolist()
        atomic_write(self.file, to_json(self.seen))

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The best accuracy of each member and the update after which it was found."""
        steps = sorted(map(int, self.seen))
        table = np.array([self.seen[str(step)] for step in steps])
        return table.max(axis=0), np.array(steps)[table.argmax(axis=0)]


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
    rule, steps = group.rule, group.rule.steps
    held = {"targets": table} if table is not None else {"labels": label_table(group, row)}
    tag = content_hash({"cell": cell, "plan": repr(group.plan), **held, "images": np.asarray(row.images)})
    kept = scratch / tag[:16]
    searched = rule.chosen_on is not None
    with log.progress(
        f"evaluate {row.name}, {row.label_source} labels, {group.net.name}", (1 + searched) * steps
    ) as bar:

        def judged(part: str, rates: list[float], seeds: list[int], split, finite: bool):
            looks = Looks(group, data.test, kept / f"{part}-looks.json")
            with Checkpoint(kept / part) as checkpoint:
                members = train_students(
                    group, row, table, rates, seeds, steps, stage=f"evaluate {row.name} ({part})", every=every,
                    checkpoint=checkpoint, config_hash=tag, advance=bar.advance, finite=finite, marks=rule.marks,
                    look=looks,
                )  # fmt: skip
            if rule.marks:
                return looks.best()
            right = accuracy(group, members, split)
            return right if finite else np.where(sound(members), right, -1.0), np.full(len(seeds), steps)

        rates, found, chosen = list(rule.rates), kept / "rates.json", None
        if searched and not found.exists():
            split = data.test if rule.chosen_on == "test" else data.val
            tried, _ = judged("rates", rates, [seed] * len(rates), split, False)
            atomic_write(found, to_json(tried.tolist()))
        elif searched:
            bar.advance(steps)
        if searched:
            chosen = read_json(found)
            rates = [rates[int(np.argmax(chosen))]]
        right, after = judged("seeds", rates * seeds, numbers, data.test, True)
    spent = (time.monotonic() - began) / seeds
    by_test = {"selected_on": "test"} if rule.marks else {}
    lines = [
        {
            "schema": 1, **cell, "seed": number, "accuracy": float(a), "epoch": int(at) // group.plan.per_epoch,
            "steps": steps, "lr": rates[0], "validation_accuracy": max(chosen) if chosen and not by_test else None,
            "budget": row.budget, "wall_s": round(spent, 3), "peak_memory_bytes": cost.peak_memory_bytes(), **by_test,
        }
        for number, a, at in zip(numbers, right, after, strict=True)
    ]  # fmt: skip
    write_cell(results, cell, lines)
    remove_folder(kept)
    return lines


def cell_of(group: Students, row: Row) -> dict[str, Any]:
    """What names a cell in results.jsonl; ``inputs`` is the hash of its images, views and own labels, and of the rule
    where its id does not tell it all."""
    told: dict[str, Any] = {"plan": repr(group.plan), "images": np.asarray(row.images)}
    if isinstance(row.source, relabel.Learned):
        told["labels"] = row.source.logits
    if group.rule.fresh or "+" in group.protocol.id:
        told |= {"rule": repr(group.rule)} | ({} if row.source.soft else {"table": label_table(group, row)})
    images = content_hash(told)
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


def repeat(group: Students, row: Row, twin: Row, numbers: list[int], results: Path) -> None:
    """The finished lines of ``twin`` once more, as those of ``row``, which has the same images and labels and cost
    nothing: ``wall_s`` 0, ``trained_as`` the row whose students they are."""
    cell, lines = cell_of(group, row), finished(results, cell_of(group, twin), numbers)
    if lines is None:
        raise ValueError(f"{twin.name} is not finished, so {row.name} cannot be repeated from it.")
    shared = {**cell, "budget": row.budget, "wall_s": 0.0, "trained_as": twin.name}
    write_cell(results, cell, [{**line, **shared} for line in lines])


def announce(group: Students, rows: list[Row], *, seeds: int, seed: int, results: Path, every: int, log) -> None:
    """Say first how long the cells that are not done yet will take: a stretch of the training is timed."""
    numbers = list(range(seed, seed + seeds))
    left = [row for row in rows if finished(results, cell_of(group, row), numbers) is None]
    if not left:
        return
    steps, grid = group.rule.steps, len(group.rule.rates) if group.rule.chosen_on else 0
    table = None
    if left[0].source.soft or not group.rule.fresh:
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
        f"evaluate: {group.protocol.id}, {len(left)} rows x ({f'{grid} rates + ' if grid else ''}{seeds} seeds) x "
        f"{steps} steps on {group.net.name}, about {duration(total)} and compilation."
    )


def write_cell(results: Path, cell: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Append the lines of a cell that are not there yet."""
    mend_lines(results)
    known = standing(results, cell)
    for line in lines:
        if line["seed"] not in known:
            append_line(results, line)


make_callable(__name__)
