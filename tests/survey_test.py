"""One pass over the real data: equals the whole set at once whatever the batch, compiles once, 1 = 4 devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import models, survey
from ddjax.kernels import labels as losses
from ddjax.mesh import Spread

SHAPE, CLASSES, N, P = (8, 8, 1), 3, 270, 4  # one batch of 250, and a ragged one of 20
MEAN, STD = (0.3,), (0.4,)
ONE = Spread("scan")


class Real:
    """Images and labels as a split of the data room hands them out; counts what is asked for."""

    def __init__(self, count: int = N):
        rng = np.random.Generator(np.random.Philox(1))
        self.images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        self.labels = (np.arange(count) % CLASSES).astype(np.int32)
        self.shape = SHAPE

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index):
        return self.images[index]


@functools.cache
def net(norm="batch"):
    return models.build(f"convnet1-w8-{norm}", image_shape=SHAPE, classes=CLASSES)


@functools.cache
def pool(norm="batch"):
    """Four networks with running statistics of their own."""
    params, state = jax.vmap(net(norm).init)(jax.random.split(jax.random.key(0), P))
    return params, jax.tree.map(lambda a: a + jax.random.uniform(jax.random.key(1), a.shape), state)


@functools.cache
def whole():
    """Taps, logits and the gradient of the mean loss of every member on all images at once, written out."""
    real = Real()
    x, y = (jnp.asarray(real.images, jnp.float32) / 255.0 - MEAN[0]) / STD[0], jnp.asarray(real.labels)
    params, state = pool()

    @jax.jit
    def at(params, state):
        def loss(p):
            logits = net().apply(p, state, x, train=False).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(N), y])

        out = net().apply(params, state, x, train=False, taps=True)
        return out.logits, out.features, dict(out.taps), jax.grad(loss)(params)

    found = [at(*jax.tree.map(lambda a, j=j: a[j], (params, state))) for j in range(P)]
    return jax.tree.map(lambda *a: np.stack([np.asarray(v) for v in a]), *found)


def test_accuracy_is_that_of_the_whole_set():
    found = survey.accuracy(net(), *pool(), Real(), MEAN, STD, over=ONE)
    np.testing.assert_allclose(found, (whole()[0].argmax(-1) == Real().labels).mean(1), rtol=1e-7)


def test_class_moments_are_those_of_the_whole_set():
    found = survey.moments(net(), *pool(), Real(), MEAN, STD, scope="class", over=ONE)
    assert list(found) == list(whole()[2])
    for name, tap in whole()[2].items():
        for c in range(CLASSES):
            own = tap[:, Real().labels == c].astype(np.float64).reshape(P, -1, tap.shape[-1])
            assert (np.asarray(found[name].count)[:, c] == own.shape[1]).all()
            np.testing.assert_allclose(found[name].mean[:, c], own.mean(1), atol=1e-5)
            np.testing.assert_allclose(found[name].var[:, c], own.var(1), rtol=1e-4, atol=1e-5)


def test_global_scope_takes_running_statistics_where_there_are_any():
    params, state = pool()
    found = survey.moments(net(), params, state, Real(), MEAN, STD, scope="global", over=ONE)
    running = jax.vmap(net().running)(state)
    assert found.keys() == running.keys() == whole()[2].keys()
    for name, (mean, var) in running.items():
        assert np.array_equal(found[name].mean, mean) and np.array_equal(found[name].var, var)
        assert np.asarray(found[name].count).tolist() == [N] * P


def test_global_scope_without_batch_norm_takes_moments_of_the_set():
    real, (params, state) = Real(30), pool("instance")
    found = survey.moments(net("instance"), params, state, real, MEAN, STD, scope="global", over=ONE)
    x = survey.normalise(jnp.asarray(real.images), MEAN, STD)
    for j in range(P):
        member = jax.tree.map(lambda a, j=j: a[j], (params, state))
        for name, tap in net("instance").apply(*member, x, train=False, taps=True).taps.items():
            flat = np.asarray(tap, np.float64).reshape(-1, tap.shape[-1])
            np.testing.assert_allclose(found[name].mean[j], flat.mean(0), atol=1e-5)
            np.testing.assert_allclose(found[name].var[j], flat.var(0), rtol=1e-4, atol=1e-5)


def test_gradients_are_the_mean_over_the_whole_set():
    found = survey.gradients(net(), *pool(), Real(), MEAN, STD, over=ONE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole()[3]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_class_probabilities_are_means_over_the_class():
    found = survey.class_probabilities(net(), *pool(), Real(), MEAN, STD, over=ONE)
    assert found.shape == (P, CLASSES, CLASSES)
    softmax = np.asarray(jax.nn.softmax(jnp.asarray(whole()[0])))
    for c in range(CLASSES):
        np.testing.assert_allclose(found[:, c], softmax[:, Real().labels == c].mean(1), atol=1e-5)


def test_features_are_the_inputs_of_the_head():
    member = jax.tree.map(lambda a: a[1], pool())
    found = survey.features(net(), *member, Real(), MEAN, STD)
    np.testing.assert_allclose(found, whole()[1][1], atol=1e-5)


@pytest.mark.parametrize("what", ["right", "softmax", "by_class"])
def test_the_batch_size_and_what_fills_the_last_batch_do_not_matter(what):
    """Padding repeats image 0 under label -1, which counts nowhere."""
    real, at = Real(23), survey.counting(net(), MEAN, STD, what)
    combine = survey.merged if what == "by_class" else survey.add
    found = [survey.survey(at, combine, *pool(), real, over=ONE, batch=b) for b in (5, 23, 100)]
    for a, b, c in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert np.array_equal(b, c)  # a batch larger than the set is the set


def test_two_programs_serve_every_batch_of_every_survey():
    traces = []

    def at_member(params, state, x, y):
        traces.append(x.shape)
        return losses.correct(net().apply(params, state, survey.normalise(x, MEAN, STD), train=False).logits, y)

    for real in (Real(23), Real(17)):
        survey.survey(at_member, survey.add, *pool(), real, over=ONE, batch=5)
    assert traces == [(5, *SHAPE)] * 2  # the first batch, and one more batch


@pytest.mark.parametrize("what", ["right", "gradient", "by_class"])
def test_members_dealt_to_four_devices_find_the_same(what):
    at = survey.counting(net(), MEAN, STD, what)
    combine = survey.merged if what == "by_class" else survey.add
    one, four = (
        survey.survey(at, combine, *pool(), Real(23), over=Spread("scan", devices), batch=10) for devices in (1, 4)
    )
    assert len(jax.tree.leaves(four)[0].sharding.device_set) == 4
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_normalise_leaves_floats_alone():
    pixels = np.full((2, *SHAPE), 51, np.uint8)
    np.testing.assert_allclose(survey.normalise(jnp.asarray(pixels), MEAN, STD), (0.2 - 0.3) / 0.4, rtol=1e-6)
    floats = jnp.ones((2, *SHAPE))
    assert survey.normalise(floats, MEAN, STD) is floats
