"""Residual networks (He et al., CVPR 2016), as the public weights have them.

ResNet-18/34/50 with torchvision's layout (the stride of a bottleneck in its 3x3 convolution) and
two stems: 7x7/2 with 3x3/2 max pooling for ImageNet, or 3x3/1 without pooling for small images (the
stem SRe2L uses on CIFAR and Tiny-ImageNet). CIFAR ResNet-20/32/44/56: three stages of 16, 32, 64
channels and the parameter-free shortcut of option A, as in akamaster/pytorch_resnet_cifar10. Any
norm of `NORMS`; ``group`` has 32 groups (Wu & He, ECCV 2018).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.errors import ConfigError
from ddjax.models.layers import Forward, Layers, max_pool3

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
GROUPS = 32


class ConvNorm(nnx.Module):
    """A convolution without bias and its normalisation: the entry and the projecting shortcuts."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, size: int, *, stride: int, norm):
        self.conv = layers.conv(inputs, outputs, size, stride=stride, bias=False)
        self.norm = layers.norm(norm, outputs, groups=GROUPS)

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        return self.norm(self.conv(x), run)


class PaddedShortcut(nnx.Module):
    """Option A: every second pixel, and new channels of zeros, half of them on either side."""

    def __init__(self, added: int, stride: int):
        self.added = added
        self.stride = stride

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        side = self.added // 2
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (side, self.added - side)))


class BasicBlock(nnx.Module):
    """``relu(shortcut(x) + norm conv3x3 relu norm conv3x3 x)``, stride in the first convolution."""

    expansion = 1

    def __init__(self, layers: Layers, inputs: int, width: int, stride: int, norm: str, cifar: bool):
        self.conv1 = layers.conv(inputs, width, 3, stride=stride, bias=False)
        self.norm1 = layers.norm(norm, width, groups=GROUPS)
        self.conv2 = layers.conv(width, width, 3, bias=False)
        self.norm2 = layers.norm(norm, width, groups=GROUPS)
        self.projects = stride != 1 or inputs != width
        if self.projects and cifar:
            self.shortcut = PaddedShortcut(width - inputs, stride)
        elif self.projects:
            self.shortcut = ConvNorm(layers, inputs, width, 1, stride=stride, norm=norm)

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x), run))
        y = self.norm2(self.conv2(y), run)
        return jax.nn.relu(y + (self.shortcut(x, run) if self.projects else x))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width; otherwise as `BasicBlock`."""

    expansion = 4

    def __init__(self, layers: Layers, inputs: int, width: int, stride: int, norm: str, cifar: bool):
        outputs = self.expansion * width
        self.conv1 = layers.conv(inputs, width, 1, bias=False)
        self.norm1 = layers.norm(norm, width, groups=GROUPS)
        self.conv2 = layers.conv(width, width, 3, stride=stride, bias=False)
        self.norm2 = layers.norm(norm, width, groups=GROUPS)
        self.conv3 = layers.conv(width, outputs, 1, bias=False)
        self.norm3 = layers.norm(norm, outputs, groups=GROUPS)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.shortcut = ConvNorm(layers, inputs, outputs, 1, stride=stride, norm=norm)

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x), run))
        y = jax.nn.relu(self.norm2(self.conv2(y), run))
        y = self.norm3(self.conv3(y), run)
        return jax.nn.relu(y + (self.shortcut(x, run) if self.projects else x))


class Stage(nnx.Module):
    """Blocks of one width; the first may stride."""

    def __init__(self, layers: Layers, block, count: int, inputs, width, stride, norm, cifar):
        for index in range(count):
            first = (inputs, width, stride) if index == 0 else (width * block.expansion, width, 1)
            setattr(self, f"block{index}", block(layers, *first, norm, cifar))
        self.count = count

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        for index in range(self.count):
            x = getattr(self, f"block{index}")(x, run)
        return x


class ResNet(nnx.Module):
    """Entry, stages, mean over positions (``features``), linear head."""

    def __init__(
        self,
        layers: Layers,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        depth: int,
        imagenet: bool = False,
        norm: str = "batch",
    ):
        cifar = depth not in STAGES
        counts = ((depth - 2) // 6,) * 3 if cifar else STAGES[depth]
        block = Bottleneck if depth == 50 else BasicBlock
        width = 16 if cifar else 64
        stride = 2 ** (len(counts) - 1) * (4 if imagenet else 1)
        if norm == "instance" and max(image_shape[:2]) <= stride:
            raise ConfigError(
                f"norm = 'instance' has nothing to normalise where resnet{depth} has shrunk "
                f"{image_shape[0]}x{image_shape[1]} images to one pixel; allowed: batch, group, "
                f"none, or images of more than {stride} pixels. Nearest valid: resnet{depth}-group."
            )
        size = 7 if imagenet else 3
        self.imagenet = imagenet
        self.entry = ConvNorm(layers, image_shape[2], width, size, stride=2 if imagenet else 1, norm=norm)
        inputs = width
        for index, count in enumerate(counts):
            stage = (inputs, width << index, 1 if index == 0 else 2, norm, cifar)
            setattr(self, f"layer{index + 1}", Stage(layers, block, count, *stage))
            inputs = (width << index) * block.expansion
        self.stages = len(counts)
        self.head = layers.linear(inputs, classes, scheme="he_in" if cifar else "torch")

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        x = jax.nn.relu(self.entry(x, run))
        if self.imagenet:
            x = max_pool3(x)
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x, run)
        features = jnp.mean(x, (1, 2))
        return self.head(features), features
