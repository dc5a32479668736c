"""Residual networks against the published weights on real images, and against a second writing."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ddjax.models import build, layers, resnet
from ddjax.models.layers import Forward
from ddjax.models.net import make_net
from ddjax.models.weights import CIFAR_RESNET, TORCHVISION_RESNET, load_params

# right of the 249 lossless test images, accuracy on the 10,000 JPEG ones
MEASURED = {20: (225, 81.03), 32: (236, 82.56), 44: (223, 82.67), 56: (228, 83.20)}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # these weights were trained with them
STD = np.array([0.229, 0.224, 0.225], np.float32)


def classifier(shared_data, depth):
    net = build(f"resnet{depth}", image_shape=(32, 32, 3), classes=10)
    path = shared_data / "weights" / "cifar10-resnet" / f"resnet{depth}.safetensors"
    params, state = load_params(path, net, CIFAR_RESNET)

    @jax.jit
    def predict(images):
        x = (images.astype(jnp.float32) / 255 - MEAN[None, None, None]) / STD[None, None, None]
        return jnp.argmax(net.apply(params, state, x, train=False).logits, 1)

    return predict


@pytest.mark.parametrize("depth", MEASURED)
def test_public_weights_on_lossless_images(shared_data, depth):
    data = np.load(shared_data / "cifar10-lossless" / "test_lossless.npz")
    right = int((np.asarray(classifier(shared_data, depth)(data["images"])) == data["labels"]).sum())
    assert abs(right - MEASURED[depth][0]) <= 1


@pytest.mark.slow
def test_public_weights_on_the_whole_test_set(shared_data):
    with zipfile.ZipFile(shared_data / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    folders = [name.split("/")[1] for name in names]
    labels = np.array([sorted(set(folders)).index(folder) for folder in folders])
    for depth, (_, accuracy) in MEASURED.items():
        predict = classifier(shared_data, depth)
        found = np.concatenate([predict(images[i : i + 250]) for i in range(0, len(images), 250)])
        assert abs(100 * (found == labels).mean() - accuracy) <= 0.1, depth


def test_option_a_shortcut():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 16), np.float32)
    y = resnet.PaddedShortcut(16, 2)(jnp.asarray(x), Forward(train=False, taps=None))
    assert y.shape == (2, 3, 3, 32)
    np.testing.assert_array_equal(y[..., 8:24], x[:, ::2, ::2])
    assert not y[..., :8].any()
    assert not y[..., 24:].any()


def torch_tensors(depth, classes, seed=0):
    """A ResNet's tensors with torchvision's names and shapes, random."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def conv(name, o, i, k):
        scale = np.float32(1 / np.sqrt(i * k * k))
        tensors[f"{name}.weight"] = rng.standard_normal((o, i, k, k), np.float32) * scale

    def bn(name, c):
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
            tensors[f"{name}.{part}"] = rng.uniform(low, low + 1, c).astype(np.float32)
        tensors[f"{name}.running_var"] = rng.uniform(0.5, 1.5, c).astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 64, 3, 7)
    bn("bn1", 64)
    inputs, wide = 64, 4 if depth == 50 else 1
    for layer, count in enumerate(resnet.STAGES[depth], 1):
        width = 32 << layer
        for block in range(count):
            name = f"layer{layer}.{block}"
            shapes = [(width, inputs, 3), (width, width, 3)]
            if wide == 4:
                shapes = [(width, inputs, 1), (width, width, 3), (4 * width, width, 1)]
            for index, shape in enumerate(shapes, 1):
                conv(f"{name}.conv{index}", *shape)
                bn(f"{name}.bn{index}", shape[0])
            if block == 0 and (layer > 1 or wide == 4):
                conv(f"{name}.downsample.0", wide * width, inputs, 1)
                bn(f"{name}.downsample.1", wide * width)
            inputs = wide * width
    tensors["fc.weight"] = rng.standard_normal((classes, inputs), np.float32) * np.float32(0.05)
    tensors["fc.bias"] = rng.standard_normal(classes, np.float32)
    return tensors


def torch_forward(tensors, x, depth):
    """torchvision's forward pass, written for its own layout: NCHW, OIHW."""

    def conv(name, x, stride=1):
        w = tensors[f"{name}.weight"]
        pad = w.shape[2] // 2
        return jax.lax.conv_general_dilated(x, w, (stride, stride), [(pad, pad)] * 2)

    def bn(name, x):
        weight, bias, mean, var = (
            tensors[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias

    x = jax.nn.relu(bn("bn1", conv("conv1", x, 2)))
    window, pads = (1, 1, 3, 3), ((0, 0), (0, 0), (1, 1), (1, 1))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 1, 2, 2), pads)
    for layer, count in enumerate(resnet.STAGES[depth], 1):
        for block in range(count):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            last = 3 if depth == 50 else 2
            y = x
            for index in range(1, last + 1):
                here = stride if index == (2 if depth == 50 else 1) else 1
                y = bn(f"{name}.bn{index}", conv(f"{name}.conv{index}", y, here))
                y = jax.nn.relu(y) if index < last else y
            if f"{name}.downsample.0.weight" in tensors:
                x = bn(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = jax.nn.relu(x + y)
    return jnp.mean(x, (2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"][None]


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_weights_compute_the_same(tmp_path, monkeypatch, depth):
    monkeypatch.setitem(resnet.STAGES, depth, (1, 2, 1, 1))  # as the real ones, cheaper to compile
    tensors = torch_tensors(depth, 6)
    save_file(tensors, tmp_path / "weights.safetensors")
    maker, shape = layers.Layers(jax.lax.conv_general_dilated, jnp.float32, "he_out"), (40, 40, 3)
    net = make_net(
        f"resnet{depth}",
        lambda: resnet.ResNet(maker, shape, 6, depth=depth, imagenet=True),
        image_shape=shape,
        classes=6,
    )
    params, state = load_params(tmp_path / "weights.safetensors", net, TORCHVISION_RESNET)
    x = np.random.default_rng(1).standard_normal((2, 40, 40, 3), np.float32)
    ours = jax.jit(lambda x: net.apply(params, state, x, train=False).logits)(x)
    floats = {name: a for name, a in tensors.items() if a.dtype == np.float32}
    theirs = jax.jit(torch_forward, static_argnums=2)(floats, x.transpose(0, 3, 1, 2), depth)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    assert np.asarray(theirs).std(0).max() > 1e-2
