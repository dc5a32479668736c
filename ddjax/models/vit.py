"""Vision transformers (Dosovitskiy et al., ICLR 2021), sizes of DeiT (Touvron et al., ICML 2021).

ViT-Tiny: width 192, 3 heads; ViT-Small: width 384, 6 heads; both 12 blocks, hidden layer four times
the width, class token, learned positions, pre-normalisation, exact GELU. The patch is chosen from
the image: 2 at 8x8, 4 at 28x28 and 32x32, 8 at 64x64, 16 at 224x224. Taps are the inputs of the
layer normalisations, ``[B, tokens, width]``.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.models.layers import Forward, LayerNorm, Layers, parameter


class Attention(nnx.Module):
    """Multi-head self-attention, softmax in float32."""

    def __init__(self, layers: Layers, width: int, heads: int):
        self.qkv = layers.linear(width, 3 * width)
        self.proj = layers.linear(width, width)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores * (width // self.heads) ** -0.5).astype(x.dtype)
        return self.proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))


class TransformerBlock(nnx.Module):
    """``x += attention(norm x); x += mlp(norm x)``."""

    def __init__(self, layers: Layers, width: int, heads: int):
        self.norm1 = LayerNorm(width)
        self.attention = Attention(layers, width, heads)
        self.norm2 = LayerNorm(width)
        self.expand = layers.linear(width, 4 * width)
        self.reduce = layers.linear(4 * width, width)

    def __call__(self, x: jax.Array, run: Forward) -> jax.Array:
        x = x + self.attention(self.norm1(x, run))
        hidden = jax.nn.gelu(self.expand(self.norm2(x, run)), approximate=False)
        return x + self.reduce(hidden)


class ViT(nnx.Module):
    """Patches, class token, blocks, final normalisation; ``features`` is the class token."""

    def __init__(
        self,
        layers: Layers,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        width: int,
        heads: int,
        depth: int = 12,
    ):
        height, breadth, channels = image_shape
        self.patch = patch_size(height, breadth)
        tokens = (height // self.patch) * (breadth // self.patch)
        self.embed = layers.linear(self.patch**2 * channels, width, scheme="torch")
        self.token = parameter((1, 1, width), ("normal", 1e-6))
        self.position = parameter((1, tokens + 1, width), ("normal", 0.02))
        self.names = tuple(f"block{index:02d}" for index in range(depth))
        for name in self.names:
            setattr(self, name, TransformerBlock(layers, width, heads))
        self.norm = LayerNorm(width)
        self.head = layers.linear(width, classes)

    def __call__(self, x: jax.Array, run: Forward) -> tuple[jax.Array, jax.Array]:
        patches = self.embed(_patches(x, self.patch))
        token = self.token[...].astype(x.dtype)
        token = jnp.broadcast_to(token, (x.shape[0], 1, token.shape[2]))
        x = jnp.concatenate([token, patches], axis=1) + self.position[...].astype(x.dtype)
        for name in self.names:
            x = getattr(self, name)(x, run)
        features = self.norm(x, run)[:, 0]
        return self.head(features), features


def patch_size(height: int, width: int) -> int:
    """The largest of 16, 8, 4 that cuts both sides into at least seven; else 2 if it fits, or 1."""
    sides = (height, width)
    for patch in (16, 8, 4, 2):
        if all(side % patch == 0 and (patch == 2 or side >= 7 * patch) for side in sides):
            return patch
    return 1


def _patches(x: jax.Array, patch: int) -> jax.Array:
    """``[B, H, W, D]`` cut into ``[B, H W / patch^2, patch patch D]``, row by row."""
    batch, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, patch * patch * channels)
