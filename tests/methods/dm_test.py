"""DM, IDM and NCFM: the identity with gradient matching, steps written out, the queue of networks, pixel space."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from ddjax import models
from ddjax.kernels import gradients, moments
from ddjax.kernels import labels as losses
from ddjax.mesh import Spread
from ddjax.methods import Context
from ddjax.methods.dm import DM
from ddjax.methods.idm import FIRST, IDM, WINDOW, Queue, fetched, filled, put, started, trained
from ddjax.methods.ncfm import NCFM, adamw_of_pixels
from ddjax.types import Augment, Batch

CLASSES, SHAPE, REAL = 3, (8, 8, 1), 5
LOW, HIGH = (-1.0,), (3.0,)


@functools.cache
def net():
    return models.build("convnet2-w4", image_shape=SHAPE, classes=CLASSES)


def context(ipc: int = 2, factor: int = 1) -> Context:
    return Context(
        net=net(), ipc=ipc, classes=CLASSES, image_shape=SHAPE, low=LOW, high=HIGH, augment=Augment(),
        pool_mean=Spread("scan").mean, factor=factor,
    )  # fmt: skip


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.Generator(np.random.Philox(seed)).normal(size=shape), jnp.float32)


def batch(step: int = 0, images: jax.Array | None = None, **more) -> Batch:
    images = draw(CLASSES, REAL, *SHAPE, seed=1) if images is None else images
    return Batch(jnp.int32(step), images=images, **more)


def fresh(method, ipc: int = 2, factor: int = 1, images: jax.Array | None = None):
    """Distiller and first state on ``ipc`` images a class."""
    distiller = method.build(context(ipc, factor))
    images = draw(CLASSES * ipc, *SHAPE, seed=2) if images is None else images
    labels = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), ipc)
    return distiller._replace(step=jax.jit(distiller.step)), distiller.init(jax.random.key(0), images, labels)


def features(weights, x):
    return net().apply(*weights, x, train=False).features


# ---------------------------------------------------------------------------------------------- DM

PLAIN = DM(ipc=2, arch="convnet2-w4", steps=3, lr=0.5, real_batch=REAL, dsa=False)


def head_gradient(weights, x, label: int):
    params, state = weights

    def loss(kernel):
        moved = params | {"head": params["head"] | {"kernel": kernel}}
        logits = net().apply(moved, state, x, train=False).logits
        return losses.cross_entropy(logits, losses.onehot(jnp.full(x.shape[:1], label), CLASSES))

    return jax.grad(loss)(params["head"]["kernel"])


@pytest.mark.parametrize("label", range(CLASSES))
def test_dm_is_last_layer_gradient_matching_where_the_head_says_nothing(label):
    params, state = net().init(jax.random.key(3))
    nothing = params | {"head": jax.tree.map(jnp.zeros_like, params["head"])}
    real, made = draw(7, *SHAPE), draw(4, *SHAPE, seed=5)
    gap = moments.mean_gap(features((params, state), real), features((params, state), made))
    # at W = 0 the gradient is mean[(1/C - e_y) f^T], so its distance is |1/C - e_y|^2 = 1 - 1/C times that of the means
    distance = gradients.l2(*(head_gradient((nothing, state), x, label) for x in (real, made)))
    np.testing.assert_allclose(distance, (1 - 1 / CLASSES) * gap, rtol=1e-4)
    loud = params | {"head": jax.tree.map(lambda a: 20 * a, params["head"])}
    distance = gradients.l2(*(head_gradient((loud, state), x, label) for x in (real, made)))
    assert abs(float(distance) / float((1 - 1 / CLASSES) * gap) - 1) > 0.01  # away from that limit it is not


def test_a_step_of_dm_written_out():
    distiller, state = fresh(PLAIN)
    key, fed = jax.random.key(4), batch()
    weights = net().init(jax.random.split(key, 3)[0])

    def loss(images):
        made = images.reshape(CLASSES, 2, *SHAPE)
        return sum(
            jnp.sum((features(weights, fed.images[c]).mean(axis=0) - features(weights, made[c]).mean(axis=0)) ** 2)
            for c in range(CLASSES)
        )

    first = state.learned["images"]
    value, slope = jax.value_and_grad(loss)(first)
    state, info = distiller.step(key, state, fed)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-4)
    np.testing.assert_allclose(state.learned["images"], first - 0.5 * slope, atol=1e-5)


def test_both_sides_of_a_class_are_augmented_alike():
    """Images that are the real ones stay at no distance under every draw; with draws of their own they would not."""
    method, real = dataclasses.replace(PLAIN, ipc=REAL, dsa=True), draw(CLASSES, REAL, *SHAPE, seed=1)
    distiller, state = fresh(method, REAL, images=real.reshape(-1, *SHAPE))

    def loss(seed: int, images: jax.Array) -> float:
        return float(distiller.step(jax.random.key(seed), state, batch(images=images))[1]["loss"])

    assert max(loss(i, real) for i in range(12)) < 1e-9
    other = draw(CLASSES, REAL, *SHAPE, seed=8)
    assert loss(0, other) != loss(1, other)


def test_real_images_in_parts_change_nothing(monkeypatch):
    distiller, state = fresh(PLAIN)
    whole = distiller.step(jax.random.key(4), state, batch())[0].learned["images"]
    monkeypatch.setattr(moments, "at_once", lambda shape, backend: 2)
    parts = distiller.step(jax.random.key(4), state, batch())[0].learned["images"]
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_published_defaults():
    assert DM().filled("cifar10", 10).lr == 1.0
    assert DM().filled("cifar10", 100).lr == 10.0
    idm = IDM().filled("cifar100", 10)
    assert (idm.factor, idm.lr, idm.ce, idm.train_steps, idm.fresh_every, idm.real_batch) == (2, 0.2, 0.1, 50, 30, 256)
    idm = IDM().filled("cifar10", 1)
    assert (idm.ce, idm.train_steps, idm.fresh_every, idm.real_batch, idm.needs.also) == (0.5, 10, 5, 5000, 5120)
    told = [IDM().filled("imagenette", ipc) for ipc in (1, 10, 50)]
    assert [(idm.nets, idm.factor) for idm in told] == [(50, 2), (50, 2), (100, 1)]
    assert {(idm.arch, idm.ce, idm.fresh_every, idm.train_batch) for idm in told} == {("convnet6", 3.0, 50, 128)}
    needs = NCFM().filled("cifar10", 10).needs
    assert (needs.real_batch, needs.experts.count, needs.experts.span, needs.experts.high) == (1024, 20, 60, 1)
    assert NCFM(nets=0).filled("cifar10", 10).needs.experts is None


def test_bad_values_are_named():
    told = IDM(nets=1, ce=-1.0, train_nets=0, net_lr=0.0, lr=0.0).filled("cifar10", 1).check()
    for name in ("nets", "ce", "train_nets", "net_lr", "lr"):
        assert any(f"method.{name} " in line for line in told), name
    told = NCFM(amplitude=2.0, lr=0.0, frequencies=0, nets=-1).filled("cifar10", 1).check()
    for name in ("amplitude", "lr", "frequencies", "nets"):
        assert any(f"method.{name} " in line for line in told), name


# --------------------------------------------------------------------------------------------- IDM

QUEUE = IDM(
    ipc=2, factor=1, arch="convnet2-w4", steps=3, lr=0.5, real_batch=REAL, dsa=False, ce=0.5, nets=5, fresh_every=2,
    train_nets=2, train_steps=3, train_batch=4,
)  # fmt: skip


@functools.cache
def queue() -> Queue:
    """A full queue, each network with counts of its own."""
    params, state = jax.vmap(net().init)(jax.random.split(jax.random.key(9), 5))
    right, seen = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]), jnp.full(5, 10.0)
    return Queue(params, state, jax.tree.map(jnp.zeros_like, params), right, seen)


@jax.jit
def fetch(key, step, kept):
    return fetched(QUEUE, net(), key, step, kept, batch())


def more(count: int = 24) -> dict:
    labels = jnp.asarray(np.arange(count) % CLASSES, jnp.int32)
    return {"more": draw(count, *SHAPE, seed=6), "more_labels": labels}


def weights_of(queue: Queue) -> np.ndarray:
    return np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(queue.params))


def test_fresh_networks_take_the_places_in_turn_and_the_oldest_leaves():
    kept = started(net(), jax.random.key(1), QUEUE.nets)
    assert (np.abs(weights_of(kept)).sum(axis=1) > 0).tolist() == [True] * FIRST + [False] * 2
    places = []
    for step in range(8):
        after, _ = fetch(jax.random.key(step), jnp.int32(step), kept)
        changed = np.flatnonzero((weights_of(after) != weights_of(kept)).any(axis=1))
        places.append(changed.tolist())
        assert int(filled(QUEUE, jnp.int32(step))) == min(5, 4 + step // 2)
        kept = after
    assert places == [[3], [], [4], [], [0], [], [1], []]


def test_the_network_drawn_is_one_of_the_queue_and_brings_its_accuracy():
    rows, drawn = weights_of(queue()), set()
    for step in range(1, 30, 2):
        _, (params, _, accuracy) = fetch(jax.random.key(step), jnp.int32(step), queue())
        place = int(np.flatnonzero((rows == np.asarray(ravel_pytree(params)[0])).all(axis=1))[0])
        np.testing.assert_allclose(accuracy, (place + 1) / 10)
        drawn.add(place)
    assert len(drawn) > 2


def test_accuracies_are_counted_anew_now_and_then():
    kept, (_, _, accuracy) = fetch(jax.random.key(0), jnp.int32(WINDOW), queue())
    assert float(accuracy) == 0.0 and not np.asarray(kept.right).any() and not np.asarray(kept.seen).any()


def test_the_class_term_is_weighed_by_the_accuracy_in_percent():
    distiller, state = fresh(QUEUE)
    key, fed = jax.random.key(5), batch(1, **more())
    state = state._replace(network=queue())
    for_net = jax.random.split(key, 3)[0]
    _, (params, inner, accuracy) = fetch(for_net, jnp.int32(1), queue())
    made, wanted = state.learned["images"].reshape(CLASSES, 2, *SHAPE), 0.0
    for c in range(CLASSES):
        logits = net().apply(params, inner, made[c], train=False).logits
        ce = -jax.nn.log_softmax(logits)[:, c].mean()
        weights = (params, inner)
        wanted += moments.mean_gap(features(weights, fed.images[c]), features(weights, made[c]))
        wanted += 0.5 * 100 * accuracy * ce
    info = distiller.step(key, state, fed)[1]
    np.testing.assert_allclose(info["loss"], wanted, rtol=1e-4)
    np.testing.assert_allclose(info["net_accuracy"], accuracy)


@pytest.mark.parametrize("images", [24, 10])  # as many as are asked for, and fewer: taken again from the first on
def test_two_networks_train_and_the_others_stay(images):
    fed = batch(3, **more(images))
    after = jax.jit(lambda key, fed: trained(QUEUE, net(), key, jnp.int32(3), queue(), None, fed))(
        jax.random.key(2), fed
    )
    changed = np.flatnonzero((weights_of(after) != weights_of(queue())).any(axis=1))
    assert len(changed) == 2
    np.testing.assert_allclose(np.asarray(after.seen - queue().seen)[changed], 12.0)
    assert not np.asarray(after.seen - queue().seen)[np.setdiff1d(np.arange(5), changed)].any()
    rows = np.arange(24) % images
    found = []
    for place in changed:  # by optax, in either order
        for part in (rows[:12], rows[12:]):
            params, state = (jax.tree.map(lambda a, i=place: a[i], tree) for tree in (queue().params, queue().state))
            sgd = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, 0.9))
            held, right = sgd.init(params), 0
            for at in part.reshape(3, 4):

                def loss(p, at=at, state=state):
                    logits = net().apply(p, state, fed.more[at], train=True).logits
                    return losses.cross_entropy(logits, losses.onehot(fed.more_labels[at], CLASSES)), logits

                slope, logits = jax.grad(loss, has_aux=True)(params)
                right += int(losses.correct(logits, fed.more_labels[at]))
                moves, held = sgd.update(slope, held, params)
                params = optax.apply_updates(params, moves)
            same = np.allclose(weights_of(after)[place], ravel_pytree(params)[0], atol=1e-6)
            found.append(same and float(after.right[place] - queue().right[place]) == right)
    assert sum(found) == 2


def test_put_changes_one_place():
    one = jax.tree.map(lambda a: a[0] + 1, queue())
    after = put(queue(), jnp.int32(3), one)
    assert np.array_equal(after.right, [1.0, 2.0, 3.0, 2.0, 5.0])


def test_images_for_training_are_asked_for():
    with pytest.raises(ValueError, match=r"Batch\.more"):
        trained(QUEUE, net(), jax.random.key(2), jnp.int32(3), queue(), None, batch())


# -------------------------------------------------------------------------------------------- NCFM

CF = NCFM(
    ipc=2, factor=2, arch="convnet2-w4", steps=3, weight_decay=0.01, real_batch=REAL, frequencies=8, nets=2, epochs=1
)


def test_adamw_of_pixels_is_adamw_on_pixels():
    low, high = jnp.full((1, 1, 1, 1), -1.0), jnp.full((1, 1, 1, 1), 3.0)
    pixels = jax.nn.sigmoid(draw(2, *SHAPE))
    images = pixels * 4.0 - 1.0
    ours, theirs = adamw_of_pixels(0.1, 0.05, low, high), optax.adamw(0.1, weight_decay=0.05)
    held, kept = ours.init(images), theirs.init(pixels)
    for i in range(3):
        slope = draw(2, *SHAPE, seed=i)  # of the loss in normalised space; in pixels it is four times that
        moves, held = ours.update(slope, held, images)
        images = optax.apply_updates(images, moves)
        moves, kept = theirs.update(4.0 * slope, kept, pixels)
        pixels = optax.apply_updates(pixels, moves)
    np.testing.assert_allclose(images, pixels * 4.0 - 1.0, atol=1e-5)


def test_a_step_of_ncfm_between_the_first_and_the_last_weights():
    distiller, state = fresh(CF, factor=2)
    first, last = (ravel_pytree(net().init(jax.random.key(i))[0])[0] for i in (1, 2))

    def step(key, first, last):
        return distiller.step(key, state, batch(start=first, target=last))

    after, info = step(jax.random.key(0), first, last)
    assert after.learned["images"].shape == (CLASSES * 2, *SHAPE)
    assert float(after.learned["images"].min()) >= -1.0 and float(after.learned["images"].max()) <= 3.0
    same = step(jax.random.key(0), last, last)[1]["loss"]  # elsewhere on the line: another distance
    assert abs(float(info["loss"]) - float(same)) > 1e-4
    zero = step(jax.random.key(0), jnp.zeros_like(first), jnp.zeros_like(first))[1]["loss"]
    np.testing.assert_allclose(zero, CLASSES * np.log(CLASSES), atol=0.01)  # nothing to tell apart; CE of no opinion


def test_without_networks_fresh_ones_are_drawn_and_nothing_is_calibrated():
    distiller, state = fresh(dataclasses.replace(CF, nets=0), factor=2)
    seen = [float(distiller.step(jax.random.key(i), state, batch())[1]["loss"]) for i in range(2)]
    assert seen[0] != seen[1] and np.isfinite(seen).all()
