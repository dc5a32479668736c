"""Coresets: which real images to keep. Host-side (NumPy, scikit-learn), exact, deterministic.

Every function returns ``[C * K]`` distinct int64 positions into the data, class by class: rows
``c*K .. c*K+K-1`` are of class ``c``. The caller has checked that every class ``0 .. C-1`` has at
least ``K`` images. ``features [N, F]`` may be pixels or a network's features.

    herding:  x_k = argmin_x || mu_c - (x + x_1 + .. + x_{k-1}) / k ||_2  (Welling, ICML 2009)
    kmeans:   K centres per class, for each the nearest image not yet taken  (k-means++, 2007)
    kcenter:  x_k = argmax_x min_{j<k} || x - x_j ||_2, x_1 nearest to mu_c  (Gonzalez, TCS 1985; Sener, ICLR 2018)
    forgetting: the highest counts of correct -> wrong while a network trained  (Toneva et al., ICLR 2019)
"""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Num
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

BY_FEATURES = ("kmeans", "herding", "kcenter")  # by distances between features
NAMES = ("random", *BY_FEATURES, "forgetting")  # what `by_name` knows


def _by_class(labels: np.ndarray, choose: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    classes = range(int(labels.max()) + 1)
    return np.concatenate([choose(np.flatnonzero(labels == c)) for c in classes])


def random_per_class(rng: np.random.Generator, labels: Int[np.ndarray, "N"], ipc: int) -> Int[np.ndarray, "CK"]:
    """``ipc`` images of each class, uniformly without replacement."""
    return _by_class(labels, lambda rows: rng.choice(rows, ipc, replace=False))


def _nearest_distinct(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """For each centre in turn the nearest point that no earlier centre took."""
    square = np.sum(points**2, axis=1)[None] - 2 * centres @ points.T  # + ||centre||^2, the same along a row
    taken: list[int] = []
    for row in square:
        row[taken] = np.inf
        taken.append(int(np.argmin(row)))
    return np.asarray(taken)


def kmeans(
    rng: np.random.Generator,
    features: Num[np.ndarray, "N F"],
    labels: Int[np.ndarray, "N"],
    ipc: int,
) -> Int[np.ndarray, "CK"]:
    """The real images nearest to ``ipc`` k-means centres of each class."""

    def choose(rows: np.ndarray) -> np.ndarray:
        points = np.asarray(features[rows], np.float64)
        model = KMeans(ipc, init="k-means++", n_init="auto", random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            # Fewer distinct images than centres: centres coincide, the images chosen do not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            centres = model.fit(points).cluster_centers_
        return rows[_nearest_distinct(points, centres)]

    return _by_class(labels, choose)


def herding(features: Num[np.ndarray, "N F"], labels: Int[np.ndarray, "N"], ipc: int) -> Int[np.ndarray, "CK"]:
    """Greedily the images whose running mean stays nearest to the class mean (ties: the first)."""

    def choose(rows: np.ndarray) -> np.ndarray:
        points = np.asarray(features[rows], np.float64)
        square = np.sum(points**2, axis=1)
        mean, sum_ = points.mean(axis=0), np.zeros(points.shape[1])
        taken: list[int] = []
        for k in range(1, ipc + 1):
            distance = square - 2 * points @ (k * mean - sum_)  # k^2 ||..||^2, short of a constant
            distance[taken] = np.inf
            taken.append(int(np.argmin(distance)))
            sum_ += points[taken[-1]]
        return rows[np.asarray(taken)]

    return _by_class(labels, choose)


def kcenter(features: Num[np.ndarray, "N F"], labels: Int[np.ndarray, "N"], ipc: int) -> Int[np.ndarray, "CK"]:
    """Greedily the image farthest from all chosen so far, from the one nearest to the class mean (ties: the first)."""

    def choose(rows: np.ndarray) -> np.ndarray:
        points = np.asarray(features[rows], np.float64)
        taken = [int(np.argmin(np.sum((points - points.mean(axis=0)) ** 2, axis=1)))]
        gap = np.full(len(rows), np.inf)
        while len(taken) < ipc:
            gap = np.minimum(gap, np.sum((points - points[taken[-1]]) ** 2, axis=1))
            gap[taken] = -1.0
            taken.append(int(np.argmax(gap)))
        return rows[np.asarray(taken)]

    return _by_class(labels, choose)


def forgetting(
    rng: np.random.Generator, counts: Int[np.ndarray, "N"], labels: Int[np.ndarray, "N"], ipc: int
) -> Int[np.ndarray, "CK"]:
    """The images forgotten most often; equal counts in random order. An image never learnt counts 0, as it stands."""

    def choose(rows: np.ndarray) -> np.ndarray:
        shuffled = rng.permutation(rows)
        return shuffled[np.argsort(-counts[shuffled], kind="stable")[:ipc]]

    return _by_class(labels, choose)


def by_name(
    name: str,
    rng: np.random.Generator,
    labels: Int[np.ndarray, "N"],
    ipc: int,
    *,
    space: Callable[[], Num[np.ndarray, "N F"]],
    forgotten: Callable[[], Int[np.ndarray, "N"]],
) -> Int[np.ndarray, "CK"]:
    """The coreset called ``name`` of NAMES; ``space()`` and ``forgotten()`` are called only where it needs them."""
    if name == "random":
        return random_per_class(rng, labels, ipc)
    if name == "forgetting":
        return forgetting(rng, forgotten(), labels, ipc)
    if name == "kmeans":
        return kmeans(rng, space(), labels, ipc)
    return {"herding": herding, "kcenter": kcenter}[name](space(), labels, ipc)
