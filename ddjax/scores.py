"""What accuracies over seeds allow to say: intervals, paired differences, LRS and ARS. All on FRACTIONS in [0, 1].

    scale(x) = clip((e^x - e^-1) / (e - e^-1), 0, 1)
    HLR = acc(all real images, hard) - acc(set, hard)        IOR = acc(set) - acc(random), both with the set's labels
    LRS = scale(w IOR - (1 - w) HLR)                         w = 1/2
    ARS = scale(g (set - random)_augmented + (1 - g) (set - random)_plain)        g = 1/2

Source of the scores: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025 (label and
augmentation robust scores). Its release puts percentages through the exponential; 5 and -30 points are 0.05 and -0.30.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ddjax.errors import DataError
from ddjax.keys import numpy_rng

LEVEL = 0.95  # of every interval
DRAWS = 2000  # of the bootstrap
EXACT = 14  # seeds up to which all sign patterns are looked at
FLIPS = 20_000  # sign patterns drawn beyond that
PLAIN = "+no-augmentation"  # what is added to a protocol's id when its students see the images as they are

Cell = tuple[str, str, str, str]  # name, arch, label source, protocol
Seeds = Mapping[int, float]  # seed -> accuracy


class Difference(NamedTuple):
    """Mean of the paired differences ``a - b``, its t interval, the two-sided sign-flip p, how many seeds."""

    mean: float
    interval: tuple[float, float]
    p: float
    seeds: int


def scale(x: Any) -> Any:
    """``clip((e^x - e^-1) / (e - e^-1), 0, 1)``: -1 -> 0, 0 -> 0.269, 1 -> 1. Scalars or arrays."""
    low, high = np.exp(-1.0), np.exp(1.0)
    return np.clip((np.exp(x) - low) / (high - low), 0.0, 1.0)


def lrs(full_hard: Any, own_hard: Any, own: Any, random: Any, weight: float = 0.5) -> Any:
    """Label robust score of accuracies that are fractions; DataError where one is not."""
    for value in (full_hard, own_hard, own, random):
        _fraction(value)
    return scale(weight * (own - random) - (1.0 - weight) * (full_hard - own_hard))


def ars(own: Any, random: Any, own_plain: Any, random_plain: Any, weight: float = 0.5) -> Any:
    """Augmentation robust score; ``plain``: students that saw the images without augmentation. Fractions."""
    for value in (own, random, own_plain, random_plain):
        _fraction(value)
    return scale(weight * (own - random) + (1.0 - weight) * (own_plain - random_plain))


def _fraction(value: Any) -> None:
    if not ((np.asarray(value) >= 0.0) & (np.asarray(value) <= 1.0)).all():
        raise DataError(f"accuracy = {np.max(value)!r} is no fraction; allowed: 0 to 1 (percent: divide by 100).")


# ---------------------------------------------------------------------------------------- intervals


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """``mean -+ t_{n-1} s / sqrt(n)`` with the sample deviation s; None for fewer than two values (Student, 1908)."""
    found = np.asarray(values, np.float64)
    if len(found) < 2:
        return None
    half = float(stdtrit(len(found) - 1, 0.5 + level / 2)) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean() - half), float(found.mean() + half)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of a zero mean: share of the sign patterns of the differences with a mean at least as far from 0.

    All ``2^n`` patterns up to 14 seeds (so p >= 2^(1-n): 0.0625 for five), else 20,000 drawn ones with the one seen
    counted in. Source: Fisher, "The Design of Experiments", 1935.
    """
    d = np.asarray(differences, np.float64)
    if len(d) <= EXACT:
        signs, seen = np.array(list(itertools.product((1.0, -1.0), repeat=len(d)))), 0
    else:
        signs, seen = numpy_rng(0, "sign-flip").choice([1.0, -1.0], size=(FLIPS, len(d))), 1
    far = np.abs(signs @ d) >= np.abs(d.sum()) - 1e-12
    return float((far.sum() + seen) / (len(signs) + seen))


def paired(a: Seeds, b: Seeds) -> Difference | None:
    """``a - b`` seed by seed; None unless both have the same seeds, at least two."""
    if set(a) != set(b) or len(a) < 2:
        return None
    d = [a[seed] - b[seed] for seed in sorted(a)]
    interval = t_interval(d)
    assert interval is not None
    return Difference(float(np.mean(d)), interval, sign_flip(d), len(d))


def bootstrap(of: Callable[..., Any], rows: Sequence[Seeds], level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of ``of(*means)`` over resampled seeds; None where every row has one seed.

    Rows of the same seeds are resampled together (they share initial weights and order). Source: Efron, Annals of
    Statistics, 1979. With few seeds the interval is too narrow: five give at most 126 distinct resamples of a row.
    """
    if max(len(row) for row in rows) < 2:
        return None
    rng, chosen, means = numpy_rng(0, "score-bootstrap"), {}, []
    for row in rows:
        seeds = tuple(sorted(row))
        if seeds not in chosen:
            chosen[seeds] = rng.integers(len(seeds), size=(DRAWS, len(seeds)))
        means.append(np.array([row[seed] for seed in seeds])[chosen[seeds]].mean(axis=1))
    low, high = np.quantile(of(*means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ------------------------------------------------------------------------------- lines of results.jsonl


def cells(lines: Iterable[Mapping[str, Any]]) -> dict[Cell, dict[int, float]]:
    """Accuracy by seed of every cell; lines of other inputs than a cell's last one do not count."""
    found: dict[Cell, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        group = found.setdefault((line["name"], line["arch"], line["label_source"], line["protocol"]), {})
        if any(other.get("inputs") != line.get("inputs") for other in group.values()):
            group.clear()
        group[line["seed"]] = line
    return {cell: {seed: float(line["accuracy"]) for seed, line in group.items()} for cell, group in found.items()}


def matched(found: Mapping[Cell, Seeds], own: Cell) -> Cell | None:
    """The random images that carry labels of the set's own source, where there are any."""
    _, arch, source, protocol = own
    cell = ("random_hard" if source == "hard" else "random_soft", arch, source, protocol)
    return cell if cell in found else None


def counterpart(found: Mapping[Cell, Seeds], own: Cell) -> Cell | None:
    """Those, or else the most accurate row of random images with any labels: the strongest opponent that there is."""
    _, arch, _, protocol = own
    random = [c for c in found if c[0] in ("random_hard", "random_soft") and (c[1], c[3]) == (arch, protocol)]
    return matched(found, own) or max(random, key=lambda cell: _mean(found[cell]), default=None)


def of(lines: Iterable[Mapping[str, Any]], own: Cell) -> dict[str, Any] | None:
    """``{"lrs", "ars", …}`` of the set whose rows are ``own``; a score without its rows is None; None without any.

    LRS needs the set with hard labels, its random counterpart and ``full_data``; ARS needs the set and random images
    with labels of one source, the set's or else hard ones, also under the protocol without augmentation (``PLAIN``).
    Rows are compared over the seeds that all of them have (but ``full_data``, which may have fewer).
    """
    found = cells(lines)
    name, arch, _, protocol = own
    other, hard = counterpart(found, own), (name, arch, "hard", protocol)
    four = [("full_data", arch, "hard", protocol), hard, own, *([other] if other else [])]
    scores: dict[str, Any] = {"level": LEVEL, "weight": 0.5}
    full, *rest = [found.get(cell) for cell in four]
    rows = [full, *_common(rest)] if other else [None]  # the full data may have fewer seeds: it costs the most
    scores |= _score("lrs", lrs, rows)
    if other and scores["lrs"] is not None:
        scores["random"] = {"name": other[0], "label_source": other[2]}
        means = [_mean(row) for row in rows if row]
        scores |= {"hlr": means[0] - means[1], "ior": means[2] - means[3], "full_data_seeds": len(found[four[0]])}
    for cell in dict.fromkeys((own, hard)):
        pair = [cell, matched(found, cell)]
        rows = [found.get(c and (*c[:3], c[3] + end)) for end in ("", PLAIN) for c in pair]
        scores |= _score("ars", ars, _common(rows))
        if scores["ars"] is not None:
            scores["ars_labels"] = cell[2]
            break
    return scores if scores["lrs"] is not None or scores["ars"] is not None else None


def _score(name: str, formula: Callable[..., Any], rows: Sequence[Seeds | None]) -> dict[str, Any]:
    """A score of the rows' means with its bootstrap interval; None where a row is not there."""
    there = [row for row in rows if row]
    if len(there) < len(rows):
        return {name: None, f"{name}_interval": None}
    return {name: float(formula(*map(_mean, there))), f"{name}_interval": bootstrap(formula, there)}


def _common(rows: Sequence[Seeds | None]) -> list[Seeds | None]:
    """Rows cut down to the seeds that all have, where there are such."""
    shared = set.intersection(*(set(row or ()) for row in rows))
    return [{seed: row[seed] for seed in row if seed in shared} if row and shared else row for row in rows]


def _mean(row: Seeds) -> float:
    return float(np.mean(list(row.values())))


def differences(lines: Iterable[Mapping[str, Any]], own: Cell) -> list[dict[str, Any]]:
    """The set minus every other row of its architecture, protocol and seeds, best opponent last."""
    found = cells(lines)
    out = []
    for cell, seeds in found.items():
        if cell == own or cell[1] != own[1] or cell[3] != own[3]:
            continue
        gap = paired(found.get(own, {}), seeds)
        if gap is not None:
            out.append({
                "name": cell[0], "arch": cell[1], "label_source": cell[2], "difference": gap.mean,
                "interval": list(gap.interval), "p_sign_flip": gap.p, "seeds": gap.seeds,
            })  # fmt: skip
    return sorted(out, key=lambda row: -row["difference"])
