"""What a page and a terminal show of a run's scores and further evaluations: percent and points, not fractions."""

from collections.abc import Mapping
from typing import Any

from ddjax import scores
from ddjax.runfiles import Files, read
from ddjax.tally import own_cell

PARTS = {  # what further evaluations are called; other names as they are
    "optimisers": "Other optimisers",
    "coverage": "Coverage and diversity",
    "nas": "Architecture search",
    "continual": "Continual learning",
    "privacy": "Membership inference",
    "augmentation": "Without augmentation",
}


def score_lines(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """LRS and ARS as the page shows them, with what they are made of; a score without its rows is left out."""
    made = []
    if found and found["lrs"] is not None:
        random = found["random"]["label_source"]
        made.append(("LRS", score_text(found, "lrs")))
        made.append(("lost to all training images, hard labels", f"{points(found['hlr'])} points"))
        made.append((f"gained over random images, {random} labels", f"{points(found['ior'])} points"))
    if found and found["ars"] is not None:
        made.append((f"ARS, {found['ars_labels']} labels", score_text(found, "ars")))
    return made


def score_text(found: Mapping[str, Any], name: str) -> str:
    """``0.219 [0.204, 0.233]``; without brackets where every row has one seed."""
    ends = found.get(f"{name}_interval")
    return f"{found[name]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def points(fraction: float) -> str:
    """A difference of accuracies in points: ``+2.4``, ``−0.9``."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def said(run_folder: Any) -> list[str]:
    """The scores of a run, one sentence each, for the end of a terminal's table; [] where there are none."""
    files = read(run_folder)
    own = own_cell(files)
    found = scores.of(files.results, own) if own else None
    return [f"{name}: {text}" for name, text in score_lines(found)]


def further(files: Files) -> list[dict[str, Any]]:
    """The tables of further evaluations in their units: a column of numbers stands right."""
    made = []
    for name, found in files.further.items():
        lines, units = found["rows"], found.get("units") or {}
        numeric = [
            any(is_number(line[i]) for line in lines) and all(line[i] is None or is_number(line[i]) for line in lines)
            for i in range(len(found["columns"]))
        ]
        made.append({
            "title": PARTS.get(name, name.replace("_", " ").capitalize()),
            "note": found.get("note", ""),
            "columns": [
                {"name": f"{c}, {units[c]}" if c in units else c, "number": n}
                for c, n in zip(found["columns"], numeric, strict=True)
            ],
            "rows": [
                [entry(value, units.get(c)) for c, value in zip(found["columns"], line, strict=True)] for line in lines
            ],
        })  # fmt: skip
    return made


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def entry(value: Any, unit: str | None = None) -> str:
    """One entry of a table as text: ``–`` for nothing, thousands apart, four digits of a fraction without a unit.

    Units: ``%`` of a fraction, with one decimal; ``points`` of a difference of fractions, with its sign.
    """
    if value is None:
        return "–"
    if isinstance(value, list):
        inside = ", ".join(entry(item, unit) for item in value)
        return f"[{inside}]" if unit else inside
    if not is_number(value):
        return str(value)
    if unit in ("%", "points"):
        return points(value) if unit == "points" else f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
