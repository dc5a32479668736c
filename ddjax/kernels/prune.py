"""Masks that keep a network's largest weights, for the posterior pool of weak models.

    mask = 1 on the round(density n) entries with the largest |w| exp(jitter z),  z ~ N(0, 1)

taken over each weight of two or more axes by itself (n entries); biases and norms are kept whole.
The log-normal jitter makes members of a pool differ. Magnitude pruning after Han et al., NeurIPS
2015, section 3; the jitter is ours.
"""

import jax
import jax.numpy as jnp

from ddjax.types import Tree


def magnitude_mask(key: jax.Array, params: Tree, density: float | jax.Array, *, jitter: float = 0.0) -> Tree:
    """Tree of 0/1 masks shaped and typed like `params`; `density` in [0, 1] may be traced.

    Of each pruned weight exactly round(density n) entries stay, ties by position.
    """
    leaves, structure = jax.tree.flatten(params)
    masks = [
        _leaf_mask(jax.random.fold_in(key, i), leaf, density, jitter) if leaf.ndim >= 2 else jnp.ones_like(leaf)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, masks)


def apply_mask(params: Tree, mask: Tree) -> Tree:
    """`params` where the mask is 1, exactly 0 elsewhere (also where a parameter is not finite)."""
    return jax.tree.map(lambda p, m: jnp.where(m > 0, p, jnp.zeros_like(p)), params, mask)


def _leaf_mask(key: jax.Array, leaf: jax.Array, density: float | jax.Array, jitter: float) -> jax.Array:
    score = jnp.abs(leaf).reshape(-1)
    if jitter > 0.0:
        score = score * jnp.exp(jitter * jax.random.normal(key, score.shape, score.dtype))
    kept = jnp.round(jnp.asarray(density, jnp.float32) * leaf.size).astype(jnp.int32)
    order = jnp.argsort(score, descending=True, stable=True)
    among = (jnp.arange(leaf.size) < kept).astype(leaf.dtype)
    return jnp.zeros_like(score).at[order].set(among).reshape(leaf.shape)
