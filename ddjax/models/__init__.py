"""Networks by name: ``build("convnet3-w64-none", image_shape=(32, 32, 3), classes=10) -> Net``.

    convnetD[-wN][-NORM][-ACTIVATION][-POOLING][-lecun][-doubling]
        ConvNet of depth D, width N (128), NORM instance (default), batch, group or none,
        ACTIVATION relu (default), leakyrelu or sigmoid, POOLING avg (default), max or nopool;
        drawn from PyTorch's default distribution, or with ``lecun`` from Flax's; ``doubling``: FRePo's,
        of widths N, 2N, 4N, ..., normalised in front of the convolutions
    resnet18 | resnet34 | resnet50 [-imagenet][-NORM]
        3x3 entry for small images, or ImageNet's; NORM batch by default
    resnet20 | resnet32 | resnet44 | resnet56
        CIFAR ResNets
    alexnet[-NORM] | vgg11[-NORM]
        small-image forms; NORM none and instance by default
    mlp | lenet | vit | vit-small
        vit is ViT-Tiny

Options come in any order. `check_name` says what is wrong with a name, without importing flax or
starting a backend.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from ddjax.errors import ConfigError, choice, out_of_range
from ddjax.types import Net

NORMS = ("instance", "batch", "group", "none")
BIG_RESNETS = ("resnet18", "resnet34", "resnet50")
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56")
NAMES = (
    *(f"convnet{depth}" for depth in range(1, 7)),
    *BIG_RESNETS,
    *CIFAR_RESNETS,
    *("mlp", "lenet", "alexnet", "vgg11", "vit", "vit-small"),
)
CONVS = ("auto", "fast", "library")
DTYPES = ("float32", "bfloat16")


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    conv: str = "auto",
    dtype: str = "float32",
    argument: str = "",
) -> Net:
    """The network of that name for images ``image_shape = (H, W, D)`` and ``classes`` classes.

    ``conv``: which convolution computes (`ddjax.kernels.conv`; auto: by backend). ``dtype``: the
    arithmetic of convolutions and products; parameters, statistics and outputs are float32 in any
    case. Equal arguments give the same `Net`, so that what was compiled for it serves again.
    Raises ConfigError, all wrong arguments in one; ``argument`` is what the user called ``name``.
    """
    shape = tuple(int(side) for side in image_shape)
    wrong = [check_name(name)]
    if len(shape) != 3 or min(shape) < 1:
        wrong.append(f"image_shape = {shape} is no (height, width, channels); e.g. (32, 32, 3).")
    if classes < 2:
        wrong.append(out_of_range("classes", classes, "at least 2", 2))
    if conv not in CONVS:
        wrong.append(choice("conv", conv, CONVS))
    if dtype not in DTYPES:
        wrong.append(choice("dtype", dtype, DTYPES))
    told = f"{argument}: " if argument else ""
    if any(wrong):
        raise ConfigError("\n".join(told + problem for problem in wrong if problem))
    try:
        return _build(name, shape, int(classes), conv, dtype)
    except ConfigError as error:
        raise ConfigError(f"{told}{error}") from None


def check_name(name: str) -> str | None:
    """Why ``name`` is no network, with the nearest valid name, or None if it is one."""
    try:
        _parse(name)
    except ConfigError as error:
        return str(error)
    return None


def norm_of(name: str) -> str:
    """The normalisation of the network of that name: one of NORMS (what else a transformer has is none of them)."""
    family, options = _parse(name)
    return options.get("norm", "batch" if family == "resnet" else "none")


@functools.lru_cache(maxsize=64)
def _build(name: str, image_shape: tuple[int, int, int], classes: int, conv: str, dtype: str):
    import jax.numpy as jnp  # with flax, half a second that looking at a name need not pay

    from ddjax.kernels.conv import conv_general_dilated
    from ddjax.models import classic, convnet, resnet, vit
    from ddjax.models.layers import Layers, read_inputs
    from ddjax.models.net import make_net

    family, options = _parse(name)
    scheme = options.pop("scheme")
    kinds: dict[str, Callable[..., Any]] = {
        "convnet": convnet.ConvNet,
        "resnet": resnet.ResNet,
        "mlp": classic.MLP,
        "lenet": classic.LeNet,
        "alexnet": functools.partial(classic.Plain, plan=classic.ALEXNET),
        "vgg11": functools.partial(classic.Plain, plan=classic.VGG11),
        "vit": vit.ViT,
    }
    convolution = read_inputs(functools.partial(conv_general_dilated, how=conv))
    layers = Layers(convolution, jnp.dtype(dtype), scheme)
    return make_net(
        name,
        lambda: kinds[family](layers, image_shape, classes, **options),
        image_shape=image_shape,
        classes=classes,
        dtype=jnp.dtype(dtype),
    )


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """The family of a name and its builder's arguments (``scheme``: the initialisation)."""
    base, *words = str(name).split("-")
    if depth := re.fullmatch(r"convnet([1-9]\d?)", base):
        options = {"depth": int(depth[1]), "width": 128, "norm": "instance"}
        options |= {"activation": "relu", "pooling": "avg", "scheme": "torch"}
        return "convnet", options | _words(base, words, _CONVNET_WORDS, widths=True)
    if base in BIG_RESNETS:
        options = {"depth": int(base[6:]), "imagenet": False, "norm": "batch", "scheme": "he_out"}
        known = _NORM_WORDS | {"imagenet": ("imagenet", True)}
        return "resnet", options | _words(base, words, known)
    if base in CIFAR_RESNETS:
        return "resnet", {"depth": int(base[6:]), "scheme": "he_in"} | _words(base, words, {})
    if base in ("alexnet", "vgg11"):
        norm = "none" if base == "alexnet" else "instance"
        return base, {"norm": norm, "scheme": "torch"} | _words(base, words, _NORM_WORDS)
    if base in ("mlp", "lenet"):
        return base, {"scheme": "torch"} | _words(base, words, {})
    if base == "vit":
        sizes = {"tiny": ("size", (192, 3)), "small": ("size", (384, 6))}
        width, heads = _words(base, words, sizes).get("size", (192, 3))
        return "vit", {"width": width, "heads": heads, "scheme": "vit"}
    raise ConfigError(choice("architecture", name, NAMES))


_NORM_WORDS: dict[str, tuple[str, Any]] = {norm: ("norm", norm) for norm in NORMS}
_CONVNET_WORDS: dict[str, tuple[str, Any]] = {
    **_NORM_WORDS,
    **{name: ("activation", name) for name in ("relu", "leakyrelu", "sigmoid")},
    "avg": ("pooling", "avg"),
    "max": ("pooling", "max"),
    "nopool": ("pooling", "none"),
    "lecun": ("scheme", "lecun"),
    "doubling": ("doubling", True),
}


def _words(base: str, words: list[str], known: dict[str, tuple[str, Any]], *, widths: bool = False):
    """The options that the words after ``base`` set; a wrong or repeated one is a ConfigError."""
    options: dict[str, Any] = {}
    for word in words:
        if widths and re.fullmatch(r"w[1-9]\d{0,4}", word):
            option, value = "width", int(word[1:])
        elif word in known:
            option, value = known[word]
        elif widths and re.fullmatch(r"w\d+", word):
            raise ConfigError(out_of_range(f"width of {base!r}", word, "w1 to w99999", "w64"))
        elif not known:
            raise ConfigError(f"option {word!r} of {base!r} is not known; it takes none.")
        else:
            allowed = [*(["w64"] if widths else []), *known]
            raise ConfigError(choice(f"option of {base!r}", word, allowed))
        if option in options:
            name = "-".join([base, *words])
            raise ConfigError(f"architecture = {name!r} sets its {option} twice.")
        options[option] = value
    return options
