"""Two-dimensional convolution whose derivatives of every order stay fast inside loops on a CPU.

XLA's CPU backend has one fast convolution: input NHWC, kernel HWIO, no reversed window. Forward
passes qualify; the derivatives that JAX writes do not, and inside `scan`, `map`, `while` or `cond`
they fall to a naive kernel (7 to 200 times slower). Here are three bilinear maps, each written with
fast operations only and each the transpose of the others, so that reverse, forward and higher
derivatives never leave them::

    C(x, w)  = y     y[b,i,j,o]  = sum_{p,q,c} x[b, s i + p - l, s j + q - l, c] w[p,q,c,o]
    D(dy, w) = dx    transpose of C in x: a forward convolution of the dilated dy, kernel flipped
    G(x, dy) = dw    dw[p,q,c,o] = sum_{b,i,j} x[b, s i + p - l, s j + q - l, c] dy[b,i,j,o]

    transposes: C in x, w: D(g, w), G(x, g);  D in dy, w: C(g, w), G(g, dy);
                G in x, dy: D(dy, g), C(x, g)

(s stride, l low padding.) Shapes: x ``[B, H, W, I]``, w ``[kh, kw, I, O]``, y ``[B, H', W', O]``.
On other backends the library's convolution is used (`how="auto"`). Under `jax.shard_map` these
primitives need ``check_vma=False``: they carry no varying-axis type.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ddjax.kernels import winograd

Padding = str | Sequence[tuple[int, int]]
LAYOUT = ("NHWC", "HWIO", "NHWC")
HOW = ("auto", "fast", "library")
_ROWS = 512  # rows of patches (images x H' x W') taken at once: they stay in the cache


class Window(NamedTuple):
    """Static geometry of one convolution, height before width; padding is (low, high) pixels."""

    size: tuple[int, int]  # of the input
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def out(self) -> tuple[int, int]:
        sides = zip(self.size, self.kernel, self.strides, self.padding, strict=True)
        return tuple((n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in sides)  # type: ignore


def conv(
    x: jax.Array,
    w: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    groups: int = 1,
    how: str = "auto",
) -> jax.Array:
    """Convolution (cross-correlation) of images with a kernel, ``[B, H', W', O]``.

    x ``[B, H, W, I]``, w ``[kh, kw, I / groups, O]``; padding "SAME", "VALID" or
    ((low, high), (low, high)) pixels. `how`: "fast" = the primitives of this file where they apply
    (one group), "library" = `jax.lax`'s convolution, "auto" = fast on the CPU backend, library
    elsewhere. Values agree to float32 rounding. Raises ValueError on another `how`.
    """
    return conv_general_dilated(
        x,
        w,
        strides,
        padding,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
        how=how,
    )


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    how: str = "auto",
    **other: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` by the primitives of this file wherever they apply.

    They apply to two-dimensional NHWC/HWIO convolutions of one group and floating dtype, without
    dilation or negative padding; all else goes to the library. `precision` has no meaning on a CPU
    and is ignored by the fast form. `how` as in `conv`.
    """
    if how not in HOW:
        raise ValueError(f"how = {how!r} is not known; allowed: {', '.join(HOW)}.")
    keywords: dict[str, Any] = dict(
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **other,
    )
    fast = how == "fast" or (how == "auto" and jax.default_backend() == "cpu")
    if fast and _plain(lhs, rhs, keywords):
        padded, window = _window(lhs, rhs, tuple(window_strides), padding)
        if window is not None:
            return _C.bind(padded, rhs, window=window)
    return lax.conv_general_dilated(lhs, rhs, tuple(window_strides), padding, **keywords)


def _plain(lhs: jax.Array, rhs: jax.Array, keywords: dict) -> bool:
    """Whether nothing but strides and padding is asked of a two-dimensional convolution."""
    if lhs.ndim != 4 or rhs.ndim != 4 or lhs.dtype != rhs.dtype or 0 in lhs.shape + rhs.shape:
        return False
    kind, wanted = keywords["dimension_numbers"], keywords["preferred_element_type"]
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
    return (
        jnp.issubdtype(lhs.dtype, jnp.floating)
        and kind is not None
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, kind) == numbers
        and all(set(keywords[k] or (1,)) == {1} for k in ("lhs_dilation", "rhs_dilation"))
        and keywords["feature_group_count"] == keywords.get("batch_group_count", 1) == 1
        and wanted in (None, lhs.dtype)
        and keywords.get("out_sharding") is None
        and lhs.shape[3] == rhs.shape[2]
    )


def _window(lhs: jax.Array, rhs: jax.Array, strides: tuple, padding: Padding) -> tuple[jax.Array, Window | None]:
    """Input and geometry, "SAME" resolved (lopsided at stride 2); None: the library must serve.

    Zeros that lie a whole kernel beyond the border are laid round the input here.
    """
    kernel = rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], kernel, strides, padding)
    pads = [(int(lo), int(hi)) for lo, hi in padding]
    inner = [(min(lo, k - 1), min(hi, k - 1)) for (lo, hi), k in zip(pads, kernel, strict=True)]
    if min(map(min, pads)) < 0:
        return lhs, None
    if inner != pads:
        outer = [(a - c, b - d) for (a, b), (c, d) in zip(pads, inner, strict=True)]
        lhs = jnp.pad(lhs, [(0, 0), *outer, (0, 0)])
    window = Window(lhs.shape[1:3], kernel, strides, tuple(inner))  # type: ignore
    return lhs, window if min(window.out) > 0 else None


# ---- how each map is computed ----------------------------------------------------------------


def _forward(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """C: [B, H, W, I], [kh, kw, I, O] -> [B, H', W', O]."""
    (height, width), channels = window.out, w.shape[2]
    if winograd.faster(x, w, window.strides, window.out):
        return _tiled(x, w, window)
    if window.kernel == (1, 1) or (height * width <= 16 and channels >= 256):
        padded = jnp.pad(x, [(0, 0), *window.padding, (0, 0)])
        taken = _shifted(padded, window, window.out, axis=1)
        taps = w.reshape(-1, channels, w.shape[3])
        parts = [_dot(part, tap, (3,), (0,)) for part, tap in zip(taken, taps, strict=True)]
        return sum(parts[1:], parts[0]).astype(x.dtype)
    return lax.conv_general_dilated(x, w, window.strides, window.padding, dimension_numbers=LAYOUT)


def _tiled(x: jax.Array, w: jax.Array, window: Window, *, flipped: bool = False) -> jax.Array:
    """C over chunks of images, each by tiles of 2x2 pixels; ``flipped``: with the kernel of D, never laid out."""
    kernel, outputs = winograd.taps(w, flipped=flipped), w.shape[2 if flipped else 3]

    def some(images: jax.Array) -> jax.Array:
        images = images.reshape(-1, *x.shape[1:])
        return winograd.filtered(jnp.pad(images, [(0, 0), *window.padding, (0, 0)]), kernel, flipped=flipped)

    chunks, *rest = _chunks(x, window, 16 * _ROWS)
    first = some(chunks[0]) if len(chunks) == 1 else lax.map(some, chunks).reshape(-1, *window.out, outputs)
    return jnp.concatenate([first, *map(some, rest)]) if rest else first


def _input_gradient(dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """D: [B, H', W', O], [kh, kw, I, O] -> [B, H, W, I]."""
    if window.kernel == (1, 1):
        values = _dot(dy, w[0, 0], (3,), (1,)).astype(dy.dtype)
        sides = zip(window.size, window.out, window.strides, strict=True)
        pads = [(0, 0, 0), *((0, n - (m - 1) * s - 1, s - 1) for n, m, s in sides), (0, 0, 0)]
        return lax.pad(values, jnp.zeros((), dy.dtype), pads)
    covers = all(n <= m for n, m in zip(window.size, window.out, strict=True))
    if w.shape[2] <= 4 and window.strides == (1, 1) and covers:
        return _input_gradient_few(dy, w, window)
    sides = zip(window.size, window.out, window.kernel, window.strides, window.padding, strict=True)
    pads = tuple((k - 1 - lo, n - 1 + lo - (m - 1) * s) for n, m, k, s, (lo, _) in sides)
    back = Window(window.out, window.kernel, (1, 1), pads)  # type: ignore
    if window.strides == (1, 1) and winograd.faster(dy, w, (1, 1), back.out):
        return _tiled(dy, w, back, flipped=True)
    flipped = jnp.swapaxes(w[::-1, ::-1], 2, 3)
    if window.strides == (1, 1):
        return _forward(dy, flipped, back)
    return lax.conv_general_dilated(dy, flipped, (1, 1), pads, lhs_dilation=window.strides, dimension_numbers=LAYOUT)


def _input_gradient_few(dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """D for few input channels, where a forward convolution would fill few of the vector lanes.

    One product per chunk of images gives what each kernel element sends back; these kh*kw parts are
    shifted along the flat line of all pixels and added where the shift stays inside the image.
    Stride 1, output no smaller than the input.
    """
    (kh, kw), (height, width), channels = window.kernel, window.out, w.shape[2]
    (top, _), (left, _) = window.padding
    reach = kh * width + kw  # no shift is longer

    def within(taps: int, size: int, low: int) -> np.ndarray:
        source = np.arange(size)[None, :] + low - np.arange(taps)[:, None]
        return (source >= 0) & (source < size)

    rows, columns = within(kh, height, top), within(kw, width, left)
    inside = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(kh, kw, 1, 1, -1)

    def gradient(chunk: jax.Array) -> jax.Array:
        chunk = chunk.reshape(-1, dy.shape[3])
        sent = _dot(w, chunk, (3,), (1,))  # [kh, kw, I, n H' W']
        sent = jnp.pad(sent, [(0, 0)] * 3 + [(reach, reach)])
        total = jnp.zeros((channels, len(chunk) // (height * width), height * width), sent.dtype)
        for p in range(kh):
            for q in range(kw):
                start = reach + (top - p) * width + left - q
                part = sent[p, q, :, start : start + len(chunk)].reshape(total.shape)
                total += jnp.where(jnp.broadcast_to(inside[p, q], total.shape), part, 0.0)
        images = total.reshape(channels, -1, height, width)[:, :, : window.size[0], : window.size[1]]
        return jnp.moveaxis(images, 0, 3).astype(dy.dtype)

    chunks, *rest = _chunks(dy, window)
    images = lax.map(gradient, chunks).reshape(-1, *window.size, channels)
    return jnp.concatenate([images, *map(gradient, rest)])


def _weight_gradient(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """G: [B, H, W, I], [B, H', W', O] -> [kh, kw, I, O], summed over chunks of images."""
    kernel = (*window.kernel, x.shape[3], dy.shape[3])
    if window.kernel == (1, 1):
        (taken,) = _shifted(x, window, window.out, axis=1)
        return _dot(dy, taken, (0, 1, 2), (0, 1, 2)).T.reshape(kernel).astype(x.dtype)
    few = x.shape[3] <= 16
    if few:  # pixels last, and padded, before the loop
        x = jnp.pad(jnp.moveaxis(x, 3, 1), [(0, 0), (0, 0), *window.padding])

    def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        some_x, some_dy = (a.reshape(-1, *b.shape[1:]) for a, b in zip(chunk, (x, dy), strict=True))
        return total + (_few_patches if few else _many_patches)(some_x, some_dy, window), None

    total = jnp.zeros((kernel[0] * kernel[1] * kernel[2], kernel[3]), _wide(x))
    total = total if few else total.T
    (some_x, *rest_x), (some_dy, *rest_dy) = _chunks(x, window), _chunks(dy, window)
    total, _ = lax.scan(add, total, (some_x, some_dy))
    for rest in zip(rest_x, rest_dy, strict=True):
        total, _ = add(total, rest)
    return (total if few else total.T).reshape(kernel).astype(x.dtype)


def _many_patches(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """dy^T P ([O, kh kw I]) of a chunk of images: P holds the kh*kw shifted slices side by side.

    Images larger than two blocks are taken a block of rows at a time, so that P stays small.
    """
    height, width = window.out
    rows = max(1, _ROWS // width)
    stride, taps = window.strides[0], window.kernel[0]
    blocks = 1 if height * width <= 2 * _ROWS else -(-height // rows)
    rows = height if blocks == 1 else rows
    spare = ((rows * blocks - 1) * stride + taps) - (window.size[0] + sum(window.padding[0]))
    (low, high), across = window.padding
    x = jnp.pad(x, [(0, 0), (low, high + max(0, spare)), across, (0, 0)])
    dy = jnp.pad(dy, [(0, 0), (0, rows * blocks - height), (0, 0), (0, 0)])

    def add(total: jax.Array, block: int | jax.Array) -> tuple[jax.Array, None]:
        above = lax.dynamic_slice_in_dim(x, block * rows * stride, (rows - 1) * stride + taps, axis=1)
        beside = lax.dynamic_slice_in_dim(dy, block * rows, rows, axis=1)
        patches = jnp.concatenate(_shifted(above, window, (rows, width), axis=1), axis=3)
        return total + _dot(beside, patches, (0, 1, 2), (0, 1, 2)), None

    total = jnp.zeros((dy.shape[3], taps * window.kernel[1] * x.shape[3]), _wide(x))
    return add(total, 0)[0] if blocks == 1 else lax.scan(add, total, jnp.arange(blocks))[0]


def _few_patches(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """P dy ([kh kw I, O]) of a chunk, P with the pixels last; x is padded and [n, I, H, W]."""
    patches = jnp.moveaxis(jnp.stack(_shifted(x, window, window.out, axis=2)), 1, 2)
    dy = dy.reshape(-1, dy.shape[3])
    return _dot(patches.reshape(-1, len(dy)), dy, (1,), (0,))


def _chunks(images: jax.Array, window: Window, rows: int = _ROWS) -> list[jax.Array]:
    """Chunks of whole images, near ``rows`` output pixels each, ``[chunks, all else]``; then the rest.

    All else is flat: an image axis of one beside the chunks makes XLA copy it all before a loop.
    """
    count, want = len(images), max(1, rows // (window.out[0] * window.out[1]))
    near = [n for n in range(max(1, want // 2), min(count, 2 * want) + 1) if count % n == 0]
    n = min(near, key=lambda n: (abs(n - want), n), default=min(want, count))
    whole = count // n * n
    some = images[:whole].reshape(whole // n, -1)
    return [some] if whole == count else [some, images[whole:].reshape(-1)]


def _shifted(x: jax.Array, window: Window, out: tuple[int, int], axis: int) -> list[jax.Array]:
    """What each kernel element sees of padded x, row by row; height and width at axis, axis + 1."""
    (kh, kw), (sy, sx), (height, width) = window.kernel, window.strides, out
    found = []
    for p in range(kh):
        line = lax.slice_in_dim(x, p, p + (height - 1) * sy + 1, sy, axis=axis)
        for q in range(kw):
            found.append(lax.slice_in_dim(line, q, q + (width - 1) * sx + 1, sx, axis=axis + 1))
    return found


def _wide(x: jax.Array) -> Any:
    """The dtype that sums over x are kept in: float32 at least."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _dot(a: jax.Array, b: jax.Array, axes_a: tuple, axes_b: tuple) -> jax.Array:
    """Contraction of a's axes with b's in float32: the CPU backend has not every product of halves, and none faster."""
    wide = _wide(a)
    return lax.dot_general(a.astype(wide), b.astype(wide), ((axes_a, axes_b), ((), ())))


# ---- the three primitives ------------------------------------------------------------------


def _primitive(name: str, compute: Callable, shape: Callable) -> Primitive:
    """A primitive of two arrays: `compute` is its meaning, `shape` that of its result."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(compute, static_argnames="window"))

    def abstract(a: Any, b: Any, *, window: Window) -> Any:
        return ShapedArray(shape(a.shape, b.shape, window), a.dtype)

    def lower(a: jax.Array, b: jax.Array, *, window: Window) -> jax.Array:
        return compute(a, b, window)

    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(lower, multiple_results=False))
    return primitive


_C = _primitive("ddjax_conv", _forward, lambda x, w, win: (x[0], *win.out, w[3]))
_D = _primitive("ddjax_conv_dx", _input_gradient, lambda dy, w, win: (dy[0], *win.size, w[2]))
_G = _primitive("ddjax_conv_dw", _weight_gradient, lambda x, dy, win: (*win.kernel, x[3], dy[3]))

# (cotangent, left, right) -> cotangent of left, then of right; that operand is a placeholder
ad.defbilinear(
    _C,
    lambda g, x, w, *, window: _D.bind(g, w, window=window),
    lambda g, x, w, *, window: _G.bind(x, g, window=window),
)
ad.defbilinear(
    _D,
    lambda g, dy, w, *, window: _C.bind(g, w, window=window),
    lambda g, dy, w, *, window: _G.bind(g, dy, window=window),
)
ad.defbilinear(
    _G,
    lambda g, x, dy, *, window: _D.bind(dy, g, window=window),
    lambda g, x, dy, *, window: _C.bind(x, g, window=window),
)


def _batch(primitive: Primitive, folds: bool, args: tuple, dims: tuple, *, window: Window) -> tuple:
    """vmap: a batch of images alone joins the image axis (C, D); else a loop over the batch."""
    if folds and dims[1] is None:
        many = jnp.moveaxis(args[0], dims[0], 0)
        out = primitive.bind(many.reshape(-1, *many.shape[2:]), args[1], window=window)
        return out.reshape(*many.shape[:2], *out.shape[1:]), 0
    mapped = [(i, jnp.moveaxis(a, d, 0)) for i, (a, d) in enumerate(zip(args, dims, strict=True)) if d is not None]

    def one(members: list) -> jax.Array:
        operands = list(args)
        for (i, _), member in zip(mapped, members, strict=True):
            operands[i] = member
        return primitive.bind(*operands, window=window)

    return lax.map(one, [a for _, a in mapped]), 0


batching.primitive_batchers[_C] = partial(_batch, _C, True)
batching.primitive_batchers[_D] = partial(_batch, _D, True)
batching.primitive_batchers[_G] = partial(_batch, _G, False)
