"""One split of a data set: its labels, its shape, its images by index; resident or streamed.

A resident split holds uint8 ``[n, H, W, D]``; a streamed one decodes what `Split.gather` is asked
for. Both give the same bytes. The threads are Python's: decoders and ``pread`` release the lock.
"""

import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ddjax.data.base import Source, Undecodable, listing
from ddjax.data.decode import Resize, as_channels, decode, header, resize
from ddjax.errors import DataError

WORKERS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
_FEW = 25  # images whose sizes tell the size of all
_SAMPLE = 1000  # images of a streamed split whose bytes enter its hash


@dataclass(frozen=True)
class Want:
    """What every image must become: ``size`` (H, W), ``channels`` 1 or 3; None: as they are."""

    size: tuple[int, int] | None
    channels: int | None
    resize: Resize


class Split:
    """``n`` images ``[H, W, D]``, ``labels`` int32 ``[n]``; ``images`` is None where streamed."""

    def __init__(self, source: Source, rows: np.ndarray, want: Want, images: np.ndarray | None = None):
        """Of ``rows`` of ``source``; streamed (``images`` None) needs every field of ``want``."""
        self.source, self.rows, self.want, self.images = source, np.asarray(rows), want, images
        self.labels = source.labels[self.rows].astype(np.int32)
        if images is not None:
            self.shape = images.shape[1:]
        elif want.size and want.channels:
            self.shape = (*want.size, want.channels)
        else:
            raise ValueError("a streamed split needs its size and channels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8."""
        return len(self) * int(np.prod(self.shape))

    def gather(self, indices: np.ndarray, *, workers: int = WORKERS) -> np.ndarray:
        """Images uint8 ``[k, H, W, D]`` at ``indices`` [k]; DataError names what is unreadable."""
        if self.images is not None:
            return self.images[np.asarray(indices)]
        return load(self.source, self.rows[np.asarray(indices)], self.want, workers=workers)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of shape, labels and pixels; streamed: names and the pixels of 1000 images."""
        found = hashlib.sha256(f"{len(self)} {self.shape}".encode())
        found.update(np.ascontiguousarray(self.labels).tobytes())
        if self.images is not None:
            found.update(np.ascontiguousarray(self.images).data)
            return found.hexdigest()
        sample = np.unique(np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).astype(int))
        found.update(self.want.resize.encode())
        found.update("\n".join(self.source.name(int(row)) for row in self.rows).encode())
        found.update(self.gather(sample).tobytes())
        return found.hexdigest()


class Complaints:
    """What is wrong with the images of several splits, so that one error can list all of it."""

    def __init__(self):
        self.looked_at: Counter[str] = Counter()  # images by source
        self.bad: dict[str, list[str]] = defaultdict(list)  # "name (reason)" by source
        self.odd: dict[str, list[tuple[str, str]]] = defaultdict(list)  # (name, size) by source
        self.size = ""

    def add(
        self,
        source: Source,
        rows: np.ndarray,
        want: Want,
        size: tuple[int, int],
        bad: dict[int, str],
        odd: dict[int, tuple[int, int]],
    ) -> None:
        """Note the positions in ``rows`` that are unreadable (reason) or of another size."""
        where = source.where
        self.looked_at[where] += len(rows)
        self.bad[where] += [f"{source.name(int(rows[j]))} ({bad[j]})" for j in sorted(bad)]
        self.odd[where] += [(source.name(int(rows[j])), _sides(odd[j])) for j in sorted(odd)]
        self.size = self.size or _sides(size) + (" (data.size)" if want.size else "")

    def settle(self) -> None:
        """Raise one `DataError` that lists everything noted, or return."""
        said = []
        for where, total in self.looked_at.items():
            if bad := self.bad[where]:
                said.append(
                    f"{where}: {len(bad)} of {total} images cannot be decoded: "
                    f"{listing(sorted(bad))}. Remove or replace them."
                )
            if odd := self.odd[where]:
                counts = Counter(size for _, size in odd).most_common(5)
                sizes = ", ".join(f"{size} ({n})" for size, n in counts)
                names = listing(sorted(name for name, _ in odd))
                said.append(
                    f"{where}: {len(odd)} of {total} images are not {self.size} but {sizes}: "
                    f"{names}. Give a rule: --data.resize squash "
                    "or crop, with --data.size."
                )
        if said:
            raise DataError("\n".join(said))


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def expected_shape(source: Source, rows: np.ndarray, want: Want) -> tuple[int, int, int]:
    """Shape by what most of some images have (RGB assumed where channels are left open)."""
    if want.size:
        return *want.size, want.channels or 3
    seen: Counter[tuple[int, int]] = Counter()
    for some in (rows[np.unique(np.linspace(0, len(rows) - 1, _FEW).astype(int))], rows):
        for row in () if seen else some:
            try:
                seen[_size(source, int(row))] += 1
            except Undecodable:
                continue  # `load` reports every such image, with its name
    height, width = seen.most_common(1)[0][0] if seen else (1, 1)
    return height, width, want.channels or 3


def _size(source: Source, row: int) -> tuple[int, int]:
    """Height and width by the header."""
    data = source.get(row)
    height, width, _ = header(data) if isinstance(data, bytes) else _with_channels(data).shape
    return height, width


def load(
    source: Source,
    rows: np.ndarray,
    want: Want,
    *,
    workers: int = WORKERS,
    complaints: Complaints | None = None,
) -> np.ndarray:
    """Images uint8 ``[n, H, W, D]`` of ``rows``, decoded by threads straight into place.

    Channels left open become 1 if every image is grey, else 3. What cannot be decoded, or differs
    in size where no resize rule is given, goes into ``complaints``, or is raised without one.
    """
    if source.pixels is not None and _as_stored(source.pixels, want):
        whole = len(rows) == len(source) and bool((rows == np.arange(len(rows))).all())
        return source.pixels if whole else source.pixels[rows]
    height, width, channels = expected_shape(source, rows, want)
    out = np.empty((len(rows), height, width, channels), np.uint8)
    grey = np.zeros(len(rows), bool)
    odd: dict[int, tuple[int, int]] = {}

    def one(j: int) -> None:
        image = _native(source, int(rows[j]))
        image = resize(image, (height, width), want.resize)
        grey[j] = image.shape[-1] == 1
        if image.shape[:2] == (height, width):
            out[j] = as_channels(image, channels)
        else:
            odd[j] = image.shape[:2]

    bad = each(one, len(rows), workers=workers)
    found = complaints or Complaints()
    found.add(source, rows, want, (height, width), bad, odd)
    if complaints is None:
        found.settle()
    if want.channels is None and grey.all():
        return np.ascontiguousarray(out[..., :1])
    return out


def probe(source: Source, rows: np.ndarray, want: Want, *, complaints: Complaints) -> tuple[int, int, int]:
    """The shape of every image of ``rows`` by their headers; complains as `load` does."""
    if want.size and want.channels and want.resize != "none":
        return (*want.size, want.channels)
    shapes = np.zeros((len(rows), 3), np.int64)

    def one(j: int) -> None:
        data = source.get(int(rows[j]))
        shapes[j] = header(data) if isinstance(data, bytes) else _with_channels(data).shape

    bad = each(one, len(rows))
    counts = Counter((int(h), int(w)) for j, (h, w, _) in enumerate(shapes) if j not in bad)
    size = want.size or (counts.most_common(1)[0][0] if counts else (1, 1))
    odd: dict[int, tuple[int, int]] = {}
    if want.resize == "none":
        wrong = np.flatnonzero((shapes[:, :2] != np.array(size)[None]).any(axis=1))
        odd = {int(j): (int(shapes[j, 0]), int(shapes[j, 1])) for j in wrong if j not in bad}
    complaints.add(source, rows, want, size, bad, odd)
    return size[0], size[1], want.channels or (1 if (shapes[:, 2] == 1).all() else 3)


def each(work: Callable[[int], object], count: int, *, workers: int = WORKERS) -> dict[int, str]:
    """Call ``work(0 .. count - 1)`` in threads; the reasons of those that were `Undecodable`."""
    bad: dict[int, str] = {}

    def run(chunk: Iterable[int]) -> None:
        for j in chunk:
            try:
                work(j)
            except Undecodable as error:
                bad[j] = str(error)

    if workers == 1 or count < 64:
        run(range(count))
    else:
        step = max(16, min(1024, count // (8 * workers)))
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, [range(a, min(a + step, count)) for a in range(0, count, step)]))
    return dict(sorted(bad.items()))


def _native(source: Source, row: int) -> np.ndarray:
    data = source.get(row)
    return decode(data) if isinstance(data, bytes) else _with_channels(data)


def _with_channels(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise Undecodable(f"{image.dtype} of shape {image.shape}; allowed: uint8 [H, W, D]")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[-1] not in (1, 3, 4):
        raise Undecodable(f"{image.shape[-1]} channels; allowed: 1, 3, 4, as the last axis")
    return image[..., :3] if image.shape[-1] == 4 else image


def _as_stored(pixels: np.ndarray, want: Want) -> bool:
    height, width, channels = pixels.shape[1:]
    fits = want.size is None or want.size == (height, width)
    return fits and (want.channels or channels) == channels and channels != 4
