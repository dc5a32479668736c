"""Inner products and distances between gradients, i.e. between trees of equal structure.

    inner(a, b)  = sum_l <a_l, b_l>
    l2(a, b)     = sum_l ||a_l - b_l||^2
    cosine(a, b) = sum_l (1 - cos(a_l, b_l)),   each leaf l flattened
    norm(x)      = ||x||_2 with derivative 0, not NaN, where x = 0

``l2`` and ``inner`` belong together: l2(s, t) - ||t||^2 = ||s||^2 - 2 inner(s, t) bounds the
first-order objective of dataset distillation from above (Taylor-approximated matching: Yu et al.,
ECCV 2024). ``cosine`` is the layer-wise form of gradient matching (Zhao et al., ICLR 2021, eq. 10;
there per output channel, here per leaf).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddjax.types import Tree


def norm(x: Float[Array, "..."], *, axis: int | None = None) -> Float[Array, "..."]:
    """Euclidean norm over ``axis`` (None: all); where it is 0 all its derivatives are 0."""
    square = jnp.sum(x * x, axis=axis)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _sum(fn, a: Tree, b: Tree) -> Float[Array, ""]:
    terms = jax.tree.leaves(jax.tree.map(fn, a, b))
    return jnp.sum(jnp.stack(terms))


def inner(a: Tree, b: Tree) -> Float[Array, ""]:
    """Sum over leaves of <a_l, b_l>."""
    return _sum(lambda x, y: jnp.sum(x * y), a, b)


def l2(a: Tree, b: Tree) -> Float[Array, ""]:
    """Sum over leaves of ||a_l - b_l||^2 (squared: no root is taken)."""
    return _sum(lambda x, y: jnp.sum((x - y) ** 2), a, b)


def cosine(a: Tree, b: Tree) -> Float[Array, ""]:
    """Sum over leaves of 1 - cos(a_l, b_l); a zero leaf counts 1, its derivative is finite.

    Free of scale: multiplying a leaf by a positive number changes nothing, so no epsilon has to
    suit all layers.
    """

    def direction(x: jax.Array) -> jax.Array:
        length = norm(x)
        return x / jnp.where(length > 0, length, 1)

    return _sum(lambda x, y: 1 - jnp.sum(direction(x) * direction(y)), a, b)
