"""RFAD: ridge regression with the kernel of random finite networks, drawn anew for every step, calibrated by Platt.

    K(x, z) = 2 mean_j <phi_j(x), phi_j(z)> / F + 0.01;    min CE(softmax(e^k y(X_t)), Y_t) in X_s, k

phi_j: features in front of the head of wide networks without normalisation, weights N(0, 2 / fan-in), biases N(0,
0.1^2): the infinite network's kernel in the mean. Images are x W, W a learned linear map that starts as the identity.

What is stored: images x W, and as labels e^k Y_s (Y_s alone without Platt): regression is linear in its labels, so
these make its predictions calibrated logits; their softmax is the cross-entropy target, and a protocol that regresses
takes them as scaled targets (the release scales its own by 8). Deviation: the release stops early on a part of the
training split; here all steps are done. Source: Loo, Hasani, Amini and Rus, "Efficient Dataset Distillation using
Random Feature Approximation", NeurIPS 2022, section 4, and the released code.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ddjax.kernels import krr
from ddjax.kernels import labels as losses
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, positive, require
from ddjax.methods.frepo import krr_precision
from ddjax.methods.matching import Matching, Seen, by_matching, per_part
from ddjax.methods.teddy import batch_size
from ddjax.types import Distiller, Made, Needs, Net, Tree

TWICE, OFFSET = 2.0, 0.01  # the kernel of a head of variance 2 and bias 0.1^2 on the features


@dataclasses.dataclass(frozen=True)
class RFAD(Matching):
    """RFAD's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of the images."""
    lr: float | None = None
    """Learning rate of images and learned labels (AdaBelief)."""
    map_lr: float = 5e-5
    """Learning rate of the linear map W."""
    platt_lr: float = 0.01
    """Learning rate of Platt's k."""
    ridge: float = 5e-3
    """Ridge, times the mean of the kernel's diagonal."""
    nets: int | None = None
    """Random networks of a step."""
    real_batch: int | None = None
    """Real images of a step."""
    chunk: int = 1280
    """Real images that pass through a network at a time, at most."""
    platt: bool = True
    """Cross-entropy of calibrated predictions; else half the mean squared error."""
    learn_labels: bool = False
    """Learn the labels too."""
    linear_map: bool = True
    """Learn the map W of flattened images."""
    precision: str = "auto"
    """The regression's arithmetic: float64 where the backend has it (auto), float64 or float32."""

    REFERENCE: ClassVar[str] = PAPERS["loo2022random"].bibtex
    ARCHS: ClassVar = {
        "": "convnet3-w256-none", "digits": "convnet3-w64-none", "tiny_imagenet": "convnet4-w256-none",
        "imagenette": "convnet5-w256-none", "imagenet": "convnet4-w256-none",
    }  # fmt: skip
    DEFAULTS: ClassVar = {
        "": dict(steps=100_000, lr=1e-3, nets=8, real_batch=5120),
        "digits": dict(steps=300, lr=0.00667, nets=4, real_batch=256),  # ours, reduced: 8x8 images, two cores
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="iid", real_batch=self.real_batch or 0)

    @property
    def learns(self) -> tuple[str, ...]:
        return ("logits",) if self.platt or self.learn_labels else ()

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(self, prefix, steps=(1, None), nets=(1, None), real_batch=(1, None), chunk=(1, None))
        problems += positive(self, prefix, lr=1e-3, map_lr=5e-5, platt_lr=0.01, ridge=5e-3)
        return problems + krr_precision(self, prefix)

    def build(self, context: Context) -> Distiller:
        """Every step draws its networks, adds up their kernels and regresses."""
        method: Any = self
        loss = krr.in_double(functools.partial(regression, ridge=method.ridge, platt=method.platt), method.precision)
        side = math.prod(context.image_shape)

        def begin(key: jax.Array, images: jax.Array, labels: jax.Array, logits: Any) -> dict[str, Tree]:
            found = {"images": images, "rows": krr.centred(labels, context.classes), "platt": jnp.float32(0.0)}
            return found | ({"map": jnp.eye(side, dtype=jnp.float32)} if method.linear_map else {})

        def fetch(key: jax.Array, step: jax.Array, kept: Tree, batch: Any) -> tuple[Tree, Tree]:
            return kept, jax.random.split(key, method.nets)

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Any) -> tuple[jax.Array, dict]:
            made = context.decode(mapped(seen.learned))
            rows = context.repeat(seen.learned["rows"])

            def one(key: jax.Array, made: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
                return kernels(context.net, key, made, real, method.chunk)

            gram, across = context.pool_mean(one)(net, made, batch.images)
            onehot = losses.onehot(batch.labels, context.classes)
            k = seen.learned["platt"]
            return loss(gram, across, rows, onehot, k), {"scale": jnp.exp(k)}

        belief = optax.adabelief(method.lr, eps=1e-16)
        rules = {"images": belief, "map": optax.adabelief(method.map_lr, eps=1e-16)}
        rules |= {"rows": belief} if method.learn_labels else {}
        rules |= {"platt": optax.adabelief(method.platt_lr, eps=1e-16)} if method.platt else {}
        made = by_matching(
            context, steps=method.steps, optimiser=per_part(**rules), objective=objective, fetch=fetch, start=begin
        )

        def extract(state: Any) -> Made:
            learned = state.learned
            rows = jnp.exp(learned["platt"]) * learned["rows"] if method.learns else None
            return Made(mapped(learned), rows)

        return made._replace(extract=extract)


def mapped(learned: Any) -> jax.Array:
    """The images x W ``[N, H, W, D]``."""
    images = learned["images"]
    if "map" not in learned:
        return images
    return (images.reshape(images.shape[0], -1) @ learned["map"]).reshape(images.shape)


def drawn(net: Net, key: jax.Array) -> tuple[Tree, Tree]:
    """A network of ``net``'s shapes: kernels N(0, 2 / fan-in), vectors N(0, 0.1^2) (norms, where there are any: 1)."""
    params, state = net.init(key)
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    keys = jax.random.split(key, len(paths))

    def leaf(path: tuple, old: jax.Array, key: jax.Array) -> jax.Array:
        if path[-1].key == "scale":
            return old
        spread = math.sqrt(2 * old.shape[-1] / old.size) if old.ndim > 1 else 0.1
        return spread * jax.random.normal(key, old.shape, old.dtype)

    return jax.tree.unflatten(tree, [leaf(*p, k) for p, k in zip(paths, keys, strict=True)]), state


def kernels(net: Net, key: jax.Array, made: jax.Array, real: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """One random network's kernels: of the images with themselves ``[M, M]``, and of real ones with them ``[B, M]``."""
    params, state = drawn(net, key)

    def features(x: jax.Array) -> jax.Array:
        return net.apply(params, state, x, train=False).features

    own = features(made)
    scale = TWICE / own.shape[1]
    size = batch_size(real.shape[0], chunk, 1)
    parts = real.reshape(-1, size, *real.shape[1:])
    across = jax.lax.map(lambda x: jax.lax.stop_gradient(features(x)) @ own.T, parts)
    return scale * own @ own.T + OFFSET, scale * across.reshape(-1, made.shape[0]) + OFFSET


def regression(
    gram: jax.Array, across: jax.Array, rows: jax.Array, onehot: jax.Array, k: jax.Array, ridge: float, platt: bool
) -> jax.Array:
    """Loss of the kernel's predictions for real images whose classes are ``onehot [B, C]``."""
    found = across @ krr.solve(gram, rows, ridge)
    if platt:
        return krr.platt(found, onehot, k)
    return 0.5 * jnp.mean((found - (onehot - 1 / onehot.shape[1])) ** 2)
