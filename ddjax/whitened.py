"""Real images through the whitening of a set, so that its students see them as they saw the set.

    x = (pixels / 255 - mean) / std,   white = zca(x)

A whitened split looks like any other, but for its images: float32, in the networks' space already. Whatever is trained
or judged beside the set (baselines, teachers, validation, test) reads them.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from ddjax import zca
from ddjax.data import Dataset
from ddjax.data.split import WORKERS
from ddjax.files import content_hash
from ddjax.synset import DistilledSet

KEPT = 2 << 30  # bytes of a split that are computed once and held in memory


class WhiteSplit:
    """A split whose images are float32 ``[n, H, W, D]``, normalised by ``mean`` and ``std``, then whitened."""

    def __init__(self, split: Any, transform: zca.Zca, mean: tuple[float, ...], std: tuple[float, ...]):
        self.split, self.transform = split, transform
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.labels, self.shape = split.labels, split.shape

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as float32."""
        return 4 * len(self) * int(np.prod(self.shape))

    @functools.cached_property
    def images(self) -> np.ndarray | None:
        """All images where they are few enough to keep, else None."""
        return self._made(np.arange(len(self)), WORKERS) if self.nbytes <= KEPT else None

    @functools.cached_property
    def hash(self) -> str:
        """Of the split and the transform."""
        parts = {name: part for name, part in self.transform._asdict().items() if name != "fitted"}
        return content_hash([self.split.hash, parts, self.mean, self.std])

    def gather(self, indices: np.ndarray, *, workers: int = WORKERS) -> np.ndarray:
        """Whitened images at ``indices``."""
        indices = np.asarray(indices)
        return self.images[indices] if self.images is not None else self._made(indices, workers)

    def _made(self, indices: np.ndarray, workers: int) -> np.ndarray:
        pixels = self.split.gather(indices, workers=workers).astype(np.float32)
        return zca.apply(self.transform, (pixels / np.float32(255) - self.mean) / self.std)


def like(made: DistilledSet, data: Dataset) -> Dataset:
    """The data as students of ``made`` see it: whitened where the set is, else as it is."""
    if made.zca is None:
        return data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    parts = {name: WhiteSplit(split, made.zca, made.mean, made.std) for name, split in splits.items()}
    hashed = content_hash([data.hash, *(part.hash for part in parts.values())])
    return dataclasses.replace(data, **parts, hash=hashed, notes=(*data.notes, "whitened as the set is"))
