"""FRePo: ridge regression on the features of networks that are themselves, slowly, trained on the set.

    min_{X_s, Y_s}  1/2 ||Y_t - phi(X_t) w||^2 + mean -min(top1 - top2 of Y_s, 1/C),    w = ridge regression of Y_s

A pool of online networks: each step picks one, regresses on its features (in inference mode), moves images and labels
by LAMB, then gives that network one Adam step of squared error on the set, or, once it is older than ``age``, draws it
anew. Y_s starts as centred one-hot rows over sqrt(C / 10). Source: Zhou, Nezhadarya and Ba, "Dataset Distillation using
Neural Feature Regression", NeurIPS 2022, algorithm 1, and the released code (learning rate falling to a tenth by a
cosine).

Labels are stored as they are learned: centred regression targets, which P-FRePo takes as they stand. A protocol of
cross-entropy takes softmax(Y_s), whose minimiser is, up to a constant per image, the same function: logits Y_s; and to
second order around 0, where targets of this size lie, the two losses are one, up to the factor 1/C.

The regression sees mirrored images too but where the release leaves them out: grey sets, ImageNet, many images of
many classes.

Network: ConvNet of widths 128, 256, 512, ... with batch norm in front of its convolutions, drawn as Flax draws.
Batch norm is fine: features use the running statistics, which the online steps move by nine tenths, as published.
Evaluation is published without normalisation (evaluate.archs convnet3-doubling-none). The best of the checkpoints on
the test split, as published, is not taken: the last is.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import choice
from ddjax.kernels import krr
from ddjax.kernels.pool import member
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, positive, require
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Distiller, Needs, Tree

FASTER = 9.0  # our batch norm keeps 0.9 of its statistics a step, the published one 0.1: nine times the move


class Online(NamedTuple):
    """The pool, every leaf stacked on an axis of ``nets``; ``age``: updates since it was drawn; which was picked."""

    params: Tree
    state: Tree
    optimiser: Tree
    age: jax.Array  # [P] int32
    picked: jax.Array  # [] int32


@dataclasses.dataclass(frozen=True)
class FRePo(Matching):
    """FRePo's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of images and labels."""
    lr: float | None = None
    """Learning rate of images and labels (LAMB); falls to a tenth by a cosine."""
    ridge: float = 1e-6
    """Ridge, times the mean of the kernel's diagonal."""
    real_batch: int | None = None
    """Real images of a step."""
    nets: int | None = None
    """Online networks."""
    age: int | None = None
    """Updates after which an online network is drawn anew."""
    online_lr: float | None = None
    """Learning rate of the online networks (Adam)."""
    online_batch: int = 500
    """Most synthetic images of an online network's step."""
    flip: bool | None = None
    """Regress on the left-right mirrored images too."""
    margin: bool = True
    """The label-margin term, which keeps each label's class on top."""
    precision: str = "auto"
    """The regression's arithmetic: float64 where the backend has it (auto), float64 or float32."""

    REFERENCE: ClassVar[str] = PAPERS["zhou2022regression"].bibtex
    ARCHS: ClassVar = {
        "": "convnet3-doubling-batch-lecun", "digits": "convnet3-w32-batch-lecun",
        "tiny_imagenet": "convnet4-doubling-batch-lecun", "imagenette": "convnet5-doubling-batch-lecun",
        "imagenet": "convnet4-doubling-batch-lecun",
    }  # fmt: skip
    DEFAULTS: ClassVar = {
        "": dict(steps=500_000, lr=3e-4, real_batch=1024, nets=10, age=100, online_lr=3e-4, flip=True),
        # ours, reduced: 8x8 images, two cores
        "digits": dict(steps=1000, lr=9e-3, real_batch=256, nets=5, online_lr=1e-3, flip=False),
        "mnist": dict(flip=False),
        "fashion_mnist": dict(flip=False),
        "cifar100": dict(flip={1: True, 10: False}),
        "tiny_imagenet": dict(flip={1: True, 10: False}),
        "imagenet": dict(flip=False),
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="iid", real_batch=self.real_batch or 0)

    @property
    def learns(self) -> tuple[str, ...]:
        return ("logits",)

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), real_batch=(1, None), nets=(1, None), age=(0, None), online_batch=(1, None)
        )
        problems += positive(self, prefix, lr=3e-4, online_lr=3e-4, ridge=1e-6)
        return problems + krr_precision(self, prefix)

    def build(self, context: Context) -> Distiller:
        """One network of the pool a step: regress, move the set, train or redraw the network."""
        method: Any = self
        adam = optax.adam(method.online_lr)
        squared = krr.in_double(functools.partial(regression, ridge=method.ridge), method.precision)

        def begin(key: jax.Array, images: jax.Array, labels: jax.Array, logits: Any) -> dict[str, Tree]:
            scale = (context.classes / 10) ** 0.5
            return {"images": images, "logits": krr.centred(labels, context.classes) / scale}

        def network(key: jax.Array) -> Online:
            params, state = jax.lax.map(context.net.init, jax.random.split(key, method.nets))
            age = jnp.arange(method.nets, dtype=jnp.int32) * (method.age // method.nets)
            return Online(params, state, jax.vmap(adam.init)(params), age, jnp.int32(0))

        def fetch(key: jax.Array, step: jax.Array, kept: Online, batch: Any) -> tuple[Online, Tree]:
            picked = jax.random.randint(key, (), 0, method.nets, jnp.int32)
            return kept._replace(picked=picked), member((kept.params, kept.state), picked)

        def objective(key: jax.Array, seen: Any, net: Tree, batch: Any) -> tuple[jax.Array, dict]:
            images, rows = seen.images, seen.logits
            if method.flip:
                images, rows = jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([rows, rows])

            def features(x: jax.Array) -> jax.Array:
                return context.net.apply(*net, x, train=False).features

            wanted = krr.centred(batch.labels, context.classes)
            value = squared(features(images), rows, jax.lax.stop_gradient(features(batch.images)), wanted)
            return value + (margin(seen.logits) if method.margin else 0.0), {"regression": value}

        def update(key: jax.Array, step: jax.Array, kept: Online, seen: Seen, batch: Any) -> Online:
            return grown(method, context, adam, key, kept, seen)

        rate = optax.cosine_decay_schedule(method.lr, method.steps, alpha=0.1)
        return by_matching(
            context, steps=method.steps, optimiser=optax.lamb(rate), objective=objective, fetch=fetch, update=update,
            network=network, start=begin,
        )  # fmt: skip


def krr_precision(method: Any, prefix: str) -> list[str]:
    """A sentence where ``precision`` is none of the three."""
    known = ("auto", "float64", "float32")
    return [] if method.precision in known else [choice(f"{prefix}.precision", method.precision, known)]


def regression(phi: jax.Array, rows: jax.Array, real: jax.Array, wanted: jax.Array, ridge: float) -> jax.Array:
    """The squared error on real features ``[B, F]`` of the head fitted to ``rows [M, C]`` on features ``[M, F]``."""
    return krr.squared(real @ krr.weights(phi, rows, ridge), wanted)


def margin(rows: jax.Array) -> jax.Array:
    """Mean of -min(largest - second largest, 1/C) over label rows ``[N, C]``."""
    top, _ = jax.lax.top_k(rows, 2)
    return -jnp.mean(jnp.minimum(top[:, 0] - top[:, 1], 1 / rows.shape[1]))


def grown(method: Any, context: Context, adam: Any, key: jax.Array, kept: Online, seen: Any) -> Online:
    """The pool after the picked network's step on the set, or after it was drawn anew."""
    for_net, for_rows = jax.random.split(key)
    params, state, held, age = member((kept.params, kept.state, kept.optimiser, kept.age), kept.picked)
    rows, count = jnp.arange(seen.images.shape[0]), min(method.online_batch, seen.images.shape[0])
    if count < seen.images.shape[0]:
        rows = jax.random.permutation(for_rows, seen.images.shape[0])[:count]

    def anew() -> tuple:
        fresh, first = context.net.init(for_net)
        return fresh, first, adam.init(fresh), jnp.int32(0)

    def trained() -> tuple:
        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            out = context.net.apply(params, state, seen.images[rows], train=True)
            return krr.squared(out.logits, seen.logits[rows]), out.state

        slope, after = jax.grad(loss, has_aux=True)(params)
        moves, now = adam.update(slope, held, params)
        moved: Any = optax.apply_updates(params, moves)
        after = jax.tree.map(lambda old, new: old + FASTER * (new - old), state, after)
        return moved, after, now, age + 1

    found = jax.lax.cond(age > method.age, anew, trained)
    everything = (kept.params, kept.state, kept.optimiser, kept.age)
    put: Any = jax.tree.map(lambda pool, new: pool.at[kept.picked].set(new), everything, found)
    return Online(put[0], put[1], put[2], put[3], kept.picked)
