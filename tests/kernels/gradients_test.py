"""Inner products and distances of gradient trees: closed forms, symmetries, behaviour at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels import gradients


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "head": (8, 5)}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def flat(values):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)]).astype(np.float64)


def test_inner_and_l2_equal_numpy():
    a, b = tree(0), tree(1)
    inner, l2 = jax.jit(gradients.inner), jax.jit(gradients.l2)
    np.testing.assert_allclose(inner(a, b), flat(a) @ flat(b), rtol=1e-5)
    np.testing.assert_allclose(l2(a, b), np.sum((flat(a) - flat(b)) ** 2), rtol=1e-5)
    assert l2(a, a) == 0


def test_cosine_equals_numpy_leaf_by_leaf():
    a, b = tree(0), tree(1)
    expected = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.ravel(x).astype(np.float64), np.ravel(y).astype(np.float64)
        expected += 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    np.testing.assert_allclose(jax.jit(gradients.cosine)(a, b), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_cosine_is_free_of_scale(scale):
    a, b, scaled, cosine = tree(0), tree(1), tree(0, scale), jax.jit(gradients.cosine)
    np.testing.assert_allclose(cosine(scaled, b), cosine(a, b), rtol=1e-5)
    np.testing.assert_allclose(cosine(a, scaled), 0, atol=1e-5)


@pytest.mark.parametrize("distance", [gradients.inner, gradients.l2, gradients.cosine])
def test_distances_are_finite_at_zero_with_finite_derivatives(distance):
    zero, both = tree(0, 0.0), jax.jit(jax.value_and_grad(distance, argnums=(0, 1)))
    for a, b in ((zero, tree(1)), (tree(1), zero), (zero, zero)):
        values = both(a, b)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values))
        if distance is gradients.cosine:
            assert values[0] == len(jax.tree.leaves(zero))


def test_norm_and_its_derivatives():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]], jnp.float32)

    @jax.jit
    def all_of_them(x):
        rows = jax.grad(lambda x: jnp.sum(gradients.norm(x, axis=-1)))
        second = jax.hessian(gradients.norm)(x[1])
        return gradients.norm(x, axis=-1), gradients.norm(x), rows(x), second

    rows, whole, slope, second = all_of_them(x)
    np.testing.assert_array_equal(rows, [5.0, 0.0])
    np.testing.assert_allclose(whole, 5.0)
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(second, np.zeros((2, 2)))


def test_distances_compile_once():
    traces = []

    @jax.jit
    def both(a, b):
        traces.append(1)
        return gradients.cosine(a, b) + gradients.l2(a, b) + gradients.inner(a, b)

    for seed in range(3):
        both(tree(seed), tree(seed + 1))
    assert len(traces) == 1
