"""The transformer's parts against the operations they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.models import layers, vit
from ddjax.models.net import make_net


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((8, 8), 2),
        ((28, 28), 4),
        ((32, 32), 4),
        ((64, 64), 8),
        ((128, 128), 16),
        ((224, 224), 16),
        ((30, 32), 2),
        ((33, 32), 1),
    ],
)
def test_patch_is_chosen_from_the_image(size, patch):
    assert vit.patch_size(*size) == patch


def test_patches_and_projection_are_a_strided_convolution():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 12, 3), np.float32)
    kernel = rng.standard_normal((4, 4, 3, 5), np.float32)
    convolved = jax.lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    projected = vit._patches(jnp.asarray(x), 4) @ kernel.reshape(48, 5)
    np.testing.assert_allclose(projected, convolved.reshape(2, 6, 5), rtol=1e-4, atol=1e-4)


def test_attention_equals_the_library():
    maker = layers.Layers(jax.lax.conv_general_dilated, jnp.float32, "vit")
    attention = vit.Attention(maker, 12, 3)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 5, 12), np.float32)
    attention.qkv.kernel[...] = jnp.asarray(rng.standard_normal((12, 36), np.float32))
    attention.proj.kernel[...] = jnp.eye(12)
    qkv = (x @ np.asarray(attention.qkv.kernel[...])).reshape(2, 5, 3, 3, 4)
    expected = jax.nn.dot_product_attention(*(jnp.asarray(qkv[:, :, i]) for i in range(3)))
    np.testing.assert_allclose(attention(jnp.asarray(x)), expected.reshape(2, 5, 12), rtol=1e-4, atol=1e-4)


def test_image_order_matters_and_gradients_reach_every_leaf():
    maker = layers.Layers(jax.lax.conv_general_dilated, jnp.float32, "vit")
    shape = (4, 4, 1)
    net = make_net(
        "two blocks",
        lambda: vit.ViT(maker, shape, 3, width=12, heads=3, depth=2),
        image_shape=shape,
        classes=3,
    )
    params, state = net.init(jax.random.key(0))
    x = np.random.default_rng(2).standard_normal((2, 4, 4, 1), np.float32)

    @jax.jit
    def run(params, x):
        return net.apply(params, state, x, train=False).logits

    assert np.abs(np.asarray(run(params, x) - run(params, x[:, ::-1]))).max() > 1e-5
    grads = jax.jit(jax.grad(lambda p: jnp.square(run(p, x)).sum()))(params)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    dead = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert dead == []
