"""Initialisations against their published moments; pooling and normalisation against NumPy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.models import build, layers

RUN = layers.Forward(train=True, taps=None)


def drawn(name, image_shape=(32, 32, 3), seed=0):
    net = build(name, image_shape=image_shape, classes=10)
    params, _ = net.init(jax.random.key(seed))
    return jax.tree.map(np.asarray, params)


def check_uniform(a, bound):
    assert np.abs(a).max() <= bound
    if a.size >= 1000:
        assert np.abs(a).max() > 0.99 * bound
        assert abs(a.std() / (bound / math.sqrt(3)) - 1) < 6 / math.sqrt(a.size)
        assert abs(a.mean()) < 6 * bound / math.sqrt(3 * a.size)


def check_normal(a, std, kurtosis=3.0):
    assert abs(a.std() / std - 1) < 6 / math.sqrt(2 * a.size)
    assert abs(a.mean()) < 6 * std / math.sqrt(a.size)
    if a.size >= 1000:
        assert abs(np.mean((a / std) ** 4) - kurtosis) < 6 * math.sqrt(96 / a.size)


def test_torch_default_is_uniform_by_fan_in():
    """Kernel and bias U(+-1/sqrt(fan_in)): kaiming_uniform(a=sqrt 5) and torch's bias rule."""
    params = drawn("convnet3")
    for name, fan_in in {"block0": 27, "block1": 1152, "block2": 1152}.items():
        check_uniform(params[name]["conv"]["kernel"], 1 / math.sqrt(fan_in))
        check_uniform(params[name]["conv"]["bias"], 1 / math.sqrt(fan_in))
        assert (params[name]["norm"]["scale"] == 1).all()
        assert (params[name]["norm"]["bias"] == 0).all()
    check_uniform(params["head"]["kernel"], 1 / math.sqrt(2048))


def test_lecun_is_a_truncated_normal_with_zero_bias():
    params = drawn("convnet3-lecun")
    for name, fan_in in {"block0": 27, "block1": 1152}.items():
        kernel, std = params[name]["conv"]["kernel"], 1 / math.sqrt(fan_in)
        check_normal(kernel, std, kurtosis=2.365)
        assert np.abs(kernel).max() <= 2.0001 * std / 0.87962566
        assert (params[name]["conv"]["bias"] == 0).all()
    flax = nnx.initializers.lecun_normal()(jax.random.key(1), (3, 3, 128, 128))
    check_normal(np.asarray(flax), 1 / math.sqrt(1152), kurtosis=2.365)


def test_resnet_initialisations():
    """torchvision: N(0, 2/fan_out), default head; CIFAR: N(0, 2/fan_in), the head too."""
    params = drawn("resnet18")
    check_normal(params["entry"]["conv"]["kernel"], math.sqrt(2 / (9 * 64)))
    block = params["layer2"]["block0"]
    check_normal(block["conv1"]["kernel"], math.sqrt(2 / (9 * 128)))
    check_normal(block["shortcut"]["conv"]["kernel"], math.sqrt(2 / 128))
    check_uniform(params["head"]["kernel"], 1 / math.sqrt(512))
    params = drawn("resnet20")
    check_normal(params["entry"]["conv"]["kernel"], math.sqrt(2 / 27))
    check_normal(params["layer3"]["block0"]["conv1"]["kernel"], math.sqrt(2 / (9 * 32)))
    check_normal(params["head"]["kernel"], math.sqrt(2 / 64))
    check_uniform(params["head"]["bias"], 1 / 8)


def test_vit_initialisation():
    params = drawn("vit")
    check_normal(params["block00"]["attention"]["qkv"]["kernel"], 0.02)
    check_normal(params["position"], 0.02)
    check_uniform(params["embed"]["kernel"], 1 / math.sqrt(48))
    assert (params["block11"]["expand"]["bias"] == 0).all()


def test_no_two_leaves_share_their_draw():
    """One flat array is cut into the leaves: every number is used once, keys differ in all."""
    params = drawn("convnet3-w32-none")
    scaled = [(leaf / np.abs(leaf).max()).ravel()[:20] for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    correlation = np.corrcoef(scaled)
    assert np.abs(correlation - np.eye(len(scaled))).max() < 0.9
    values = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    assert len(np.unique(values)) > 0.99 * len(values)
    other = np.concatenate([a.ravel() for a in jax.tree.leaves(drawn("convnet3-w32-none", seed=1))])
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.05


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (2, 2)])
def test_pooling(size):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    height, width = size[0] // 2, size[1] // 2
    blocks = x[:, : 2 * height, : 2 * width].reshape(2, height, 2, width, 2, 3)
    np.testing.assert_allclose(layers.pool(x, "avg"), blocks.mean((2, 4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layers.pool(x, "max"), blocks.max((2, 4)))
    out, change = jax.jvp(lambda x: layers.pool(x, "avg"), (x,), (2 * x,))
    np.testing.assert_allclose(change, 2 * out, rtol=1e-5, atol=1e-6)
    window = nnx.max_pool(jnp.asarray(x), (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(layers.max_pool3(jnp.asarray(x)), window)


def test_max_pooling_passes_the_gradient_to_the_largest():
    x = np.random.default_rng(1).permutation(64).reshape(1, 8, 8, 1).astype(np.float32)
    for pool, count in ((lambda a: layers.pool(a, "max"), 16), (layers.max_pool3, None)):
        gradient = np.asarray(jax.grad(lambda a, pool=pool: pool(a).sum())(x))
        winners = np.unique(np.asarray(pool(jnp.asarray(x))))
        assert set(x[gradient > 0]) == set(winners)
        assert gradient.sum() == 16
        assert count is None or len(winners) == count


@pytest.mark.parametrize(("kind", "groups"), [("instance", 8), ("group", 4), ("group", 1)])
def test_group_norm_equals_numpy(kind, groups):
    """Two passes in float32: exact even where the mean is far larger than the spread."""
    x = 1000 + np.random.default_rng(2).standard_normal((3, 4, 5, 8)).astype(np.float32)
    maker = layers.Layers(jax.lax.conv_general_dilated, jnp.float32, "torch")
    norm = maker.norm(kind, 8, groups=groups)
    norm.scale[...] = jnp.arange(1.0, 9.0)
    norm.bias[...] = jnp.arange(8.0) / 3
    wide = x.astype(np.float64).reshape(3, 4, 5, groups, 8 // groups)
    wide = wide - wide.mean((1, 2, 4), keepdims=True)
    wide = wide / np.sqrt(wide.var((1, 2, 4), keepdims=True) + 1e-5)
    expected = wide.reshape(x.shape) * np.arange(1.0, 9.0) + np.arange(8.0) / 3
    np.testing.assert_allclose(norm(jnp.asarray(x), RUN), expected * 1, rtol=2e-3, atol=2e-3)


def test_batch_norm_uses_the_biased_variance():
    x = np.random.default_rng(3).standard_normal((2, 2, 2, 3)).astype(np.float32)
    norm = layers.BatchNorm(3)
    norm.scale[...], norm.bias[...] = jnp.ones(3), jnp.zeros(3)
    norm.mean[...], norm.var[...] = jnp.zeros(3), jnp.ones(3)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(norm(jnp.asarray(x), RUN), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-5)


def test_layer_norm_equals_numpy():
    x = np.random.default_rng(4).standard_normal((2, 5, 6)).astype(np.float32)
    norm = layers.LayerNorm(6)
    norm.scale[...] = jnp.ones(6)
    wide = x - x.mean(-1, keepdims=True)
    expected = wide / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(jnp.asarray(x), RUN), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "mean",
    [layers._over_batch, partial(layers._over_groups, groups=8), partial(layers._over_groups, groups=2)],
    ids=["batch", "instance", "group"],
)
def test_written_out_derivatives_of_every_order_agree_with_the_formula(mean):
    x, dx, ddx = jax.random.normal(jax.random.key(0), (3, 4, 3, 5, 8))
    scale, bias, shift = jax.random.normal(jax.random.key(1), (3, 8))
    weight = jax.random.normal(jax.random.key(2), x.shape)

    def formula(x, scale, bias):
        centred = x - mean(x)
        inverse = jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-5)
        return centred * inverse * layers._like(scale, x) + layers._like(bias, x)

    def ours(x, scale, bias):
        return layers.standardised(x, scale, bias, mean, 1e-5)

    def orders(norm):
        def loss(x, scale, bias):
            return jnp.sum(weight * jnp.sin(norm(x, scale, bias)))

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        slope, change = jax.jvp(gradient, (x, scale, bias), (dx, shift, scale))
        both = jax.grad(lambda x: jnp.vdot(jax.jvp(gradient, (x, scale, bias), (dx, shift, bias))[1][0], ddx))(x)
        mapped = jax.vmap(norm, (0, None, None))(jnp.stack([x, dx]), scale, bias)
        return norm(x, scale, bias), slope, change, both, mapped

    for a, b in zip(*(jax.tree.leaves(jax.jit(lambda f=f: orders(f))()) for f in (ours, formula)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(jnp.abs(b).max()))
