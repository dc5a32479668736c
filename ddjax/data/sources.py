"""Open a SPEC: where images come from, in one word.

    digits | folder:PATH | zip:PATH | tar:PATH | idx:IMAGES,LABELS | npz:PATH | cifar:PATH
    svhn:PATH | usps:PATH | parquet:PATH | tfds:NAME[/split]

or, from Python, `Arrays`, or any object whose ``open()`` returns a `ddjax.data.Source`, `Arrays`, a
pair ``(images, labels)``, a dict of part to any of these, or an object with ``len``, ``[i]``,
``labels`` and perhaps ``class_names``. The bare name of a card means that set, looked up in
``$DDJAX_DATA`` by `ddjax.data.fetch.locate`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data import formats, tables
from ddjax.data.archives import open_folder, open_tar, open_zip
from ddjax.data.base import PARTS, Parts, Source, checked_labels, from_arrays
from ddjax.data.cards import CARDS
from ddjax.data.layout import labelled_parts
from ddjax.errors import ConfigError, DataError, choice, nearest

KINDS = {
    "digits": "digits",
    "folder": "folder:PATH",
    "zip": "zip:PATH",
    "tar": "tar:PATH",
    "idx": "idx:IMAGES,LABELS",
    "npz": "npz:PATH",
    "cifar": "cifar:PATH",
    "svhn": "svhn:PATH",
    "usps": "usps:PATH",
    "parquet": "parquet:PATH",
    "tfds": "tfds:NAME[/split]",
}
_READERS = {
    "folder": lambda path, where: labelled_parts(open_folder(path, where)),
    "zip": lambda path, where: labelled_parts(open_zip(path, where)),
    "tar": lambda path, where: labelled_parts(open_tar(path, where)),
    "npz": formats.npz,
    "cifar": formats.cifar,
    "svhn": formats.svhn,
    "usps": formats.usps,
    "parquet": tables.parquet,
}


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 ``[n, H, W, D]`` and labels ``[n]`` that lie in memory, as ``data.train``."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None

    def open(self) -> Parts:
        """One part holding these arrays."""
        return {"": from_arrays("arrays", self.images, self.labels, self.class_names)}


def problem(argument: str, spec: Any) -> str | None:
    """What is wrong with ``spec`` as a word, without touching any file; None where nothing is."""
    if not isinstance(spec, str):
        return None if hasattr(spec, "open") else f"{argument} = {spec!r} has no open()."
    kind, colon, path = spec.partition(":")
    if spec == "digits" or (not colon and spec in CARDS):
        return None
    if kind in KINDS and kind != "digits":
        return None if path else f"{argument} = {spec!r} lacks its path; write {KINDS[kind]}."
    if not colon and Path(spec).expanduser().exists():
        return f"{argument} = {spec!r} lacks its kind; write {_guess(Path(spec))}:{spec}."
    return choice(argument, spec, [*KINDS.values(), *(name for name in CARDS if name != "digits")])


def open_source(argument: str, spec: Any) -> Parts:
    """The parts of ``spec``; nothing is decoded. `ConfigError` for a bad word, else `DataError`."""
    wrong = problem(argument, spec)
    if wrong:
        raise ConfigError(wrong)
    if not isinstance(spec, str):
        return _adopt(argument, spec.open())
    kind, _, path = spec.partition(":")
    where = f"{argument} = {spec}"
    if kind == "digits":
        return formats.digits()
    if kind == "idx":
        return formats.idx(path, where)
    if kind == "tfds":
        return tables.tfds(path, where)
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"{where}: no such file or folder.{beside(place)}")
    if not (place.is_file() or place.is_dir()):
        raise DataError(f"{where}: a pipe, a device or a socket; allowed: a file or a folder.")
    if kind == "folder" and not place.is_dir():
        raise DataError(f"{where}: is a file; write {_guess(place)}:{path}.")
    if kind in ("zip", "tar", "npz") and place.is_dir():
        raise DataError(f"{where}: is a folder; write folder:{path}.")
    return _READERS[kind](place, where)


def beside(place: Path) -> str:
    """The nearest name in the folder of a path that is not there, as a hint."""
    if not place.parent.is_dir():
        return f" {place.parent} is not there either."
    stems: dict[str, str] = {}  # endings, which many files share, make no names alike
    for path in sorted(place.parent.iterdir(), key=lambda path: path.suffix == place.suffix):
        stems[path.stem] = path.name
    near = nearest(place.stem, stems)
    return f" Did you mean {place.parent / stems[near]}?" if near else ""


def _guess(place: Path) -> str:
    name = place.name.lower()
    for kind, endings in (
        ("zip", (".zip",)),
        ("tar", (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")),
        ("npz", (".npz",)),
        ("parquet", (".parquet",)),
        ("svhn", (".mat",)),
        ("usps", (".bz2",)),
    ):
        if name.endswith(endings):
            return kind
    return "folder"


def _adopt(argument: str, opened: Any) -> Parts:
    """Whatever a user's ``open()`` returned, as parts."""
    where = f"{argument} ({type(opened).__name__})"
    if isinstance(opened, dict):
        unknown = [part for part in opened if part not in ("", *PARTS)]
        if unknown:
            raise DataError(choice(f"{where} part", unknown[0], ["", "train", "val", "test"]))
        return {PARTS[k] if k else "": _adopt(argument, v)[""] for k, v in opened.items()}
    if isinstance(opened, Source):
        return {"": opened}
    if isinstance(opened, Arrays):
        return opened.open()
    if isinstance(opened, tuple) and len(opened) in (2, 3):
        return {"": from_arrays(where, *opened)}
    if isinstance(opened, tuple) or not all(hasattr(opened, name) for name in ("__len__", "__getitem__", "labels")):
        raise DataError(
            f"{where}: open() must return a ddjax.data.Source, Arrays, (images, labels), or an "
            "object with len(), [i] and labels."
        )
    labels, names = checked_labels(where, np.asarray(opened.labels), getattr(opened, "class_names", None))
    if len(labels) != len(opened):
        raise DataError(f"{where}: {len(opened)} images but {len(labels)} labels.")
    get = opened.__getitem__
    return {"": Source(where, labels, names, get, lambda i: f"{where}[{i}]")}
