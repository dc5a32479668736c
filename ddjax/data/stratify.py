"""Which images go where: parts of a set that hold the same share of every class.

    share of class c = count_c * total / n, rounded by largest remainder, at least 1

Within a class the order is a fixed permutation (or one per seed for a subset), and a smaller share
is a prefix of a larger one. So results compare between runs.
"""

import numpy as np

from ddjax.errors import ConfigError, DataError, out_of_range
from ddjax.keys import numpy_rng


def shares(counts: np.ndarray, total: int, most: np.ndarray) -> np.ndarray:
    """``total`` dealt in proportion to ``counts`` [C], each in 1 .. ``most`` [C], sum exact."""
    exact = counts * (total / counts.sum())
    dealt = np.clip(np.floor(exact).astype(np.int64), 1, most)
    while (left := total - int(dealt.sum())) != 0:
        room = dealt < most if left > 0 else dealt > 1
        need = np.where(room, (exact - dealt) * np.sign(left), -np.inf)
        chosen = np.argsort(-need, kind="stable")[: min(abs(left), int(room.sum()))]
        dealt[chosen] += np.sign(left)
    return dealt


def draw(labels: np.ndarray, total: int, stream: str, *, seed: int = 0, spare: int = 0) -> np.ndarray:
    """Mask bool [n] of a stratified choice of ``total``, a function of (seed, stream).

    ``spare`` images of every class are never chosen; ``C <= total <= n - C spare`` is the caller's.
    """
    counts = np.bincount(labels)
    dealt = shares(counts, total, counts - spare)
    chosen = np.zeros(len(labels), bool)
    for c in range(len(counts)):
        rows = np.flatnonzero(labels == c)
        chosen[numpy_rng(seed, stream, c).permutation(rows)[: dealt[c]]] = True
    return chosen


def hold_out(
    rows: np.ndarray,
    labels: np.ndarray,
    total: int,
    stream: str,
    *,
    argument: str,
    class_names: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` kept and held out (about ``total``, at least one a class), each in its old order.

    DataError where a class has a single image, or more than is left after one of each is kept.
    """
    held = labels[rows]
    counts = np.bincount(held, minlength=len(class_names))
    single = [class_names[c] for c in np.flatnonzero(counts < 2)]
    if single:
        raise DataError(
            f"{argument}: {len(single)} classes have fewer than 2 training images, none can be "
            f"held out: {', '.join(single[:10])}. Add images, or name a test set with --data.test."
        )
    total = int(np.clip(total, len(counts), len(rows) - len(counts)))
    chosen = draw(held, total, stream, spare=1)
    return rows[~chosen], rows[chosen]


def subset(rows: np.ndarray, labels: np.ndarray, total: int, *, seed: int, classes: int) -> np.ndarray:
    """A stratified choice of ``total`` of ``rows``, drawn by ``seed``; ConfigError out of range."""
    if not classes <= total <= len(rows):
        use = min(max(total, classes), len(rows))
        allowed = f"{classes} (one a class) .. {len(rows)} (all training images)"
        raise ConfigError(out_of_range("data.subset", total, allowed, use))
    return rows[draw(labels[rows], total, "data-subset", seed=seed)]
