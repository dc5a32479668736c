"""Trajectory matching: N steps on the set are to lead from an expert's weights to where M epochs on real data led it.

    theta_0 = expert_t,  theta* = expert_{t+M},  theta_{i+1} = theta_i - beta grad_theta ce(f(A(s_i); theta_i), y_i)
    min_{S, beta}  || theta_N - theta* ||^2 / || theta_0 - theta* ||^2

s_i: mini-batches without replacement within an epoch of the set (a ragged rest is dropped); A: one DSA op a batch with
parameters of each image's own; beta: learned. The experts are plain networks (``ddjax.experts``).

MTT    the exact gradient, through all N steps (``kernels.unroll.descend``: only the iterates are kept)
TESLA  the iterates count as constants, so paths through later steps are dropped; on ImageNet labels are the target
       network's. The release has commands for CIFAR-10 at IPC 1, CIFAR-100 at IPC 50 and ImageNet at IPC 1, and 10,000
       steps for all; the other cells are MTT's
DATM   labels are learned, the start epochs rise from easy to hard, the images begin as ones that an expert gets right

Sources: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, algorithm 1; Cui et
al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, eq. 5-7; Guo et al., "Towards
Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024, and their released code. Not taken
over: ZCA whitening (published numbers on CIFAR have it but for MTT at IPC 50); DATM's flat experts (FTD: experts
trained with a sharpness-aware step); the learned rate is kept above 1e-6, which the releases do not do. DATM's configs
ask for a running average of the images, decay 0.9995, which its released program never takes: ``ema`` is 0 here.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ddjax.errors import choice, out_of_range
from ddjax.kernels import dsa, gradients, unroll
from ddjax.kernels import labels as losses
from ddjax.kernels.dsa import DSA_OPS
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, below_one, positive, require
from ddjax.methods.matching import Matching, Seen, State, by_matching, per_part
from ddjax.types import Batch, Distiller, Experts, Made, Needs, Tree

LEAST_RATE = 1e-6
LABELS = ("hard", "teacher", "learned")
GRADIENTS = ("exact", "detached")


@dataclasses.dataclass(frozen=True)
class MTT(Matching):
    """MTT's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of the images; each matches one stretch of one expert."""
    lr: float | None = None
    """Learning rate of the images (SGD), normalised pixel space."""
    momentum: float = 0.5
    """Momentum of the images and of the learned rate."""
    inner_steps: int | None = None
    """N: steps on the set that one update goes through."""
    inner_lr: float | None = None
    """What the learned rate of those steps begins with."""
    lr_lr: float | None = None
    """Learning rate of the learned rate (SGD)."""
    batch: int | None = None
    """Images of an inner step, at most all; 0: all."""
    span: int | None = None
    """M: epochs of an expert that the N steps are to cover."""
    min_start: int | None = None
    """The first epoch at which a stretch may start."""
    max_start: int | None = None
    """The epoch below which stretches start."""
    first_max_start: int | None = None
    """The same in the first step, from where it grows to max_start."""
    grow: int | None = None
    """Steps within which it grows; 0: it is max_start from the first step on."""
    experts: int | None = None
    """Networks trained on the real set whose paths are matched."""
    expert_epochs: int | None = None
    """Epochs that each of them is trained for."""
    expert_lr: float | None = None
    """Their constant rate (plain SGD)."""
    expert_batch: int | None = None
    """Real images of a step of theirs."""
    store: str = ""
    """A folder of experts made before; "": found in the cache, or trained."""
    dsa: bool = True
    """Differentiable augmentation: of the experts, of the inner steps and by P-DC and P-MTT."""
    gradient: Literal["exact", "detached"] = "exact"
    """Through all inner steps, or with the iterates as constants (TESLA)."""
    labels: Literal["hard", "teacher", "learned"] | None = None
    """Of the classes (hard); the target network's softmax, anew in every step (TESLA on ImageNet); learned (DATM)."""
    label_lr: float | None = None
    """Learning rate of learned logits (SGD)."""
    label_momentum: float = 0.9
    """Momentum of learned logits."""
    start: Literal["random", "experts"] = "random"
    """The first images: random real ones, or of those that an expert classifies right (DATM)."""
    threshold: float | None = None
    """A step whose loss is above it moves nothing; 0: every step does."""
    ema: float = 0.0
    """Decay of the running average of the images that is handed out; 0: the images of the last step."""

    REFERENCE: ClassVar[str] = PAPERS["cazenavette2022trajectories"].bibtex
    # on 8x8 digits a third block would normalise over 2x2 pixels, where the path's derivatives reach 10^3
    ARCHS: ClassVar = {**Matching.ARCHS, "digits": "convnet2-w32"}
    DEFAULTS: ClassVar = {
        "": dict(
            steps=5000, lr={1: 100.0, 10: 1000.0}, inner_steps={1: 50, 10: 30}, inner_lr={1: 0.01, 50: 0.001},
            lr_lr={1: 1e-7, 10: 1e-5}, batch=0, span=2, min_start=0, max_start={1: 2, 10: 20, 50: 40},
            first_max_start=0, grow=0, experts=100, expert_epochs=50, expert_lr=0.01, expert_batch=256, label_lr=0.0,
            threshold=0.0, labels="hard",
        ),
        # ours, reduced: 8x8 images, two cores
        "digits": dict(
            steps=200, lr={1: 3.33, 10: 100.0}, inner_steps=15, inner_lr=0.05, lr_lr=1e-4, max_start=8, experts=4,
            expert_epochs=12, expert_lr=0.05, expert_batch=64,
        ),
        "cifar100": dict(
            lr=1000.0, inner_steps={1: 20, 50: 80}, inner_lr=0.01, lr_lr=1e-5, batch={1: 0, 50: 125},
            span={1: 3, 10: 2}, max_start={1: 20, 50: 40},
        ),
        "tiny_imagenet": dict(
            lr=1e4, inner_steps={1: 10, 10: 20}, inner_lr=0.01, lr_lr=1e-4, batch={1: 0, 10: 200, 50: 300},
            max_start={1: 10, 10: 40},
        ),
        "imagenette": dict(
            lr=1e5, inner_steps=20, inner_lr=0.01, lr_lr=1e-6, batch={1: 0, 10: 20}, max_start=10,
        ),
        "imagenet": dict(
            lr=1e4, inner_steps=10, inner_lr=0.01, lr_lr=1e-4, batch=100, span=3, max_start=10,
        ),
    }  # fmt: skip

    @property
    def needs(self) -> Needs:
        method: Any = self
        wanted = Experts(
            count=method.experts, epochs=method.expert_epochs, span=method.span, low=method.min_start,
            high=method.max_start, first=method.first_max_start, grow=method.grow, rate=method.expert_lr,
            batch=method.expert_batch, ops=DSA_OPS if self.dsa else (), arch=self.arch or "", store=self.store,
        )  # fmt: skip
        return Needs(experts=wanted, start=self.start, start_logits=self.labels == "learned")

    @property
    def augment(self) -> str | None:
        return "dsa" if self.dsa else None

    @property
    def learns(self) -> tuple[str, ...]:
        return ("lr",) if self.labels in ("hard", None) else ("logits", "lr")

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix) + require(
            self, prefix, steps=(1, None), inner_steps=(1, None),
            lr_lr=(0, None), batch=(0, None), span=(1, None), min_start=(0, None), first_max_start=(0, None),
            grow=(0, None), experts=(1, None), expert_epochs=(1, None), expert_batch=(1, None), label_lr=(0, None),
            threshold=(0, None),
        )  # fmt: skip
        problems += positive(self, prefix, lr=1000.0, inner_lr=0.01, expert_lr=0.01)
        problems += below_one(self, prefix, momentum=0.5, label_momentum=0.9, ema=0.9995)
        for name, allowed in (("gradient", GRADIENTS), ("labels", LABELS), ("start", ("random", "experts"))):
            if getattr(self, name) not in (*allowed, None):
                problems.append(choice(f"{prefix}.{name}", getattr(self, name), allowed))
        return problems + (self._check_range(prefix) if self.max_start is not None and not problems else [])

    def _check_range(self, prefix: str) -> list[str]:
        """What is wrong with the epochs at which stretches start."""
        method: Any = self
        low, high, problems = method.min_start, method.max_start, []
        if high <= low:
            allowed = f"> min_start = {low}"
            problems.append(out_of_range(f"{prefix}.max_start", high, allowed, low + 1))
        elif high - 1 + method.span > method.expert_epochs:
            most, enough = method.expert_epochs - method.span + 1, high - 1 + method.span
            allowed = f"<= {most}: stretches of span = {method.span} end within expert_epochs = {method.expert_epochs}"
            use = (
                f"{most}, or --{prefix}.expert_epochs {enough}" if most > low else f"--{prefix}.expert_epochs {enough}"
            )
            problems.append(out_of_range(f"{prefix}.max_start", high, allowed, use))
        if method.grow and not low < method.first_max_start <= high:
            allowed = f"> min_start = {low} and <= max_start = {high} where grow > 0"
            problems.append(out_of_range(f"{prefix}.first_max_start", method.first_max_start, allowed, high))
        return problems

    def build(self, context: Context) -> Distiller:
        """One stretch of one expert a step."""
        return build(self, context)


@dataclasses.dataclass(frozen=True)
class TESLA(MTT):
    """TESLA's hyper-parameters: MTT's, with its memory-saving gradient."""

    gradient: Literal["exact", "detached"] = "detached"
    """With the iterates as constants."""

    REFERENCE: ClassVar[str] = PAPERS["cui2023scaling"].bibtex
    DEFAULTS: ClassVar = {
        **MTT.DEFAULTS,
        "": {**MTT.DEFAULTS[""], "steps": 10000, "lr": 1000.0, "max_start": {1: 5, 10: 20, 50: 40}},
        "imagenet": {**MTT.DEFAULTS["imagenet"], "labels": "teacher", "experts": 50},
    }


@dataclasses.dataclass(frozen=True)
class DATM(MTT):
    """DATM's hyper-parameters: MTT's, with learned labels and start epochs that rise."""

    labels: Literal["hard", "teacher", "learned"] = "learned"
    """Learned logits, which begin as the mean over the experts that classify an image right."""
    start: Literal["random", "experts"] = "experts"
    """Of those that an expert classifies right."""

    REFERENCE: ClassVar[str] = PAPERS["guo2024lossless"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(
            steps=10000, lr={1: 100.0, 50: 1000.0, 500: 50.0}, inner_steps={1: 80, 500: 40, 1000: 100}, inner_lr=0.01,
            lr_lr={1: 1e-7, 10: 1e-5}, batch={1: 10, 10: 100, 50: 500, 500: 1000}, span=2, min_start={1: 0, 500: 40},
            max_start={1: 4, 10: 20, 50: 40, 500: 60}, first_max_start={1: 0, 10: 10, 50: 20, 500: 0},
            grow={1: 0, 10: 1000, 50: 2000, 500: 0}, experts=100, expert_epochs=100, expert_lr=0.01, expert_batch=256,
            label_lr={1: 5.0, 10: 2.0, 500: 10.0}, threshold={1: 1.1, 10: 1.0},
        ),
        # ours, reduced: 8x8 images, two cores
        "digits": dict(
            steps=200, lr={1: 10.0, 10: 100.0}, inner_steps=15, inner_lr=0.05, lr_lr=1e-4, batch=0, min_start=0,
            max_start=8, first_max_start=3, grow=100, experts=4, expert_epochs=12, expert_lr=0.05, expert_batch=64,
            label_lr=2.0, threshold=0.0,
        ),
        "cifar100": dict(
            lr={1: 1000.0, 100: 50.0}, inner_steps={1: 40, 10: 80}, lr_lr=1e-5, batch=1000, span={1: 3, 10: 2},
            min_start={1: 0, 50: 20, 100: 30}, max_start={1: 20, 10: 50, 50: 70},
            first_max_start={1: 10, 10: 30, 50: 0}, grow={1: 2000, 50: 0}, label_lr=10.0, threshold=1.0,
        ),
        "tiny_imagenet": dict(
            lr={1: 1e4, 10: 100.0}, inner_steps={1: 40, 50: 20}, lr_lr=1e-4, batch={1: 1000, 10: 500, 50: 1000},
            min_start={1: 0, 10: 10, 50: 40}, max_start={1: 20, 10: 50, 50: 70}, first_max_start={1: 15, 10: 0},
            grow={1: 2000, 10: 0}, label_lr=10.0, threshold=1.0,
        ),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- the step


def batches(key: jax.Array, total: int, size: int, count: int) -> jax.Array:
    """Rows ``[count, size]`` of mini-batches: a new order of all in every epoch, its ragged rest dropped."""
    each = total // size
    keys = jax.random.split(key, -(-count // each))
    orders = jax.lax.map(lambda k: jax.random.permutation(k, total), keys)[:, : each * size]
    return orders.reshape(-1, size)[:count].astype(jnp.int32)


def student_loss(method: Any, context: Context):
    """``loss(params, learned, fixed, (key, rows))``: of one inner step on the rows of the set's images and targets."""

    def loss(params: Tree, learned: Tree, fixed: Tree, x: tuple) -> jax.Array:
        key, rows = x
        images, state = learned["images"], fixed["state"]
        targets = jax.nn.softmax(learned["logits"]) if "logits" in learned else fixed["targets"]
        if rows.shape[0] < images.shape[0]:  # else all of them, in whatever order
            images, targets = images[rows], targets[rows]
        if method.dsa:
            images = dsa.augment(key, images, context.dsa_ops)
        return losses.cross_entropy(context.net.apply(params, state, images, train=True).logits, targets)

    return loss


def endpoint_distance(last: Tree, start: Tree, target: Tree) -> jax.Array:
    """``|| last - target ||^2 / || start - target ||^2``."""
    return gradients.l2(last, target) / gradients.l2(start, target)


def objective(method: Any, context: Context):
    """The loss of a step at a stretch (start, target, state) of an expert."""
    inner = student_loss(method, context)

    def loss(key: jax.Array, seen: Seen, stretch: tuple, batch: Batch) -> tuple[jax.Array, dict]:
        start, target, state = stretch
        for_rows, for_views = jax.random.split(key)
        total = seen.images.shape[0]
        rows = batches(for_rows, total, min(method.batch or total, total), method.inner_steps)
        learned: dict[str, Tree] = {"images": seen.images}
        fixed = {"state": state, "targets": losses.onehot(seen.labels, context.classes)}
        if method.labels == "learned":
            learned |= {"logits": seen.logits}
        elif method.labels == "teacher":
            fixed["targets"] = jax.nn.softmax(said(context, target, state, jax.lax.stop_gradient(seen.images)))
        rate = seen.learned["lr"]
        last = unroll.descend(
            inner, start, learned, fixed, (jax.random.split(for_views, method.inner_steps), rows), rate,
            detached=method.gradient == "detached",
        )  # fmt: skip
        return endpoint_distance(last, start, target), {"rate": rate}

    return loss


def positive_rate(learned: dict[str, Tree]) -> dict[str, Tree]:
    """What is learned, its rate at least LEAST_RATE."""
    return learned | {"lr": jnp.maximum(learned["lr"], LEAST_RATE)}


def said(context: Context, params: Tree, state: Tree, images: jax.Array) -> jax.Array:
    """Logits of a network."""
    return context.net.apply(params, state, images, train=True).logits


def build(method: Any, context: Context) -> Distiller:
    """MTT and its relatives on one problem."""
    shapes, _ = jax.eval_shape(context.net.init, jax.random.key(0))

    def unravelled(key: jax.Array, *rows: jax.Array | None) -> tuple:
        """The weights in ``rows`` as trees, and the state of a fresh network."""
        rebuild = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))[1]
        return (*(rebuild(row) for row in rows if row is not None), context.net.init(key)[1])

    def start(key: jax.Array, images: jax.Array, labels: jax.Array, logits: jax.Array | None) -> dict[str, Tree]:
        learned = {"images": images, "lr": jnp.float32(method.inner_lr)}
        return learned | ({"logits": logits} if method.labels == "learned" else {})

    def network(learned: dict[str, Tree]) -> dict[str, Tree]:
        kept = {"images": jnp.copy(learned["images"])} if method.ema else {}  # a buffer of its own, to be donated
        if method.labels == "teacher":
            kept["logits"] = jnp.zeros((learned["images"].shape[0], context.classes), jnp.float32)
        return kept

    def update(key: jax.Array, step: jax.Array, kept: Tree, seen: Seen, batch: Batch) -> Tree:
        if method.ema:
            now = seen.learned["images"]
            kept = kept | {"images": method.ema * kept["images"] + (1.0 - method.ema) * now}
        if method.labels == "teacher":
            target, state = unravelled(key, batch.target)
            logits = said(context, target, state, seen.images)  # of a canvas: the mean over its tiles
            kept = kept | {"logits": logits.reshape(-1, context.factor**2, context.classes).mean(axis=1)}
        return kept

    optimiser = per_part(
        images=optax.sgd(method.lr, method.momentum),
        lr=optax.sgd(method.lr_lr, method.momentum),
        logits=optax.sgd(method.label_lr, method.label_momentum),
    )
    base = by_matching(
        context, steps=method.steps, optimiser=optimiser, objective=objective(method, context), start=start,
        fetch=lambda key, step, kept, batch: (kept, unravelled(key, batch.start, batch.target)), update=update,
        project=positive_rate,
    )  # fmt: skip

    def init(*given: jax.Array) -> State:
        state = base.init(*given)
        return state._replace(network=network(state.learned))

    def step(key: jax.Array, state: State, batch: Batch) -> tuple[State, Any]:
        after, info = base.step(key, state, batch)
        if method.threshold:
            good = info["loss"] <= method.threshold
            after = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        return after, info

    def extract(state: State) -> Made:
        made = {**state.learned, **state.network}
        return Made(made["images"], made.get("logits"), made["lr"])

    return Distiller(init, step, extract, method.steps)
