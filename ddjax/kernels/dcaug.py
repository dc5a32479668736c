"""The augmentation under which condensed digits were first judged: one of crop, scale, rotate, noise for each image.

    crop    | shift by whole pixels, each axis uniform in -4 .. 3; the batch's channel mean comes in
    scale   | each axis to its own whole size, uniform in [0.8, 1.2) of the height, by the nearest pixel, centred; zeros
    rotate  | a whole angle uniform in -45 .. 44 degrees, by cubic splines; the mean of the channel means comes in
    noise   | x + 0.001 N(0, 1)

Source: Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, as released: crop, scale and
rotate on MNIST, crop and noise for networks with batch normalisation. The rotation is that of
``scipy.ndimage.rotate`` (order 3) on the enlarged canvas, cut to the size about its centre, which lies half a pixel off
wherever the canvas and the image differ by an odd number of pixels.

Shapes: images ``[B, H, W, D]`` floating; which ``[B]`` int32; ``u`` ``[B, 3]`` uniform in [0, 1).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

OPS = ("crop", "scale", "rotate", "noise")
SHIFT, SPREAD, DEGREES, SIGMA = 4, 0.2, 45, 0.001


def apply(
    images: Float[Array, "B H W D"], which: Int[Array, "B"], u: Float[Array, "B 3"], key: jax.Array, ops: tuple
) -> Float[Array, "B H W D"]:
    """Image ``b`` under the op ``ops[which[b]]``; the noise is drawn from ``key``. ValueError for an unknown name."""
    if not set(ops) <= set(OPS):
        raise ValueError(f"dc: ops = {ops!r}; allowed: some of {', '.join(OPS)}.")
    mean = jnp.mean(images, axis=(0, 1, 2))
    made = {
        "crop": lambda: _read(images, *_crop_points(u, images.shape), mean),
        "scale": lambda: _read(images, *_scale_points(u, images.shape), jnp.zeros_like(mean)),
        "rotate": lambda: _rotated(images, u[:, 0], jnp.mean(mean)),
        "noise": lambda: images + SIGMA * jax.random.normal(key, images.shape, images.dtype),
    }
    result = images
    for i, name in enumerate(ops):
        result = jnp.where((which == i)[:, None, None, None], made[name](), result)
    return result


def _read(images: jax.Array, rows: jax.Array, cols: jax.Array, fill: jax.Array) -> jax.Array:
    """Image ``b`` at whole rows ``[B, H]`` and columns ``[B, W]``; ``fill [D]`` outside of it."""
    count, height, width, depth = images.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None, :]
    place = jnp.clip(rows, 0, height - 1)[:, :, None] * width + jnp.clip(cols, 0, width - 1)[:, None, :]
    flat = images.reshape(count, height * width, depth)
    taken = jnp.take_along_axis(flat, place.reshape(count, height * width, 1), axis=1, mode="clip")
    return jnp.where(inside[..., None], taken.reshape(images.shape), fill[None, None, None])


def _axis(size: int) -> Int[Array, "1 size"]:
    return jnp.arange(size, dtype=jnp.int32)[None]


def _crop_points(u: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    shift = jnp.floor(u * (2 * SHIFT)).astype(jnp.int32) - SHIFT
    return _axis(shape[1]) + shift[:, :1], _axis(shape[2]) + shift[:, 1:2]


def _scale_points(u: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    height, width = shape[1:3]
    sides = jnp.floor((1 - SPREAD + 2 * SPREAD * u[:, :2]) * height).astype(jnp.int32)
    canvas = jnp.maximum(jnp.max(sides, axis=1), max(height, width))

    def points(side: jax.Array, size: int) -> jax.Array:
        first = (canvas - size) // 2 - (canvas - side) // 2
        place = _axis(size) + first[:, None]
        source = (place.astype(jnp.float32) * (size / side.astype(jnp.float32))[:, None]).astype(jnp.int32)
        return jnp.where((place >= 0) & (place < side[:, None]), jnp.minimum(source, size - 1), -1)

    return points(sides[:, 0], height), points(sides[:, 1], width)


# ----------------------------------------------------------------------------------------- rotation


@functools.lru_cache
def _spline(size: int) -> np.ndarray:
    """``[size, size]``: values of an axis to cubic B-spline coefficients, mirrored about the first and last pixel."""
    matrix = 4 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)
    if size > 1:
        matrix[0, 1] += 1
        matrix[-1, -2] += 1
    return np.linalg.inv(matrix / 6) if size > 1 else np.ones((1, 1))


@functools.lru_cache
def _half_pixels(height: int, width: int) -> np.ndarray:
    """``[2 * DEGREES, 2]``: how far the cut lies off the canvas' centre, for every whole angle from -DEGREES on."""
    found = []
    for degree in range(-DEGREES, DEGREES):
        cos, sin = math.cos(math.radians(degree)), math.sin(math.radians(degree))
        corners = np.array([[cos, sin], [-sin, cos]]) @ np.array([[0, 0, height, height], [0, width, 0, width]])
        canvas = (np.ptp(corners, axis=1) + 0.5).astype(int)
        found.append([((side - size) % 2) / 2 for side, size in zip(canvas, (height, width), strict=True)])
    return np.array(found, np.float32)


def _weights(t: jax.Array) -> tuple[jax.Array, ...]:
    """Cubic B-spline weights of the four pixels around a place, ``t`` beyond the second of them."""
    return (1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6


def _rotated(images: jax.Array, u: Float[Array, "B"], fill: jax.Array) -> jax.Array:
    count, height, width, depth = images.shape
    step = jnp.floor(u * (2 * DEGREES)).astype(jnp.int32)
    angle = jnp.deg2rad((step - DEGREES).astype(jnp.float32))[:, None, None]
    off = jnp.asarray(_half_pixels(height, width))[step][:, None, None, :]
    y = _axis(height).astype(jnp.float32)[:, :, None] - (height - 1) / 2 - off[..., 0]
    x = _axis(width).astype(jnp.float32)[:, None, :] - (width - 1) / 2 - off[..., 1]
    row = jnp.cos(angle) * y + jnp.sin(angle) * x + (height - 1) / 2
    col = jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2
    near = 1e-4  # a whole place on the border, missed by rounding
    inside = (row >= -near) & (row <= height - 1 + near) & (col >= -near) & (col <= width - 1 + near)
    to_rows, to_cols = (jnp.asarray(_spline(size), images.dtype) for size in (height, width))
    flat = jnp.einsum("iy,jx,byxd->bijd", to_rows, to_cols, images, precision="highest").reshape(count, -1, depth)
    top, left = jnp.floor(row), jnp.floor(col)
    total = jnp.zeros_like(images)
    for i, by_row in enumerate(_weights(row - top), -1):
        at_row = _mirrored(top.astype(jnp.int32) + i, height)
        for j, by_col in enumerate(_weights(col - left), -1):
            place = (at_row * width + _mirrored(left.astype(jnp.int32) + j, width)).reshape(count, -1, 1)
            taken = jnp.take_along_axis(flat, place, axis=1, mode="clip").reshape(images.shape)
            total = total + (by_row * by_col).astype(images.dtype)[..., None] * taken
    return jnp.where(inside[..., None], total, fill)


def _mirrored(place: jax.Array, size: int) -> jax.Array:
    """Places beyond the first or last pixel, mirrored about it."""
    place = jnp.abs(place)
    return jnp.clip(jnp.minimum(place, 2 * (size - 1) - place), 0, size - 1)
