"""Sets whose images were whitened: the transform comes with them, or the release's own recipe gives it again.

    datm-zca   x = pixel / 255, per pixel mean, covariance over n - 1, eigenvalues + 0.1           (trajectory methods)
    rfad-zca   x = (pixel / 255 - mean) / std with mean and std of the training images,
               second moments about 0 (RFAD, KIP) or covariance (FRePo), + 0.1 trace / d on the diagonal

FRePo's files name their arrays ``image`` and ``label``, those of the others ``images`` and ``labels``: that tells the
recipes apart. KIP, and RFAD on SVHN, also scale every image to norm 1 before whitening. No matrix undoes that, so a
whitened SVHN set is refused, and KIP's are taken for images of RFAD's recipe, which the manifest says.
"""

from typing import Any

import numpy as np

from ddjax import zca as whitening
from ddjax.data.cards import Card
from ddjax.errors import ConfigError, DataError
from ddjax.exchange.layouts import Raw
from ddjax.exchange.presets import Constants, Preset
from ddjax.exchange.spaces import Space, channel_constants, check_signed, measured, real_images
from ddjax.files import content_hash
from ddjax.setcheck import refuse
from ddjax.zca import Zca

KIP = "read as RFAD's recipe; KIP scaled every image to norm 1 before whitening"


def settle(
    raw: Raw, images: np.ndarray, preset: Preset, card: Card | None, train: Any, given: Constants | None
) -> Space:
    """Whitened images with their transform; ConfigError without a stored one and without the real images."""
    if train is None and raw.zca is None:
        arrays = "zca_mean, whitening_transform, rev_whitening_transform"
        stored = f"as further arrays of the file ({arrays})" if len(raw.files) < 2 else (
            f"as a fourth file, images.pt,labels.pt,lr.pt,zca.npz (of {arrays})"
        )  # fmt: skip
        raise ConfigError(
            f"--preset {preset.name} is whitened: the real training images are needed to fit its ZCA. "
            f"Give --data.train SPEC, or the stored transform {stored}."
        )
    transform, eps = preset.zca or ("eps", 0.1)
    if transform == "trace" and card is not None and card.id == "svhn":
        raise DataError(
            f"{raw.where}: the kernel methods scale every SVHN image to norm 1 before whitening; "
            "no stored transform can undo that, so such a set cannot be read faithfully."
        )
    check_signed(raw.where, images, preset)
    values, shape = np.ascontiguousarray(images, np.float32), images.shape[1:]
    real = real_images(train, shape) if train is not None else None
    mean, std, whence = _channels(raw, values, preset, card, real, given)
    said: dict[str, Any] = {"constants": whence, "zca": "stored with the set" if raw.zca else "fitted on data.train"}
    if raw.zca is not None or real is None:
        return Space(values, mean, std, _stored(raw, transform, eps, shape), said)
    fed = (real / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    if transform == "trace" and not _frepo(raw):
        fed = np.concatenate([fed, -fed])  # the covariance of both together is the second moment about 0
        if not raw.first:
            said["note"] = KIP
    fitted = {"images": len(real), "sha256": content_hash(real)}
    zca = whitening.fit(fed, transform=transform, eps=eps)._replace(fitted=fitted)
    return Space(values, mean, std, zca, said, _all_of(card, len(real)))


def _all_of(card: Card | None, count: int) -> tuple[str, ...]:
    """What to know where the real images are not as many as the card's."""
    if card is None or card.train in (None, count):
        return ()
    return (
        f"the ZCA was fitted on the {count:,} images of --data.train; card {card.id} has {card.train:,} training "
        "images, and a release fitted on those was whitened by another transform",
    )


def _frepo(raw: Raw) -> bool:
    return raw.names[0] == "image"


def _channels(
    raw: Raw, images: np.ndarray, preset: Preset, card: Card | None, real: np.ndarray | None, given: Constants | None
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Channel mean and std before whitening."""
    channels = images.shape[3]
    if given is None and preset.zca and preset.zca[0] == "eps":
        return (0.0,) * channels, (1.0,) * channels, "none: pixels / 255 are whitened"
    if given is None and real is not None and not (_frepo(raw) and card and card.id in preset.constants):
        return *measured(real), "measured on data.train"
    return channel_constants(images, preset, card, None, given)


def _stored(raw: Raw, transform: str, eps: float, shape: tuple[int, ...]) -> Zca:
    """The transform that came with the set, its rows in the order of the set's axes; DataError names its file."""
    held, size = raw.zca or {}, int(np.prod(shape))
    where = f"file = {str(raw.files[3])!r}" if len(raw.files) > 3 else raw.where
    matrix = np.asarray(held["matrix"], np.float64)
    if matrix.shape != (size, size):
        raise DataError(
            f"{where}: the stored whitening has shape {matrix.shape}; allowed: {(size, size)}, of whole images "
            "(whitening by blocks is not supported)."
        )
    mean = np.asarray(held.get("mean", np.zeros(size)), np.float64).ravel()
    if mean.shape != (size,) or not np.isfinite(matrix).all() or not np.isfinite(mean).all():
        raise DataError(f"{where}: the stored whitening has {mean.size} means of {size}, or is not finite.")
    inverse = np.asarray(held["inverse"], np.float64) if "inverse" in held else np.linalg.pinv(matrix)
    if inverse.shape != matrix.shape:
        raise DataError(f"{where}: the stored inverse has shape {inverse.shape}; allowed: {matrix.shape}.")
    if raw.first:  # its rows count channels first, as its images do
        height, width, depth = shape
        turn = np.arange(size).reshape(depth, height, width).transpose(1, 2, 0).ravel()
        mean, matrix, inverse = mean[turn], matrix[np.ix_(turn, turn)], inverse[np.ix_(turn, turn)]
    made = Zca(transform, eps, mean.astype(np.float32), matrix.astype(np.float32), inverse.astype(np.float32))
    refuse(where, whitening.problems(made, shape))
    return made
