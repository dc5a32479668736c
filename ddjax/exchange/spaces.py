"""From the numbers of a release to images of a set: axes, labels, value range, channel constants.

pixels        v / scale in [0, 1]              stored uint8 where the values are whole steps of 1 / 255, else float32
normalised    (v std + mean) near [0, 1]       stored float32, with the preset's constants
whitened      ZCA of normalised images         stored float32, with the transform: given, or fitted on the real images
"""

from typing import Any, NamedTuple

import numpy as np

from ddjax.data.base import listing
from ddjax.data.cards import CARDS, Card
from ddjax.data.fetch import locate
from ddjax.data.sources import open_source
from ddjax.data.split import Want, load
from ddjax.data.stratify import draw
from ddjax.errors import ConfigError, DataError
from ddjax.exchange.layouts import Raw
from ddjax.exchange.presets import Constants, Preset
from ddjax.zca import Zca

FAR = 50.0  # no normalised or whitened value of a useful image is this large; learned ones reach 20


class Space(NamedTuple):
    """Images as a set stores them, what their channels expect, what is said of it in the manifest, and what to know."""

    images: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: Zca | None
    said: dict[str, Any]
    notes: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------- axes, labels


def channels_last(raw: Raw, preset: Preset, card: Card | None) -> np.ndarray:
    """Images as ``[N, H, W, D]``; axes that nothing tells, or another D than the card's, are a `DataError`."""
    images, where, told = raw.images, raw.where, preset.first if raw.first is None else raw.first
    if images.ndim == 3:
        images, told = images[..., None], False
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{where}: images have shape {raw.images.shape}; allowed: four axes, N images of D channels.")
    wanted = (card.channels,) if card else (1, 3)
    fits = [images.shape[axis] in wanted for axis in (1, 3)]
    if all(fits) and told is None and not raw.torch:
        raise DataError(
            f"{where}: images of shape {images.shape} may have their channels first or last; "
            "allowed: a file that says which, such as torch's [N, D, H, W] in a .pt."
        )
    first = told if told is not None else fits[0]
    if not fits[0 if first else 1]:
        order = "[N, D, H, W]" if first else "[N, H, W, D]"
        said = f"D = {card.channels} of card {card.id}" if card else "D of 1 or 3"
        raise DataError(f"{where}: images have shape {raw.images.shape}; allowed: {order} with {said}.")
    if told is not None:
        why = "the arrays' names say so" if raw.first is not None else "they have no axis of channels"
    else:
        why = "as torch writes them" if all(fits) else f"D = {images.shape[1 if first else 3]} lies there"
    raw.first, raw.order = first, f"{'[N, D, H, W]' if first else '[N, H, W, D]'} ({why})"
    return images.transpose(0, 2, 3, 1) if first else images


def labels(raw: Raw, images: int, classes: int, preset: Preset) -> tuple[np.ndarray, np.ndarray | None, str]:
    """int32 ``[N]``, the learned labels float32 ``[N, C]`` or None, and what kind they were."""
    found, where = np.asarray(raw.labels), raw.where
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim not in (1, 2) or len(found) != images:
        raise DataError(
            f"{where}: labels have shape {np.shape(raw.labels)} for {images} images; allowed: [N] or [N, C]."
        )
    if not np.isfinite(found).all():
        raise DataError(
            f"{where}: labels hold NaN or infinity, first at image {np.argwhere(~np.isfinite(found))[0][0]}."
        )
    if found.ndim == 1:
        return _hard(found, classes, where), None, "numbers"
    if found.shape[1] != classes:
        raise DataError(
            f"{where}: labels have {found.shape[1]} columns for {classes} class names; allowed: one for each class."
        )
    soft = found.astype(np.float32)
    if not np.isfinite(soft).all():
        raise DataError(f"{where}: labels are too large for 32-bit floats.")
    hard = soft.argmax(axis=1).astype(np.int32)
    eye = np.eye(classes, dtype=np.float32)[hard]
    for kind, ideal in (("one-hot", eye), ("one-hot, mean-centred", eye - 1 / classes)):
        if np.abs(soft - ideal).max() < 1e-6:
            return hard, None, kind
    if preset.soft == "targets":
        return hard, soft, "targets of a regression"
    if soft.min() >= 0 and np.abs(soft.sum(axis=1) - 1).max() < 1e-3:
        return hard, np.log(np.maximum(soft, np.float32(1e-30))), "probabilities, stored as their logarithms"
    return hard, soft, "logits"


def _hard(found: np.ndarray, classes: int, where: str) -> np.ndarray:
    if found.dtype.kind not in "iu" and not (found == np.round(found)).all():
        raise DataError(f"{where}: labels are {found.dtype}, not whole; allowed: 0 to {classes - 1}.")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{where}: labels run from {low} to {high}; allowed: 0 to {classes - 1}, the {classes} class names."
        )
    empty = sorted(set(range(classes)) - set(np.unique(found).astype(int).tolist()))
    if empty:
        raise DataError(
            f"{where}: {len(empty)} of {classes} class names have no image, the first is number {empty[0]}; "
            f"the labels run from {low} to {high}. Allowed: a name for each class of the set, in its order."
        )
    return found.astype(np.int32)


def check_finite(where: str, images: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """`DataError` that names the first image with NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3))) if images.dtype.kind == "f" else np.empty(0, int)
    if bad.size:
        raise DataError(
            f"{where}: {bad.size} of {len(images)} images hold NaN or infinity: {listing([str(i) for i in bad])}; "
            f"the first is of class {names[labels[bad[0]]]!r}."
        )


# --------------------------------------------------------------------------------------------------------- range


def settle(
    raw: Raw, images: np.ndarray, preset: Preset, card: Card | None, train: Any, given: Constants | None
) -> Space:
    """Pixels or normalised images, checked against the space that the preset states."""
    if preset.space == "pixels":
        return _pixels(raw, images, preset, card, train, given)
    check_signed(raw.where, images, preset)
    mean, std, whence = channel_constants(images, preset, card, train, given)
    return Space(np.ascontiguousarray(images, np.float32), mean, std, None, {"constants": whence})


def check_signed(where: str, images: np.ndarray, preset: Preset) -> None:
    """Normalised and whitened values lie on both sides of 0."""
    low, high = float(images.min()), float(images.max())
    said = f"{where}: values run from {low:.4g} to {high:.4g} ({images.dtype})"
    if images.dtype.kind not in "f" or low >= 0:
        scale, use = ("0..1", "pixels-1") if high <= 1.001 else ("0..255", "pixels-255")
        like = f"look like pixels {scale}" if high <= 1.001 or high > 20 else "are all of one sign, as pixels are"
        raise DataError(
            f"{said}, which {like}; --preset {preset.name} states {preset.space} ones, on both sides of 0. "
            f"Nearest: --preset {use}."
        )
    if max(-low, high) > FAR:
        raise DataError(f"{said}; --preset {preset.name} states {preset.space} ones, allowed: within {FAR} of 0.")


def _pixels(
    raw: Raw, images: np.ndarray, preset: Preset, card: Card | None, train: Any, given: Constants | None
) -> Space:
    low, high = float(images.min()), float(images.max())
    said = f"{raw.where}: values run from {low:.4g} to {high:.4g} ({images.dtype})"
    if low < -1e-3:
        raise DataError(
            f"{said}, which look normalised; --preset {preset.name} states pixels, none below 0. Nearest: --preset mtt."
        )
    if high > 255.5:
        raise DataError(f"{said}; --preset {preset.name} states pixels, allowed: 0 to {preset.scale or 255}.")
    whole = images.dtype.kind in "iub" or bool((images == np.round(images)).all())
    decoded = raw.place is not None  # pictures: 0..255 by their format
    scale, why = (
        (255, "") if decoded else (preset.scale, "stated") if preset.scale else _scale(said, images, high, whole)
    )
    if (scale == 1 and high > 1.001) or (scale == 255 and high <= 1.001 and not whole):
        looks, use = ("0..255", "pixels-255") if scale == 1 else ("0..1", "pixels-1")
        raise DataError(f"{said}, which look like pixels {looks}; stated are 0..{scale}. Nearest: --preset {use}.")
    mean, std, whence = channel_constants(images, preset, card, train, given, scale=scale)
    about = {"constants": whence, "scale": scale}
    notes = () if decoded else (f"taken as pixels 0..{scale} ({why}) in the order {raw.order}",)
    if images.dtype == np.uint8 and scale == 255:
        return Space(np.ascontiguousarray(images), mean, std, None, about, notes)
    steps = images.astype(np.float32) * np.float32(255 / scale)
    if np.abs(steps - np.round(steps)).max() < 1e-3:
        whole_steps = np.ascontiguousarray(np.clip(np.round(steps), 0, 255).astype(np.uint8))
        return Space(whole_steps, mean, std, None, about, notes)
    values = (steps / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return Space(np.ascontiguousarray(values, np.float32), mean, std, None, about, notes)


def _scale(said: str, images: np.ndarray, high: float, whole: bool) -> tuple[int, str]:
    """255 where a value is above 1; 1 for fractions up to 1; anything else, bytes of 0 and 1 too, must be stated."""
    if high > 1.001:
        return 255, f"{images.dtype} values up to {high:.4g}"
    if images.dtype.kind == "f" and not whole:
        return 1, f"{images.dtype} fractions up to {high:.4g}"
    raise DataError(f"{said}, which may be 0..1 or 0..255; state it: --preset pixels-1 or --preset pixels-255.")


# ----------------------------------------------------------------------------------------------------- constants


def channel_constants(
    images: np.ndarray, preset: Preset, card: Card | None, train: Any, given: Constants | None, scale: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and std per channel, and whence: given, preset, card or measured; ``scale`` is what white is in pixels.

    Pixels of an unknown set are measured themselves; normalised images of one keep mean 0 and std 1, and it is said.
    """
    channels = images.shape[3]
    if given is not None:
        mean, std = (tuple(float(v) for v in values) for values in given)
        if len(mean) != channels or len(std) != channels or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise ConfigError(_unfit(mean, std, channels))
        return mean, std, "given"
    if card is not None and card.id in preset.constants:
        return *preset.constants[card.id], f"preset {preset.name}"
    if card is not None:
        return card.mean, card.std, f"card {card.id}"
    if train is not None:
        return *measured(real_images(train)), "measured on data.train"
    if scale is not None:
        return *measured(images, scale), "measured on the set itself"
    return (0.0,) * channels, (1.0,) * channels, "unknown: images are kept as networks saw them"


def _unfit(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> str:
    """Which of the given constants does not fit, and why."""
    bad = len(mean) != channels or not np.isfinite(mean).all()
    name, values, least = ("--mean", mean, "finite number") if bad else ("--std", std, "finite number > 0")
    told = ",".join(f"{value:g}" for value in values)
    return f"{name} = {told}; allowed: {channels} values, a {least} for each of the {channels} channels of the images."


def measured(images: np.ndarray, scale: int = 255) -> Constants:
    """Channel mean and std of images ``[N, H, W, D]`` in which white is ``scale``, on the scale 0..1."""
    total, square = np.zeros(images.shape[3]), np.zeros(images.shape[3])
    for start in range(0, len(images), 256):
        chunk = images[start : start + 256].reshape(-1, images.shape[3]).astype(np.float64) / scale
        total, square = total + chunk.sum(axis=0), square + (chunk**2).sum(axis=0)
    count = images.size // images.shape[3]
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(square / count - mean**2, 0)), 1 / 255)
    return tuple(float(m) for m in mean), tuple(float(s) for s in std)


def real_images(train: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """All training images of a SPEC, uint8 ``[n, H, W, D]``, of the set's ``shape``; never a test part."""
    if isinstance(train, str) and train in CARDS and train != "digits":
        train, _ = locate(train)
    parts = open_source("--data.train", train)
    source = parts.get("train") or parts.get("")
    if source is None:
        raise DataError(f"--data.train = {train!r} holds only {listing(sorted(parts))}; allowed: training images.")
    rows = np.arange(len(source))
    if source.card == "digits":
        rows = np.flatnonzero(~draw(source.labels, 500, "digits-test"))  # the card's fixed split
    images = load(source, rows, Want(None, None, "none"))
    if shape and images.shape[1:] != shape:
        raise DataError(f"--data.train = {train!r} has images {images.shape[1:]}; allowed: {shape}, those of the set.")
    return images
