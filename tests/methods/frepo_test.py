"""Kernel regression methods: a step against one written out, the pool's life, what is stored and what it means."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddjax import models
from ddjax.kernels import krr, ntk
from ddjax.kernels import labels as losses
from ddjax.mesh import Spread
from ddjax.methods import frepo, kip, rfad
from ddjax.methods.base import Context
from ddjax.types import Augment, Batch

CLASSES, SHAPE = 3, (8, 8, 1)
LABELS = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), 2)
IMAGES = jax.random.normal(jax.random.key(3), (2 * CLASSES, *SHAPE))
REAL = jax.random.normal(jax.random.key(4), (9, *SHAPE))
CLASS = jnp.array([0, 1, 2, 0, 1, 2, 0, 1, 2], jnp.int32)


@functools.cache
def net(arch: str):
    return models.build(arch, image_shape=SHAPE, classes=CLASSES)


def context(arch: str, devices: int = 1) -> Context:
    return Context(
        net=net(arch), ipc=2, classes=CLASSES, image_shape=SHAPE, low=(-2.0,), high=(2.0,), augment=Augment(),
        pool_mean=Spread("scan", devices).mean,
    )  # fmt: skip


@functools.cache
def online():
    """FRePo on a pool of three networks with batch norm, its first state and its compiled step."""
    method = frepo.FRePo(
        ipc=2, steps=100, lr=0.01, real_batch=9, nets=3, age=4, online_lr=0.01, online_batch=4, flip=True
    )
    distiller = method.build(context("convnet1-w4-batch"))
    state = jax.jit(distiller.init)(jax.random.key(0), IMAGES, LABELS)
    step = jax.jit(lambda key, s: distiller.step(key, s, Batch(jnp.int32(0), REAL, CLASS)))
    return method, distiller, state, step


@pytest.mark.parametrize(
    ("card", "flips"),
    [("cifar10", (True, True)), ("imagenette", (True, True)), ("svhn", (True, True)), ("photos", (True, True)),
     ("mnist", (False, False)), ("fashion_mnist", (False, False)), ("imagenet", (False, False)),
     ("digits", (False, False)), ("cifar100", (True, False)), ("tiny_imagenet", (True, False))],
)  # fmt: skip
def test_mirrored_images_are_regressed_on_where_the_release_does(card, flips):
    assert tuple(frepo.FRePo().filled(card, ipc).flip for ipc in (1, 10)) == flips


def test_labels_start_centred_and_scaled_by_the_number_of_classes():
    _, distiller, state, _ = online()
    scale = math.sqrt(CLASSES / 10)
    np.testing.assert_allclose(state.learned["logits"][2], np.array([-1 / 3, 2 / 3, -1 / 3]) / scale, rtol=1e-6)
    np.testing.assert_array_equal(state.learned["images"], IMAGES)
    np.testing.assert_array_equal(state.network.age, [0, 1, 2])  # staggered: age // nets apart
    made = distiller.extract(state)
    np.testing.assert_array_equal(made.label_logits, state.learned["logits"])  # stored as learned


def test_a_step_is_the_regression_and_lamb_written_out():
    method, _, state, step = online()
    after, info = step(jax.random.key(7), state)
    picked = int(after.network.picked)
    params, running = jax.tree.map(lambda a: a[picked], (state.network.params, state.network.state))
    apply = net("convnet1-w4-batch").apply

    def loss(learned):
        x, y = learned["images"], learned["logits"]
        phi = apply(params, running, jnp.concatenate([x, jnp.flip(x, axis=-2)]), train=False).features
        real = apply(params, running, REAL, train=False).features
        gram = phi @ phi.T
        system = gram + 1e-3 * jnp.trace(gram) / 12 * jnp.eye(12)
        found = real @ phi.T @ jnp.linalg.solve(system, jnp.concatenate([y, y]))
        top = jnp.sort(y, axis=1)
        term = -jnp.mean(jnp.minimum(top[:, -1] - top[:, -2], 1 / 3))
        return 0.5 * jnp.mean(jnp.sum((found - (jnp.eye(3)[CLASS] - 1 / 3)) ** 2, axis=1)) + term, term

    ours = frepo.FRePo(**{**method.__dict__, "ridge": 1e-3}).build(context("convnet1-w4-batch"))
    after, info = jax.jit(lambda s: ours.step(jax.random.key(7), s, Batch(jnp.int32(0), REAL, CLASS)))(state)
    (value, term), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.learned)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-3)
    np.testing.assert_allclose(info["regression"], value - term, rtol=1e-3)
    lamb = optax.lamb(0.01)
    moves, _ = lamb.update(slope, lamb.init(state.learned), state.learned)
    for name in ("images", "logits"):
        moved = after.learned[name] - state.learned[name]
        np.testing.assert_allclose(moved, moves[name], atol=0.02 * float(jnp.abs(moves[name]).max()))
        length = jnp.linalg.norm(moved) / jnp.linalg.norm(state.learned[name])  # LAMB's trust: lr times its own norm
        np.testing.assert_allclose(length, 0.01, rtol=1e-3)


def test_the_pool_trains_the_picked_network_alone_and_redraws_it_when_it_is_old():
    method, _, state, step = online()
    redrawn = 0
    for i in range(30):
        before, (state, _) = state.network, step(jax.random.key(i), state)
        now, picked = state.network, int(state.network.picked)
        for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(now.params), strict=True):
            others = np.arange(3) != picked
            np.testing.assert_array_equal(a[others], b[others])
        assert any(np.any(a[picked] != b[picked]) for a, b in
                   zip(jax.tree.leaves(before.params), jax.tree.leaves(now.params), strict=True))  # fmt: skip
        old = int(before.age[picked])
        assert int(now.age[picked]) == (0 if old > method.age else old + 1)
        if old > method.age:
            redrawn += 1
            assert all(not np.any(leaf[picked]) for leaf in jax.tree.leaves(now.optimiser))
            running = now.state["block0"]["norm"]
            np.testing.assert_array_equal(running["mean"][picked], 0)
    assert redrawn >= 2


def test_an_online_step_moves_running_statistics_by_nine_tenths():
    method, _, state, _ = online()
    kept, apply = state.network._replace(picked=jnp.int32(1)), net("convnet1-w4-batch").apply
    seen = frepo.Seen(IMAGES[:4], LABELS[:4], state.learned["logits"][:4], state.learned)
    adam = optax.adam(method.online_lr)
    now = jax.jit(lambda k: frepo.grown(method, context("convnet1-w4-batch"), adam, jax.random.key(0), k, seen))(kept)
    params, running = jax.tree.map(lambda a: a[1], (kept.params, kept.state))
    taps = apply(params, running, IMAGES[:4], train=True, taps=True).taps["block0/norm"]
    exact = 0.1 * running["block0"]["norm"]["mean"] + 0.9 * taps.mean((0, 1, 2))
    np.testing.assert_allclose(now.state["block0"]["norm"]["mean"][1], exact, rtol=1e-4, atol=1e-6)


def test_the_margin_term_at_hand_made_labels():
    rows = jnp.array([[0.9, 0.1, -0.2], [0.5, 0.4, 0.0], [0.3, 0.3, 0.1]])
    np.testing.assert_allclose(frepo.margin(rows), -(1 / 3 + 0.1 + 0.0) / 3, rtol=1e-5)


def test_float32_regression_gives_the_same_step_as_float64():
    """The route of a backend without float64, at lambda = 1e-6."""
    phi = jax.nn.relu(jax.random.normal(jax.random.key(1), (20, 48)) + 1)
    real = jax.nn.relu(jax.random.normal(jax.random.key(2), (30, 48)) + 1)
    rows, wanted = jax.random.normal(jax.random.key(3), (20, 3)), jax.random.normal(jax.random.key(4), (30, 3))
    fn = functools.partial(frepo.regression, ridge=1e-6)
    wide, narrow = (jax.jit(jax.value_and_grad(krr.in_double(fn, how), (0, 1)))(phi, rows, real, wanted)
                    for how in ("float64", "float32"))  # fmt: skip
    scale = [float(jnp.abs(a).max()) for a in jax.tree.leaves(wide)]
    for a, b, s in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), scale, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * s)


def test_what_is_stored_means_the_same_to_a_regression_and_to_cross_entropy():
    """Cross-entropy with softmax(Y) is least at logits Y + const; near 0 its gradient is the regression's over C."""
    target = 0.01 * (jax.random.normal(jax.random.key(0), (5, CLASSES)))
    target -= target.mean(axis=1, keepdims=True)

    def gap(logits):
        return 5 * losses.cross_entropy(logits, jax.nn.softmax(target))

    np.testing.assert_allclose(jax.grad(gap)(target + 3.0), 0, atol=1e-6)
    guess = target + 0.02 * krr.centred(jnp.arange(5) % CLASSES, CLASSES)
    np.testing.assert_allclose(jax.grad(gap)(guess), (guess - target) / CLASSES, rtol=0.05, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ KIP, RFAD


def test_kips_loss_is_the_kernels_regression_in_numpy():
    method = kip.KIP(ipc=2, steps=5, real_batch=3, depth=2)
    distiller = method.build(context("convnet1-w4"))
    state = jax.jit(distiller.init)(jax.random.key(0), IMAGES, LABELS)
    by_class = Batch(
        jnp.int32(0), REAL.reshape(3, 3, *SHAPE), jnp.arange(3, dtype=jnp.int32)[:, None] * jnp.ones((1, 3), jnp.int32)
    )
    step = jax.jit(lambda s: distiller.step(jax.random.key(1), s, by_class))
    after, info = step(state)
    with jax.enable_x64(True):
        x, z = (jnp.asarray(a.reshape(len(a), -1), jnp.float64) for a in (np.asarray(IMAGES), np.asarray(REAL)))
        gram, across = (np.asarray(a) for a in jax.jit(lambda x, z: (ntk.gram(x, 2), ntk.kernel(z, x, 2)))(x, z))
    rows = np.eye(3)[np.asarray(LABELS)] - 1 / 3
    found = across @ np.linalg.solve(gram + 1e-6 * np.trace(gram) / 6 * np.eye(6), rows)
    wanted = np.eye(3)[np.repeat(np.arange(3), 3)] - 1 / 3
    np.testing.assert_allclose(info["loss"], 0.5 * ((found - wanted) ** 2).mean(), rtol=1e-5)
    assert np.any(after.learned["logits"] != state.learned["logits"])
    fixed = kip.KIP(ipc=2, steps=5, real_batch=3, learn_labels=False)
    assert (fixed.learns, fixed.label_source, method.label_source) == ((), "hard", "learned")
    state = jax.eval_shape(fixed.build(context("convnet1-w4")).init, jax.random.key(0), IMAGES, LABELS)
    assert set(state.learned) == {"images"}


def test_random_features_are_drawn_as_published_and_their_kernel_is_the_mean_over_networks():
    wide = net("convnet2-w64-none")
    params, _ = jax.jit(lambda k: rfad.drawn(wide, k))(jax.random.key(0))
    kernel = params["block1"]["conv"]["kernel"]  # 3 x 3 x 64 -> 64
    np.testing.assert_allclose(jnp.var(kernel), 2 / (9 * 64), rtol=0.02)
    np.testing.assert_allclose(jnp.std(params["block1"]["conv"]["bias"]), 0.1, rtol=0.3)
    small = net("convnet1-w4-none")
    gram, across = jax.jit(lambda k: rfad.kernels(small, k, IMAGES, REAL, 3))(jax.random.key(1))
    own, other = (small.apply(*rfad.drawn(small, jax.random.key(1)), x, train=False).features for x in (IMAGES, REAL))
    np.testing.assert_allclose(gram, 2 * own @ own.T / own.shape[1] + 0.01, rtol=1e-4)
    np.testing.assert_allclose(across, 2 * other @ own.T / own.shape[1] + 0.01, rtol=1e-4)


def test_rfad_stores_images_through_the_map_and_labels_at_platts_scale():
    method = rfad.RFAD(ipc=2, steps=5, lr=0.01, map_lr=0.01, nets=2, real_batch=9, chunk=4)
    distiller = method.build(context("convnet1-w4-none"))
    state = jax.jit(distiller.init)(jax.random.key(0), IMAGES, LABELS)
    made = distiller.extract(state)
    np.testing.assert_allclose(made.images, IMAGES, rtol=1e-6)  # the map starts as the identity, k as 0
    np.testing.assert_allclose(made.label_logits, krr.centred(LABELS, CLASSES), rtol=1e-6)
    step = jax.jit(lambda key, s: distiller.step(key, s, Batch(jnp.int32(0), REAL, CLASS)))
    for i in range(3):
        state, _ = step(jax.random.key(i), state)
    learned, made = state.learned, distiller.extract(state)
    assert np.any(learned["map"] != np.eye(64)) and float(learned["platt"]) != 0
    np.testing.assert_array_equal(learned["rows"], krr.centred(LABELS, CLASSES))  # labels are not learned by default
    np.testing.assert_allclose(made.images.reshape(6, -1), learned["images"].reshape(6, -1) @ learned["map"], rtol=1e-5)
    np.testing.assert_allclose(made.label_logits, jnp.exp(learned["platt"]) * learned["rows"], rtol=1e-6)
    plain = rfad.RFAD(platt=False)
    assert (plain.learns, plain.label_source, method.label_source) == ((), "hard", "learned")


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (frepo.FRePo(nets=0), "method.nets = 0"),
        (frepo.FRePo(ridge=0.0), "method.ridge = 0.0"),
        (frepo.FRePo(precision="float16"), "method.precision"),
        (kip.KIP(depth=0), "method.depth = 0"),
        (rfad.RFAD(map_lr=-1.0), "method.map_lr = -1.0"),
    ],
)
def test_bad_hyper_parameters_are_named(method, named):
    problems = method.check()
    assert len(problems) == 1 and problems[0].startswith(named)
