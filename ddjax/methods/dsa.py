"""Gradient matching: a step on the images should be the step on real ones, class by class, along a network's training.

    min_S  E_{theta_0} sum_{t < outer} sum_c D( grad_theta CE(A(S_c); theta_t), grad_theta CE(A(T_c); theta_t) )
    D = sum_layers sum_outputs (1 - cos),   theta_{t+1} = inner epochs of SGD on S from theta_t

One step of ours is one t: the images move once, then the network is trained on them; after ``outer`` of them the
network is drawn anew. A: nothing (DC), or one DSA op with the same parameters for both sides of a class (DSA), which
then augments the network's training too, image by image.

As released (it differs from the papers' text in these): all classes' distances are summed for one update of the images;
the network trains without momentum; each output's angle has 1e-6 added to the product of the norms; biases and norms
are not matched. Real gradients come piece by piece of the batch, so that a piece's activations stay in the cache.

Sources: Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, eq. 9, 10, Algorithm 1; Zhao
and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, eq. 7.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import choice
from ddjax.kernels import dsa, gradients
from ddjax.kernels.labels import by_image, onehot
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, below_one, positive, require
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Batch, Distiller, Needs, Tree

INITS = ("noise", "real")


@dataclasses.dataclass(frozen=True)
class DC(Matching):
    """DC's hyper-parameters; ``None`` is filled per data set and IPC (see DEFAULTS)."""

    steps: int | None = None
    """Networks that the images are matched on, one after another (outer iterations)."""
    outer: int | None = None
    """Updates of the images on each network."""
    inner: int | None = None
    """Epochs that the network is trained on the images between two updates of them."""
    lr: float | None = None
    """Learning rate of the images (SGD), normalised pixel space."""
    momentum: float = 0.5
    """Momentum of the images; it outlives the networks."""
    real_batch: int = 256
    """Real images of each class in a step (at most those of the smallest class)."""
    net_lr: float = 0.01
    """Learning rate of the networks (SGD without momentum)."""
    net_batch: int = 256
    """Images in an update of the networks."""
    init: Literal["noise", "real"] = "noise"
    """Start from N(0, 1) noise or from real images."""
    dsa: bool = False
    """Differentiable Siamese augmentation: in matching, in the networks' training, and by P-DC."""

    REFERENCE: ClassVar[str] = PAPERS["zhao2021condensation"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(
            steps=1000, lr=0.1, outer={1: 1, 10: 10, 20: 20, 30: 30, 40: 40, 50: 50},
            inner={1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10},
        ),
        "digits": dict(steps={1: 300, 10: 15}, lr=0.02),  # ours, reduced: 8x8 images, two cores; pixels weigh more
    }  # fmt: skip
    NO_BATCH_NORM: ClassVar[str] = "gradients are taken class by class"
    # ours: at 8x8 a third block would normalise 2x2 pixels, and gradients of gradients would jump
    ARCHS: ClassVar[Mapping[str, str]] = {**Matching.ARCHS, "digits": "convnet2-w32"}

    @property
    def needs(self) -> Needs:
        return Needs(real="per_class", real_batch=self.real_batch)

    @property
    def augment(self) -> str | None:
        return "dsa" if self.dsa else None

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), outer=(1, None), inner=(0, None), real_batch=(1, None), net_batch=(1, None),
        )  # fmt: skip
        problems += positive(self, prefix, lr=0.1, net_lr=0.01) + below_one(self, prefix, momentum=0.5)
        if self.init not in INITS:
            problems.append(choice(f"{prefix}.init", self.init, INITS))
        return problems

    def build(self, context: Context) -> Distiller:
        """A state machine: the position on the network's path is the step modulo ``outer``."""
        method: Any = self
        kept = {} if method.outer == 1 else path(method, context)
        return by_matching(
            context, steps=method.steps * method.outer, optimiser=optax.sgd(method.lr, method.momentum),
            objective=objective(method, context), start=beginning(method), **kept,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DSA(DC):
    """DSA's hyper-parameters: DC's, augmented, from real images."""

    init: Literal["noise", "real"] = "real"
    """Start from N(0, 1) noise or from real images."""
    dsa: bool = True
    """Differentiable Siamese augmentation: in matching, in the networks' training, and by P-DC."""

    REFERENCE: ClassVar[str] = PAPERS["zhao2021siamese"].bibtex


def beginning(method: DC) -> Callable:
    """The images before the first step."""

    def start(key: jax.Array, images: jax.Array, labels: jax.Array, logits: jax.Array | None) -> dict[str, jax.Array]:
        return {"images": jax.random.normal(key, images.shape, images.dtype) if method.init == "noise" else images}

    return start


def objective(method: DC, context: Context) -> Callable:
    """The sum over classes of the distances of the two gradients."""
    piece = gradients.piece(jax.default_backend())

    def distance(part: tuple, net: Tree) -> jax.Array:
        key, label, real, made = part
        if method.dsa:
            real, made = dsa.siamese(key, real, made, context.dsa_ops)
        params, state = net

        def loss(params: Tree, x: jax.Array) -> jax.Array:
            logits = context.net.apply(params, state, x, train=False).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

        wanted = gradients.by_pieces(loss, params, real, piece)
        return gradients.by_output(jax.grad(loss)(params, made), jax.lax.stop_gradient(wanted))

    def total(key: jax.Array, seen: Seen, net: Tree, batch: Batch) -> tuple[jax.Array, dict]:
        keys, labels = jax.random.split(key, context.classes), jnp.arange(context.classes, dtype=jnp.int32)
        parts = (keys, labels, batch.images, seen.by_class(context.classes))
        return context.classes * context.pool_mean(distance)(parts, net), {}

    return total


def path(method: Any, context: Context) -> dict[str, Callable]:
    """The network's way: drawn anew at each ``outer``-th step, trained on the images after the others."""

    def fetch(key: jax.Array, step: jax.Array, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        net = jax.lax.cond(step % method.outer == 0, context.net.init, lambda key: kept, key)
        return net, net

    def update(key: jax.Array, step: jax.Array, kept: Tree, seen: Seen, batch: Batch) -> Tree:
        epochs = jnp.where(step % method.outer == method.outer - 1, 0, method.inner)  # the next step draws another
        return trained(method, context, key, kept, seen, epochs)

    return dict(fetch=fetch, update=update, network=context.net.init)


def trained(method: Any, context: Context, key: jax.Array, net: Tree, seen: Seen, epochs: jax.Array) -> Tree:
    """``net`` after ``epochs`` of shuffled batches of the set; the last batch of an epoch may be short."""
    params, state = net
    total, size = seen.images.shape[0], min(method.net_batch, seen.images.shape[0])
    batches = -(-total // size)
    for_order, for_views = jax.random.split(key)
    targets = onehot(seen.labels, context.classes)

    def update(i: jax.Array, params: Tree) -> Tree:
        place = (i % batches) * size + jnp.arange(size, dtype=jnp.int32)
        rows = jax.random.permutation(jax.random.fold_in(for_order, i // batches), total)[place % total]
        counts = (place < total).astype(jnp.float32)  # what fills the last batch up counts nothing
        x = seen.images[rows]
        if method.dsa:
            x = dsa.augment(jax.random.fold_in(for_views, i), x, context.dsa_ops)

        def loss(params: Tree) -> jax.Array:
            logits = context.net.apply(params, state, x, train=True).logits
            return jnp.sum(counts * by_image("ce", logits, targets[rows])) / jnp.sum(counts)

        return jax.tree.map(lambda p, g: p - method.net_lr * g, params, jax.grad(loss)(params))

    return jax.lax.fori_loop(0, epochs * batches, update, params), state
