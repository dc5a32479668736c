"""The values that pass between the files of this room: `Source`, and how a message names files.

A source is random access to ``n`` labelled images. A SPEC opens into *parts*: a dict from
``""`` (no split in it), ``"train"``, ``"val"``, ``"test"`` to a source.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ddjax.errors import DataError

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MEMBER_BYTES = 256 << 20  # one encoded image larger than this is refused before it is read
ARRAY_BYTES = 16 << 30  # one array larger than this is refused before it is allocated


class Undecodable(Exception):
    """One image cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True, eq=False)
class Source:
    """``n`` labelled images behind random access; nothing is decoded before it is asked for.

    ``get(i)`` gives image ``i`` as encoded bytes or as uint8 ``[H, W]`` / ``[H, W, D]``, or raises
    `Undecodable`; ``name(i)`` names it in messages. ``labels`` int64 ``[n]`` count in
    ``class_names``; where those are None the labels are bare numbers and a card names them.
    ``pixels`` uint8 ``[n, H, W, D]`` is given where the images lie in memory already.
    """

    where: str
    labels: np.ndarray
    class_names: tuple[str, ...] | None
    get: Callable[[int], bytes | np.ndarray]
    name: Callable[[int], str]
    pixels: np.ndarray | None = None
    card: str | None = None  # the card that this format can only be
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


Parts = dict[str, Source]


def listing(names: Sequence[str]) -> str:
    """The first ten names and how many there are: ``a, b and 3 more (5 in all)``."""
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more ({len(names)} in all)" if len(names) > 10 else shown


def from_arrays(
    where: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    card: str | None = None,
) -> Source:
    """A source of arrays: images uint8 ``[n, H, W]`` or ``[n, H, W, D]``, labels ``[n]``.

    Errors: images that are not uint8 (non-finite values named first), other ranks or channels,
    labels that are not whole numbers, differ in count, or are negative.
    """
    pixels = checked_pixels(where, np.asarray(images))
    numbers, names = checked_labels(where, np.asarray(labels), class_names)
    if len(pixels) != len(numbers):
        raise DataError(f"{where}: {len(pixels)} images but {len(numbers)} labels.")
    return Source(
        where=where,
        labels=numbers,
        class_names=names,
        get=pixels.__getitem__,
        name=lambda i: f"{where}[{i}]",
        pixels=pixels,
        card=card,
    )


def checked_pixels(where: str, images: np.ndarray) -> np.ndarray:
    """``images`` as uint8 ``[n, H, W, D]`` with D of 1, 3 or 4, or a `DataError` that says why."""
    if images.ndim == 0 or not len(images):
        raise DataError(f"{where}: holds no images (shape {images.shape}).")
    if images.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
        if wrong.size:
            shown = listing([str(i) for i in wrong])
            raise DataError(f"{where}: {wrong.size} images hold NaN or infinity: {shown}.")
    if images.dtype != np.uint8:
        bounds = f" in [{images.min()}, {images.max()}]" if images.dtype.kind in "iuf" else ""
        raise DataError(
            f"{where}: images are {images.dtype}{bounds}; allowed: uint8 in [0, 255]. "
            "Scale to 0..255, round, and store as uint8."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape[1:3]:
        raise DataError(
            f"{where}: images have shape {images.shape}; allowed: [n, H, W], [n, H, W, 1], "
            "[n, H, W, 3] or [n, H, W, 4] (channels last)."
        )
    return images


def checked_labels(
    where: str, labels: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels as int64 ``[n]`` and the class names; strings are counted in sorted order."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{where}: labels have shape {labels.shape}; allowed: [n].")
    if labels.dtype.kind in "US" and class_names is None:
        names, numbers = np.unique(labels, return_inverse=True)
        text = [n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()]
        return numbers.astype(np.int64), tuple(text)
    if labels.dtype.kind not in "iu" and not (labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels))):
        raise DataError(f"{where}: labels are {labels.dtype}; allowed: whole numbers from 0.")
    numbers = labels.astype(np.int64)
    below = np.flatnonzero(numbers < 0)
    if below.size:
        raise DataError(
            f"{where}: {below.size} labels are out of range (first: {numbers[below[0]]} at "
            f"{below[0]}); allowed: whole numbers from 0."
        )
    return numbers, tuple(str(n) for n in class_names) if class_names is not None else None
