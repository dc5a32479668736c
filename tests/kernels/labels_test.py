"""Label losses against NumPy, ensembles, and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels import labels


def logits(seed, *shape):
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_cross_entropy_equals_numpy_for_one_hot_and_mixed_targets():
    z = logits(0, 6, 4)
    hard = np.eye(4, dtype=np.float32)[[0, 3, 1, 1, 2, 0]]
    mixed = 0.7 * hard + 0.3 * hard[::-1]
    cross_entropy = jax.jit(labels.cross_entropy)
    for y in (hard, mixed.astype(np.float32)):
        expected = -(y * log_softmax(z)).sum(axis=-1).mean()
        np.testing.assert_allclose(cross_entropy(z, y), expected, rtol=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0, 20.0])
def test_soft_kl_equals_numpy_and_vanishes_with_its_gradient_where_both_agree(tau):
    z, t = logits(0, 6, 4), logits(1, 6, 4)
    p, q = log_softmax(t / tau), log_softmax(z / tau)
    expected = tau**2 * (np.exp(p) * (p - q)).sum(axis=-1).mean()
    soft_kl = jax.jit(jax.value_and_grad(labels.soft_kl))
    np.testing.assert_allclose(soft_kl(z, t, jnp.float32(tau))[0], expected, rtol=1e-4)
    value, slope = soft_kl(t, t, jnp.float32(tau))
    np.testing.assert_allclose(value / tau**2, 0, atol=1e-6)
    np.testing.assert_allclose(slope / tau, 0, atol=1e-6)


def test_the_size_of_the_gradient_does_not_depend_on_a_large_temperature():
    """For tau -> infinity it is that of (z - t) / C, the logits being centred."""
    z, t = logits(0, 6, 4), logits(1, 6, 4)
    gap = np.asarray(z) - np.asarray(t)
    gap -= gap.mean(axis=1, keepdims=True)
    slope = jax.jit(jax.grad(labels.soft_kl))(z, t, 1000.0)
    np.testing.assert_allclose(slope, gap / 4 / 6, rtol=0.05, atol=1e-2)


def test_a_vmapped_ensemble_is_the_mean_of_its_members():
    with jax.enable_x64(True):
        weights, x = (jnp.asarray(logits(seed, *shape), jnp.float64) for seed, shape in ((2, (5, 8, 4)), (3, (6, 8))))
        found = jax.jit(lambda ws: labels.mean_logits(jax.vmap(lambda w: x @ w)(ws)))(weights)
    expected = sum(np.asarray(x) @ w for w in np.asarray(weights)) / 5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_ensemble_of_one_is_its_member_bit_for_bit():
    weights, x = logits(2, 1, 8, 4), logits(3, 6, 8)
    one = jax.jit(lambda w: x @ w)(weights[0])
    np.testing.assert_array_equal(labels.mean_logits(one[None]), one)


def test_onehot_and_padding():
    y = labels.onehot(jnp.asarray([2, 0, -1], jnp.int32), 3)
    np.testing.assert_array_equal(y, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert y.dtype == jnp.float32


def test_correct_counts_and_ignores_padding():
    z = jnp.asarray(np.eye(4, dtype=np.float32))
    count = labels.correct(z, jnp.asarray([0, 1, 3, -1], jnp.int32))
    assert count == 2
    assert jnp.issubdtype(count.dtype, jnp.integer)


def test_compiled_once():
    traces = []

    @jax.jit
    def all_of_them(z, stack, y, tau):
        traces.append(1)
        target = labels.mean_logits(stack)
        soft = labels.soft_kl(z, target, tau)
        return soft + labels.cross_entropy(z, labels.onehot(y, 4)), labels.correct(z, y)

    for seed in range(3):
        y = jnp.arange(4, dtype=jnp.int32)
        all_of_them(logits(seed, 4, 4), logits(seed, 2, 4, 4), y, jnp.float32(seed + 1))
    assert len(traces) == 1
