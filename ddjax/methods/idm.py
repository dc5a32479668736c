"""IDM: distribution matching in networks at every stage of training, with a class-aware term, on canvases of four.

    min_S  E_{theta ~ queue, A} sum_c [ || mean_i psi_theta(A(x_ci)) - mean_j psi_theta(A(s_cj)) ||^2
                                        + w a(theta) CE(f_theta(A(s_c)), c) ]

The queue holds networks that are trained on real images a little every step; now and then a fresh one joins and the
oldest leaves. a(theta): the network's accuracy on its training batches of late, in percent as the release counts it
(0 before its first), so that a network that knows nothing says nothing of classes. Stored images are 2x2 canvases, at
first of four real images of half the size.

As the released code has it: features are flattened, not averaged over channels; the queue begins with three networks
and fresh ones come before the first step too. There the images take one step of SGD a class, here one for all: with
the same network and no batch norm classes do not meet, and the moves that momentum adds sum to the same. The rows of
CIFAR and Tiny-ImageNet are the released commands', odd ones too (CIFAR-100: 50 updates of a network at IPC 10 alone;
the class-aware term weighs 0.5 at IPC 1, 0.1 from 10 on). That of imagenette has the released commands for 100 classes
of ImageNet; their IPC 50 has whole images (factor 1), and begins with a trained network that is not here.

Source: Zhao, Li, Qin and Yu, "Improved Distribution Matching for Dataset Condensation", CVPR 2023.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import out_of_range
from ddjax.kernels import labels as losses
from ddjax.kernels import moments
from ddjax.kernels.pool import member
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, positive, require
from ddjax.methods.dm import DM, augmented, features, parts
from ddjax.methods.matching import Seen, by_matching
from ddjax.types import Batch, Distiller, Needs, Net, Tree

FIRST = 3  # networks before the first step
WINDOW = 100  # steps after which accuracies are counted anew


class Queue(NamedTuple):
    """Networks under training; every leaf ``[Q, ...]``, the places filled in turn."""

    params: Tree
    state: Tree
    trace: Tree  # momentum
    right: jax.Array  # [Q] training images judged rightly since accuracies were counted anew
    seen: jax.Array  # [Q] of how many


@dataclasses.dataclass(frozen=True)
class IDM(DM):
    """IDM's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    factor: int | None = None  # type: ignore[assignment]
    """Tiles along a side of each stored image, upsampled when used."""
    ce: float | None = None
    """Weight w of the class-aware term."""
    nets: int | None = None
    """Networks that the queue holds at most."""
    fresh_every: int | None = None
    """Steps between fresh networks."""
    train_nets: int = 2
    """Networks of the queue that train in a step."""
    train_steps: int | None = None
    """Updates of each of them."""
    train_batch: int | None = None
    """Real images of such an update, of all classes, not augmented."""
    net_lr: float = 0.01
    """Learning rate of the networks (SGD, momentum 0.9, weight decay 5e-4)."""

    REFERENCE: ClassVar[str] = PAPERS["zhao2023improved"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(
            factor=2, steps=20000, lr=0.2, real_batch={1: 5000, 2: 256}, ce={1: 0.5, 50: 0.1}, nets=100,
            fresh_every={1: 5, 2: 30}, train_steps=10, train_batch=256,
        ),
        "cifar100": dict(ce={1: 0.5, 10: 0.1}, train_steps={1: 10, 10: 50, 50: 10}),
        "tiny_imagenet": dict(ce={1: 0.5, 50: 0.8}, real_batch=256, fresh_every=30, train_steps={1: 10, 50: 50}),
        "imagenette": dict(
            arch="convnet6", factor={1: 2, 50: 1}, ce=3.0, real_batch=128, train_batch=128, fresh_every=50,
            nets={1: 50, 50: 100},
        ),
        # ours, reduced: two cores; quarters of 8x8 images have too little in them
        "digits": dict(
            arch="convnet2-w32", factor=1, steps=200, lr=0.02, ce=0.1, real_batch=64, nets=10, fresh_every=10,
            train_steps=5, train_batch=64,
        ),
    }  # fmt: skip
    NO_BATCH_NORM: ClassVar[str] = "features are taken class by class"

    @property
    def needs(self) -> Needs:
        fed = self.train_nets * (self.train_steps or 0) * (self.train_batch or 0)
        return super().needs._replace(also=fed)

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        counts = {name: (1, None) for name in ("fresh_every", "train_nets", "train_steps", "train_batch")}
        problems += require(self, prefix, ce=(0, None), nets=(FIRST, None), **counts)
        problems += positive(self, prefix, net_lr=0.01)
        if self.nets is not None and self.train_nets > self.nets >= FIRST:
            problems.append(out_of_range(f"{prefix}.train_nets", self.train_nets, f"<= {prefix}.nets", self.nets))
        return problems

    def build(self, context: Context) -> Distiller:
        """Matches in one network of the queue a step, then trains some of them."""
        method: Any = self

        def gap(part: tuple, net: Tree, weight: jax.Array) -> jax.Array:
            label, *rest = part
            real, made, logits = features(context, *augmented(method, context, tuple(rest)), net)
            targets = losses.onehot(jnp.full(logits.shape[:1], label), context.classes)
            return moments.mean_gap(real, made) + weight * losses.cross_entropy(logits, targets)

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Batch) -> tuple[jax.Array, dict]:
            *weights, accuracy = net
            dealt = (jnp.arange(context.classes, dtype=jnp.int32), *parts(context, key, seen, batch))
            value = context.pool_mean(gap)(dealt, tuple(weights), method.ce * 100.0 * accuracy)
            return context.classes * value, {"net_accuracy": accuracy}

        return by_matching(
            context, steps=method.steps, optimiser=optax.sgd(method.lr, method.momentum), objective=objective,
            network=lambda key: started(context.net, key, method.nets),
            fetch=lambda *args: fetched(method, context.net, *args),
            update=lambda *args: trained(method, context.net, *args),
        )  # fmt: skip


def started(net: Net, key: jax.Array, size: int) -> Queue:
    """The queue before the first step: three fresh networks, the other places empty."""
    params, state = jax.vmap(net.init)(jax.random.split(key, FIRST))

    def room(leaf: jax.Array) -> jax.Array:
        return jnp.concatenate([leaf, jnp.zeros((size - FIRST, *leaf.shape[1:]), leaf.dtype)])

    params, state = jax.tree.map(room, (params, state))
    return Queue(params, state, jax.tree.map(jnp.zeros_like, params), jnp.zeros(size), jnp.zeros(size))


def fetched(method: Any, net: Net, key: jax.Array, step: jax.Array, queue: Queue, batch: Batch) -> tuple[Queue, tuple]:
    """The queue with a fresh network where one is due, and one network ``(params, state, accuracy)`` drawn from it."""
    for_fresh, for_draw = jax.random.split(key)
    kept = (step % WINDOW != 0).astype(queue.right.dtype)
    queue = queue._replace(right=queue.right * kept, seen=queue.seen * kept)
    place = (FIRST + step // method.fresh_every) % method.nets
    params, state = net.init(for_fresh)
    fresh = Queue(params, state, jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros(()))
    due = step % method.fresh_every == 0
    joining = jax.tree.map(lambda new, old: jnp.where(due, new, old), fresh, member(queue, place))
    queue = put(queue, place, joining)
    one = member(queue, jax.random.randint(for_draw, (), 0, filled(method, step)))
    return queue, (one.params, one.state, one.right / jnp.maximum(one.seen, 1.0))


def filled(method: Any, step: jax.Array) -> jax.Array:
    """How many networks the queue holds at a step."""
    return jnp.minimum(FIRST + 1 + step // method.fresh_every, method.nets)


def put(queue: Queue, place: jax.Array, one: Queue) -> Queue:
    """The queue with another network in a place."""
    return jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, place, 0), queue, one)


def fed(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The real images of all classes, and their labels."""
    if batch.more is None or batch.more_labels is None:
        raise ValueError("IDM trains on real images besides those that it matches: Batch.more.")
    return batch.more, batch.more_labels


def trained(
    method: Any, net: Net, key: jax.Array, step: jax.Array, queue: Queue, seen: Seen, batch: Batch
) -> Queue:  # fmt: skip
    """The queue after some of its networks, drawn without replacement, took their updates on real images."""
    size, (more, labels) = queue.right.shape[0], fed(batch)
    lots = jnp.where(jnp.arange(size) < filled(method, step), jax.random.uniform(key, (size,)), -1.0)
    chosen = jax.lax.top_k(lots, method.train_nets)[1]
    each = min(method.train_batch, more.shape[0])
    rows = jnp.arange(method.train_nets * method.train_steps * each, dtype=jnp.int32) % more.shape[0]

    def update(one: Queue, rows: jax.Array) -> tuple[Queue, None]:
        x, y = more[rows], labels[rows]

        def loss(params: Tree) -> tuple[jax.Array, tuple]:
            out = net.apply(params, one.state, x, train=True)
            return losses.cross_entropy(out.logits, losses.onehot(y, net.classes)), (out.state, out.logits)

        grads, (state, logits) = jax.grad(loss, has_aux=True)(one.params)
        trace = jax.tree.map(lambda t, g, p: 0.9 * t + (g + 5e-4 * p), one.trace, grads, one.params)
        params = jax.tree.map(lambda p, t: p - method.net_lr * t, one.params, trace)
        right = losses.correct(logits, y).astype(one.right.dtype)
        return Queue(params, state, trace, one.right + right, one.seen + float(each)), None

    def train(queue: Queue, drawn: tuple[jax.Array, jax.Array]) -> tuple[Queue, None]:
        place, rows = drawn
        return put(queue, place, jax.lax.scan(update, member(queue, place), rows)[0]), None

    return jax.lax.scan(train, queue, (chosen, rows.reshape(method.train_nets, method.train_steps, each)))[0]
