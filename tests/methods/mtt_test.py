"""Trajectory matching: what a step computes, against gradients and arithmetic written out here."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ddjax import methods, models
from ddjax.data import CARDS
from ddjax.kernels import gradients, unroll
from ddjax.kernels import labels as losses
from ddjax.methods.matching import seen
from ddjax.methods.mtt import DATM, MTT, TESLA, batches, endpoint_distance, objective, positive_rate
from ddjax.types import Batch, Net, Outputs


def small() -> Net:
    """tanh between two matrices: quick to compile, no derivative vanishes."""

    def init(key):
        a, b = jax.random.split(key)
        weights = {"a": 0.3 * jax.random.normal(a, (64, 5)), "b": jax.random.normal(b, (5, 3))}
        return {**weights, "c": jnp.zeros(3)}, {}

    def apply(params, state, x, *, train, key=None, taps=False):
        hidden = jnp.tanh(x.reshape(x.shape[0], 64) @ params["a"])
        return Outputs(hidden @ params["b"] + params["c"][None], hidden, {}, state)

    return Net("small", init, apply, lambda state: {}, (8, 8, 1), 3)


NET = small()
LABELS = jnp.repeat(jnp.arange(3, dtype=jnp.int32), 2)
IMAGES = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
LOGITS = 3.0 * jax.random.normal(jax.random.key(1), (6, 3))


def problem(kind=MTT, net=NET, **fields):
    given = dict(ipc=2, arch="convnet1-w4", inner_steps=3, lr=1.0, lr_lr=0.1, inner_lr=0.1, dsa=False)
    method = kind(**{**given, **fields}).filled("digits", 2)
    return method, methods.context(method, net, CARDS["digits"], (8, 8, 1), 3, lambda fn: fn)


@functools.cache
def points():
    """Two sets of weights, and both as rows."""
    trees = [NET.init(jax.random.key(k))[0] for k in (2, 3)]
    return *trees, *(ravel_pytree(tree)[0] for tree in trees)


def one_step(method: Any, context: Any, steps: int = 1, target: Any = None):
    """The distiller's states before and after, and the last info."""
    distiller = method.build(context)
    _, _, start, last = points()
    given = (LOGITS,) if method.labels == "learned" else ()
    states = [distiller.init(jax.random.key(4), IMAGES, LABELS, *given)]
    info = {}
    run = jax.jit(distiller.step)
    for i in range(steps):
        batch = Batch(jnp.int32(i), start=start, target=last if target is None else target)
        after, info = run(jax.random.fold_in(jax.random.key(5), i), states[-1], batch)
        states.append(after)
    return distiller, states, info


def loss_at(method: Any, context: Any, target: Any = None, start: Any = None):
    """The objective as a function of the images and the rate, the key of every call the same; with its gradients."""
    stretch = (start or points()[0], target or points()[1], {})

    def loss(images, rate):
        held = seen(context, {"images": images, "lr": rate}, LABELS)
        return objective(method, context)(jax.random.key(6), held, stretch, Batch(jnp.int32(0)))[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


RATE = jnp.float32(0.1)


def test_one_step_on_one_step_is_scaled_gradient_matching():
    """theta* = theta_0 - beta g_T, N = 1: loss = ||g_S - g_T||^2 / ||g_T||^2, and so is its gradient in the images."""
    method, context = problem(inner_steps=1)
    start = points()[0]

    @jax.jit
    def slope(x):
        def ce(params):
            logits = NET.apply(params, {}, x, train=True).logits
            return losses.cross_entropy(logits, losses.onehot(LABELS, 3))

        return jax.grad(ce)(start)

    real = slope(jax.random.normal(jax.random.key(7), IMAGES.shape))
    target = jax.tree.map(lambda p, g: p - 0.1 * g, start, real)
    size = gradients.inner(real, real)
    wanted = jax.value_and_grad(lambda x: gradients.l2(slope(x), real) / size)(IMAGES)
    value, (found, _) = loss_at(method, context, target, start)(IMAGES, RATE)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-4)
    np.testing.assert_allclose(found, wanted[1], rtol=1e-2, atol=1e-4 * float(jnp.abs(wanted[1]).max()))
    assert float(jnp.abs(wanted[1]).max()) > 0


def test_the_distance_is_normalised_by_the_experts_own_way():
    a, b, c = ({"x": jnp.asarray(v)} for v in ([1.0, 2.0], [4.0, 6.0], [1.0, 0.0]))
    assert float(endpoint_distance(c, a, b)) == pytest.approx((9 + 36) / (9 + 16))
    assert float(endpoint_distance(b, a, b)) == 0


def test_the_learned_rate_moves_against_its_finite_difference_by_its_own_optimiser():
    method, context = problem(lr_lr=10.0)
    loss = loss_at(method, context)
    value = [float(loss(IMAGES, jnp.float32(0.1 + e))[0]) for e in (-2e-3, 2e-3)]
    slope = (value[1] - value[0]) / 4e-3
    assert float(loss(IMAGES, RATE)[1][1]) == pytest.approx(slope, rel=1e-2)
    _, (before, after), info = one_step(method, context)
    assert float(before.learned["lr"]) == pytest.approx(0.1)
    assert float(after.learned["lr"]) == pytest.approx(0.1 - 10.0 * slope, abs=0.1 * abs(slope))
    assert abs(slope) > 1e-3 and float(info["rate"]) == pytest.approx(0.1)
    kept = positive_rate(after.learned | {"lr": jnp.float32(-0.3)})
    assert float(kept["lr"]) == pytest.approx(1e-6) and kept["images"] is after.learned["images"]


def test_tesla_is_the_gradient_of_the_path_with_constant_iterates():
    """The distance's automatic gradient where every iterate is stopped; MTT's own is another; with N = 1 both agree."""
    exact, context = problem(batch=4)
    start, target = points()[:2]
    mtt, tesla = (loss_at(m, context)(IMAGES, RATE)[1] for m in (exact, problem(TESLA, batch=4)[0]))
    rows = batches(jax.random.split(jax.random.key(6))[0], 6, 4, 3)

    def by_hand(x, rate):
        theta = start
        for index in rows:

            def ce(params, index=index):
                logits = NET.apply(params, {}, x[index], train=True).logits
                return losses.cross_entropy(logits, losses.onehot(LABELS[index], 3))

            slope = jax.grad(ce)(jax.lax.stop_gradient(theta))
            theta = jax.tree.map(lambda p, g: p - rate * g, theta, slope)
        return gradients.l2(theta, target) / gradients.l2(start, target)

    wanted, largest = jax.jit(jax.grad(by_hand, (0, 1)))(IMAGES, RATE), float(jnp.abs(mtt[0]).max())
    np.testing.assert_allclose(tesla[0], wanted[0], rtol=1e-3, atol=1e-5 * largest)
    np.testing.assert_allclose(tesla[1], wanted[1], rtol=1e-4)
    assert float(jnp.abs(tesla[0] - mtt[0]).max()) > 1e-3 * largest
    a, b = (loss_at(problem(kind, inner_steps=1)[0], context)(IMAGES, RATE)[1][0] for kind in (MTT, TESLA))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_closed_backward_pass_is_the_automatic_one_of_a_convolutional_network(monkeypatch):
    """With augmentation, mini-batches and our convolutions: descend's own derivative is that of remat."""
    net = models.build("convnet1-w4", image_shape=(8, 8, 1), classes=3)
    monkeypatch.setattr(methods.Context, "dsa_ops", ("crop", "scale"))
    method, context = problem(net=net, batch=4, dsa=True)
    start, target = (net.init(jax.random.key(k))[0] for k in (2, 3))
    found = loss_at(method, context, target, start)(IMAGES, RATE)
    monkeypatch.setattr("ddjax.methods.mtt.unroll.descend", functools.partial(unroll.descend, keep="remat"))
    wanted = loss_at(method, context, target, start)(IMAGES, RATE)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1][0], wanted[1][0], rtol=1e-3, atol=1e-4 * float(jnp.abs(wanted[1][0]).max()))
    np.testing.assert_allclose(found[1][1], wanted[1][1], rtol=1e-4)


def test_mini_batches_hold_every_image_once_an_epoch_but_the_ragged_rest():
    rows = np.asarray(batches(jax.random.key(0), 10, 3, 7))
    assert rows.shape == (7, 3)
    for epoch in (rows[:3], rows[3:6]):
        assert len(set(epoch.ravel())) == 9
    assert not np.array_equal(rows[:3], rows[3:6])
    assert sorted(np.asarray(batches(jax.random.key(1), 6, 6, 1))[0]) == list(range(6))


def test_learned_labels_are_softmax_targets_that_move():
    """The images' gradient and the logits' are those of the cross-entropy with softmax(logits)."""
    method, context = problem(DATM, label_lr=1.0, inner_steps=1)
    start, target, *_ = points()

    @jax.jit
    @jax.grad
    def by_hand(logits):
        def ce(params):
            said = NET.apply(params, {}, IMAGES, train=True).logits
            return -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(said), axis=1))

        theta = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.grad(ce)(start))
        return gradients.l2(theta, target) / gradients.l2(start, target)

    distiller, (_, after), _ = one_step(method, context)
    np.testing.assert_allclose(after.learned["logits"], LOGITS - by_hand(LOGITS), rtol=1e-5, atol=1e-6)
    made = distiller.extract(after)
    np.testing.assert_array_equal(made.label_logits, after.learned["logits"])
    assert method.label_source == "learned" and method.needs.start_logits and method.needs.start == "experts"


def test_teacher_labels_are_the_targets_logits_and_are_handed_out():
    method, context = problem(TESLA, labels="teacher", inner_steps=1)
    distiller, (_, after), _ = one_step(method, context)
    wanted = NET.apply(points()[1], {}, after.learned["images"], train=True).logits
    np.testing.assert_allclose(distiller.extract(after).label_logits, wanted, rtol=1e-4, atol=1e-5)
    hard = problem(inner_steps=1)[0]
    assert one_step(hard, context)[0].extract(one_step(hard, context)[1][1]).label_logits is None


def test_the_average_of_the_images_is_what_is_handed_out():
    method, context = problem(ema=0.75, inner_steps=1)
    distiller, states, _ = one_step(method, context, steps=2)
    zero, one, two = (s.learned["images"] for s in states)
    wanted = 0.75 * (0.75 * zero + 0.25 * one) + 0.25 * two
    np.testing.assert_allclose(distiller.extract(states[2]).images, wanted, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(two - zero).max()) > 1e-4
    first = jax.jit(distiller.init)(jax.random.key(4), IMAGES + 0.0, LABELS)
    batch = Batch(jnp.int32(0), start=points()[2], target=points()[3])
    jax.jit(distiller.step, donate_argnums=1)(jax.random.key(5), first, batch)  # as the loop does: no buffer twice


def test_above_the_threshold_nothing_moves():
    method, context = problem(threshold=1e-3, inner_steps=1)
    _, (before, after), info = one_step(method, context)
    assert float(info["loss"]) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, before, after)
    _, (before, after), _ = one_step(dataclasses.replace(method, threshold=1e9), context)
    assert not np.array_equal(before.learned["images"], after.learned["images"])


def test_the_published_table_is_what_the_data_set_and_ipc_get():
    def row(kind, card, ipc, *names):
        return tuple(getattr(kind(ipc=ipc).filled(card, ipc), name) for name in names)

    assert row(MTT, "cifar100", 1, "inner_steps", "span", "max_start", "lr", "batch") == (20, 3, 20, 1000.0, 0)
    assert row(MTT, "cifar100", 50, "inner_steps", "span", "max_start", "batch") == (80, 2, 40, 125)
    assert row(MTT, "cifar10", 1, "inner_steps", "span", "max_start", "lr", "lr_lr") == (50, 2, 2, 100.0, 1e-7)
    assert row(TESLA, "cifar10", 1, "inner_steps", "span", "max_start", "gradient") == (50, 2, 5, "detached")
    assert row(TESLA, "cifar10", 1, "lr", "lr_lr", "inner_lr", "batch") == (1000.0, 1e-7, 0.01, 0)
    assert row(TESLA, "cifar100", 50, "inner_steps", "span", "max_start", "lr", "batch") == (80, 2, 40, 1000.0, 125)
    assert row(TESLA, "cifar100", 50, "lr_lr", "inner_lr", "labels") == (1e-5, 0.01, "hard")
    assert row(TESLA, "imagenet", 1, "inner_steps", "span", "max_start", "batch", "lr") == (10, 3, 10, 100, 1e4)
    assert row(TESLA, "imagenet", 1, "labels", "experts", "arch", "lr_lr") == ("teacher", 50, "convnet4", 1e-4)
    assert row(TESLA, "cifar10", 1, "labels", "experts", "steps") == ("hard", 100, 10000)
    assert row(MTT, "imagenet", 1, "labels", "experts", "steps") == ("hard", 100, 5000)
    assert TESLA(labels="hard").filled("imagenet", 1).labels == "hard"
    assert (TESLA().filled("imagenet", 1).learns, TESLA().learns) == (("logits", "lr"), ("lr",))
    assert row(DATM, "imagenet", 1, "labels", "ema") == ("learned", 0.0)
    ranges = ("min_start", "first_max_start", "max_start", "grow", "label_lr", "batch")
    assert row(DATM, "cifar10", 10, *ranges) == (0, 10, 20, 1000, 2.0, 100)
    assert row(DATM, "cifar10", 1000, *ranges) == (40, 0, 60, 0, 10.0, 1000)
    assert row(DATM, "cifar100", 50, *ranges) == (20, 0, 70, 0, 10.0, 1000)
    for kind in (MTT, TESLA, DATM):
        for card in ("digits", "cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagenet", "fashion_mnist"):
            for ipc in (1, 10, 50, 100, 500, 1000):
                found = kind(ipc=ipc).filled(card, ipc)
                assert found.check() == [], (kind, card, ipc)
                assert None not in dataclasses.asdict(found).values()


@pytest.mark.parametrize(
    "fields, wanted",
    [
        (
            {"max_start": 12},
            "method.max_start = 12 is out of range; allowed: <= 11: .*Nearest valid: 11, or --method.expert_epochs 13",
        ),
        ({"min_start": 8}, "method.max_start = 8 .*> min_start = 8.*Nearest valid: 9"),
        ({"grow": 5, "first_max_start": 9}, "method.first_max_start = 9 .*Nearest valid: 8"),
        ({"inner_lr": 0.0}, "method.inner_lr = 0.0 .*> 0"),
        ({"span": 0}, "method.span = 0 .*>= 1"),
        ({"gradient": "none"}, "method.gradient = 'none'.*exact, detached"),
        ({"ema": 1.0}, "method.ema = 1.0 .*>= 0 and < 1.*Nearest valid: 0.9995"),
        ({"labels": "teachers"}, "method.labels = 'teachers'.*Did you mean 'teacher'"),
    ],
)
def test_what_is_out_of_range_is_named(fields, wanted):
    (problem_found,) = MTT(**fields).filled("digits", 1).check()
    assert re.search(wanted, problem_found), problem_found
