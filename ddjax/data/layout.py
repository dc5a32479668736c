"""From the paths in a folder or archive to labelled parts: the class is the parent directory.

    [anything/][train|val|test/]...<class>/[images/]<file>

The first directory named train, val or test (or training, valid, validation, testing) above the
class tells the part; it is not a class. ``images`` between class and file is passed over (the
layout of Tiny-ImageNet, whose ``val_annotations.txt`` is read as well). Class names are sorted.
"""

import posixpath
from collections import defaultdict

import numpy as np

from ddjax.data.archives import Members
from ddjax.data.base import PARTS, Parts, Source, listing
from ddjax.data.decode import EXTENSIONS
from ddjax.errors import DataError

_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
_ANNOTATIONS = "val_annotations.txt"


def labelled_parts(members: Members) -> Parts:
    """The parts of ``members``. Errors: no image, stray files among images, images outside any
    class, empty classes; each names the files and how many they are."""
    images, others = _by_folder(members)
    if not images:
        raise DataError(f"{members.where}: no image in it; allowed: {' '.join(EXTENSIONS)}.")
    _refuse_strays(members, images, others)
    _refuse_empty(members, images, others)
    placed = {folder: _place(folder) for folder in images}
    has_parts = any(part for part, _ in placed.values())
    annotated = _annotations(members, others)
    grouped: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    loose, unlabelled = [], 0
    for folder, rows in images.items():
        part, name = placed[folder]
        bare = PARTS.get(name.lower()) if has_parts and not part else None
        if part or (name and not bare):
            grouped[part][name] += rows
            continue
        listed = [(i, annotated.get(posixpath.basename(members.paths[i]))) for i in rows]
        for i, label in listed:
            if bare and label:
                grouped[bare][label].append(i)
            elif bare == "test":
                unlabelled += 1
            else:
                loose.append(members.paths[i])
    if loose:
        raise DataError(
            f"{members.where}: {len(loose)} images lie in no class folder: {listing(loose)}. "
            "An image's class is the folder it lies in."
        )
    notes = list(members.notes)
    if unlabelled:
        notes.append(f"{unlabelled} unlabelled images of test/ were not used")
    return {part: _source(members, classes, tuple(notes)) for part, classes in grouped.items()}


Folders = dict[str, list[int]]  # directory -> positions in members.paths


def _by_folder(members: Members) -> tuple[Folders, Folders]:
    """The images and the other files of every directory; hidden and system files left out."""
    images, others, hidden = defaultdict(list), defaultdict(list), {}
    for i, path in enumerate(members.paths):
        folder, _, name = path.rpartition("/")
        if folder not in hidden:
            hidden[folder] = _hidden(folder)
        if hidden[folder] or name[0] == "." or name.lower() in _JUNK:
            continue
        ending = name[name.rfind(".") :].lower()
        (images if ending in EXTENSIONS else others)[folder].append(i)
    return images, others


def _hidden(folder: str) -> bool:
    return any(part.startswith(".") or part.lower() in _JUNK for part in folder.split("/"))


def _place(folder: str) -> tuple[str, str]:
    """Part and class of a directory of images: ``a/train/cat`` gives ``("train", "cat")``."""
    names = folder.split("/")
    if len(names) > 1 and names[-1].lower() == "images":
        names = names[:-1]
    part = next((PARTS[name.lower()] for name in names[:-1] if name.lower() in PARTS), "")
    return part, names[-1]


def _annotations(members: Members, others: Folders) -> dict[str, str]:
    """File name to class, from Tiny-ImageNet's tab-separated list where there is one."""
    files = [members.paths[i] for rows in others.values() for i in rows]
    path = next((p for p in files if posixpath.basename(p) == _ANNOTATIONS), None)
    text = (members.find(path) or b"").decode("utf-8", "replace") if path else ""
    rows = [line.split("\t") for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _refuse_strays(members: Members, images: Folders, others: Folders) -> None:
    """Files that are no images by name but lie among images."""
    beside = [members.paths[i] for folder in others if folder in images for i in others[folder]]
    strays = [p for p in beside if "/" in p and posixpath.basename(p) != _ANNOTATIONS]
    if strays:
        raise DataError(
            f"{members.where}: {len(strays)} files among the images are not images: "
            f"{listing(strays)}. Remove them, or give them one of {' '.join(EXTENSIONS)}."
        )


def _refuse_empty(members: Members, images: Folders, others: Folders) -> None:
    """Directories that stand where a class stands and hold no image."""
    named = members.directories | set(others) | set(images)
    inner = {""}
    for directory in named:
        while directory := posixpath.dirname(directory):
            inner.add(directory)
    empty = [d for d in sorted(named - inner) if d not in images and not _hidden(d)]
    if empty:
        raise DataError(
            f"{members.where}: {len(empty)} classes are empty: {listing(empty)}. Put images in, or remove them."
        )


def _source(members: Members, classes: dict[str, list[int]], notes: tuple[str, ...]) -> Source:
    names = sorted(classes)
    order = [sorted(classes[name], key=members.paths.__getitem__) for name in names]
    rows = [i for positions in order for i in positions]
    labels = np.repeat(np.arange(len(names)), [len(positions) for positions in order])
    return Source(
        where=members.where,
        labels=labels.astype(np.int64),
        class_names=tuple(names),
        get=lambda i: members.read(rows[i]),
        name=lambda i: members.paths[rows[i]],
        notes=notes,
    )
