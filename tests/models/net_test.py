"""The contract of `Net`: plain dicts, one trace, taps, running statistics, every transformation."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.errors import ConfigError
from ddjax.models import build

SHAPE = (8, 8, 3)


def small(name="convnet2-w8-batch", **options):
    return build(name, image_shape=SHAPE, classes=4, **options)


def images(count=6, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def stacked(net, count=3):
    return jax.vmap(net.init)(jax.random.split(jax.random.key(0), count))


def loss(net, x, train=True):
    def value(params, state):
        out = net.apply(params, state, x, train=train)
        return jnp.mean(jnp.square(jax.nn.logsumexp(out.logits, 1) - out.logits[:, 0])), out.state

    return value


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


def test_leaves_are_plain_and_strong_float32():
    net = small()
    params, state = net.init(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, state)):
        assert all(isinstance(entry.key, str) for entry in path[1:])
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type
    assert type(params) is type(params["block0"]) is type(state) is dict
    out = net.apply(params, state, images(), train=True)
    assert jax.tree.structure(out.state) == jax.tree.structure(state)
    assert (out.logits.shape, out.features.shape, out.taps) == ((6, 4), (6, 2 * 2 * 8), {})


def test_features_are_the_input_of_the_head():
    net = small()
    params, state = net.init(jax.random.key(0))
    out = net.apply(params, state, images(), train=False)
    head = params["head"]
    np.testing.assert_allclose(out.logits, out.features @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-6)


def test_init_and_step_are_traced_once():
    net = small()
    traces = []

    @jax.jit
    def step(params, state, x):
        traces.append(1)
        (_, new), grads = jax.value_and_grad(loss(net, x), has_aux=True)(params, state)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), new

    for seed in range(3):
        params, state = net.init(jax.random.key(seed))
        for _ in range(2):
            params, state = step(params, state, images(seed=seed))
    assert len(traces) == 1
    assert net.init._cache_size() == 1


def test_equal_arguments_give_the_same_net():
    assert small() is small()
    assert small() is not small(dtype="bfloat16")


def test_vmapped_pool_equals_loop():
    net = small("convnet1-w8-batch")
    params, state = stacked(net)
    x = images()
    run = jax.jit(jax.value_and_grad(loss(net, x), has_aux=True))
    together = jax.jit(jax.vmap(jax.value_and_grad(loss(net, x), has_aux=True)))(params, state)
    for j in range(3):
        one = jax.tree.map(lambda a, j=j: a[j], (params, state))
        close(run(*one), jax.tree.map(lambda a, j=j: a[j], together))


def test_scan_of_training_equals_loop():
    net = small()
    start = net.init(jax.random.key(1))
    batches = images(12).reshape(3, 4, *SHAPE)

    def step(carry, x):
        (value, state), grads = jax.value_and_grad(loss(net, x), has_aux=True)(*carry)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, carry[0], grads), state), value

    (scanned, _), values = jax.jit(lambda c, xs: jax.lax.scan(step, c, xs))(start, batches)
    carry, single = start, jax.jit(step)
    for k in range(3):
        carry, value = single(carry, batches[k])
        np.testing.assert_allclose(value, values[k], rtol=1e-4)
    close(scanned, carry[0], 1e-4)


@pytest.mark.parametrize("name", ["convnet1-w4-instance", "convnet1-w4-batch-max-leakyrelu"])
def test_forward_and_reverse_second_order_agree(name):
    """d/dx <grad_theta L, v> by jvp (the Taylor form) equals the explicit inner product's."""
    net = build(name, image_shape=(4, 4, 3), classes=2)
    params, state = net.init(jax.random.key(2))
    v = jax.tree.map(lambda a: jnp.cos(7 * a) * 0.1, params)
    x = images(3, (4, 4, 3))

    def value(p, x):
        return loss(net, x)(p, state)[0]

    def directional(x):
        return jax.jvp(lambda p: value(p, x), (params,), (v,))[1]

    def reverse(x):
        grads = jax.grad(value)(params, x)
        return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (grads, v)), strict=True))

    first, second = (jax.jit(jax.value_and_grad(f))(x) for f in (directional, reverse))
    close(first, second, 2e-4)
    assert np.abs(first[1]).max() > 0


def test_conv_forms_agree():
    start = small().init(jax.random.key(0))
    fast, library = (
        jax.jit(jax.value_and_grad(loss(small(conv=how), images()), has_aux=True))(*start)
        for how in ("fast", "library")
    )
    close(fast, library, 1e-4)


@pytest.mark.parametrize("name", ["convnet2-w8-none", "convnet2-w8-instance", "resnet20", "vit"])
def test_taps_are_in_the_order_of_the_layers(name):
    net = build(name, image_shape=SHAPE, classes=4)
    abstract = jax.eval_shape(net.init, jax.random.key(0))
    order = []
    jax.eval_shape(
        lambda p, s: order.extend(net.apply(p, s, images(2), train=False, taps=True).taps),
        *abstract,
    )
    assert order == sorted(order)
    assert list(net.running(abstract[1])) == (order if name == "resnet20" else [])


def test_tap_is_the_convolution_before_the_norm():
    net = small("convnet2-w8-none")
    params, state = net.init(jax.random.key(0))
    x = images()
    taps = net.apply(params, state, x, train=False, taps=True).taps
    first = params["block0"]["conv"]
    y = jax.lax.conv_general_dilated(x, first["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y + first["bias"][None, None, None]
    np.testing.assert_allclose(taps["block0/norm"], y, rtol=1e-5, atol=1e-5)
    assert taps["block1/norm"].shape == (6, 4, 4, 8)


def test_running_statistics_follow_the_formula():
    """running <- 0.9 running + 0.1 (mean, biased variance) of the tap; not used in training."""
    net = small()
    params, state = net.init(jax.random.key(0))
    out = net.apply(params, state, images(), train=True, taps=True)
    for name, (mean, var) in net.running(state).items():
        assert (np.asarray(mean) == 0).all()
        assert (np.asarray(var) == 1).all()
        tap = np.asarray(out.taps[name], np.float64)
        new_mean, new_var = net.running(out.state)[name]
        np.testing.assert_allclose(new_mean, 0.1 * tap.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(new_var, 0.9 + 0.1 * tap.var((0, 1, 2)), rtol=1e-5)
    other = jax.tree.map(lambda a: 3 * a + 1, state)
    again = net.apply(params, other, images(), train=True)
    np.testing.assert_array_equal(out.logits, again.logits)
    still = net.apply(params, other, images(), train=False)
    assert still.state is other
    assert np.abs(np.asarray(still.logits - out.logits)).max() > 1e-3


def test_running_of_a_stacked_state():
    net = small()
    mean, var = net.running(stacked(net)[1])["block1/norm"]
    assert mean.shape == var.shape == (3, 8)


def test_bfloat16_computes_low_and_keeps_float32():
    name, shape, x = "convnet1-w8-batch", (8, 8, 1), images(4, (8, 8, 1))
    low, high = (build(name, image_shape=shape, classes=4, dtype=d) for d in ("bfloat16", "float32"))
    params, state = high.init(jax.random.key(0))
    outs = [
        jax.jit(lambda p, s, net=net: net.apply(p, s, x, train=True, taps=True))(params, state) for net in (low, high)
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(outs)} == {jnp.dtype("float32")}
    difference = np.abs(np.asarray(outs[0].logits - outs[1].logits)).max()
    assert 0 < difference < 0.1
    grads = jax.jit(jax.grad(lambda p: loss(low, x)(p, state)[0]))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_images_of_another_shape_are_refused():
    net = small()
    with pytest.raises(ConfigError, match=r"\(2, 9, 8, 3\).*convnet2-w8-batch.*\[B, 8, 8, 3\]"):
        net.apply(*net.init(jax.random.key(0)), jnp.zeros((2, 9, 8, 3)), train=False)


TREE_MODE = """
import jax, jax.numpy as jnp
from ddjax.models import build
net = build("convnet1-w8-batch", image_shape=(4, 4, 1), classes=2)
params, state = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
def loss(p, s, x):
    out = net.apply(p, s, x, train=True, taps=True)
    return out.logits.sum() + out.taps["block0/norm"].sum(), out.state
step = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True), in_axes=(0, 0, None)))
(_, new), grads = step(params, state, jnp.ones((3, 4, 4, 1)))
assert jax.tree.structure(new) == jax.tree.structure(state)
assert jax.tree.structure(grads) == jax.tree.structure(params)
assert net.running(new)["block0/norm"][0].shape == (2, 8)
"""


def test_tree_mode_of_nnx():
    """Flax announced that graph mode and graph updates will be off by default (FLIP 5310)."""
    modes = {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TREE_MODE],
        env={**os.environ, **modes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
