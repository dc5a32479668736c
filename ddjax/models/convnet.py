"""ConvNet-D, the network of the dataset-condensation line (Zhao et al., ICLR 2021).

D times: 3x3 convolution with bias, normalisation, activation, 2x2 pooling; then a linear head on
the flattened map. Width 128 and instance normalisation (affine, no running statistics) by default;
``group`` has 4 groups. Grey 28x28 images are padded to 32x32 by the first convolution. Depth 3 for
32x32 (2048 features), 4 for 64x64, and so on.

``doubling``: FRePo's (Zhou et al., NeurIPS 2022). The width doubles from block to block (128, 256, 512: 8192 features),
and normalisation stands in front of each convolution but the first.
"""

import jax
from flax import nnx

from ddjax.errors import ConfigError, out_of_range
from ddjax.models.layers import ACTIVATIONS, Forward, Layers, pool


class ConvBlock(nnx.Module):
    """Convolution, normalisation, activation, pooling; ``ahead``: normalisation, convolution, activation, pooling."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        padding: int | None = None,
        norm: str,
        groups: int,
        activation: str = "relu",
        pooling: str,
        ahead: bool = False,
    ):
        self.conv = layers.conv(inputs, outputs, size, padding=padding)
        self.norm = layers.norm(norm, inputs if ahead else outputs, groups=groups)
        self.ahead = ahead
        self.activation = activation
        self.pooling = pooling

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        x = ACTIVATIONS[self.activation](self.conv(self.norm(x, run)) if self.ahead else self.norm(self.conv(x), run))
        return x if self.pooling == "none" else pool(x, self.pooling)


class ConvNet(nnx.Module):
    """ConvNet-D; ``features`` are the flattened last map."""

    def __init__(
        self,
        layers: Layers,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        depth: int,
        width: int,
        norm: str,
        activation: str,
        pooling: str,
        doubling: bool = False,
    ):
        _check(image_shape, depth, width, norm, pooling)
        side, inputs = map_size(image_shape), image_shape[2]
        self.names = tuple(f"block{index:0{len(str(depth - 1))}d}" for index in range(depth))
        for index, name in enumerate(self.names):
            block = ConvBlock(
                layers,
                inputs,
                width,
                padding=1 + grey_padding(image_shape) if index == 0 else 1,
                norm="none" if doubling and index == 0 else norm,
                groups=4,
                activation=activation,
                pooling=pooling,
                ahead=doubling,
            )
            setattr(self, name, block)
            inputs, width = width, 2 * width if doubling else width
            side = side if pooling == "none" else (side[0] // 2, side[1] // 2)
        self.head = layers.linear(side[0] * side[1] * inputs, classes)

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        for name in self.names:
            x = getattr(self, name)(x, run)
        features = x.reshape(x.shape[0], -1)
        return self.head(features), features


def grey_padding(image_shape: tuple[int, int, int]) -> int:
    """What the first convolution pads beyond "same": 2 for grey 28x28 images (to 32x32), else 0."""
    return 2 if image_shape == (28, 28, 1) else 0


def map_size(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the first map."""
    more = 2 * grey_padding(image_shape)
    return image_shape[0] + more, image_shape[1] + more


def _check(image_shape: tuple[int, int, int], depth: int, width: int, norm: str, pooling: str):
    if norm == "group" and width % 4:
        use = max(4, width // 4 * 4)
        raise ConfigError(out_of_range("width with norm 'group'", width, "multiples of 4", use))
    deepest = min(map_size(image_shape)).bit_length() - 1
    if pooling != "none" and depth > deepest:
        height, breadth, _ = image_shape
        argument = f"depth of a ConvNet on {height}x{breadth} images"
        raise ConfigError(out_of_range(argument, depth, f"1 to {deepest}", f"convnet{deepest}"))
