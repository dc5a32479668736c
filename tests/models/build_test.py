"""Names of networks: every one builds on the sizes it allows; wrong ones say what is right."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.errors import ConfigError
from ddjax.models import NAMES, build, check_name

SIZES = ((8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3))


def count(name, image_shape, classes):
    net = build(name, image_shape=image_shape, classes=classes)
    params, _ = jax.eval_shape(net.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "image_shape", "classes", "published"),
    [
        ("resnet18-imagenet", (224, 224, 3), 1000, 11_689_512),  # torchvision
        ("resnet34-imagenet", (224, 224, 3), 1000, 21_797_672),
        ("resnet50-imagenet", (224, 224, 3), 1000, 25_557_032),
        ("resnet18", (32, 32, 3), 10, 11_173_962),  # the usual CIFAR ResNet-18
        ("resnet20", (32, 32, 3), 10, 269_722),  # akamaster's; He et al. print 0.27M to 0.85M
        ("resnet32", (32, 32, 3), 10, 464_154),
        ("resnet44", (32, 32, 3), 10, 658_586),
        ("resnet56", (32, 32, 3), 10, 853_018),
        ("vit", (224, 224, 3), 1000, 5_717_416),  # timm, DeiT
        ("vit-small", (224, 224, 3), 1000, 22_050_664),
        ("lenet", (28, 28, 1), 10, 61_706),
        ("convnet3", (32, 32, 3), 10, 320_010),
    ],
)
def test_published_parameter_counts(name, image_shape, classes, published):
    assert count(name, image_shape, classes) == published


@pytest.mark.parametrize(
    ("depth", "width", "norm", "image_shape"),
    [
        (3, 128, "instance", (32, 32, 3)),
        (3, 64, "none", (28, 28, 1)),
        (4, 128, "batch", (64, 64, 3)),
        (2, 8, "group", (8, 8, 1)),
    ],
)
def test_convnet_parameter_count_in_closed_form(depth, width, norm, image_shape):
    height, _, channels = image_shape
    side = (32 if height == 28 else height) >> depth
    convolutions = 9 * width * (channels + (depth - 1) * width) + depth * width
    norms = 0 if norm == "none" else 2 * depth * width
    head = (side * side * width + 1) * 10
    name = f"convnet{depth}-w{width}-{norm}"
    assert count(name, image_shape, 10) == convolutions + norms + head


def test_doubling_widths_and_normalisation_ahead_of_each_convolution_but_the_first():
    assert count("convnet3-doubling-none", (32, 32, 3), 10) == sum(
        9 * a * b + b for a, b in ((3, 128), (128, 256), (256, 512))
    ) + 10 * (512 * 16 + 1)
    assert (
        count("convnet3-doubling-batch", (32, 32, 3), 10) - count("convnet3-doubling-none", (32, 32, 3), 10) == 2 * 384
    )
    net = build("convnet2-w4-doubling-instance", image_shape=(8, 8, 2), classes=3)
    params, state = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))

    def block(x, name):
        kernel, bias = (params[name]["conv"][part] for part in ("kernel", "bias"))
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jnp.maximum(x + bias[None, None, None], 0)
        return x.reshape(2, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))

    first = block(x, "block0")
    mean, var = (stat(first, axis=(1, 2), keepdims=True) for stat in (jnp.mean, jnp.var))
    second = block((first - mean) / jnp.sqrt(var + 1e-5), "block1")  # scale 1 and bias 0 at the start
    np.testing.assert_allclose(net.apply(params, state, x, train=True).features, second.reshape(2, -1), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_on_every_size(name):
    deep = name.startswith(("resnet", "vit"))
    for shape in SIZES[:1] if deep else SIZES:
        if name.startswith("convnet") and int(name[7:]) > min(shape[0], 32 * (shape[0] > 8)) // 8:
            continue
        net = build(name, image_shape=shape, classes=5)
        abstract = jax.eval_shape(net.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        out = jax.eval_shape(lambda p, s, x, net=net: net.apply(p, s, x, train=True, taps=True), *abstract, x)
        head = abstract[0]["head"]["kernel"]
        assert (net.image_shape, net.classes, out.logits.shape) == (shape, 5, (2, 5))
        assert out.features.shape == (2, head.shape[0])
        assert out.taps


@pytest.mark.parametrize(
    "name",
    [
        "convnet4-w64-none",
        "convnet3-lecun-sigmoid-w16-max-batch",
        "resnet18-imagenet-group",
        "resnet50-instance",
        "alexnet-instance",
        "vgg11-batch",
        "vit-tiny",
    ],
)
def test_options_are_known_in_any_order(name):
    assert check_name(name) is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet-18", "Did you mean 'resnet18'?"),
        ("convent3", "Did you mean 'convnet3'?"),
        ("convnet0", "allowed: convnet1"),
        ("ResNet18", "Did you mean 'resnet18'?"),
        ("convnet3-instnace", "option of 'convnet3' = 'instnace' is not known; allowed: w64,"),
        ("convnet3-instnace", "Did you mean 'instance'?"),
        ("resnet18-imagnet", "Did you mean 'imagenet'?"),
        ("convnet3-batch-none", "sets its norm twice"),
        ("mlp-batch", "option 'batch' of 'mlp' is not known; it takes none."),
        ("vit-large", "allowed: tiny, small"),
        ("", "allowed: convnet1"),
    ],
)
def test_wrong_names_name_the_nearest(name, sentence):
    assert sentence in check_name(name)
    with pytest.raises(ConfigError):
        build(name, image_shape=(32, 32, 3), classes=10)


def test_all_wrong_arguments_in_one_error():
    with pytest.raises(ConfigError) as caught:
        build("convnt3", image_shape=(32, 0, 3), classes=1, conv="quick", dtype="float8")
    for part in ("'convnet3'", "(32, 0, 3)", "classes = 1", "'quick'", "'float8'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("convnet4", (8, 8, 1), "allowed: 1 to 3. Nearest valid: convnet3."),
        ("convnet3-w10-group", (32, 32, 3), "width with norm 'group' = 10"),
        ("resnet18-instance", (8, 8, 1), "Nearest valid: resnet18-group."),
        ("resnet18-imagenet-instance", (32, 32, 3), "more than 32 pixels"),
    ],
)
def test_networks_that_cannot_work_are_refused(name, shape, sentence):
    with pytest.raises(ConfigError) as caught:
        build(name, image_shape=shape, classes=10)
    assert sentence in str(caught.value)


def test_checking_a_name_is_cheap():
    """The configuration checks names before any device is touched."""
    code = (
        "import sys, jax; from ddjax.models import check_name; assert check_name('x');"
        "assert 'flax' not in sys.modules; assert not jax._src.xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
