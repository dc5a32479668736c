"""Many runs and judged sets side by side: which numbers may stand in one table, and in one line of it.

    section = data set x images per class        table = protocol        group of lines = architecture
    line    = a set or a baseline: its number with hard labels beside its number with soft labels

Two protocols never share a table. Equal baselines of several runs (the same accuracies, seed by seed) are one number
with several runs behind it; two runs of equal settings are two lines.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddjax import cite, storage
from ddjax.config import Data
from ddjax.data.sources import beside
from ddjax.errors import DataError
from ddjax.rundir import STATE
from ddjax.runfiles import Files, read
from ddjax.tally import BASELINES, components, protocol_id, references, rows, summary, taken_views, title

TOGETHER = {"random_soft": "random_hard"}  # baselines that are one line: the same images, other labels


class Run(NamedTuple):
    """One run, or one set that was judged: where it lies, what the page calls it, what is in it."""

    number: int  # from 1, in the order given
    name: str  # the end of the folder's path that tells it from the others
    folder: Path
    files: Files
    report: Mapping[str, Any]  # report.json as its files make it now


class Number(NamedTuple):
    """An accuracy over seeds and the runs that found it."""

    runs: tuple[Run, ...]
    row: Mapping[str, Any]  # of tally.rows
    parts: Mapping[str, int | None]  # bytes of what this number was bought with, of bytes_of

    @property
    def mean(self) -> float:
        """The mean over seeds, a fraction."""
        return self.row["accuracy_mean"]


class Line(NamedTuple):
    """A set or a baseline on one architecture."""

    own: bool
    title: str
    hard: Number | None
    soft: Number | None

    @property
    def numbers(self) -> list[Number]:
        """The numbers that are there."""
        return [number for number in (self.hard, self.soft) if number]

    @property
    def runs(self) -> list[Run]:
        """The runs behind the line, each once."""
        return list({run.number: run for number in self.numbers for run in number.runs}.values())

    @property
    def privacy(self) -> float | None:
        """Highest area under the ROC curve of a membership attack on students of this line; 0.5 is a guess."""
        found = []
        for number in self.numbers:
            asked = {"full_data": "all real images"}.get(number.row["name"], number.row["name"])
            for run in number.runs:
                attacked = run.files.further.get("privacy", {})
                same = all(attacked.get(k) == number.row[k] for k in ("arch", "protocol"))
                at = attacked["columns"].index("AUC") if same and "AUC" in attacked["columns"] else None
                found += [row[at] for row in attacked["rows"] if row[0] == asked] if at is not None else []
        return max((value for value in found if isinstance(value, int | float)), default=None)

    @property
    def best(self) -> float:
        """The higher mean."""
        return max(number.mean for number in self.numbers)


class Table(NamedTuple):
    """One protocol on one data set at one number of images per class."""

    protocol: str
    groups: list[tuple[str, list[Line]]]  # architecture, its lines, best first


class Section(NamedTuple):
    """What is compared with each other: one data set, one number of images per class."""

    dataset: str
    variant: str  # what makes the data another than the card's: a subset, a size
    ipc: int
    tables: list[Table]


# ------------------------------------------------------------------------------------------- runs


def is_run(folder: Path) -> bool:
    """Whether a folder that nobody named looks like a run of ours."""
    return (folder / "config.json").is_file() and ((folder / "results.jsonl").is_file() or (folder / STATE).is_dir())


def find(path: Path) -> list[Path]:
    """The run that ``path`` is, else all runs below it, in order; DataError where there is none."""
    if not path.exists():
        allowed = "allowed: folders of runs, or folders that hold some"
        raise DataError(f"RUN = {str(path)!r} does not exist; {allowed}.{beside(path)}")
    if (path / "config.json").is_file():
        return [path]
    found = []
    for place, folders, _ in os.walk(path):
        here = Path(place)
        if is_run(here):
            found.append(here)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    if not found:
        lone = (path / "manifest.json").is_file()
        why = "is a set that was not judged; first: ddjax evaluate SET --workdir RUN" if lone else "holds no run"
        why = "is a file" if path.is_file() else why
        raise DataError(f"RUN = {str(path)!r} {why}. Allowed: folders of runs, or folders that hold some.")
    return found


def collect(paths: Iterable[Path | str]) -> tuple[list[Run], list[str], list[str]]:
    """The runs of ``paths``; one sentence for each that cannot be used; the names of those without results yet.

    A run that is named itself must have results; one that is found below a folder may be under way.
    """
    places: dict[Path, Path] = {}
    named: set[Path] = set()
    problems, read_in = [], []
    for path in map(Path, paths):
        try:
            found = find(path)
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        named.update(folder for folder in found if folder == path)
        for folder in found:
            places.setdefault(folder.resolve(), folder)
    for folder in places.values():
        try:
            files = read(folder)
            if folder in named and not files.results:
                raise DataError(f"RUN = {str(folder)!r} holds no results yet; first: ddjax evaluate {folder}")
            cite.entries(references(files))
            read_in.append((folder, files, summary(files)))
        except (DataError, OSError) as error:
            problems.append(str(error) if str(folder) in str(error) else f"RUN = {str(folder)!r}: {error}")
    names = short_names([folder for folder, *_ in read_in])
    judged = [part for part in zip(names, read_in, strict=True) if part[1][1].results]
    runs = [Run(n, name, *part) for n, (name, part) in enumerate(judged, start=1)]
    return runs, problems, [name for name, part in zip(names, read_in, strict=True) if not part[1].results]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The paths without what all have in common at the front; the folder's own name where there is one."""
    full = [folder.resolve() for folder in folders]
    shared = os.path.commonpath([folder.parent for folder in full]) if full else ""
    return [folder.relative_to(shared).as_posix() for folder in full]


# ----------------------------------------------------------------------------------------- what of


def dataset(files: Files) -> str:
    """The card of the images that students were judged on, else the words that named them."""
    about = files.made.meta.get("dataset") if files.made else None
    data = files.config["data"]
    train = data["train"]["class"] if isinstance(data["train"], dict) else data["train"]
    cards = ((about or {}).get("card"), data.get("card"), Data(train=train).card_id())
    return next((str(card) for card in cards if card and card != "custom"), str(train))


def variant(files: Files) -> str:
    """What the configuration changes about the data set, in words; empty where nothing."""
    data = files.config["data"]
    words = [f"{data['subset']:,} training images"] if data.get("subset") else []
    words += [f"{data['size']} pixels wide"] if data.get("size") else []
    words += [data["channels"]] if data.get("channels", "auto") != "auto" else []
    return ", ".join(words)


def bytes_of(files: Files, row: Mapping[str, Any]) -> dict[str, int | None]:
    """Bytes of each component that a row was trained on, as the set's are counted; {} where they are not known.

    ``labels`` None: a teacher made them on the way and nobody stored them.
    """
    budget, made = row["budget"] or {}, files.made
    if "bytes" in budget or made is None:
        return {"images and labels": int(budget["bytes"])} if "bytes" in budget else {}
    kept, count = components(files), budget.get("images", len(made))
    if row["name"] not in BASELINES or row["name"] == "base_labels":
        found: dict[str, int | None] = {name: kept[name] for name in ("images", "zca") if name in kept}
    else:
        found = {"images": count * math.prod(made.images.shape[1:])}
    if "learned_lr" in kept and row["lr"] == made.learned_lr:  # trained at the set's own rate
        found |= {"learned_lr": kept["learned_lr"]}
    if row["label_source"] == "hard":
        return found | {"labels": 4 * count}
    return found | {"labels": soft_bytes(files, row, kept) if count == len(made) else None}


def soft_bytes(files: Files, row: Mapping[str, Any], kept: Mapping[str, int]) -> int | None:
    """Bytes of the soft labels of a row: learned with the set, or stored for it; None where nothing is stored.

    Under a run's own protocol the same table is stored for every source.
    """
    source = row["label_source"]
    if source == "learned":
        return kept.get("label_logits")
    if files.labels is None:
        named = made.meta.get(storage.STORED) if (made := files.made) else None
        return kept.get(storage.STORED) if named and source == named.get("label_source") else None
    own = source == files.labels["label_source"] or row["protocol"] == protocol_id(files.config)
    return kept.get(storage.STORED) if own else None


# ---------------------------------------------------------------------------------------- sections


def sections(runs: Sequence[Run]) -> list[Section]:
    """All numbers of all runs, sorted by data set, images per class and protocol."""
    places: dict[tuple[str, str, int], dict[str, dict[str, dict[Any, list[Number]]]]] = {}
    for run in runs:
        key = (dataset(run.files), variant(run.files), run.report["ipc"])
        protocols = places.setdefault(key, {})
        for row in rows(run.files):
            lines = protocols.setdefault(protocol_of(run, row), {}).setdefault(row["arch"], {})
            add(lines.setdefault(line_key(run, row), []), Number((run,), row, bytes_of(run.files, row)))
    return [Section(*key, [table(*part) for part in sorted(places[key].items())]) for key in sorted(places)]


def protocol_of(run: Run, row: Mapping[str, Any]) -> str:
    """The id of a row's protocol; of a modified one with what was changed, else with the run that knows it; and the
    set's own augmentation, where the protocol takes it: rows with and without stand in tables of their own."""
    name, views = row["protocol"], taken_views(run.files, row["protocol"])
    if "+modified" in name:
        words = run.files.config["evaluate"].get("modify") or ()
        name = f"{name} ({' '.join(map(str, words)) or f'in {run.name}'})"
    return f"{name} with {views}" if views else name


def table(protocol: str, archs: Mapping[str, Mapping[Any, list[Number]]]) -> Table:
    """One protocol: architectures in the order of the runs' configurations."""
    return Table(protocol, [(arch, table_lines(found)) for arch, found in archs.items()])


def line_key(run: Run, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Own set or baseline, its title, and the run where what it shows belongs to one."""
    name = row["name"]
    if name not in BASELINES:
        return True, title(run.files), run.number, name
    if name == "base_labels":
        return False, f"{title(run.files)}, relabelled", run.number, name
    return False, BASELINES[name], 0, TOGETHER.get(name, name)


def add(numbers: list[Number], new: Number) -> None:
    """Put a number in, or its run beside an equal one (labels and every seed's accuracy)."""
    for i, number in enumerate(numbers):
        if all(number.row[k] == new.row[k] for k in ("name", "label_source", "accuracies")):
            numbers[i] = number._replace(runs=(*number.runs, *new.runs))
            return
    numbers.append(new)


def table_lines(found: Mapping[tuple[Any, ...], list[Number]]) -> list[Line]:
    """The lines of one architecture, best first: hard and soft numbers of one run in one line."""
    made = []
    for (own, name, *_), numbers in found.items():
        ranked = sorted(numbers, key=lambda number: -number.mean)
        soft = [number for number in ranked if number.row["label_source"] != "hard"]
        for hard in (number for number in ranked if number.row["label_source"] == "hard"):
            beside = next((n for n in soft if {r.number for r in n.runs} & {r.number for r in hard.runs}), None)
            if beside:
                soft.remove(beside)
            made.append(Line(own, name, hard, beside))
        made += [Line(own, name, None, number) for number in soft]
    return sorted(made, key=lambda line: (-line.best, not line.own, line.title))
