"""From the files of a run to ``report.json`` and one self-contained page, ``report.html``.

Reads RUN/config.json, and what is there of synset/, labels/manifest.json, teachers/*.json,
results.jsonl, records.jsonl, cost.json, and the two files that ``keep`` wrote while the data was
at hand: samples.safetensors (``images`` uint8 ``[M, H, W, D]``, ``labels`` int32 ``[M]``: real
images to show beside the synthetic ones) and citations.bib. Equal files give equal bytes.

The page asks nothing of a network and runs no script; its Content-Security-Policy lets it do neither. The only file
that draws.
"""

import base64
import dataclasses
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ddjax
from ddjax import cite, scores
from ddjax.files import atomic_write, to_json
from ddjax.literature import PAPERS, PIECES
from ddjax.log import duration
from ddjax.runfiles import CITATIONS, SAMPLES, Files, read
from ddjax.shown import further, points, said, score_lines, score_text
from ddjax.storage import size, told
from ddjax.tally import (
    BASELINES,
    budget_note,
    components,
    judged_by,
    made_by,
    own_cell,
    percent,
    references,
    rows,
    rule_of,
    summary,
    table,
    taken_views,
    title,
)

__all__ = ["further", "keep", "said", "score_text", "table", "write"]

STAGES = ("teachers", "distill", "label", "evaluate")
CLASSES, SIDE, POINTS, PANELS = 20, 72, 400, 6  # most classes, pixels, points, panels shown
CELL = 60  # CSS pixels of an image on the page; five fit beside five


def keep(run_folder: Path | str, split: Any, references: Iterable[str], *, per_class: int = 10) -> None:
    """Write what only a run can know: some real images and the citations of its pieces.

    ``split``: the real training images (``.labels [n]``, ``.gather(indices)``); the first
    ``per_class`` images of each of the first classes are kept. ``references``: BibTeX texts.
    """
    from safetensors.numpy import save

    folder, labels = Path(run_folder), np.asarray(split.labels)
    first = [np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)[:CLASSES]]
    index = np.concatenate(first)
    images = np.ascontiguousarray(split.gather(index), dtype=np.uint8)
    atomic_write(folder / SAMPLES, save({"images": images, "labels": labels[index].astype("i4")}))
    atomic_write(folder / CITATIONS, cite.bibtex(references))


def png(image: np.ndarray) -> str:
    """A data URI of an image uint8 ``[H, W, D]``, at most ``SIDE`` pixels high and wide."""
    from PIL import Image

    made = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if max(made.size) > SIDE:
        made.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    made.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def gallery(files: Files, per_class: int) -> list[dict[str, Any]]:
    """For each of the first classes: its name, its synthetic images and some real ones."""
    if files.made is None:
        return []
    images, labels = files.made.arrays()
    pixels = np.clip(np.round(255 * images), 0, 255).astype(np.uint8)
    real = files.samples or {"images": pixels[:0], "labels": labels[:0]}
    beside = min(per_class, max(5, int(np.bincount(labels).max())))
    return [
        {
            "name": name,
            "synthetic": [png(image) for image in pixels[labels == c][:per_class]],
            "real": [png(image) for image in real["images"][real["labels"] == c][:beside]],
        }
        for c, name in enumerate(files.made.class_names[:CLASSES])
    ]


def curves(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One SVG for each recorded value of each stage with two points or more."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        for name, value in record["values"].items():
            if isinstance(value, int | float):
                points = found.setdefault((record["stage"], name), {})
                points.pop(record["step"], None)
                points[record["step"]] = value
    panels = []
    for stage in dict.fromkeys(stage for stage, _ in found):
        names = [name for at, name in found if at == stage and len(found[at, name]) > 1]
        for name in names[:PANELS]:
            points = sorted(found[stage, name].items())
            points = points[:: -(-len(points) // POINTS)] + points[-1:]
            panels.append({"stage": stage, "name": name, "svg": line_svg(points)})
    return panels


def line_svg(points: Sequence[tuple[int, float]]) -> str:
    """A small line plot; the same points give the same text, which takes the page's typeface."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": "ddjax", "svg.fonttype": "none", "font.size": 8, "axes.linewidth": 0.6,
        "axes.edgecolor": "#9a9ea6", "xtick.color": "#5f646d", "ytick.color": "#5f646d",
        "axes.spines.top": False, "axes.spines.right": False, "path.simplify": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(3.0, 1.7), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*points, strict=True), color="#0f6b62", linewidth=1.3)
        axes.locator_params(nbins=4)
        axes.grid(axis="y", color="#e7e5e0", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        stream = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for pattern in (
        r"<defs>\s*<style.*?</style>\s*</defs>",  # it would style the whole page
        r"font-family: [^;]*; ?",
        r'(?<=<g) id="[^"]*"',
        r' (?:width|height)="[^"]*pt"',
    ):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return text


def shown_rows(files: Files) -> list[dict[str, Any]]:
    """The rows as the page shows them: names, notes, and places on a track of 0 to 100 %."""
    found = []
    for row in rows(files):
        own, std = row["name"] not in BASELINES, row["accuracy_std"] or 0.0
        low, high = (float(np.clip(row["accuracy_mean"] + d, 0, 1)) for d in (-std, std))
        found.append(row | {
            "own": own,
            "title": title(files) if own else BASELINES[row["name"]],
            "note": budget_note(row["budget"]),
            "percent": percent(row["accuracy_mean"], row["accuracy_std"]),
            "at": round(100 * row["accuracy_mean"], 2),
            "low": round(100 * low, 2),
            "width": round(100 * (high - low), 2),
        })  # fmt: skip
    return found


def across(found: Sequence[Mapping[str, Any]], protocol: str | None) -> dict[str, Any] | None:
    """One line for each set and baseline, one column for each architecture; None for fewer than two of these.

    ``found``: rows as the page shows them; rows of other protocols than ``protocol`` are left out.
    """
    chosen = [row for row in found if row["protocol"] == protocol]
    archs, lines = list(dict.fromkeys(row["arch"] for row in chosen)), {}
    for row in chosen:
        line = lines.setdefault((row["name"], row["label_source"]), {**row, "cells": dict.fromkeys(archs, "–")})
        line["cells"][row["arch"]] = row["percent"]
    return {"archs": archs, "lines": list(lines.values())} if len(archs) > 1 else None


def tiles(files: Files, found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The numbers to read first: the set, the plainest baseline, all data, what is stored."""
    made = []
    first = next((row for row in found if row["own"]), None)
    if first:
        for name, label in (("", title(files)), ("random_hard", "Random real images"),
                            ("full_data", "All training images")):  # fmt: skip
            row = first if not name else next(
                (r for r in found if r["name"] == name and r["arch"] == first["arch"]), None
            )  # fmt: skip
            if row:
                mean, std = row["percent"].split(" ± ")
                made.append({
                    "label": label, "value": mean,
                    "unit": "%" if row["accuracy_std"] is None else f"± {std} %",
                    "note": f"{row['label_source']} labels, {row['seeds']} "
                            f"{'seed' if row['seeds'] == 1 else 'seeds'}",
                })  # fmt: skip
    if files.made:
        kept = components(files)
        value, unit = size(sum(kept.values())).split()
        made.append({"label": "Stored", "value": value, "unit": unit, "note": told(kept).partition(":")[0]})
    return made


def source_notes(files: Files) -> list[str]:
    """What the manifest of an imported set tells its user, in sentences without the full stop."""
    found = files.made.meta.get("source") if files.made else None
    notes = found.get("notes") if isinstance(found, dict) else None
    return [str(note).removesuffix(".") for note in notes] if isinstance(notes, list) else []


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A configuration as dotted names and values."""
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in flat(v, f"{name}.{k}" if name else k)]
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    word = "–" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return [(name, word)]


def departures(files: Files) -> list[str]:
    """Hyper-parameters that are not as published, ``name 300 (20000)``."""
    apart = files.made.meta.get("departures") if files.made else None
    if not isinstance(apart, dict):
        return []
    words = {name: [" ".join(word for _, word in flat(value)) for value in pair] for name, pair in apart.items()}
    return [f"{name} {used} ({published})" for name, (used, published) in words.items()]


def gaps(files: Files) -> list[dict[str, Any]]:
    """The set minus each other row of its architecture and protocol, seed by seed, as the page shows them."""
    own = own_cell(files)
    return [
        row | {
            "title": BASELINES.get(row["name"], title(files)),
            "points": points(row["difference"]),
            "range": "[" + ", ".join(map(points, row["interval"])) + "]",
            "p": f"{row['p_sign_flip']:.2g}",
        }
        for row in (scores.differences(files.results, own) if own else [])
    ]  # fmt: skip


def machine(found: Mapping[str, Any] | None) -> str | None:
    """Where the costs were measured, as one line."""
    if found is None:
        return None
    devices = f"{found['devices']} x {found['device']}" if found["devices"] > 1 else found["device"]
    return f"{devices}, {found['cores']} cores, jax {found['jax']}"


def protocol_facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields of the protocol that a configuration asks for, then its clauses; nothing of one that is not known."""
    rule = rule_of(config)
    if rule is None:
        return []
    found = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    cases = [(where(case), ", ".join(" ".join(pair) for pair in flat(dict(case.then)))) for case in found.pop("cases")]
    return flat({field: value for field, value in found.items() if value not in ("", ())}) + cases


def where(case: Any) -> str:
    """The conditions of a protocol's clause: ``where ipc <= 10, side >= 128``."""
    words = {
        "cards": f"card {' or '.join(case.cards)}", "archs": f"network {' or '.join(case.archs)} …",
        "classes": f"{' or '.join(map(str, case.classes))} classes", "least": f"classes >= {case.least}",
        "ipc": f"ipc <= {case.ipc:g}" if case.ipc else "", "side": f"side >= {case.side}",
        "augmented": "augmented" if case.augmented else "not augmented",
    }  # fmt: skip
    given = [text for field, text in words.items() if getattr(case, field) not in (None, (), math.inf)]
    return f"where {', '.join(given)}" if given else "else"


def render(template: str, script: str = "", **values: Any) -> str:
    """A page of ours from a template beside this file; ``script`` is the one script that its policy admits."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    allowed.append("form-action 'none'")
    return environment.get_template(template).render(
        version=ddjax.__version__, policy="; ".join(allowed), script=script, cell=CELL, **values
    )


def page(files: Files) -> str:
    """The whole of report.html."""
    from markupsafe import Markup

    found = shown_rows(files)
    cost = files.cost or {}
    wall = cost.get("wall_s", {})
    dataset = (files.made.meta.get("dataset") or {}) if files.made else {}
    facts = summary(files)
    shown = gallery(files, files.config.get("report", {}).get("images_per_class", 10))
    small = files.made is None or max(files.made.images.shape[1:3]) <= 48
    most = min(5, max((len(item["synthetic"]) for item in shown), default=1))
    own, apart, kept = own_cell(files), gaps(files), components(files)
    return render(
        "report.html.j2",
        facts=facts,
        modified=" ".join(map(str, files.config.get("evaluate", {}).get("modify") or ())),
        views=taken_views(files, facts["protocol"] or ""),
        title=title(files),
        classes=len(files.made.class_names) if files.made else None,
        images=len(files.made) if files.made else None,
        source=files.made.meta.get("label_source") if files.made else None,
        departures=departures(files),
        notes=[*(dataset.get("notes") or []), *source_notes(files)],
        licence=files.made.manifest()["licence"] if files.made else None,
        tiles=tiles(files, found),
        rows=found,
        archs=list(dict.fromkeys((row["protocol"], row["arch"]) for row in found)),
        across=across(found, facts["protocol"]),
        gallery=shown,
        curves=[panel | {"svg": Markup(panel["svg"])} for panel in curves(files.records)],
        scores=score_lines(facts["scores"]),
        differences=apart,
        own_arch=own[1] if own else None,
        own_source=own[2] if own else None,
        smallest=f"{0.5 ** (apart[0]['seeds'] - 1):.2g}" if apart and apart[0]["seeds"] <= scores.EXACT else None,
        further=further(files),
        pixelated=small,
        strip=(CELL + 4) * most,
        kinds=("synthetic", "real") if files.samples else ("synthetic",),
        teachers=files.teachers,
        wall=[(n, duration(wall[n])) for n in (*STAGES, *(wall.keys() - STAGES)) if n in wall],
        total=duration(sum(wall.values())) if wall else None,
        compile=duration(cost["compile_s"]) if cost else None,
        machine=machine(files.machine),
        peak=size(cost.get("peak_memory_bytes")),
        bytes=[(name, size(count)) for name, count in kept.items()],
        kept=size(sum(kept.values())) if kept else None,
        protocol=protocol_facts(files.config),
        config=[pair for pair in flat(dict(files.config)) if pair[0] != "schema"],
        bibtex=bibliography(files),
        papers=[*made_by(files), *judged_by(files)],
    )


def bibliography(files: Files) -> str:
    """BibTeX of all that the run used: what lies in its citations.bib, its set's method, its protocols, the pieces."""
    own = own_cell(files)
    pieces = [row["name"] for row in rows(files)] + list(files.further)
    pieces += ["scores"] if own and scores.of(files.results, own) else []
    papers = dict.fromkeys(key for name in pieces for key in PIECES.get(name, ()))
    return cite.completed(files.citations, [*references(files)[1:], *(PAPERS[key].bibtex for key in papers)])


def write(run_folder: Path | str) -> Path:
    """Write RUN/report.json and RUN/report.html; returns the page's path."""
    folder = Path(run_folder)
    files = read(folder)
    if (text := bibliography(files)) != files.citations.strip():
        atomic_write(folder / CITATIONS, f"{text}\n")
    atomic_write(folder / "report.json", to_json(summary(files)))
    return atomic_write(folder / "report.html", page(files))
