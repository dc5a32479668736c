"""Random views of a batch whose every parameter is recorded: crop, flip, roll, CutMix.

``draw_view`` draws a ``View``; ``apply_view`` makes its images; ``mix_labels`` mixes targets the
same way. A stored ``View`` makes the same images again, so a label computed once for it stays valid
(fast knowledge distillation: Shen and Xing, ECCV 2022).

Order: crop, flip, roll, CutMix. The first three are separable and linear, so that one row matrix
and one column matrix per image carry all of them, and second derivatives in the images cost nothing
extra:

    view[b, i, j] = sum_{y, x} rows[b, i, y] cols[b, j, x] images[b, y, x]
    rows[b, i, y] = max(0, 1 - |p_bi - y|)

with p_bi the source coordinate of output row i (half-pixel centres, clamped into the crop box, no
antialiasing). A box of the output's size has p integer: the crop is exact. What a box holds outside
the image is 0.

Shapes: images ``[B, H, W, D]`` floating; views as in ``ddjax.types.View``; boxes ``[B, 4]`` int32:
top, left, height, width.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from ddjax.types import Augment, View

TRIES = 10
# Uniform numbers per image, by column: corner 2, flip, partner, lambda, mix centre 2, areas, ratios.
DRAWS = 7 + 2 * TRIES


def _below(u: Float[Array, "..."], count: int | Int[Array, "n"]) -> Int[Array, "..."]:
    """Uniform integers in 0 .. count-1 from uniform numbers in [0, 1)."""
    return jnp.floor(u * jnp.asarray(count, jnp.float32)).astype(jnp.int32)


def _resized_boxes(u: Float[Array, "n draws"], augment: Augment, height: int, width: int) -> Int[Array, "n 4"]:
    """RandomResizedCrop by torchvision's rule: the first of ten draws that fits, else central.

    Area fraction uniform in ``augment.area``, width/height log-uniform in ``augment.ratio``; the
    ten draws are made side by side, so nothing loops or rejects.
    """
    low, high = augment.area or (1.0, 1.0)
    narrow, broad = augment.ratio
    area = (low + (high - low) * u[:, 7 : 7 + TRIES]) * (height * width)
    root = jnp.exp(0.5 * (math.log(narrow) + math.log(broad / narrow) * u[:, 7 + TRIES :]))
    h = jnp.round(jnp.sqrt(area) / root).astype(jnp.int32)
    w = jnp.round(jnp.sqrt(area) * root).astype(jnp.int32)
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    found = jnp.any(fits, axis=1)
    central_h = min(height, round(width / narrow))
    central_w = min(width, round(height * broad))
    h = jnp.where(found, jnp.take_along_axis(h, first, axis=1)[:, 0], central_h)
    w = jnp.where(found, jnp.take_along_axis(w, first, axis=1)[:, 0], central_w)
    top = jnp.where(found, _below(u[:, 0], height - h + 1), (height - h) // 2)
    left = jnp.where(found, _below(u[:, 1], width - w + 1), (width - w) // 2)
    return jnp.stack([top, left, h, w], axis=1)


def _crop_boxes(u: Float[Array, "n draws"], augment: Augment, height: int, width: int) -> Int[Array, "n 4"]:
    """Boxes in the image padded by ``augment.pad`` zeros, in the unpadded one's coordinates."""
    pad = augment.pad
    if augment.area is not None:
        boxes = _resized_boxes(u, augment, height + 2 * pad, width + 2 * pad)
        return boxes - jnp.asarray([[pad, pad, 0, 0]], jnp.int32)
    corner = _below(u[:, :2], 2 * pad + 1) - pad
    size = jnp.asarray([[height, width]], jnp.int32)
    return jnp.concatenate([corner, jnp.broadcast_to(size, corner.shape)], axis=1)


def _mixes(
    key: jax.Array, u: Float[Array, "n draws"], alpha: float, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CutMix (Yun et al., ICCV 2019): partners, lambdas, boxes; lambda after the box is clipped."""
    keep = u[:, 4]  # Beta(1, 1); other laws cost a rejection loop
    if alpha != 1:
        keep = jax.random.beta(key, alpha, alpha, keep.shape, jnp.float32)
    side = jnp.sqrt(1 - keep)

    def span(u: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        half = _below(side, length) // 2
        centre = _below(u, length)
        start = jnp.clip(centre - half, 0, length)
        return start, jnp.clip(centre + half, 0, length) - start

    (top, h), (left, w) = span(u[:, 5], height), span(u[:, 6], width)
    share = 1 - (h * w).astype(jnp.float32) / (height * width)
    partner = jnp.argsort(u[:, 3]).astype(jnp.int32)  # a permutation, as the keys are random
    return partner, share, jnp.stack([top, left, h, w], axis=1)


def identity_view(index: Int[Array, "B"]) -> View:
    """The view that changes nothing; a box of height or width 0 stands for the whole image."""
    index = jnp.asarray(index, jnp.int32)
    n = index.shape[0]
    return View(
        index=index,
        epoch=jnp.zeros((), jnp.int32),
        key=jax.random.key(0),
        box=jnp.zeros((n, 4), jnp.int32),
        flip=jnp.zeros((n,), bool),
        roll=jnp.zeros((2,), jnp.int32),
        mix_index=jnp.arange(n, dtype=jnp.int32),
        mix_lambda=jnp.ones((n,), jnp.float32),
        mix_box=jnp.zeros((n, 4), jnp.int32),
    )


def draw_view(
    key: jax.Array,
    augment: Augment,
    index: Int[Array, "B"],
    epoch: int | Int[Array, "..."],
    *,
    image_size: tuple[int, int],
    size: tuple[int, int] | None = None,
) -> View:
    """A view of the images ``index``, drawn from ``key`` alone; ``augment`` is static.

    ``image_size`` is the source's (H, W); ``size`` the output's where it differs (the CutMix box
    lies in the output). Crop, flip and CutMix are drawn per image, the roll once per batch, uniform
    in -roll .. roll per axis.
    """
    view = identity_view(index)
    n = view.index.shape[0]
    by_uniform, by_beta = jax.random.split(key)
    u = jax.random.uniform(by_uniform, (n + 1, DRAWS), jnp.float32)  # one draw: quick to compile
    u, shared = u[:n], u[n]
    view = view._replace(key=key, epoch=jnp.asarray(epoch, jnp.int32))
    if augment.pad or augment.area is not None:
        view = view._replace(box=_crop_boxes(u, augment, *image_size))
    if augment.flip:
        view = view._replace(flip=u[:, 2] < 0.5)
    if augment.roll:
        view = view._replace(roll=_below(shared[:2], 2 * augment.roll + 1) - augment.roll)
    if augment.cutmix:
        mixes = _mixes(by_beta, u, augment.cutmix, *(size or image_size))
        view = view._replace(mix_index=mixes[0], mix_lambda=mixes[1], mix_box=mixes[2])
    return view


def _matrix(
    start: jax.Array,
    length: jax.Array,
    flip: jax.Array | None,
    roll: jax.Array,
    source: int,
    out: int,
) -> Float[Array, "B out source"]:
    """Linear interpolation weights along one axis: crop, flip, roll as one change of coordinate."""
    whole = length == 0
    start = jnp.where(whole, 0, start).astype(jnp.float32)[:, None]
    length = jnp.where(whole, source, length).astype(jnp.float32)[:, None]
    position = ((jnp.arange(out, dtype=jnp.int32) - roll) % out)[None]
    if flip is not None:
        position = jnp.where(flip[:, None], out - 1 - position, position)
    point = (position.astype(jnp.float32) + 0.5) * (length / out) - 0.5
    point = start + jnp.clip(point, 0, length - 1)
    pixel = jnp.arange(source, dtype=jnp.float32)[None, None]
    return jnp.maximum(0, 1 - jnp.abs(point[:, :, None] - pixel))


def _within(box: Int[Array, "B 4"], axis: int, length: int) -> jax.Array:
    position = jnp.arange(length, dtype=jnp.int32)[None]
    start, extent = box[:, axis, None], box[:, axis + 2, None]
    return (position >= start) & (position < start + extent)


def _cutmix(images: Float[Array, "B H W D"], view: View) -> Float[Array, "B H W D"]:
    rows = _within(view.mix_box, 0, images.shape[1])[:, :, None, None]
    cols = _within(view.mix_box, 1, images.shape[2])[:, None, :, None]
    return jnp.where(rows & cols, images[view.mix_index], images)


def apply_view(
    images: Shaped[Array, "B H W D"], view: View, *, size: tuple[int, int] | None = None
) -> Float[Array, "B h w D"]:
    """The images of a view, ``size`` (height, width) large (default: the source's); linear in them.

    Works on what networks see (normalised floats): zeros outside are the channel means there.
    Raises TypeError on integer images, whose interpolation would be cut to integers in silence.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"apply_view: images are {images.dtype}; allowed: floating (normalise first).")
    height, width = images.shape[1:3]
    out_height, out_width = size or (height, width)
    top, left, h, w = view.box.T
    rows = _matrix(top, h, None, view.roll[0], height, out_height).astype(images.dtype)
    cols = _matrix(left, w, view.flip, view.roll[1], width, out_width).astype(images.dtype)
    images = jnp.einsum("biy,byxd->bixd", rows, images, precision="highest")
    images = jnp.einsum("bjx,bixd->bijd", cols, images, precision="highest")
    mixed = jnp.any(view.mix_box[:, 2] * view.mix_box[:, 3] > 0)
    return jax.lax.cond(mixed, _cutmix, lambda same, _: same, images, view)


def mix_labels(targets: Float[Array, "B C"], view: View) -> Float[Array, "B C"]:
    """Targets of a view: lambda y_b + (1 - lambda) y_partner, lambda the share that stayed."""
    share = view.mix_lambda.astype(targets.dtype)[:, None]
    return share * targets + (1 - share) * targets[view.mix_index]
