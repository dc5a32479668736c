"""Back-propagation through training: the loss on real data of a network trained on the set, differentiated in the set.

    min_{S, eta}  E_{theta_0} CE(T; theta_T),    theta_{t+1} = theta_t - eta_t grad CE(S_t; theta_t)

All T steps are unrolled, in a fixed order, each with a learned rate (softplus); only the iterates are kept, going back
activations are made again (`kernels.descent`). Momentum in the inner loop is the form of the review's experiments.
Networks may have batch norm: training uses each set's own moments, the loss on real data the running ones.

What is learned works as it was made, replayed in order at the learned rates: trained on in shuffled batches at one rate
published accuracies fall from 96.5 to 62 % (MNIST). The stored rate is the mean of the learned ones.
Source: Wang et al., "Dataset Distillation", 2018, algorithm 1 and the released code.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import out_of_range
from ddjax.kernels import descent
from ddjax.kernels import labels as losses
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, below_one, positive, require
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Distiller, Made, Needs, Net, Tree

SMALLER = {"digits": "convnet2-w32"}  # a third block would normalise maps of 2x2: nothing is left to train
TINY = 1e-4  # smallest share that a learned label keeps when it becomes a logit


@dataclasses.dataclass(frozen=True)
class BPTT(Matching):
    """DD-2018's hyper-parameters; ``None`` is filled per data set (see DEFAULTS). Published on LeNet and AlexNet."""

    steps: int | None = None
    """Updates of the set; each on a fresh network and a real batch."""
    lr: float | None = None
    """Learning rate of images and raw rates (Adam); halved after every tenth of the steps."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's two decay rates."""
    inner_lr: float | None = None
    """First value of the learned rate of every inner step."""
    epochs: int | None = None
    """How often the inner training goes through the set."""
    per_step: int = 1
    """Images of each class in an inner step; must divide ipc."""
    momentum: float = 0.0
    """Momentum of the inner training (0: as published; the review's re-run has it)."""
    nets: int = 1
    """Networks that a step averages over."""
    real_batch: int | None = None
    """Real images of a step."""
    start: Literal["noise", "real"] | None = None
    """Start from N(0, 1) noise or from real images."""

    REFERENCE: ClassVar[str] = PAPERS["wang2018dataset"].bibtex
    ARCHS: ClassVar = {**Matching.ARCHS, **SMALLER}
    DEFAULTS: ClassVar = {
        # published at ipc 10: 30 inner steps; kept below it
        "": dict(steps=20000, lr=0.01, inner_lr=0.02, epochs={1: 30, 10: 3}, real_batch=1024, start="noise"),
        # ours, reduced: 8x8 images, two cores; from real images, which other networks learn from too
        "digits": dict(steps=300, lr=0.03, inner_lr=0.1, epochs={1: 10, 10: 1}, real_batch=256, start="real"),
        "cifar10": dict(inner_lr=0.001),
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="iid", real_batch=self.real_batch or 0)

    @property
    def learns(self) -> tuple[str, ...]:
        return ("lr",)

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), epochs=(1, None), per_step=(1, self.ipc), nets=(1, None),
            real_batch=(1, None),
        )  # fmt: skip
        problems += positive(self, prefix, lr=0.01, inner_lr=0.02) + below_one(self, prefix, momentum=0.9)
        if 1 <= self.per_step <= self.ipc and self.ipc % self.per_step:
            best = max(n for n in range(1, self.per_step) if self.ipc % n == 0)
            problems.append(out_of_range(f"{prefix}.per_step", self.per_step, f"divisors of ipc = {self.ipc}", best))
        if not all(0 <= b < 1 for b in self.betas):
            problems.append(out_of_range(f"{prefix}.betas", self.betas, "two numbers in [0, 1)", (0.5, 0.999)))
        return problems

    def build(self, context: Context) -> Distiller:
        """Unrolls the whole inner training of every step."""
        method: Any = self
        length = context.ipc // method.per_step * method.epochs
        raw = jnp.log(jnp.expm1(jnp.full(length, method.inner_lr, jnp.float32)))

        def begin(key: jax.Array, images: jax.Array, labels: jax.Array, logits: Any) -> dict[str, Tree]:
            first = jax.random.normal(key, images.shape, images.dtype) if method.start == "noise" else images
            return {"images": first, "rates": raw}

        def fetch(key: jax.Array, step: jax.Array, kept: Tree, batch: Any) -> tuple[Tree, Tree]:
            if method.nets == 1:
                return kept, context.net.init(key)
            return kept, jax.lax.map(context.net.init, jax.random.split(key, method.nets))

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Any) -> tuple[jax.Array, dict]:
            sets = dealt(seen, context.classes, method.per_step * context.factor**2)
            rates = jax.nn.softplus(seen.learned["rates"])
            given = (sets, rates, batch.images, losses.onehot(batch.labels, context.classes))

            def at(net: Tree, given: tuple) -> jax.Array:
                return trained_loss(context.net, net, *given, momentum=method.momentum)

            value = at(net, given) if method.nets == 1 else context.pool_mean(at)(net, given)
            return value, {"inner_lr": jnp.mean(rates)}

        halved = optax.exponential_decay(method.lr, max(1, method.steps // 10), 0.5, staircase=True)
        made = by_matching(
            context, steps=method.steps, optimiser=optax.adam(halved, *method.betas), objective=objective, fetch=fetch,
            start=begin,
        )  # fmt: skip

        def extract(state: Any) -> Made:
            return Made(state.learned["images"], None, jnp.mean(jax.nn.softplus(state.learned["rates"])))

        return made._replace(extract=extract)


class Sets(NamedTuple):
    """The set in the order of its inner steps."""

    images: jax.Array  # [S, B, H, W, D]
    targets: jax.Array  # [S, B, C]


def dealt(seen: Seen, classes: int, each: int) -> Sets:
    """``each`` images of every class for every inner step, in the order they are stored."""

    def part(rows: jax.Array) -> jax.Array:
        by_step = rows.reshape(classes, -1, each, *rows.shape[1:]).swapaxes(0, 1)
        return by_step.reshape(by_step.shape[0], classes * each, *rows.shape[1:])

    return Sets(part(seen.images), part(losses.onehot(seen.labels, classes)))


def inner_loss(net: Net):
    """Cross-entropy of a batch ``(images, targets)`` as `kernels.descent` wants it."""

    def loss(params: Tree, state: Tree, batch: tuple) -> tuple[jax.Array, Tree]:
        out = net.apply(params, state, batch[0], train=True)
        return losses.cross_entropy(out.logits, batch[1]), out.state

    return loss


def trained_loss(
    net: Net, start: Tree, sets: Sets, rates: jax.Array, real: jax.Array, targets: jax.Array, *, momentum: float,
    remat: bool = True,
) -> jax.Array:  # fmt: skip
    """The loss on real images of a network trained at ``rates [T]``, one set after another, over and over."""
    inner, (params, state) = descent.momentum(momentum), start
    order = jnp.arange(rates.shape[0]) % sets.images.shape[0]
    carry = (params, state, inner.init(params))
    params, state, _ = descent.descend(
        inner_loss(net), inner, carry, lambda i: (sets.images[i], sets.targets[i]), order, rates, remat=remat
    )
    return losses.cross_entropy(net.apply(params, state, real, train=False).logits, targets)


def logits_of(rows: jax.Array) -> jax.Array:
    """Learned label rows (non-negative) as logits, mean 0 in a row: their softmax is the row, normalised, shares of
    less than TINY lifted to it. A protocol that regresses takes these logits as its targets."""
    shares = rows / jnp.maximum(jnp.sum(rows, axis=1, keepdims=True), TINY)
    logits = jnp.log(jnp.maximum(shares, TINY))
    return logits - jnp.mean(logits, axis=1, keepdims=True)
