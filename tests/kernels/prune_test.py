"""kernels/prune.py: the asked density, the largest weights, and zeros that stay zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels.prune import apply_mask, magnitude_mask


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 4, 5), "dense": (7, 3), "bias": (3,)}
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("density", [0.0, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_density_is_within_one_weight_of_the_target(density, jitter):
    mask = jax.jit(lambda p, d: magnitude_mask(jax.random.key(0), p, d, jitter=jitter))(params(), density)
    for name in ("conv", "dense"):
        assert set(np.unique(mask[name])) <= {0.0, 1.0}
        assert abs(float(mask[name].sum()) - density * mask[name].size) <= 1
    np.testing.assert_array_equal(mask["bias"], np.ones(3))


def test_the_largest_stay_and_ties_do_not_change_the_count():
    weights = {"w": jnp.asarray([[3.0, -5.0], [0.5, 1.0]]), "equal": jnp.ones((4, 4))}
    mask = magnitude_mask(jax.random.key(0), weights, 0.5)
    np.testing.assert_array_equal(mask["w"], [[1.0, 1.0], [0.0, 0.0]])
    assert mask["equal"].sum() == 8


def test_jitter_makes_members_differ_and_mapping_over_members_works():
    keys, densities = jax.random.split(jax.random.key(1), 2), jnp.asarray([0.4, 0.6])
    draw = lambda key, d: magnitude_mask(key, params(), d, jitter=0.5)  # noqa: E731
    masks = jax.jit(jax.vmap(draw))(keys, densities)
    assert abs(float(masks["conv"][1].sum()) - 108) <= 1
    same_density = jax.jit(jax.vmap(draw, (0, None)))(keys, 0.5)["conv"]
    assert (same_density[0] != same_density[1]).any()


def test_masked_weights_stay_exactly_zero_through_tuning():
    mask = magnitude_mask(jax.random.key(0), params(), 0.5)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((6, 7)), jnp.float32)

    def loss(p):
        return jnp.mean((x @ p["dense"] + p["bias"][None, :] - 1.0) ** 2) + jnp.sum(p["conv"] ** 2)

    tuned = apply_mask(params(), mask)
    for _ in range(3):
        gradient = jax.grad(loss)(tuned)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, tuned, gradient)
        tuned = apply_mask(moved, mask)
    for name in ("conv", "dense"):
        dropped = np.asarray(mask[name]) == 0
        assert (np.asarray(tuned[name])[dropped] == 0).all()
        assert (np.asarray(tuned[name])[~dropped] != 0).all()
    assert float(loss(tuned)) < float(loss(apply_mask(params(), mask)))


def test_a_mask_removes_what_is_not_finite():
    spoiled = {"w": jnp.asarray([[jnp.nan, 2.0]])}
    np.testing.assert_array_equal(apply_mask(spoiled, {"w": jnp.asarray([[0.0, 1.0]])})["w"], [[0.0, 2.0]])
