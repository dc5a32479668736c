"""The Taylor objective against the bi-level one it replaces, in float64.

Tolerances are those of the specification: the remainder is of second order in the rate, the
gradient's error of first order, and at one inner step there is an exact identity at any rate.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels import gradients, labels, taylor, unroll

N, SIDE, WIDTH, CLASSES, REAL = 6, 4, 8, 3, 40
RATES = (0.1, 0.02, 0.004)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def network(params, images):
    """A two-layer perceptron with tanh: smooth, so that the remainder is what it should be."""
    flat = images.reshape(images.shape[0], -1)
    hidden = jnp.tanh(flat @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


RNG = np.random.default_rng(0)
PARAMS = {
    "w1": RNG.normal(size=(SIDE * SIDE, WIDTH)) / SIDE,
    "b1": np.zeros(WIDTH),
    "w2": RNG.normal(size=(WIDTH, CLASSES)) / WIDTH**0.5,
    "b2": np.zeros(CLASSES),
}
IMAGES = RNG.normal(size=(N, SIDE, SIDE, 1))
REAL_LABELS = RNG.integers(CLASSES, size=REAL)
REAL_IMAGES = RNG.normal(size=(REAL, SIDE, SIDE, 1)) + REAL_LABELS[:, None, None, None] - 1.0


def onehot(classes):
    return jnp.asarray(np.eye(CLASSES)[classes])


def loss(params, images):
    return labels.cross_entropy(network(params, images), onehot(np.arange(N) % CLASSES))


def real_loss(params, images=REAL_IMAGES):
    return labels.cross_entropy(network(params, images), onehot(REAL_LABELS))


@functools.cache
def bilevel(steps, remat=False):
    """(value, gradient in S) of the real loss after ``steps`` inner steps, at any rate."""

    def outer(images, lr):
        return real_loss(unroll.sgd(loss, PARAMS, images, steps=steps, lr=lr, remat=remat))

    return jax.jit(jax.value_and_grad(outer))


@functools.cache
def iterates(steps):
    return jax.jit(lambda s, lr: unroll.iterates(loss, PARAMS, s, steps=steps, lr=lr))


@functools.cache
def first_order(steps):
    """Gradient in S of the first-order objective at the iterates of S itself, at any rate."""

    def objective(images, lr):
        models = unroll.iterates(loss, PARAMS, images, steps=steps, lr=lr)
        targets = jax.vmap(jax.grad(real_loss))(models)
        return taylor.first_order_loss(loss, models, images, targets, lr=lr)

    return jax.jit(jax.grad(objective))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("remat", [False, True])
def test_unrolled_meta_gradient_equals_central_differences(remat):
    gradient = np.asarray(bilevel(3, remat)(IMAGES, 0.3)[1])
    for pixel in np.random.default_rng(1).permutation(IMAGES.size)[:20]:
        step = np.zeros(IMAGES.size)
        step[pixel] = 1e-4
        step = step.reshape(IMAGES.shape)
        up, down = (bilevel(3, remat)(IMAGES + s, 0.3)[0] for s in (step, -step))
        difference = float(up - down) / 2e-4
        scale = max(abs(difference), 1e-2 * np.abs(gradient).max())
        assert abs(gradient.ravel()[pixel] - difference) <= 1e-6 * scale


def test_iterates_are_the_path_of_sgd():
    path = iterates(3)(IMAGES, 0.2)
    for k in range(3):
        expected = jax.jit(lambda s, k=k: unroll.sgd(loss, PARAMS, s, steps=k, lr=0.2))(IMAGES)
        for a, b in zip(jax.tree.leaves(path), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("lr", [0.5, *RATES])
def test_one_step_identity(lr):
    """grad_S L_T(theta_0 - lr g_S) = -lr [d_S g_S]^T g_T(theta_1), at any rate."""

    @jax.jit
    def identity(images, lr):
        last = unroll.sgd(loss, PARAMS, images, steps=1, lr=lr)
        _, pull = jax.vjp(lambda s: jax.grad(loss)(PARAMS, s), images)
        return -lr * pull(jax.grad(real_loss)(last))[0]

    exact = bilevel(1)(IMAGES, lr)[1]
    assert np.abs(exact - identity(IMAGES, lr)).max() <= 1e-12


def test_error_of_the_first_order_gradient_falls_with_the_rate():
    errors = [relative(first_order(1)(IMAGES, lr), bilevel(1)(IMAGES, lr)[1]) for lr in RATES]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(4 <= ratio <= 6 for ratio in ratios), ratios


@pytest.mark.parametrize(("steps", "lr"), [(1, 0.02), (5, 0.02), (20, 0.004)])
def test_first_order_gradient_points_the_way_of_the_exact_one(steps, lr):
    assert cosine(first_order(steps)(IMAGES, lr), bilevel(steps)(IMAGES, lr)[1]) >= 0.99


@pytest.mark.parametrize(("steps", "rates"), [(1, RATES), (5, (0.02, 0.004, 0.0008))])
def test_expansion_of_the_loss_has_a_second_order_remainder(steps, rates):
    @jax.jit
    def expand(images, lr):
        real = jnp.asarray(REAL_IMAGES)
        return taylor.expansion(real_loss, loss, PARAMS, real, images, steps=steps, lr=lr)

    gaps = []
    for lr in rates:
        predicted, exact = expand(IMAGES, lr)
        np.testing.assert_allclose(exact, bilevel(steps)(IMAGES, lr)[0], rtol=1e-13)
        gaps.append(abs(float(predicted - exact)))
    ratios = [a / b for a, b in itertools.pairwise(gaps)]
    assert all(20 <= ratio <= 30 for ratio in ratios), ratios


def test_directional_equals_the_explicit_inner_product():
    target = jax.jit(jax.grad(real_loss))(PARAMS)
    by_jvp = jax.value_and_grad(lambda s: taylor.directional(loss, PARAMS, s, target))
    explicit = jax.value_and_grad(lambda s: gradients.inner(jax.grad(loss)(PARAMS, s), target))
    found, expected = jax.jit(by_jvp)(IMAGES), jax.jit(explicit)(IMAGES)
    assert np.abs(expected[1]).max() > 1e-4
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-10)


def test_squared_distance_is_the_inner_product_and_its_remainder():
    """||g_S - g_T||^2 - ||g_T||^2 = ||g_S||^2 - 2 <g_S, g_T>, and so do the gradients in S."""
    target = jax.jit(jax.grad(real_loss))(PARAMS)
    zero = jax.tree.map(jnp.zeros_like, target)

    def left(s):
        return gradients.l2(jax.grad(loss)(PARAMS, s), target) - gradients.l2(target, zero)

    def right(s):
        own = jax.grad(loss)(PARAMS, s)
        return gradients.inner(own, own) - 2 * taylor.directional(loss, PARAMS, s, target)

    a, b = (jax.jit(jax.value_and_grad(side))(IMAGES) for side in (left, right))
    np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(a[1], b[1], rtol=0, atol=1e-10)


def test_no_derivative_enters_the_models():
    """Their dependence on S is dropped; keeping it would reinstate part of the bi-level gradient.

    ``first_order`` computes the models from S inside the objective: with constants it agrees.
    """
    models = iterates(5)(IMAGES, 0.1)
    targets = jax.jit(jax.vmap(jax.grad(real_loss)))(models)

    def held(s):
        return taylor.first_order_loss(loss, models, s, targets, lr=0.1)

    expected = jax.jit(jax.grad(held))(IMAGES)
    np.testing.assert_allclose(first_order(5)(IMAGES, 0.1), expected, rtol=0, atol=1e-14)


def test_compiled_once_for_every_model_target_and_rate():
    traces = []

    @jax.jit
    def step(params, images, target, lr):
        traces.append(1)
        gradient = jax.grad(lambda s: taylor.directional(loss, params, s, target))(images)
        return images + lr * gradient, jax.tree.map(lambda p, g: p - 0.1 * g, params, target)

    params, images = jax.tree.map(jnp.asarray, (PARAMS, IMAGES))
    for lr in (0.1, 0.2, 0.3):
        images, params = step(params, images, params, lr)
    assert len(traces) == 1
