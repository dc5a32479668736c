"""Image folders of others (SRe2L, RDED, D4M), whose class order is the authors' and not the alphabet's.

n01440764/…       WordNet ids or names: labels follow the given list, or the card's own order
00000/…, new000/… numbers: positions in the authors' list; without the list only a card whose own files number the
                  classes tells what they mean. Most wrong accuracies of published folders come from here.
"""

import math
import re
from pathlib import Path

import numpy as np

from ddjax.data.archives import open_folder, open_tar, open_zip
from ddjax.data.base import ARRAY_BYTES, Source, listing
from ddjax.data.cards import Card
from ddjax.data.layout import labelled_parts
from ddjax.data.split import Complaints, Want, expected_shape, load
from ddjax.errors import DataError, nearest
from ddjax.exchange.layouts import Raw, existing
from ddjax.exchange.presets import NUMBERED

SMALL, PACKED = 64 << 20, 200  # bytes of pixels for each byte of the files; below SMALL any number
_NUMBER = re.compile(r"(?:new|class|label|c)?[_-]?(\d+)", re.IGNORECASE)


def read_tree(path: Path, card: Card | None, class_names: list[str] | None) -> tuple[Raw, list[str]]:
    """The images uint8 ``[N, H, W, D]`` of a folder, ``.zip`` or ``.tar``, and the class names in label order."""
    path, where = existing(path), f"SRC = {str(path)!r}"
    opened = (open_folder if path.is_dir() else open_zip if path.suffix == ".zip" else open_tar)(path, where)
    if opened.notes:
        raise DataError(
            f"{where}: {listing(opened.notes)}. Allowed: files, their names inside of it; nothing was unpacked."
        )
    parts = labelled_parts(opened)
    if len(parts) > 1:
        raise DataError(f"{where}: holds the parts {listing(sorted(parts))}; allowed: the folder of one of them.")
    source = next(iter(parts.values()))
    order = _Order(source.class_names or (), card, class_names, where)
    labels = np.array([order.labels[name] for name in source.class_names or ()], np.int32)[source.labels]
    rows = np.argsort(labels, kind="stable")
    images = _decoded(source, rows, path)
    if card and card.channels == 3 and images.shape[3] == 1:
        images = np.repeat(images, 3, axis=3)  # every picture is grey, and JPEG keeps grey ones as such
    place = np.empty(len(rows), np.int64)
    place[rows] = np.arange(len(rows))  # the i-th picture by name lies at place[i] of the set
    raw = Raw(where, images, labels[rows], first=False, files=(path,), place=place, about={"folders": order.kind})
    return raw, order.names


class _Order:
    """Which label each folder has: ``labels`` by folder, ``names`` by label, ``kind`` of folder names."""

    def __init__(self, folders: tuple[str, ...], card: Card | None, given: list[str] | None, where: str):
        listed = given or (list(card.class_names) if card and card.class_names else None)
        numbers = [_NUMBER.fullmatch(name) for name in folders]
        if all(numbers) and not set(folders) <= set(listed or ()):
            self.kind = "numbers"
            self.labels = {name: int(n[1]) for name, n in zip(folders, numbers, strict=True) if n}
            self.names = self._numbered(given, card, listed, where)
        else:
            self.kind = "names"
            self.names = listed or self._sorted(folders, card, where)
            self._check(folders, where, "--classes" if given else "card")
            self.labels = {name: i for i, name in enumerate(self.names)}

    def _numbered(self, given: list[str] | None, card: Card | None, listed: list[str] | None, where: str) -> list[str]:
        if given is None and (card is None or card.id not in NUMBERED):
            said = f"card {card.id} does not number its classes" if card else "there is no card"
            raise DataError(
                f"{where}: folders are numbers, the places of a list that its authors had, and {said}. "
                "Allowed: --classes FILE, a line for each class in the authors' order."
            )
        names, found = listed or [], sorted(self.labels.values())
        if found != list(range(len(names))):
            raise DataError(
                f"{where}: {len(found)} folders numbered {found[0]} to {found[-1]} for {len(names)} class names; "
                f"allowed: {len(names)} folders, 0 to {len(names) - 1}."
            )
        return names

    def _sorted(self, folders: tuple[str, ...], card: Card | None, where: str) -> list[str]:
        if card is None or len(folders) != card.classes:
            raise DataError(
                f"{where}: {len(folders)} class folders and no order for them. Allowed: --classes FILE, a line for "
                "each class (WordNet id or name) in the authors' order."
            )
        return sorted(folders)  # the card's own order: WordNet ids, sorted

    def _check(self, folders: tuple[str, ...], where: str, said: str) -> None:
        strange, absent = sorted(set(folders) - set(self.names)), sorted(set(self.names) - set(folders))
        if strange:
            near = nearest(strange[0], self.names)
            hint = f" Did you mean {near!r}?" if near else ""
            idle = f" Without a folder: {listing(absent)}." if absent else ""
            raise DataError(f"{where}: folders that are no class of {said}: {listing(strange)}.{hint}{idle}")
        if absent:
            raise DataError(f"{where}: {len(absent)} classes of {said} have no folder: {listing(absent)}.")


def _decoded(source: Source, rows: np.ndarray, path: Path) -> np.ndarray:
    """uint8 ``[N, H, W, D]``; sizes that differ, or that the files are too small for, are refused."""
    wrong, want = Complaints(), Want(None, None, "none")
    held = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    declared = len(rows) * math.prod(expected_shape(source, rows, want))
    if declared > min(ARRAY_BYTES, max(SMALL, PACKED * held)):
        raise DataError(
            f"{source.where}: {held} bytes declare {declared} bytes of pixels; limit {PACKED} times as many."
        )
    images = load(source, rows, want, complaints=wrong)
    odd = [f"{name} ({size})" for names in wrong.odd.values() for name, size in names]
    if odd:
        raise DataError(f"{source.where}: {len(odd)} of {len(rows)} images are not {wrong.size}: {listing(odd)}.")
    wrong.settle()
    return images
