"""IDC: the turns of the classes in closed form, convolutions only, the cut to [0, 1], the network's training."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import models, selection
from ddjax.config import Run
from ddjax.errors import ConfigError
from ddjax.mesh import Spread
from ddjax.methods import IDC, Context
from ddjax.methods.idc import alike, optimiser, trained, turns
from ddjax.types import Augment, Batch, Net, Outputs

CLASSES, SHAPE = 3, (8, 8, 1)
SMALL = dict(
    steps=2, inner=2, lr=1.0, lr_side=8, distance="mse", ops=(), cutmix=0.0, net_images=4, net_batch=2, factor=1,
    arch="convnet1-w4", real_batch=64, net_lr=0.01, net_decay=5e-4,
)  # fmt: skip


def context(net, ipc=2, factor=1, shape=SHAPE):
    return Context(
        net=net, ipc=ipc, classes=CLASSES, image_shape=shape, low=(-1.0,) * shape[2], high=(3.0,) * shape[2],
        augment=Augment(), pool_mean=Spread("scan").mean, factor=factor,
    )  # fmt: skip


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def first_steps(method, net, count=1, start=None):
    """The problem's real images, every state, every loss."""
    distiller = method.build(context(net, factor=method.factor))
    real, more = normal(0, CLASSES, 4, *SHAPE), normal(3, 4, *SHAPE)
    start = normal(1, CLASSES * 2, *SHAPE) if start is None else start
    labels = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), 2)
    state = distiller.init(jax.random.key(0), start, labels)
    batch = Batch(jnp.int32(0), images=real, more=more, more_labels=jnp.asarray([0, 1, 2, 0], jnp.int32))
    step = jax.jit(lambda key, state, i: distiller.step(key, state, batch._replace(step=i)))
    states, losses = [state], []
    for i in range(count):
        state, info = step(jax.random.key(i), state, jnp.int32(i))
        states.append(state)
        losses.append(float(info["loss"]))
    return batch, states, losses


def test_the_turns_of_the_classes_are_one_step_with_the_momentum_of_all():
    """The released loop: one buffer over the whole set, a step for each class, the others coast. Pixels in [0, 1]."""
    method, ipc, std = IDC(ipc=4, **SMALL | {"lr": 0.05, "lr_side": 16}), 4, 0.25  # high - low = 4 = 1 / std
    rate, m = 0.05 * (ipc / 10) * (8 / 16) ** 2, 0.5
    rng = np.random.default_rng(0)
    pixels, goal = rng.uniform(size=(CLASSES, 2)), rng.uniform(size=(CLASSES, 2))
    buffer, at_turn = np.zeros_like(pixels), []
    x = pixels.copy()
    for _ in range(6):
        at_turn.append(np.zeros_like(x))
        for c in range(CLASSES):
            at_turn[-1][c] = x[c]
            slope = np.zeros_like(x)
            slope[c] = 8 * (x[c] - goal[c])
            buffer = m * buffer + slope
            x = x - rate * buffer
    sgd = optimiser(method, context(None, ipc=4))
    ours = jnp.asarray(((pixels - 0.25) / std)[:, :, None, None], jnp.float32)
    held = sgd.init({"images": ours})
    for seen in at_turn:
        now = np.asarray(ours[..., 0, 0]) * std + 0.25
        np.testing.assert_allclose(now, seen, atol=1e-5)
        slope = jnp.asarray((8 * (now - goal) * std)[:, :, None, None], jnp.float32)
        moves, held = sgd.update({"images": slope}, held)
        ours = ours + moves["images"]
    assert np.abs(at_turn[-1] - at_turn[0]).max() > 0.05


def test_the_loss_is_of_convolutions_alone_summed_over_classes():
    net = models.build("convnet1-w4", image_shape=SHAPE, classes=CLASSES)
    for distance in ("mse", "l1"):
        batch, states, losses = first_steps(IDC(**SMALL | {"distance": distance}), net)
        key = jax.random.split(jax.random.key(0), 3)[0]
        params, state = net.init(key)

        @jax.jit
        def slope(x, label, params=params, state=state):
            def loss(params):
                return -jax.nn.log_softmax(net.apply(params, state, x, train=False).logits)[:, label].mean()

            return jax.grad(loss)(params)

        expected, images = 0.0, states[0].learned["images"].reshape(CLASSES, 2, *SHAPE)
        for c in range(CLASSES):
            a, b = slope(batch.images[c], c), slope(images[c], c)
            for block in ("block0",):
                gap = np.asarray(a[block]["conv"]["kernel"] - b[block]["conv"]["kernel"], np.float64)
                expected += np.sum(gap**2) if distance == "mse" else np.sum(np.abs(gap))
        np.testing.assert_allclose(losses[0], expected, rtol=1e-4)


def test_pixels_are_cut_where_a_network_ends():
    net = models.build("convnet1-w4", image_shape=SHAPE, classes=CLASSES)
    start = normal(1, CLASSES * 2, *SHAPE).at[0].add(10.0)
    _, states, _ = first_steps(IDC(**SMALL), net, 2, start)
    first, second = (np.asarray(state.learned["images"]) for state in states[1:])
    assert first.max() > 3 and first.min() < -1
    assert second.max() == 3 and second.min() >= -1


def test_a_canvas_of_tiles_is_what_is_learned_and_at_most_so_many_are_seen():
    net = models.build("convnet1-w4", image_shape=SHAPE, classes=CLASSES)
    _, states, _ = first_steps(IDC(**SMALL | {"factor": 2}), net)
    moved = np.asarray(states[1].learned["images"] - states[0].learned["images"])
    assert moved.shape == (CLASSES * 2, *SHAPE)
    tiles = np.abs(moved).reshape(CLASSES * 2, 2, 4, 2, 4).max(axis=(2, 4))
    assert (tiles > 0).all()
    _, states, _ = first_steps(IDC(**SMALL | {"factor": 2, "most": 1}), net)
    moved = np.asarray(states[1].learned["images"] - states[0].learned["images"])
    tiles = np.abs(moved).reshape(CLASSES, 2, 2, 4, 2, 4).max(axis=(3, 5)) > 0
    assert tiles.sum(axis=(1, 2, 3)).tolist() == [1, 1, 1]  # one tile of one canvas of each class


def linear() -> Net:
    """Logits x w + b, drawn from a normal law."""

    def init(key):
        return {"w": jax.random.normal(key, (4, CLASSES)), "b": jnp.zeros((CLASSES,))}, {}

    def apply(params, state, x, *, train, key=None, taps=False):
        flat = x.reshape(x.shape[0], -1)
        return Outputs(flat @ params["w"] + params["b"][None], flat, {}, state)

    return Net("linear", init, apply, lambda state: {}, (2, 2, 1), CLASSES)


def test_the_network_is_trained_on_real_images_with_momentum_and_decay():
    net, x, labels = linear(), normal(0, 4, 2, 2, 1), np.array([0, 1, 2, 0])
    method = IDC(**SMALL | {"net_batch": 2, "net_lr": 0.1, "net_momentum": 0.9, "net_decay": 0.05})
    params, state = net.init(jax.random.key(0))
    kept = (params, state, jax.tree.map(jnp.ones_like, params))
    batch = Batch(jnp.int32(0), more=x, more_labels=jnp.asarray(labels, jnp.int32))
    step = jax.jit(lambda more: trained(method, context(net, shape=(2, 2, 1)), jax.random.key(1), kept, batch, more))
    w, b = np.asarray(params["w"], np.float64), np.asarray(params["b"], np.float64)
    mw, mb = np.ones_like(w), np.ones_like(b)
    for rows in (slice(0, 2), slice(2, 4)):
        flat, y = np.asarray(x, np.float64).reshape(4, -1)[rows], np.eye(CLASSES)[labels[rows]]
        scores = np.exp(flat @ w + b)
        gap = (scores / scores.sum(1, keepdims=True) - y) / 2
        mw, mb = 0.9 * mw + flat.T @ gap + 0.05 * w, 0.9 * mb + gap.sum(0) + 0.05 * b
        w, b = w - 0.1 * mw, b - 0.1 * mb
    found = step(jnp.bool_(True))
    np.testing.assert_allclose(found[0]["w"], w, atol=1e-5)
    np.testing.assert_allclose(found[0]["b"], b, atol=1e-5)
    np.testing.assert_allclose(found[2]["w"], mw, atol=1e-5)
    assert np.array_equal(step(jnp.bool_(False))[0]["w"], params["w"])


def test_the_ops_come_in_the_released_order_and_alike_for_all():
    assert turns(("color", "crop", "cutout")) == [("color",), ("crop",), ("cutout",)]
    assert turns(("cutout", "scale", "crop", "flip", "color")) == [
        ("flip",), ("color",), ("scale", "crop"), ("cutout",)
    ]  # fmt: skip
    assert turns(("color", "crop", "cutout"), cutout=False) == [("color",), ("crop",)]
    image = normal(0, 1, 8, 8, 1)
    a, b = jax.jit(lambda key: alike(key, ("color", "crop", "cutout"), image.repeat(3, 0), image.repeat(2, 0)))(
        jax.random.key(4)
    )
    assert all(np.array_equal(one, a[0]) for one in (*a, *b))
    assert not np.array_equal(a[0], image[0])
    assert (np.asarray(a[0]) == 0).sum() >= 4  # the cutout is last: no colour on its zeros


@pytest.mark.parametrize(
    ("card", "ipc", "rate", "distance"),
    [("cifar10", 10, 5e-3, "mse"), ("cifar10", 50, 2.5e-2, "mse"), ("fashion_mnist", 10, 1e-4 * (28 / 32) ** 2, "l1"),
     ("mnist", 1, 1e-5, "l1"), ("svhn", 1, 5e-4, "mse")],
)  # fmt: skip
def test_the_published_rates(card, ipc, rate, distance):
    side = 28 if "mnist" in card else 32
    method = IDC(ipc=ipc).filled(card, ipc)
    problem = context(None, ipc=ipc, shape=(side, side, 1))._replace(low=(0.0,), high=(1.0,), classes=1)
    sgd = optimiser(method, problem)  # one class: no coasting
    images = {"images": jnp.ones((1, 1, 1, 1))}
    moves = sgd.update(images, sgd.init(images))[0]["images"]
    np.testing.assert_allclose(-moves.ravel(), rate, rtol=1e-5)
    assert (method.distance, method.factor, method.inner, method.steps) == (distance, 2, 100, 2000)
    assert method.needs.also == (2048 if card == "cifar10" else 512)
    assert (method.net_lr, method.net_decay, method.net_batch, method.real_batch) == (0.01, 5e-4, 64, 64)
    assert not method.check()


def test_a_thousand_classes_have_the_released_training_of_networks():
    method = IDC(ipc=10).filled("imagenet", 10)
    assert (method.net_lr, method.net_decay, method.net_batch, method.real_batch) == (0.1, 1e-4, 128, 128)
    assert (method.needs.real_batch, method.needs.also) == (128, 512) and not method.check()


@pytest.mark.parametrize(
    ("factor", "ops", "cutmix"),
    [(None, ("color", "crop"), 0.0), (3, ("color", "crop"), 0.0), (1, ("color", "crop", "cutout"), 0.5)],
)
def test_digits_in_ink_lose_cutout_and_cutmix_on_canvases_alone(factor, ops, cutmix):
    method = IDC(factor=factor).filled("mnist", 10)
    assert (method.ops, method.cutmix) == (ops, cutmix)
    assert (method.distance, method.lr, method.lr_side, method.net_lr) == ("l1", 1e-4, 28, 0.01)


def test_bad_numbers_are_named():
    wrong = IDC(lr=-1.0, distance="cos", ops=("colour",), arch="vit", momentum=1.0, cutmix=2.0).check()  # type: ignore
    told = ("method.lr", "method.distance", "method.ops", "method.arch", "method.momentum", "method.cutmix")
    assert len(wrong) == 6 and all(any(name in one for one in wrong) for name in told)
    told = Run(name="x", method=IDC(arch="convnet3-batch")).check("")
    assert len(told) == 1 and "gradients are taken class by class" in told[0]


def test_a_factor_whose_tiles_hold_no_pixels_is_refused_before_anything_starts():
    train = SimpleNamespace(labels=np.repeat(np.arange(3), 30), shape=SHAPE)
    data = SimpleNamespace(train=train, class_names=("a", "b", "c"))
    selection.check(IDC(factor=4), data)
    with pytest.raises(ConfigError, match=r"method.factor = 5 is out of range; allowed: 1 to 4.*Nearest valid: 4"):
        selection.check(IDC(factor=5), data)
