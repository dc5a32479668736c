"""Unrolled descent against the closed form of a quadratic loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels import unroll


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def loss(params, images):
    """1/2 (theta - m)^T A (theta - m), the centre m being the mean image."""
    gap = params["theta"] - jnp.mean(images, axis=0)
    return 0.5 * gap @ CURVATURE @ gap


RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(5, 5))
CURVATURE = ROOT @ ROOT.T / 5
START = RNG.normal(size=5)
IMAGES = RNG.normal(size=(4, 5))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_sgd_equals_the_closed_form_and_its_derivative(steps, remat):
    """theta_K = m + (I - lr A)^K (theta_0 - m); d theta_K / d image = (I - (I - lr A)^K) / N."""

    def last(images, lr):
        params = {"theta": jnp.asarray(START)}
        return unroll.sgd(loss, params, images, steps=steps, lr=lr, remat=remat)["theta"]

    value, slope = jax.jit(lambda s, lr: (last(s, lr), jax.jacrev(last)(s, lr)))(IMAGES, 0.1)
    power = np.linalg.matrix_power(np.eye(5) - 0.1 * CURVATURE, steps)
    mean = IMAGES.mean(axis=0)
    np.testing.assert_allclose(value, mean + power @ (START - mean), rtol=1e-12)
    np.testing.assert_allclose(slope[:, 2], (np.eye(5) - power) / 4, rtol=1e-12, atol=1e-15)


def test_iterates_start_at_the_start_and_lead_to_the_end():
    params = {"theta": jnp.asarray(START)}
    images = jnp.asarray(IMAGES)
    path = unroll.iterates(loss, params, images, steps=4, lr=0.1)["theta"]
    assert path.shape == (4, 5)
    np.testing.assert_array_equal(path[0], START)
    last = unroll.sgd(loss, {"theta": path[3]}, images, steps=1, lr=0.1)["theta"]
    whole = unroll.sgd(loss, params, images, steps=4, lr=0.1)["theta"]
    np.testing.assert_allclose(last, whole, rtol=1e-14)


def test_compiled_once_for_every_rate():
    traces = []

    @jax.jit
    def last(theta, images, lr):
        traces.append(1)
        return unroll.sgd(loss, {"theta": theta}, images, steps=3, lr=lr)["theta"]

    for lr in (0.1, 0.01):
        last(jnp.asarray(START), IMAGES, lr)
    assert len(traces) == 1
