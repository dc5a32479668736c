"""Coverage and intra-class diversity of the set, in the feature space of the network on all real images.

    coverage  = (1/N) sum_i [ min_j |x_i - s_j| <= r_i ],  r_i = distance of x_i to its k-th nearest real image (k = 5)
    distance  = sum_i min_j |x_i - s_j| / sum_i |x_i - mu_c|                 (1: no better than the class's mean alone)
    diversity = mean over classes and pairs j < l of  1 - cos(s_j, s_l)

x_i real and s_j set images of one class c, with features before the classifier. Sources: Naeem et al., "Reliable
Fidelity and Diversity Metrics for Generative Models", ICML 2020, eq. 5 (coverage; here class by class); Shen et al.,
DELT, 2024 (cosine diversity).
"""

import numpy as np

from ddjax import survey
from ddjax.baselines import random_images
from ddjax.further.case import Case, Table
from ddjax.keys import numpy_rng
from ddjax.shown import entry

NEAREST = 5  # k of the coverage
REAL = 2000  # most real images of a class that are looked at
DRAWS = 5  # of random images
TIE = 1e-9  # of a radius: a real image that is in the set lies at some others' radius exactly


class Held:
    """Images in memory as a split: float32 ``[n, H, W, D]`` in normalised space."""

    def __init__(self, images: np.ndarray):
        self.images, self.shape = images, images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices``."""
        return self.images[np.asarray(indices)]


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances ``[n, m]`` of the rows of ``a [n, F]`` and ``b [m, F]``, float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None]
    square = norms - 2.0 * a @ b.T
    return np.sqrt(np.where(square > 1e-12 * norms, square, 0.0))  # what rounding leaves of equal rows is 0


def radii(real: np.ndarray, nearest: int = NEAREST) -> np.ndarray:
    """Distance ``[n]`` of each row to its ``nearest``-th nearest other row (the farthest where there are fewer)."""
    among = np.sort(gaps(real, real) + np.diag(np.full(len(real), np.inf)), axis=1)
    return among[:, min(nearest, len(real) - 1) - 1] if len(real) > 1 else np.zeros(1)


def diversity(some: np.ndarray) -> float | None:
    """Mean of ``1 - cos`` over the pairs of rows; None for one row: ``(|sum_j u_j|^2 - m) / (m (m - 1))`` from 1."""
    if len(some) < 2:
        return None
    unit = np.asarray(some, np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    count = len(unit)
    return float(1.0 - (np.sum(unit.sum(axis=0) ** 2) - np.sum(unit**2)) / (count * (count - 1)))


def measure(
    real: list[np.ndarray], some: list[np.ndarray], reach: list[np.ndarray]
) -> tuple[float, float, float | None]:
    """Coverage, distance and diversity of ``some`` among ``real`` with radii ``reach``; one array for each class."""
    covered = near = apart = total = 0.0
    for x, s, r in zip(real, some, reach, strict=True):
        closest = gaps(x, s).min(axis=1)
        covered += float(np.sum(closest <= r * (1 + TIE)))
        near += float(closest.sum())
        apart += float(gaps(x, x.mean(axis=0, keepdims=True)).sum())
        total += len(x)
    spread = [diversity(s) for s in some]
    known = [value for value in spread if value is not None]
    return covered / total, near / max(apart, 1e-12), float(np.mean(known)) if known else None


def run(case: Case) -> Table:
    """The set, as many random real images (mean of five draws) and the real images themselves."""
    data, trained = case.job.data, case.shared_teacher()
    net, card = case.job.net(case.arch), data.card

    def features(split) -> np.ndarray:
        return survey.features(net, trained.params, trained.state, split, card.mean, card.std)

    def by_class(values: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        return [values[labels == c] for c in range(case.classes)]

    shown = np.asarray(survey.normalise(case.own.images, case.made.mean, case.made.std))
    rng = numpy_rng(case.job.run.seed, "coverage")
    real = by_class(features(data.train), data.train.labels)
    real = [x if len(x) <= REAL else x[np.sort(rng.choice(len(x), REAL, replace=False))] for x in real]
    reach = [radii(x) for x in real]
    own = measure(real, by_class(features(Held(shown)), case.made.labels), reach)
    ipc = np.repeat(np.arange(case.classes), case.ipc)
    drawn = []
    for i in range(DRAWS):
        some = np.asarray(survey.normalise(random_images(data, case.ipc, case.job.run.seed + i), card.mean, card.std))
        drawn.append(measure(real, by_class(features(Held(some)), ipc), reach))
    columns = [[d[i] for d in drawn if d[i] is not None] for i in range(3)]
    random = [float(np.mean(column)) if column else None for column in columns]
    whole = measure(real, real, reach)
    return Table(
        ["images", "coverage", "distance", "diversity"],
        [[case.own.name, *own], [f"random, {DRAWS} draws", *random], ["all real images", *whole]],
        f"In the features of {case.arch} trained on all images: share of real images with an image of the set as near "
        f"as their {NEAREST}th real neighbour {entry(own[0], '%')} % ({entry(random[0], '%')} % with random images); "
        "distance to the nearest, "
        f"over that to the class mean {own[1]:.3f} (random {random[1]:.3f}); diversity within a class is 1 - cosine.",
        {"coverage": own[0], "distance": own[1], "diversity": own[2]},
        {"coverage": "%"},
    )
