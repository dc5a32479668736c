"""``leaderboard.html`` and ``leaderboard.md``: any number of runs and judged sets on one page.

One table for each data set, number of images per class and protocol; hard labels beside soft ones, baselines beside
sets. Every number links to the records it was counted from (relative, so a folder that is moved whole keeps its links);
the configuration and the citations of every run are on the page. Equal files give equal bytes.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ddjax import cite, literature, report
from ddjax.board import Line, Number, Run, Section, collect, find, sections
from ddjax.config.document import listed
from ddjax.config.flags import repeated, split
from ddjax.errors import ConfigError, DataError, choice
from ddjax.files import atomic_write, is_temporary
from ddjax.log import duration
from ddjax.rundir import check_writable
from ddjax.storage import size, told
from ddjax.tally import BASELINES, budget_note, components, made_by, own_cell, percent, references, rows, title

PAGE, TEXT = "leaderboard.html", "leaderboard.md"
SHOWN = 10  # most classes of which an image is shown
WHOLE = 20  # characters of a note that is not broken into two lines
CAPTION = (
    "Test accuracy in percent: mean ± sample standard deviation over seeds (students trained from scratch); in "
    "brackets Student's 95 % interval of the mean; then seeds, and the bytes of the images and labels that students "
    "were trained on, with where soft labels come from. One table holds one protocol. A number links to its records. "
    "All training images have a budget of their own."
)
ON_TEST = "Reports, as published, the best of several looks at the test split: optimistic."
USAGE = """usage: ddjax report RUN                       write RUN/report.html and RUN/report.json again
       ddjax report RUN RUN … [--out DIR]     compare runs and judged sets: leaderboard.html, leaderboard.md
       ddjax report DIR [--out DIR]           the same for every run below a folder

RUN is the folder of a run, or one that `ddjax evaluate SET --workdir RUN` wrote. Without --out the two files go to DIR,
or to ./leaderboard where several folders are named."""


def link(run: Run, name: str, out: Path) -> str:
    """A file of a run as seen from the page."""
    return quote(Path(os.path.relpath(run.folder.resolve() / name, out.resolve())).as_posix())


# ------------------------------------------------------------------------------- numbers and lines


def number(found: Number | None, out: Path) -> dict[str, Any] | None:
    """A number as the page shows it; places on a track of 0 to 100 %."""
    if found is None:
        return None
    row, std = found.row, found.row["accuracy_std"] or 0.0
    low, high = (float(np.clip(found.mean + d, 0, 1)) for d in (-std, std))
    ends, seeds = row["interval"], row["seeds"]
    notes = [f"{seeds} {'seed' if seeds == 1 else 'seeds'}"]
    notes += bytes_said(found)
    notes = [note.replace(" ", "\N{NO-BREAK SPACE}") if len(note) <= WHOLE else note for note in notes]
    return {
        "percent": percent(row["accuracy_mean"], row["accuracy_std"]),
        "interval": None if ends is None else f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]",
        "notes": ", ".join(notes),
        "sort": f"{found.mean:.6f}",
        "href": link(found.runs[0], "results.jsonl", out),
        "said": every_seed(row),
        "at": round(100 * found.mean, 2),
        "low": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
    }


def bytes_said(found: Number) -> list[str]:
    """``images 384 bytes``, ``pool labels 1.2 kB``: what the students were trained on, in the words of ``set show``."""
    hard = found.row["label_source"] == "hard"
    labels = "labels" if hard else f"{found.row['label_source']} labels"
    said = []
    for name, count in found.parts.items():
        what = labels if name == "labels" else name
        said.append(f"{what} by a teacher, not stored" if count is None else f"{what} {size(count)}")
    return said if said or hard else [labels]


def every_seed(row: Mapping[str, Any]) -> str:
    """``seed 0: 84.2; seed 1: 83.0``, in percent."""
    return "; ".join(f"seed {seed}: {100 * value:.1f}" for seed, value in row["accuracies"].items())


def making(run: Run) -> float | None:
    """Seconds that went into a set and its labels before it was judged; None where it was made elsewhere."""
    wall = {k: v for k, v in (run.files.cost or {}).get("wall_s", {}).items() if k != "evaluate"}
    return sum(wall.values()) if wall else None


def source(run: Run) -> str:
    """Where an imported set came from: ``preset mtt: images.pt, labels.pt``; empty for a set made here."""
    found = run.files.made.meta.get("source") if run.files.made else None
    if not isinstance(found, dict):
        return str(found or "")
    files = [str(file.get("name")) for file in found.get("files") or () if isinstance(file, dict)]
    more = [f"and {len(files) - 3} more"] if len(files) > 3 else []
    return ": ".join(filter(None, (f"preset {found.get('preset')}", ", ".join([*files[:3], *more]))))


def line(found: Line, where: Sequence[str], several: bool, out: Path) -> dict[str, Any]:
    """A line as the page shows it; ``where``: what a filter may find besides its own words; ``several`` run seeds."""
    run, notes = found.runs[0], list(dict.fromkeys(filter(None, (budget_note(n.row["budget"]) for n in found.numbers))))
    seconds, peak = None, None
    if found.own:
        scores, seconds, origin = run.report["scores"] or {}, making(run), source(run)
        peak = size(run.files.cost["peak_memory_bytes"]) if run.files.cost else None
        notes += [f"seed {run.files.config['seed']}"] if several and "seed" in run.files.config else []
        notes += [origin] if origin else []
        of = own_cell(run.files)  # the row that the scores are of
        same = of and any((one.row["arch"], one.row["protocol"]) == (of[1], of[3]) for one in found.numbers)
        shown = [k for k in ("lrs", "ars") if same and scores.get(k) is not None]
        notes += [f"{k.upper()} {report.score_text(scores, k)}" for k in shown]
    sources = [one.row["label_source"] for one in found.numbers]
    names = [one.name for one in found.runs]
    kind = "set" if found.own else "baseline"
    return {
        "own": found.own, "title": found.title, "note": ", ".join(notes), "runs": found.runs,
        "cites": keys([one.bibtex for one in made_by(run.files)]) if found.own else [],
        "hard": number(found.hard, out), "soft": number(found.soft, out), "seconds": seconds, "peak": peak,
        "making": None if seconds is None else duration(seconds),
        "privacy": None if found.privacy is None else f"{found.privacy:.3f}",
        "words": " ".join([found.title, kind, *where, *sources, *names, *notes]).lower(),
    }  # fmt: skip


def heading(section: Section) -> str:
    """``digits, 1 image per class``."""
    parts = (section.dataset, section.variant, f"{section.ipc} image{'' if section.ipc == 1 else 's'} per class")
    return ", ".join(part for part in parts if part)


def tables(runs: Sequence[Run], out: Path) -> list[dict[str, Any]]:
    """The sections as the page shows them: protocols, then architectures, then lines."""
    several = len({run.files.config.get("seed") for run in runs}) > 1
    made = []
    for section in sections(runs):
        shown = []
        for table in section.tables:
            where = (heading(section), f"ipc{section.ipc}", table.protocol)
            groups = [(a, [line(one, (*where, a), several, out) for one in lines]) for a, lines in table.groups]
            lines = [one for _, each in groups for one in each]
            on_test = any(number.row["on_test"] for _, each in table.groups for one in each for number in one.numbers)
            private = any(one["privacy"] for one in lines)
            cites = [paper.key for paper in literature.of_protocol(table.protocol)]
            shown.append({
                "protocol": table.protocol, "groups": groups, "on_test": on_test, "private": private, "cites": cites,
            })  # fmt: skip
        made.append({"title": heading(section), "tables": shown})
    return made


# -------------------------------------------------------------------------------------------- runs


def about(run: Run, out: Path) -> dict[str, Any]:
    """What the page says of one run: files, facts, some images, every seed, configuration, citations."""
    files, made = run.files, run.files.made
    cost, origin = files.cost or {}, source(run)
    wall = cost.get("wall_s", {})
    facts = [("data", str(run.report["dataset"])), ("images per class", str(run.report["ipc"]))]
    facts += [("seed of the run", str(files.config["seed"]))] if "seed" in files.config else []
    facts += [("wall time", ", ".join(f"{name} {duration(wall[name])}" for name in wall))] if wall else []
    facts += [("peak memory", size(cost["peak_memory_bytes"]))] if cost else []
    facts += [("machine", str(report.machine(files.machine)))] if files.machine else []
    facts += [("stored", told(kept))] if (kept := components(files)) else []
    facts += [("source", origin)] if origin else []
    facts += [("note", note) for note in report.source_notes(files)]
    names = {name: run.folder / name for name in ("results.jsonl", "config.json", "report.html")}
    return {
        "number": run.number, "name": run.name, "title": title(files), "facts": facts, "images": strip(run),
        "pixelated": made is not None and max(made.images.shape[1:3]) <= 48,
        "files": [(name, link(run, name, out)) for name, path in names.items() if path.is_file()],
        "rows": [row | {"title": BASELINES.get(row["name"], title(files)), "said": every_seed(row),
                        "percent": percent(row["accuracy_mean"], row["accuracy_std"])} for row in rows(files)],
        "further": report.further(files),
        "config": [pair for pair in report.flat(dict(files.config)) if pair[0] != "schema"],
        "keys": keys(references(files)),
    }  # fmt: skip


def strip(run: Run) -> list[tuple[str, str]]:
    """Class name and picture of the first image of each of the first classes."""
    made = run.files.made
    if made is None:
        return []
    images, labels = made.arrays()
    first = [(name, np.flatnonzero(labels == c)[:1]) for c, name in enumerate(made.class_names[:SHOWN])]
    return [
        (name, report.png(np.clip(np.round(255 * images[index[0]]), 0, 255).astype(np.uint8)))
        for name, index in first
        if len(index)
    ]


def citations(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """BibTeX key and entry of everything that the runs used, each once, by key."""
    used = [reference for run in runs for reference in references(run.files)]
    return [(cite.key(entry), entry) for entry in cite.entries(used)]


def keys(used: Sequence[str]) -> list[str]:
    """The keys of some BibTeX, which are anchors of the page."""
    return [cite.key(entry) for entry in cite.entries(used)]


def page(runs: Sequence[Run], out: Path, left_out: Sequence[str] = ()) -> str:
    """The whole of leaderboard.html; ``left_out``: sentences on runs that are not in it."""
    script = (Path(__file__).parent / "leaderboard.js").read_text(encoding="utf-8")
    return report.render(
        "leaderboard.html.j2", script, caption=CAPTION, on_test=ON_TEST, sections=tables(runs, out),
        runs=[about(run, out) for run in runs], citations=citations(runs), left_out=left_out,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- Markdown


def plain(value: Any) -> str:
    """A text inside of a Markdown table, nothing in it taken for markup."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(str(value).split()))


def table_row(values: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(values) + " |"


def linked(found: Mapping[str, Any] | None) -> str:
    """``[84.0 ± 2.3](run/results.jsonl) [81.1, 86.9], 5 seeds``; a dash for none."""
    if found is None:
        return "–"
    ends = f" {plain(found['interval'])}" if found["interval"] else ""
    return f"[{found['percent']}]({found['href']}){ends}, {plain(found['notes'])}"


def cited(names: Sequence[str]) -> str:
    """Keys of the references below, as Markdown."""
    return ", ".join(f"`{name}`" for name in names)


def markdown(runs: Sequence[Run], out: Path, left_out: Sequence[str] = ()) -> str:
    """The whole of leaderboard.md: the same tables, the runs with their files, the references."""
    head = ["set or baseline", "network", "hard labels, %", "soft labels, %", "made in", "attack AUC", "runs"]
    text = ["# Leaderboard", "", CAPTION, ""]
    for section in tables(runs, out):
        text += [f"## {plain(section['title'])}", ""]
        for found in section["tables"]:
            text += [f"### Protocol {plain(found['protocol'])}", "", *([ON_TEST, ""] if found["on_test"] else [])]
            text += [f"The protocol is that of {cited(found['cites'])}.", ""] if found["cites"] else []
            text += [table_row(head), table_row(["---"] * len(head))]
            for arch, one in ((arch, one) for arch, lines in found["groups"] for one in lines):
                name = f"**{plain(one['title'])}**" if one["own"] else plain(one["title"])
                notes = [text for text in (plain(one["note"]), cited(one["cites"])) if text]
                note = f" ({', '.join(notes)})" if notes else ""
                behind = ", ".join(f"[{plain(run.name)}](#run-{run.number})" for run in one["runs"])
                values = (name + note, plain(arch), linked(one["hard"]), linked(one["soft"]), one["making"] or "–")
                text.append(table_row((*values, one["privacy"] or "–", behind)))
            text.append("")
    text += ["## Runs", ""]
    for run in (about(run, out) for run in runs):
        files = ", ".join(f"[{name}]({href})" for name, href in run["files"])
        used = f"; cites {cited(run['keys'])}" if run["keys"] else ""
        anchor = f'<a id="run-{run["number"]}"></a>'
        text.append(f"- {anchor}**{plain(run['name'])}** ({plain(run['title'])}): {files}{used}")
    text += [f"- left out: {plain(sentence)}" for sentence in left_out]
    entries = [entry for _, entry in citations(runs)]
    text += ["", "## References", "", "~~~~bibtex", "\n\n".join(entries), "~~~~"] if entries else []
    return "\n".join(text) + "\n"


# ------------------------------------------------------------------------------------- command line


def write(runs: Sequence[Run], out: Path, left_out: Sequence[str] = ()) -> Path:
    """Write OUT/leaderboard.html and OUT/leaderboard.md; returns the page's path."""
    atomic_write(out / TEXT, markdown(runs, out, left_out))
    return atomic_write(out / PAGE, page(runs, out, left_out))


def is_page(path: Path) -> bool:
    """Whether a word is a page that was written before, or a folder of one: what ``DIR/*`` brings along."""
    held = [entry.name for entry in path.iterdir() if not is_temporary(entry)] if path.is_dir() else [path.name]
    return path.exists() and bool(held) and set(held) <= {PAGE, TEXT}


def main(argv: Sequence[str]) -> int:
    """``ddjax report RUN… [--out DIR]``: one run, its own page again; several, or a folder of runs, a leaderboard."""
    paths, flags = split(argv)
    given = {flag.name: flag.words for flag in flags}
    if "help" in given or not (paths or flags):
        print(USAGE)
        return 0 if "help" in given else 2
    wrong = [choice("report: flag", f"--{name}", ["--out"]) for name in given if name != "out"]
    wrong += repeated(flags)
    if "out" in given and (len(given["out"]) != 1 or not given["out"][0].strip()):
        wrong.append(f"--out = {' '.join(given['out'])!r} is not one folder; allowed: --out DIR, after every RUN.")
    if not all(path.strip() for path in paths):
        wrong.append("RUN = '' names no folder; allowed: folders of runs, or folders that hold some.")
    if not paths:
        wrong.append("RUN is missing; allowed: folders of runs, or folders that hold some.")
    if wrong:
        raise ConfigError(listed(wrong))
    if len(paths) == 1 and "out" not in given and find(Path(paths[0])) == [Path(paths[0])]:
        print(report.write(paths[0]))
        return 0
    pages = [path for path in paths if is_page(Path(path))]
    runs, problems, begun = collect(path for path in paths if path not in pages)
    if not (runs or problems or begun):
        problems.append(f"RUN = {' '.join(paths)!r}: pages that ddjax wrote, and no run. Allowed: folders of runs.")
    if not (runs or problems):
        problems.append(f"RUN = {' '.join(paths)!r}: no run there has results yet ({', '.join(begun)}).")
    if problems:
        raise DataError(listed(problems))
    for path in pages:
        print(f"note: {path} is a page that ddjax wrote, no run; skipped.", file=sys.stderr)
    out = Path(given["out"][0]) if "out" in given else Path(paths[0] if len(paths) == 1 else "leaderboard")
    check_writable(out, "--out")
    print(write(runs, out, [f"{name}: no results yet" for name in begun]))
    return 0
