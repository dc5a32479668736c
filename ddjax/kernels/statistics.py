"""Channel statistics of activations: of a batch, by class, merged exactly; as a matching loss.

``moments(x)`` takes mean and biased variance over all axes but the last (channels).
``class_moments`` does so for every class of a batch. ``merge`` combines the moments of disjoint
parts as if they had been taken at once (Chan, Golub and LeVeque, 1983), ``total`` removes the
classes by the law of total variance. The loss is that of SRe2L (Yin et al., NeurIPS 2023) and Teddy
(Yu et al., ECCV 2024), norms not squared:

    R(x) = sum_l w_l ( ||mu_l(x) - mu_l||_2 + ||var_l(x) - var_l||_2 )

Shapes: activations ``[B, ..., c]``; ``Moments(count [], mean [c], var [c])``, by class ``([C], [C,
c], [C, c])``; count is in positions (images x pixels). Computed in float32 or wider.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddjax.kernels.gradients import norm
from ddjax.types import Moments


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _shape(count: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(count[..., None], like.shape)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return part / jnp.where(whole > 0, whole, 1)


def moments(x: Float[Array, "B *rest"]) -> Moments:
    """Mean and biased variance per channel over batch and positions (two passes: none cancels)."""
    x = _wide(x)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axis=axes)
    var = jnp.mean((x - jnp.broadcast_to(mean, x.shape)) ** 2, axis=axes)
    return Moments(jnp.asarray(x.size // x.shape[-1], x.dtype), mean, var)


def class_moments(x: Float[Array, "B *rest"], onehot: Float[Array, "B C"]) -> Moments:
    """Mean and biased variance per class and channel; all 0 for a class without images.

    Rows of ``onehot`` are one-hot, or zero for images that shall not count (padding).
    """
    flat = _wide(x).reshape(x.shape[0], -1, x.shape[-1])  # [B, positions, c]
    onehot = onehot.astype(flat.dtype)
    images = jnp.sum(onehot, axis=0)[:, None]  # [C, 1]
    own = jnp.mean(flat, axis=1)  # [B, c]
    mean = _ratio(jnp.matmul(onehot.T, own, precision="highest"), images)
    centre = jnp.matmul(onehot, mean, precision="highest")[:, None]  # its own class's mean
    square = jnp.mean((flat - centre) ** 2, axis=1)
    var = _ratio(jnp.matmul(onehot.T, square, precision="highest"), images)
    return Moments(images[:, 0] * flat.shape[1], mean, var)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint parts together, global or by class; a count of 0 changes nothing."""
    count = a.count + b.count
    share = _shape(_ratio(b.count, count), a.mean)
    rest = _shape(_ratio(a.count, count), a.mean)
    delta = b.mean - a.mean
    mean = rest * a.mean + share * b.mean
    var = rest * a.var + share * b.var + rest * share * delta**2
    return Moments(count, mean, var)


def total(by_class: Moments) -> Moments:
    """Global moments from class-wise ones: E[var_c] + var(mu_c), classes weighted by count."""
    count = jnp.sum(by_class.count)
    share = _shape(_ratio(by_class.count, count), by_class.mean)
    mean = jnp.sum(share * by_class.mean, axis=0)
    spread = (by_class.mean - mean[None]) ** 2
    return Moments(count, mean, jnp.sum(share * (by_class.var + spread), axis=0))


def statistic_distance(
    taps: Mapping[str, Float[Array, "B ..."]],
    targets: Mapping[str, Moments],
    *,
    weights: Mapping[str, float] | None = None,
    onehot: Float[Array, "B C"] | None = None,
) -> Float[Array, ""]:
    """R(x) over the layers named in ``targets``; a layer that ``weights`` does not name weighs 1.

    With ``onehot`` the targets are class-wise and R is the mean over the classes that the batch
    holds.
    """
    sum_ = jnp.zeros((), jnp.float32)
    for name, target in targets.items():
        x = taps[name]
        found = moments(x) if onehot is None else class_moments(x, onehot)
        distance = norm(found.mean - target.mean, axis=-1) + norm(found.var - target.var, axis=-1)
        if onehot is not None:
            present = found.count > 0
            classes = jnp.maximum(jnp.sum(present, dtype=distance.dtype), 1)
            distance = jnp.sum(jnp.where(present, distance, 0)) / classes
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        sum_ = sum_.astype(distance.dtype) + weight * distance
    return sum_
