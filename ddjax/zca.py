"""ZCA whitening: the two published transforms, fitted in float64, stored with their inverse in float32.

    mean m [F], covariance S [F, F] = U diag(s) U^T of images flattened to F = H * W * D values in that order
    white = (x - m) @ matrix,   x = white @ inverse + m,   matrix = U diag(v^-1/2) U^T,   inverse = U diag(v^1/2) U^T

``eps``: ``v = s + eps``, S over N - 1, as in the releases of trajectory matching (Cazenavette et al., CVPR 2022, eps
0.1). ``trace``: ``v = s + eps * trace(S) / F``, S over N, and v = 1 in the directions that N < F images leave empty, as
in the kernel methods (Nguyen et al., NeurIPS 2021; Zhou et al., NeurIPS 2022, eps 0.1). They are not the same
transform, so a set carries its own. Both expect images that went through the set's channel mean and std.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from ddjax.errors import ConfigError, DataError, choice, out_of_range

TRANSFORMS = ("eps", "trace")
VALUES = 1 << 14  # values of one image; the matrices of more would need gigabytes each
ROWS = 4096  # images at a time
TENSORS = ("mean", "matrix", "inverse")


class Zca(NamedTuple):
    """A fitted transform: ``mean [F]``, ``matrix [F, F]``, ``inverse [F, F]`` float32, of images of F = H * W * D.

    ``fitted``: where it is known, what it was fitted on, ``{"images": n, "sha256": ...}`` (content hash of the pixels).
    """

    transform: str
    eps: float
    mean: np.ndarray
    matrix: np.ndarray
    inverse: np.ndarray
    fitted: Mapping[str, Any] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What the manifest says of it, beside the hash of its file."""
        told = {"transform": self.transform, "eps": self.eps}
        return told | ({"fitted": dict(self.fitted)} if self.fitted else {})


def fit(images: np.ndarray, *, transform: str, eps: float) -> Zca:
    """The transform of ``images`` float ``[N, H, W, D]`` (normalised); ConfigError, DataError where there is none."""
    if transform not in TRANSFORMS:
        raise ConfigError(choice("zca transform", transform, TRANSFORMS))
    if not (np.isfinite(eps) and eps > 0):
        raise ConfigError(out_of_range("zca eps", eps, "> 0", 0.1))
    images = np.asarray(images)
    count, values = len(images), int(np.prod(images.shape[1:]))
    if images.ndim != 4 or count < 2 or not 0 < values <= VALUES:
        raise DataError(
            f"zca: images have shape {images.shape}; allowed: [N, H, W, D] with N >= 2 and H * W * D <= {VALUES}."
        )
    mean, covariance = _moments(images.reshape(count, values))
    covariance /= count - 1 if transform == "eps" else count
    found, vectors = np.linalg.eigh(covariance)  # ascending
    found = np.maximum(found, 0.0)
    if transform == "eps":
        root = np.sqrt(found + eps)
    else:
        root = np.sqrt(found + eps * np.trace(covariance) / values)
        root[: max(0, values - count)] = 1.0
    if not np.isfinite(root).all() or root.min() <= 0:
        raise DataError("zca: the images are not finite, or all the same; there is nothing to whiten.")
    matrix, inverse = (vectors * root**-1) @ vectors.T, (vectors * root) @ vectors.T
    return Zca(transform, float(eps), mean.astype(np.float32), matrix.astype(np.float32), inverse.astype(np.float32))


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and the sum of outer products about it, float64, a few images at a time."""
    mean = np.asarray(rows.mean(axis=0, dtype=np.float64))
    scatter = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), ROWS):
        centred = rows[start : start + ROWS].astype(np.float64) - mean
        scatter += centred.T @ centred
    return mean, scatter


def apply(zca: Zca, images: np.ndarray) -> np.ndarray:
    """Normalised images ``[N, H, W, D]`` to whitened ones, float32: ``(x - mean) @ matrix``."""
    return _linear(zca, images, lambda rows: (rows - zca.mean.astype(np.float64)) @ zca.matrix.astype(np.float64))


def unapply(zca: Zca, images: np.ndarray) -> np.ndarray:
    """Whitened images ``[N, H, W, D]`` to normalised ones, float32: ``x @ inverse + mean``."""
    return _linear(zca, images, lambda rows: rows @ zca.inverse.astype(np.float64) + zca.mean.astype(np.float64))


def _linear(zca: Zca, images: np.ndarray, step) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or int(np.prod(images.shape[1:])) != len(zca.mean):
        raise DataError(f"zca: images have shape {images.shape}; allowed: [N, H, W, D], H * W * D = {len(zca.mean)}.")
    rows, made = images.reshape(len(images), -1), np.empty(images.shape, np.float32)
    flat = made.reshape(len(images), -1)
    for start in range(0, len(rows), ROWS):
        flat[start : start + ROWS] = step(rows[start : start + ROWS].astype(np.float64))
    return made


def problems(zca: Zca, image_shape: tuple[int, ...]) -> list[str]:
    """What makes a transform unfit for images of ``image_shape`` (H, W, D), one sentence each; [] where it fits."""
    values = int(np.prod(image_shape))
    wanted = {"mean": (values,), "matrix": (values, values), "inverse": (values, values)}
    wrong = [] if zca.transform in TRANSFORMS else [choice("zca transform", zca.transform, TRANSFORMS)]
    if not (np.isfinite(zca.eps) and zca.eps > 0):
        wrong.append(out_of_range("zca eps", zca.eps, "> 0", 0.1))
    for name, shape in wanted.items():
        part = getattr(zca, name)
        if part.shape != shape or part.dtype != np.float32:
            wrong.append(f"zca {name} is {part.dtype}{list(part.shape)}; allowed: float32{list(shape)}.")
        elif not np.isfinite(part).all():
            wrong.append(f"zca {name} holds values that are not finite.")
    if not wrong:
        probe = np.sin(np.arange(1, values + 1))  # any vector without symmetries
        back = probe @ zca.matrix.astype(np.float64) @ zca.inverse.astype(np.float64)
        if np.linalg.norm(back - probe) > 1e-2 * np.linalg.norm(probe):
            wrong.append("zca inverse does not undo zca matrix.")
    return wrong


def to_bytes(zca: Zca) -> bytes:
    """The content of ``zca.safetensors``; its transform and eps stand in the manifest."""
    return write_tensors({name: np.ascontiguousarray(getattr(zca, name)) for name in TENSORS})


def from_bytes(content: bytes, *, transform: str, eps: float, fitted: Mapping[str, Any] | None = None) -> Zca:
    """What ``to_bytes`` wrote; DataError where it did not."""
    try:
        found = read_tensors(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"zca.safetensors is no safetensors file of arrays: {error}.") from None
    absent = [name for name in TENSORS if name not in found]
    if absent:
        raise DataError(f"zca.safetensors holds no {' and no '.join(absent)}.")
    return Zca(transform, eps, found["mean"], found["matrix"], found["inverse"], fitted)
