"""RaT-BPTT: train on the set for a random time, differentiate only through the last steps.

    min_S  E_{theta_0, N} CE(T; theta_{N + W}),    N ~ U{0 .. total - W} Adam steps without derivative, W with

Inner batches, their augmentation and the network are drawn anew each time. Networks may have batch norm. Deviations:
images as normalised, without the paper's ZCA; N is drawn for every update, the release draws it once an epoch; inner
steps see all classes on every data set: for CIFAR-100 the paper draws some in each, how many no released command says
(``class_batch`` classes of ``per_step`` images do that).
Source: Feng, Vedantam and Kempe, "Embarrassingly Simple Dataset Distillation", ICLR 2024, and the released code.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import choices, out_of_range
from ddjax.kernels import descent, dsa
from ddjax.kernels import labels as losses
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, positive, require
from ddjax.methods.bptt import SMALLER, inner_loss, logits_of
from ddjax.methods.matching import Matching, Seen, by_matching, per_part
from ddjax.types import Distiller, Made, Needs, Net, Tree


@dataclasses.dataclass(frozen=True)
class RaTBPTT(Matching):
    """RaT-BPTT's hyper-parameters; ``None`` is filled per data set (see DEFAULTS). No ZCA: images as normalised."""

    steps: int | None = None
    """Updates of the set; each on a fresh network and a real batch."""
    lr: float | None = None
    """Learning rate of images and learned labels (Adam)."""
    window: int | None = None
    """Inner steps that are differentiated, the last ones."""
    total: int | None = None
    """Most inner steps; those before the window are a random number of 0 .. total - window, without derivative."""
    inner_lr: float | None = None
    """Learning rate of the inner training (Adam)."""
    real_batch: int | None = None
    """Real images of a step."""
    per_step: int | None = None
    """Images of each class in an inner step, drawn anew each time. None: all."""
    class_batch: int | None = None
    """Classes in an inner step, drawn anew each time. None: all."""
    learn_labels: bool | None = None
    """Learn the labels too: rows that start one-hot and stay non-negative."""
    ops: tuple[str, ...] = ("flip", "rotate")
    """Augmentation of synthetic and real images, one of these for a batch; flip only where the data set admits it."""
    start: Literal["noise", "real"] | None = None
    """Start from noise of norm 1 for each image, or from real images."""

    REFERENCE: ClassVar[str] = PAPERS["feng2024embarrassingly"].bibtex
    ARCHS: ClassVar = {**Matching.ARCHS, **SMALLER}
    DEFAULTS: ClassVar = {
        "": dict(
            steps=60000,
            lr=1e-3,
            inner_lr=1e-3,
            window=60,
            total=200,
            real_batch=5000,
            learn_labels=False,
            start="noise",
        ),
        # ours, reduced: 8x8 images, two cores
        "digits": dict(steps=150, lr=0.03, window=15, total=50, real_batch=256, inner_lr=0.003, start="real"),
        "cifar100": dict(window=100, total=300, learn_labels=True),
        "tiny_imagenet": dict(lr=3e-4, window=100, total=300, learn_labels=True),
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="iid", real_batch=self.real_batch or 0)

    @property
    def augment(self) -> str | None:
        return "dsa" if self.ops else None

    @property
    def learns(self) -> tuple[str, ...]:
        return ("logits",) if self.learn_labels else ()

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), window=(1, None), real_batch=(1, None), per_step=(1, None),
            class_batch=(1, None),
        )  # fmt: skip
        problems += positive(self, prefix, lr=1e-3, inner_lr=1e-3)
        if self.total is not None and self.window is not None and self.total < self.window:
            problems.append(out_of_range(f"{prefix}.total", self.total, f">= window = {self.window}", self.window))
        problems += choices(f"{prefix}.ops", self.ops, dsa.DSA_OPS)
        return problems

    def build(self, context: Context) -> Distiller:
        """Trains for a random time, then unrolls ``window`` steps more."""
        method: Any = self
        ops = tuple(op for op in method.ops if op in context.dsa_ops)
        views = Views(context.classes, method.class_batch, method.per_step, ops)

        def begin(key: jax.Array, images: jax.Array, labels: jax.Array, logits: Any) -> dict[str, Tree]:
            if method.start == "noise":
                noise = jax.random.normal(key, images.shape, images.dtype)
                images = noise / jnp.sqrt(jnp.sum(noise**2, axis=(1, 2, 3), keepdims=True))
            rows = {"rows": losses.onehot(labels, context.classes)} if method.learn_labels else {}
            return {"images": images} | rows

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Any) -> tuple[jax.Array, dict]:
            rows = seen.learned.get("rows")
            rows = losses.onehot(seen.labels, context.classes) if rows is None else context.repeat(rows)
            keys = jax.random.split(key, 4)
            before = jax.random.randint(keys[0], (), 0, method.total - method.window + 1)
            params, state = windowed(
                context.net, net, (seen.images, rows), views, keys[1:3], before, method.window, method.inner_lr
            )
            real = dsa.augment(keys[3], batch.images, ops) if ops else batch.images
            logits = context.net.apply(params, state, real, train=False).logits
            value = losses.cross_entropy(logits, losses.onehot(batch.labels, context.classes))
            return value, {"before": before.astype(jnp.float32)}

        def project(learned: dict[str, Tree]) -> dict[str, Tree]:
            return {name: jnp.maximum(part, 0) if name == "rows" else part for name, part in learned.items()}

        adam = optax.adam(method.lr)
        rule = per_part(images=optax.chain(clip_by_average(), adam), rows=adam)
        made = by_matching(
            context, steps=method.steps, optimiser=rule, objective=objective, start=begin, project=project
        )

        def extract(state: Any) -> Made:
            rows = state.learned.get("rows")
            return Made(state.learned["images"], None if rows is None else logits_of(rows))

        return made._replace(extract=extract)


class Views(NamedTuple):
    """How a batch of an inner step is drawn from the set (static)."""

    classes: int
    class_batch: int | None
    per_step: int | None
    ops: tuple[str, ...]

    def draw(self, key: jax.Array, images: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and targets of one inner step: some images of some classes, augmented."""
        for_classes, for_images, for_view = jax.random.split(key, 3)
        each = images.shape[0] // self.classes
        taken = jnp.arange(self.classes)
        if (self.class_batch or self.classes) < self.classes:
            taken = jnp.sort(jax.random.permutation(for_classes, self.classes)[: self.class_batch])
        if (self.per_step or each) < each:
            order = jnp.argsort(jax.random.uniform(for_images, (self.classes, each)), axis=1)[:, : self.per_step]
        else:
            order = jnp.broadcast_to(jnp.arange(each)[None], (self.classes, each))
        if taken.shape[0] * order.shape[1] < images.shape[0]:
            index = (taken[:, None] * each + order[taken]).reshape(-1)
            images, rows = images[index], rows[index]
        return dsa.augment(for_view, images, self.ops) if self.ops else images, rows


def windowed(
    net: Net, start: Tree, given: tuple, views: Views, keys: jax.Array, before: jax.Array, window: int, rate: float,
    *, remat: bool = True,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Weights and state after ``before`` steps without derivative and ``window`` with; ``given`` = (images, rows)."""
    adam, loss, (params, state) = descent.adam(), inner_loss(net), start
    still = jax.lax.stop_gradient(given)
    carry = (params, state, adam.init(params))
    carry = descent.advance(
        loss, adam, carry, lambda i: views.draw(jax.random.fold_in(keys[0], i), *still), before, rate
    )
    carry = jax.lax.stop_gradient(carry)
    params, state, _ = descent.descend(
        loss, adam, carry, lambda key: views.draw(key, *given), jax.random.split(keys[1], window),
        jnp.full(window, rate, jnp.float32), remat=remat,
    )  # fmt: skip
    return params, state


def clip_by_average(decay: float = 0.9, times: float = 2.0) -> optax.GradientTransformation:
    """Gradients longer than ``times`` their running mean length are shortened to it (as RaT-BPTT's release does)."""

    def init(params: Tree) -> jax.Array:
        return jnp.float32(-1.0)

    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        length = optax.tree.norm(updates)
        average = jnp.where(state < 0, length, decay * state + (1 - decay) * length)
        shorter = jnp.minimum(1.0, times * average / (length + 1e-6))
        return jax.tree.map(lambda s: s * shorter.astype(s.dtype), updates), average

    return optax.GradientTransformation(init, update)
