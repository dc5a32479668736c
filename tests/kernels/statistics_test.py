"""Channel statistics against NumPy, exact merging over arbitrary splits, and the matching loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddjax.kernels import statistics
from ddjax.types import Moments

CLASSES, CHANNELS = 4, 3


def activations(n, *, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 5, 4, CHANNELS)) + offset).astype(np.float32)


def onehot(labels):
    return (np.asarray(labels)[:, None] == np.arange(CLASSES)).astype(np.float32)


def numpy_moments(x):
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    return len(flat), flat.mean(axis=0), flat.var(axis=0)


def assert_moments(found, expected, *, rtol=1e-6, atol=1e-6):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", [(7, 3), (6, 5, 3), (5, 4, 2, 3), (1, 1, 1, 1)])
def test_moments_equal_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert_moments(jax.jit(statistics.moments)(x), numpy_moments(x))


def test_a_large_mean_does_not_cancel_the_variance():
    x = activations(20, offset=1000.0)
    found = jax.jit(statistics.moments)(x)
    np.testing.assert_allclose(found.var, numpy_moments(x)[2], rtol=1e-4)


def test_half_precision_is_accumulated_in_float32():
    x = jnp.asarray(activations(8), jnp.bfloat16)
    found = jax.jit(statistics.moments)(x)
    assert found.mean.dtype == found.var.dtype == jnp.float32
    assert_moments(found, numpy_moments(np.asarray(x, np.float32)))


def test_class_moments_equal_a_loop_over_the_classes():
    x, labels = activations(9), np.array([0, 2, 2, 0, 1, 2, 0, 0, 2])
    found = jax.jit(statistics.class_moments)(x, onehot(labels))
    for c in range(3):
        assert_moments([leaf[c] for leaf in found], numpy_moments(x[labels == c]))
    assert all((leaf[3] == 0).all() for leaf in found)  # no image of class 3


def test_rows_without_a_class_do_not_count():
    x, labels = activations(6), np.array([0, 1, -1, 0, -1, 1])
    found = jax.jit(statistics.class_moments)(x, onehot(labels))
    kept = labels >= 0
    expected = jax.jit(statistics.class_moments)(x[kept], onehot(labels[kept]))
    assert_moments(found, expected)


def test_total_variance_is_that_of_the_whole():
    x, labels = activations(9), np.array([0, 2, 2, 0, 1, 2, 0, 0, 2])
    x[labels == 2] += 3.0
    by_class = jax.jit(statistics.class_moments)(x, onehot(labels))
    assert_moments(jax.jit(statistics.total)(by_class), numpy_moments(x))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, CLASSES - 1), min_size=8, max_size=8), st.integers(0, 2**30))
def test_merged_batches_equal_the_whole(labels, seed):
    """Over every way to cut eight images of any classes into batches of one, two and five."""
    with jax.enable_x64(True):
        order = np.random.default_rng(seed).permutation(8)
        x = (activations(8).astype(np.float64) * 3 + 1)[order]
        y = onehot(labels).astype(np.float64)
        parts = [slice(0, 5), slice(5, 6), slice(6, 8)]
        parts = [parts[i] for i in np.random.default_rng(seed).permutation(3)]
        merge, by_class = jax.jit(statistics.merge), jax.jit(statistics.class_moments)
        merged = Moments(np.zeros(CLASSES), *np.zeros((2, CLASSES, CHANNELS)))
        for part in parts:
            merged = merge(merged, by_class(x[part], y[part]))
        assert_moments(merged, by_class(x, y), rtol=1e-12, atol=1e-12)
        assert_moments(jax.jit(statistics.total)(merged), numpy_moments(x), rtol=1e-12, atol=1e-12)


def test_merge_of_global_moments_and_of_nothing():
    x = activations(10)
    a, b = (jax.jit(statistics.moments)(part) for part in (x[:3], x[3:]))
    merge = jax.jit(statistics.merge)
    assert_moments(merge(a, b), numpy_moments(x))
    nothing = Moments(np.float32(0), *np.zeros((2, CHANNELS), np.float32))
    for merged in (merge(a, nothing), merge(nothing, a)):
        assert_moments(merged, a, rtol=0, atol=0)
    assert all(np.isfinite(leaf).all() for leaf in merge(nothing, nothing))


def hook(params, images):
    """Taps of a tiny convolutional network (8x8 images): the inputs of its two normalisations."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    first = jax.lax.conv_general_dilated(images, params["w1"], (1, 1), "SAME", dimension_numbers=dimensions)
    second = jax.lax.conv_general_dilated(jnp.tanh(first), params["w2"], (2, 2), "SAME", dimension_numbers=dimensions)
    return {"norm1": first, "norm2": second}


PARAMS = {
    "w1": np.random.default_rng(3).normal(size=(3, 3, 2, 4)) / 4,
    "w2": np.random.default_rng(4).normal(size=(3, 3, 4, 5)) / 6,
}
LABELS = np.array([0, 1, 0, 3, 1, 3])


@jax.jit
def reference(images, y=None):
    taps = hook(PARAMS, images)
    if y is None:
        return {name: statistics.moments(x) for name, x in taps.items()}
    return {name: statistics.class_moments(x, y) for name, x in taps.items()}


@pytest.mark.parametrize("by_class", [False, True])
def test_distance_is_zero_on_the_reference_set_and_its_gradient_is_finite(by_class):
    with jax.enable_x64(True):
        images = np.random.default_rng(0).normal(size=(6, 8, 8, 2))
        y = jnp.asarray(onehot(LABELS), jnp.float64) if by_class else None
        targets = reference(images, y)

        def loss(images):
            return statistics.statistic_distance(hook(PARAMS, images), targets, onehot=y)

        value, slope = jax.jit(jax.value_and_grad(loss))(images)
        assert value <= 1e-6
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("by_class", [False, True])
def test_gradient_of_the_distance_equals_central_differences(by_class):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        real, images = rng.normal(size=(2, 6, 8, 8, 2))
        y = jnp.asarray(onehot(LABELS), jnp.float64) if by_class else None
        targets = reference(2 * real + 1, y)

        @jax.jit
        def loss(images):
            return statistics.statistic_distance(hook(PARAMS, images), targets, weights={"norm1": 10.0}, onehot=y)

        slope = np.asarray(jax.jit(jax.grad(loss))(images)).ravel()
        for pixel in rng.permutation(images.size)[:20]:
            step = np.zeros(images.size)
            step[pixel] = 1e-5
            step = step.reshape(images.shape)
            difference = float(loss(images + step) - loss(images - step)) / 2e-5
            assert abs(slope[pixel] - difference) <= 1e-6 * max(abs(difference), 1e-2 * np.abs(slope).max())


def test_distance_follows_its_formula():
    x = activations(6)
    count, mean, var = numpy_moments(x)
    targets = {"a": Moments(jnp.float32(count), mean + np.array([3, 4, 0]), var)}
    targets = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), targets)
    taps = {"a": x, "b": x}

    @jax.jit
    def both(taps):
        plain = statistics.statistic_distance(taps, targets)
        weighted = statistics.statistic_distance(taps, targets, weights={"a": 10.0})
        return plain, weighted, statistics.statistic_distance(taps, {})

    np.testing.assert_allclose(both(taps), (5, 50, 0), rtol=1e-5)


def test_classes_that_a_batch_lacks_cost_nothing():
    """The mean is over the classes present: the others' targets may be anything."""
    x, labels = activations(4), np.array([0, 0, 2, 2])
    target = jax.jit(statistics.class_moments)(x, onehot(labels))
    shift = np.zeros((CLASSES, CHANNELS), np.float32)
    shift[[1, 3]], shift[2] = 1e6, [0, 3, 4]
    target = target._replace(mean=target.mean + shift)
    distance = jax.jit(statistics.statistic_distance)
    distance = distance({"a": x}, {"a": target}, onehot=onehot(labels))
    np.testing.assert_allclose(distance, 5 / 2, rtol=1e-5)


def test_compiled_once():
    traces = []

    @jax.jit
    def step(x, y, running):
        traces.append(1)
        found = statistics.class_moments(x, y)
        loss = statistics.statistic_distance({"a": x}, {"a": running}, onehot=y)
        return statistics.merge(running, found), loss

    zeros = np.zeros((2, CLASSES, CHANNELS), np.float32)
    running = Moments(*map(jnp.asarray, (zeros[0, :, 0], *zeros)))
    for seed in range(3):
        running, _ = step(activations(4, seed=seed), onehot([0, 1, 1, 3]), running)
    assert len(traces) == 1
