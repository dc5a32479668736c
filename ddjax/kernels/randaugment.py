"""RandAugment: ``n`` ops in turn, each drawn for each image with one magnitude, on pixels of 0 .. 255.

    op ~ U(OPS), sign ~ +-1,   magnitude m of 0 .. 30

Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", CVPRW 2020, with
the ops, ranges and nearest-pixel geometry (zeros outside) of torchvision's. Parameters at magnitude m, with s = m / 30:

    shear_x shear_y          | +- 0.3 s, about the first pixel's corner
    translate_x translate_y  | +- floor(150 / 331 size s) pixels
    rotate                   | +- 30 s degrees about the centre
    brightness color contrast sharpness | blend with black, grey, mean grey, smoothed: 1 +- 0.9 s times the image
    posterize                | the 8 - round(4 s) highest bits kept
    solarize                 | values from 255 (1 - s) on inverted
    autocontrast equalize    | each channel stretched; its histogram made even

Shapes: images ``[B, H, W, D]``, D 1 or 3, normalised by ``mean``, ``std``; they are taken to whole pixel values and
back, so there is no derivative. ``which``, ``u``: ``[n, B]``, ``[n, B, 3]``, u uniform (the sign). Every image is put
through every op and its own is kept: no branch depends on the data.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BINS = 31


def apply(
    images: Float[Array, "B H W D"],
    which: Int[Array, "n B"],
    u: Float[Array, "n B 3"],
    magnitude: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "B H W D"]:
    """Normalised images in, augmented normalised images out; ValueError for a magnitude outside 0 .. 30."""
    if not 0 <= magnitude < BINS:
        raise ValueError(f"randaugment: magnitude = {magnitude}; allowed: 0 .. {BINS - 1}.")
    scale, shift = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (std, mean))
    pixels = jnp.clip(jnp.round(255 * (images.astype(jnp.float32) * scale + shift)), 0, 255)

    ops = [functools.partial(op, s=magnitude / (BINS - 1)) for op in OPS.values()]

    def one(pixels: jax.Array, which: jax.Array, u: jax.Array) -> jax.Array:
        return jax.lax.switch(which, ops, pixels, jnp.where(u[0] < 0.5, -1.0, 1.0))

    for layer in range(which.shape[0]):
        pixels = jax.vmap(one)(pixels, which[layer], u[layer])
    return ((pixels / 255 - shift) / scale).astype(images.dtype)


# ---------------------------------------------------------------------------------------- geometry


def _warp(x: jax.Array, a: Any, b: Any, c: Any, d: Any, dy: Any, dx: Any) -> jax.Array:
    """``x`` read by the nearest pixel at rows ``a y + b x + dy``, columns ``c y + d x + dx`` of pixel centres."""
    height, width, depth = x.shape
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    cols = jnp.arange(width, dtype=jnp.float32)[None] + 0.5
    row = jnp.floor(a * rows + b * cols + dy).astype(jnp.int32)
    col = jnp.floor(c * rows + d * cols + dx).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    place = jnp.clip(row, 0, height - 1) * width + jnp.clip(col, 0, width - 1)
    return jnp.where(inside[..., None], x.reshape(-1, depth)[place], 0)


_ONE, _NONE = np.float32(1), np.float32(0)


def _shear_x(x, sign, s):
    return _warp(x, _ONE, _NONE, sign * 0.3 * s, _ONE, _NONE, _NONE)


def _shear_y(x, sign, s):
    return _warp(x, _ONE, sign * 0.3 * s, _NONE, _ONE, _NONE, _NONE)


def _translate_x(x, sign, s):
    return _warp(x, _ONE, _NONE, _NONE, _ONE, _NONE, -sign * int(150 / 331 * x.shape[1] * s))


def _translate_y(x, sign, s):
    return _warp(x, _ONE, _NONE, _NONE, _ONE, -sign * int(150 / 331 * x.shape[0] * s), _NONE)


def _rotate(x, sign, s):
    angle = sign * math.radians(30 * s)
    cos, sin, y, x_middle = jnp.cos(angle), jnp.sin(angle), x.shape[0] / 2, x.shape[1] / 2
    dy, dx = y - cos * y - sin * x_middle, x_middle + sin * y - cos * x_middle
    return _warp(x, cos, sin, -sin, cos, dy, dx)


# ------------------------------------------------------------------------------------------ values


def _whole(x: jax.Array) -> jax.Array:
    return jnp.floor(jnp.clip(x, 0, 255))


def _blend(x: jax.Array, other: jax.Array, sign: jax.Array, s: float) -> jax.Array:
    factor = 1 + sign * 0.9 * s
    return _whole(factor * x + (1 - factor) * other)


def _grey(x: jax.Array) -> jax.Array:
    if x.shape[2] == 1:
        return x
    return _whole(0.2989 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:3])


def _brightness(x, sign, s):
    return _blend(x, jnp.zeros_like(x), sign, s)


def _color(x, sign, s):
    return _blend(x, jnp.broadcast_to(_grey(x), x.shape), sign, s)


def _contrast(x, sign, s):
    return _blend(x, jnp.mean(_grey(x)), sign, s)


def _sharpness(x, sign, s):
    if min(x.shape[:2]) < 3:
        return x
    height, width = x.shape[:2]
    total = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = jnp.round((total + 4 * x[1:-1, 1:-1]) / 13)
    return _blend(x, x.at[1:-1, 1:-1].set(inner), sign, s)


def _posterize(x, sign, s):
    step = 2.0 ** round(4 * s)
    return jnp.floor(x / step) * step


def _solarize(x, sign, s):
    return jnp.where(x >= 255 * (1 - s), 255 - x, x)


def _autocontrast(x, sign, s):
    low, high = jnp.min(x, axis=(0, 1), keepdims=True), jnp.max(x, axis=(0, 1), keepdims=True)
    stretched = _whole((x - low) * (255 / jnp.maximum(high - low, 1)))
    return jnp.where(high > low, stretched, x)


def _equalize(x, sign, s):
    """Each channel: value v becomes the number of pixels below it, over a step that takes them to 0 .. 255."""
    values = jnp.arange(256, dtype=jnp.float32)

    def channel(v: jax.Array) -> jax.Array:
        below = jnp.sum(v.reshape(-1)[:, None] < values[None], axis=0).astype(jnp.float32)
        step = jnp.floor(below[jnp.max(v).astype(jnp.int32)] / 255)
        table = jnp.clip(jnp.floor((below + jnp.floor(step / 2)) / jnp.maximum(step, 1)), 0, 255)
        return jnp.where(step > 0, table[v.astype(jnp.int32)], v)

    return jnp.stack([channel(x[..., i]) for i in range(x.shape[2])], axis=2)


OPS: dict[str, Callable] = {
    "identity": lambda x, sign, s: x, "shear_x": _shear_x, "shear_y": _shear_y, "translate_x": _translate_x,
    "translate_y": _translate_y, "rotate": _rotate, "brightness": _brightness, "color": _color, "contrast": _contrast,
    "sharpness": _sharpness, "posterize": _posterize, "solarize": _solarize, "autocontrast": _autocontrast,
    "equalize": _equalize,
}  # fmt: skip
