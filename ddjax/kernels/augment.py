"""Random views of a batch whose every parameter is recorded: crop, flip, roll, CutMix and what published recipes add.

``draw_view`` draws a ``View``; ``apply_view`` makes its images; ``mix_labels`` mixes targets the
same way. A stored ``View`` makes the same images again, so a label computed once for it stays valid
(fast knowledge distillation: Shen and Xing, ECCV 2022).

Order: RandAugment; patch shuffle, crop, flip, roll; DSA's ops; CutMix or MixUp. Those of the second group
are separable and linear, so that one row matrix and one column matrix per image carry all of them, and
second derivatives in the images cost nothing extra:

    view[b, i, j] = sum_{y, x} rows[b, i, y] cols[b, j, x] images[b, y, x]
    rows[b, i, y] = max(0, 1 - |p_bi - y|)

with p_bi the source coordinate of output row i (half-pixel centres, clamped into the crop box, no
antialiasing). A box of the output's size has p integer: the crop is exact. What a box holds outside
the image is 0. Patch shuffle (Sun et al., CVPR 2024, as released) permutes the matrices' columns: the image
is cut into strips, which change places along the rows, then along the columns.

Shapes: images ``[B, H, W, D]`` floating; views as in ``ddjax.types.View``; boxes ``[B, 4]`` int32:
top, left, height, width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ddjax.kernels import dcaug, dsa, randaugment
from ddjax.types import Augment, View

PLAIN = Augment()
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


def _mixed(view: View, augment: Augment, key: jax.Array, u: jax.Array, height: int, width: int) -> View:
    """The view with partners, shares and boxes of CutMix, or the partners and shares of MixUp (Zhang et al., 2018)."""
    n = view.index.shape[0]
    rows = jnp.concatenate([u[:n, :4], jnp.broadcast_to(u[n:, 4:7], (n, 3))], axis=1) if augment.mix_batch else u[:n]
    if augment.cutmix:
        alone = augment.mix_batch and augment.cutmix != 1
        drawn = jax.random.beta(key, augment.cutmix, augment.cutmix, (1,), jnp.float32) if alone else None
        if drawn is not None:  # one draw for the batch, put where the uniform one of Beta(1, 1) lies
            rows = rows.at[:, 4].set(jnp.broadcast_to(drawn, (n,)))
        partner, share, box = _mixes(key, rows, 1.0 if alone else augment.cutmix, height, width)
    else:
        count = 1 if augment.mix_batch else n
        share = jnp.broadcast_to(jax.random.beta(key, augment.mixup, augment.mixup, (count,), jnp.float32), (n,))
        partner, box = jnp.argsort(u[:n, 3]).astype(jnp.int32), view.mix_box
    if augment.cutmix_p < 1:
        on = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32) < augment.cutmix_p
        partner = jnp.where(on, partner, view.mix_index)
        share, box = jnp.where(on, share, 1.0), jnp.where(on, box, 0)
    return view._replace(mix_index=partner, mix_lambda=share, mix_box=box)


def _layers(key: jax.Array, augment: Augment, n: int) -> tuple[Int[Array, "L n"], Float[Array, "L n 3"]]:
    """Which op each image goes through in each layer, and its numbers; DSA draws one op for the batch."""
    for_op, for_numbers = jax.random.split(key)
    numbers = jax.random.uniform(for_numbers, (augment.layers, n, dsa.NUMBERS), jnp.float32)
    if augment.dsa:
        op = jax.random.randint(for_op, (1, 1), 0, len(augment.dsa), jnp.int32)
        return jnp.broadcast_to(op, (augment.layers, n)), numbers
    count = len(augment.dc) if augment.dc else len(randaugment.OPS)
    return jax.random.randint(for_op, (augment.layers, n), 0, count, jnp.int32), numbers


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
        strips=jnp.zeros((n, 2, 0), jnp.int32),
        ops=jnp.zeros((0, n), jnp.int32),
        numbers=jnp.zeros((0, n, dsa.NUMBERS), jnp.float32),
    )


def draw_view(
    key: jax.Array,
    augment: Augment,
    index: Int[Array, "B"],
    epoch: int | np.integer | Int[Array, "..."],
    *,
    image_size: tuple[int, int],
    size: tuple[int, int] | None = None,
) -> View:
    """A view of the images ``index``, drawn from ``key`` alone; ``augment`` is static.

    ``image_size`` is the source's (H, W); ``size`` the output's where it differs (the CutMix box
    lies in the output). Crop, flip, shuffle and (but for ``mix_batch``) mixing are drawn per image, the roll
    once per batch, uniform in -roll .. roll per axis. ValueError for an Augment that excludes itself.
    """
    check(augment)
    view = identity_view(index)
    n = view.index.shape[0]
    by_uniform, by_beta = jax.random.split(key)
    u = jax.random.uniform(by_uniform, (n + 1, DRAWS), jnp.float32)  # one draw: quick to compile
    whole, u, shared = u, u[:n], u[n]
    view = view._replace(key=key, epoch=jnp.asarray(epoch, jnp.int32))
    if augment.pad or augment.area is not None:
        view = view._replace(box=_crop_boxes(u, augment, *image_size))
    if augment.flip:
        view = view._replace(flip=u[:, 2] < 0.5)
    if augment.roll:
        view = view._replace(roll=_below(shared[:2], 2 * augment.roll + 1) - augment.roll)
    if augment.mixes:
        view = _mixed(view, augment, by_beta, whole, *(size or image_size))
    if augment.shuffle > 1:
        order = jax.random.uniform(jax.random.fold_in(key, 2), (n, 2, augment.shuffle), jnp.float32)
        view = view._replace(strips=jnp.argsort(order, axis=2).astype(jnp.int32))
    if augment.layers:
        ops, numbers = _layers(jax.random.fold_in(key, 3), augment, n)
        view = view._replace(ops=ops, numbers=numbers)
    return view


def check(augment: Augment) -> None:
    """ValueError for kinds of views that exclude each other."""
    kinds = [name for name in ("dsa", "dc", "randaugment") if getattr(augment, name)]
    if len(kinds) > 1:
        raise ValueError(f"augment: {' and '.join(kinds)} exclude each other.")
    if augment.cutmix and augment.mixup:
        raise ValueError("augment: cutmix and mixup exclude each other.")


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


def _shuffled(matrix: Float[Array, "B out source"], strips: Int[Array, "B f"]) -> Float[Array, "B out source"]:
    """The matrix that reads an image whose strips changed places: place p shows strip ``strips[p]``.

    Strips are ``source // f`` pixels wide; what is left over stays at the end.
    """
    count, source = strips.shape[1], matrix.shape[2]
    side = source // count
    back = jnp.argsort(strips, axis=1).astype(jnp.int32)  # where each strip went
    pixel = jnp.arange(count * side, dtype=jnp.int32)
    moved = back[:, pixel // side] * side + (pixel % side)[None]
    rest = jnp.arange(count * side, source, dtype=jnp.int32)[None]
    moved = jnp.concatenate([moved, jnp.broadcast_to(rest, (moved.shape[0], rest.shape[1]))], axis=1)
    return jnp.take_along_axis(matrix, moved[:, None, :], axis=2)


def _within(box: Int[Array, "B 4"], axis: int, length: int) -> jax.Array:
    position = jnp.arange(length, dtype=jnp.int32)[None]
    start, extent = box[:, axis, None], box[:, axis + 2, None]
    return (position >= start) & (position < start + extent)


def _cutmix(images: Float[Array, "B H W D"], view: View) -> Float[Array, "B H W D"]:
    rows = _within(view.mix_box, 0, images.shape[1])[:, :, None, None]
    cols = _within(view.mix_box, 1, images.shape[2])[:, None, :, None]
    return jnp.where(rows & cols, images[view.mix_index], images)


def _moved(images: Float[Array, "B H W D"], view: View, size: tuple[int, int] | None) -> Float[Array, "B h w D"]:
    """Patch shuffle, crop, flip and roll."""
    height, width = images.shape[1:3]
    out_height, out_width = size or (height, width)
    top, left, h, w = view.box.T
    rows = _matrix(top, h, None, view.roll[0], height, out_height).astype(images.dtype)
    cols = _matrix(left, w, view.flip, view.roll[1], width, out_width).astype(images.dtype)
    if view.strips.shape[2] > 1:
        rows, cols = _shuffled(rows, view.strips[:, 0]), _shuffled(cols, view.strips[:, 1])
    images = jnp.einsum("biy,byxd->bixd", rows, images, precision="highest")
    return jnp.einsum("bjx,bixd->bijd", cols, images, precision="highest")


def apply_view(
    images: Shaped[Array, "B H W D"], view: View, *, size: tuple[int, int] | None = None, augment: Augment = PLAIN
) -> Float[Array, "B h w D"]:
    """The images of a view, ``size`` (height, width) large (default: the source's); linear in them but for RandAugment.

    Works on what networks see (normalised floats): zeros outside are the channel means there. ``augment`` (static)
    says what ``ops`` and a MixUp's shares mean; views of crop, flip, roll, shuffle and CutMix do without.
    Raises TypeError on integer images, whose interpolation would be cut to integers in silence; ValueError for a view
    that holds layers which ``augment`` does not name.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"apply_view: images are {images.dtype}; allowed: floating (normalise first).")
    if view.ops.shape[0] != augment.layers:
        raise ValueError(
            f"apply_view: the view holds {view.ops.shape[0]} layers of ops, augment names {augment.layers}."
        )
    if augment.randaugment:
        magnitude = augment.randaugment[1]
        images = randaugment.apply(images, view.ops, view.numbers, magnitude, *augment.scale)
    moved = augment.pad or augment.area or augment.flip or augment.roll or augment.shuffle > 1
    if moved or size or not augment.layers:  # an Augment of layers alone leaves every pixel where it is
        images = _moved(images, view, size)
    for layer, name in enumerate(augment.dsa_always if augment.dsa else (), 1):
        images = dsa.OPS[name](images, view.numbers[layer])
    if augment.dsa:
        images = dsa.apply(images, dsa.Draw(view.ops[0, 0], view.numbers[0]), augment.dsa)
    if augment.dc:
        images = dcaug.apply(images, view.ops[0], view.numbers[0], view.key, augment.dc)
    if augment.mixup:
        share = view.mix_lambda.astype(images.dtype)[:, None, None, None]
        return share * images + (1 - share) * images[view.mix_index]
    if augment.layers and not augment.cutmix:
        return images
    mixed = jnp.any(view.mix_box[:, 2] * view.mix_box[:, 3] > 0)
    return jax.lax.cond(mixed, _cutmix, lambda same, _: same, images, view)


def unmixed(images: Float[Array, "B H W D"], view: View, augment: Augment) -> Float[Array, "B H W D"]:
    """The images of a view before CutMix or MixUp."""
    view = view._replace(mix_box=jnp.zeros_like(view.mix_box))
    return apply_view(images, view, augment=augment._replace(cutmix=0.0, mixup=0.0))


def mix_labels(targets: Float[Array, "B C"], view: View) -> Float[Array, "B C"]:
    """Targets of a view: lambda y_b + (1 - lambda) y_partner, lambda the share that stayed."""
    share = view.mix_lambda.astype(targets.dtype)[:, None]
    return share * targets + (1 - share) * targets[view.mix_index]
