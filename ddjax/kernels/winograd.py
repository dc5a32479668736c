"""Winograd's minimal filtering F(2x2, 3x3): a 3x3 convolution of stride 1 with 16 products where the plain sum has 36.

    y = A^T [ sum_c (G w_c G^T) * (B^T x_c B) ] A        a tile of 4x4 pixels of x gives 2x2 pixels of y

    B^T d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3),   G g = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2),
    A^T m = (m0 + m1 + m2, m1 - m2 - m3)            each along both axes

Over all tiles and channels the 16 elementwise products are 16 matrix products; the rest is sums and differences of
pixels. Equal to the convolution in exact arithmetic; in float32 its error is about twice the direct sum's, since pixels
are added before they are multiplied. ``kernels.conv`` decides where it is faster. Source: Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016, eq. 8 and section 4.1.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Grid = Sequence[Sequence[jax.Array]]  # of equal arrays, one for each place in a tile
Line = Callable[[Sequence[jax.Array]], Sequence[jax.Array]]


CHANNELS, POSITIONS = 128, 512  # measured on a CPU (benchmarks/convolution.py)


def faster(x: jax.Array, w: jax.Array, strides: tuple[int, int], out: tuple[int, int]) -> bool:
    """Whether tiles are the faster way on a CPU: a kernel they suit, many channels, many positions; float32 only."""
    suits = w.shape[:2] == (3, 3) and strides == (1, 1) and out[0] % 2 == out[1] % 2 == 0 and x.dtype == jnp.float32
    return suits and min(w.shape[2:]) >= CHANNELS and x.shape[0] * out[0] * out[1] >= POSITIONS


def taps(w: Float[Array, "3 3 I O"], *, flipped: bool = False) -> list[Float[Array, "I O"]]:
    """G w G^T: the 16 matrices that tiles are multiplied by, row by row; ``flipped``: of w turned by half a turn."""

    def along(g: Sequence[jax.Array]) -> Sequence[jax.Array]:
        ends, middle = (g[0] + g[2]) / 2, g[1] / 2
        return g[0], ends + middle, ends - middle, g[2]

    turn = slice(None, None, -1 if flipped else 1)
    return [tap for row in _both(along, [list(row)[turn] for row in list(w)[turn]]) for tap in row]


def filtered(x: Float[Array, "n H W I"], kernel: list[Float[Array, "_ _"]], *, flipped: bool = False) -> jax.Array:
    """``[n, H - 2, W - 2, O]``, both even: the convolution without padding of images by ``kernel = taps(w)``.

    ``flipped``: by w turned by half a turn with inputs and outputs in each other's place, ``kernel = taps(w, flipped=
    True)`` of a w ``[3, 3, O, I]``: the transpose of a convolution, whose kernel is never laid out anew.
    """
    count, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2

    def place(i: int, j: int) -> jax.Array:
        ends = (count, i + height - 1, j + width - 1, x.shape[3])
        return lax.slice(x, (0, i, j, 0), ends, (1, 2, 2, 1))

    tiles = _both(lambda d: (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]),
                  [[place(i, j) for j in range(4)] for i in range(4)])  # fmt: skip
    flat = [tile.reshape(-1, x.shape[3]) for row in tiles for tile in row]
    over = (((1,), (1 if flipped else 0,)), ((), ()))
    sums = [lax.dot_general(tile, tap, over) for tile, tap in zip(flat, kernel, strict=True)]
    pixels = _both(lambda m: (m[0] + m[1] + m[2], m[1] - m[2] - m[3]), [sums[i : i + 4] for i in range(0, 16, 4)])
    pixels = [[pixel.reshape(count, height // 2, width // 2, -1) for pixel in row] for row in pixels]
    rows = [jnp.stack(row, axis=3) for row in pixels]
    return jnp.stack(rows, axis=2).reshape(count, height, width, -1)


def _both(along: Line, grid: Grid) -> list[list[jax.Array]]:
    """A linear map of a line of places along both axes of a grid."""
    rows = [along(row) for row in grid]
    columns = [along(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]
