"""MLP, LeNet, AlexNet and VGG-11 in the small-image forms of the dataset-condensation line.

They are defined there for 32x32 images (grey 28x28 ones are padded to 32x32 by the first
convolution). Elsewhere: a LeNet pads smaller images to 32x32; AlexNet and VGG-11 skip a pooling
that would leave less than 2x2, their last one excepted. Where there is no normalisation, its place
is tapped all the same.
"""

import jax
from flax import nnx

from ddjax.models.convnet import ConvBlock, grey_padding, map_size
from ddjax.models.layers import Forward, Layers, Tap

GROUPS = 32


class DenseBlock(nnx.Module):
    """``relu(x W + b)``, tapped before the activation."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        self.linear = layers.linear(inputs, outputs)
        self.norm = Tap()

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        return jax.nn.relu(self.norm(self.linear(x), run))


class MLP(nnx.Module):
    """Two hidden layers of 128."""

    def __init__(self, layers: Layers, image_shape: tuple[int, int, int], classes: int):
        height, width, channels = image_shape
        self.block0 = DenseBlock(layers, height * width * channels, 128)
        self.block1 = DenseBlock(layers, 128, 128)
        self.head = layers.linear(128, classes)

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        features = self.block1(self.block0(x.reshape(x.shape[0], -1), run), run)
        return self.head(features), features


class LeNet(nnx.Module):
    """Two 5x5 convolutions (6, 16) with 2x2 max pooling, two hidden layers (120, 84)."""

    def __init__(self, layers: Layers, image_shape: tuple[int, int, int], classes: int):
        height, width, channels = image_shape
        pad = max(0, (33 - min(height, width)) // 2)
        sides = [(((side + 2 * pad - 4) // 2) - 4) // 2 for side in (height, width)]
        plain = {"size": 5, "norm": "none", "groups": GROUPS, "pooling": "max"}
        self.block0 = ConvBlock(layers, channels, 6, padding=pad, **plain)
        self.block1 = ConvBlock(layers, 6, 16, padding=0, **plain)
        self.block2 = DenseBlock(layers, 16 * sides[0] * sides[1], 120)
        self.block3 = DenseBlock(layers, 120, 84)
        self.head = layers.linear(84, classes)

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        x = self.block1(self.block0(x, run), run)
        features = self.block3(self.block2(x.reshape(x.shape[0], -1), run), run)
        return self.head(features), features


class Plain(nnx.Module):
    """A chain of convolutions with 2x2 max poolings, then a linear head on the flattened map.

    ``plan``: (kernel size, channels, pooled) for each convolution.
    """

    def __init__(
        self,
        layers: Layers,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        plan: tuple[tuple[int, int, bool], ...],
        norm: str,
    ):
        inputs, (height, width) = image_shape[2], map_size(image_shape)
        last = max(index for index, (_, _, pooled) in enumerate(plan) if pooled)
        for index, (size, outputs, pooled) in enumerate(plan):
            pooled = pooled and min(height, width) >= (2 if index == last else 4)
            block = ConvBlock(
                layers,
                inputs,
                outputs,
                size=size,
                padding=size // 2 + (grey_padding(image_shape) if index == 0 else 0),
                norm=norm,
                groups=GROUPS,
                pooling="max" if pooled else "none",
            )
            setattr(self, f"block{index}", block)
            height, width = (height // 2, width // 2) if pooled else (height, width)
            inputs = outputs
        self.depth = len(plan)
        self.head = layers.linear(height * width * inputs, classes)

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        for index in range(self.depth):
            x = getattr(self, f"block{index}")(x, run)
        features = x.reshape(x.shape[0], -1)
        return self.head(features), features


ALEXNET = (
    (5, 128, True),
    (5, 192, True),
    (3, 256, False),
    (3, 192, False),
    (3, 192, True),
)
VGG11 = (
    (3, 64, True),
    (3, 128, True),
    (3, 256, False),
    (3, 256, True),
    (3, 512, False),
    (3, 512, True),
    (3, 512, False),
    (3, 512, True),
)
