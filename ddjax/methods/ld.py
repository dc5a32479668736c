"""Label distillation: real images stay as they are, their labels are learned.

    min_Y  CE(T; theta'),    theta' = theta - eta grad CE((X, Y); theta)            second_order
    min_Y  CE(T; phi, a w'), w' = 0.99 w + 0.01 w(Y),  w(Y): ridge regression of Y on phi(X)   ridge (LD-RR)

One network is trained on the set alongside (Adam) and drawn anew once its error on real batches, averaged over ``gap``
of them, has not fallen for ``gap`` steps. LD-RR is the kernel regression of `kernels.krr` with images frozen: features
carry no derivative, so the labels' is first order; a is a learned calibration. Labels start uniform and are kept a
distribution after every update; they are stored as logits (`bptt.logits_of`). Published on LeNet and AlexNet; their
ridge is not known here, ours scales with the trace. Networks may have batch norm (moments of each batch, as published).
Source: Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", 2020, algorithms
1 and 2, and the released code.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import choice
from ddjax.kernels import krr
from ddjax.kernels import labels as losses
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, positive, require
from ddjax.methods.bptt import SMALLER, logits_of
from ddjax.methods.matching import Matching, State, per_part, seen
from ddjax.types import Distiller, Made, Needs, Tree

KINDS = ("ridge", "second_order")
SHARE = 0.01  # of the head that one step's regression makes up


class Student(NamedTuple):
    """The network trained alongside, and the record of its errors that decides when it is drawn anew."""

    learned: dict[str, Tree]  # params; scale [], the calibration of the head
    state: Tree
    optimiser: Tree
    head: jax.Array  # [F + 1, C] running mean of the regressions' heads, the bias last
    errors: jax.Array  # [gap] shares of real images misclassified, the latest last
    count: jax.Array  # [] steps since it was drawn
    lowest: jax.Array  # [] smallest sum of ``errors``
    since: jax.Array  # [] steps since then


@dataclasses.dataclass(frozen=True)
class LD(Matching):
    """LD's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of the labels."""
    kind: Literal["ridge", "second_order"] = "ridge"
    """LD-RR, or the derivative through one step of training."""
    lr: float | None = None
    """Learning rate of the labels (Adam)."""
    inner_lr: float | None = None
    """Rate of the step that second_order differentiates."""
    inner_batch: int | None = None
    """Images of the set in a step, drawn anew each time (at most all)."""
    student_lr: float = 0.001
    """Learning rate of the network (Adam); that of its calibration is ten times as large."""
    ridge: float = 0.01
    """Ridge, times the mean of the kernel's diagonal."""
    gap: int | None = None
    """Steps over which errors are averaged, and without improvement after which the network is drawn anew."""
    real_batch: int | None = None
    """Real images of a step."""

    REFERENCE: ClassVar[str] = PAPERS["bohdal2020flexible"].bibtex
    STORE: ClassVar[str] = "pixels"
    ARCHS: ClassVar = {**Matching.ARCHS, **SMALLER}
    DEFAULTS: ClassVar = {
        "": dict(
            steps=20000,
            lr=0.001,
            inner_lr=0.01,
            inner_batch={1: 10, 5: 25, 10: 50},
            gap={1: 50, 11: 200},
            real_batch=1024,
        ),
        "digits": dict(steps=800, lr=0.002, inner_lr=0.1, real_batch=256),  # ours, reduced: 8x8 images, two cores
        "cifar100": dict(inner_batch=100, gap=100),
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="iid", real_batch=self.real_batch or 0)

    @property
    def learns(self) -> tuple[str, ...]:
        return ("logits",)

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(self, prefix, steps=(1, None), inner_batch=(1, None), gap=(1, None), real_batch=(1, None))
        if self.kind not in KINDS:
            problems.append(choice(f"{prefix}.kind", self.kind, KINDS))
        return problems + positive(self, prefix, lr=0.01, inner_lr=0.01, student_lr=0.01, ridge=0.01)

    def build(self, context: Context) -> Distiller:
        """Every step: the labels' update, then the network's on the same images, then the look at its errors."""
        method: Any = self
        adam = optax.adam(method.lr)
        rule = per_part(params=optax.adam(method.student_lr), scale=optax.adam(10 * method.student_lr))
        outer = by_ridge if method.kind == "ridge" else by_second_order

        def drawn(key: jax.Array) -> Student:
            params, state = context.net.init(key)
            shape = jax.ShapeDtypeStruct((1, *context.image_shape), jnp.float32)
            out = jax.eval_shape(lambda x: context.net.apply(params, state, x, train=False), shape)
            learned, zero = {"params": params, "scale": jnp.float32(1.0)}, jnp.int32(0)
            head = jnp.zeros((out.features.shape[1] + 1, context.classes), jnp.float32)
            errors = jnp.zeros(method.gap, jnp.float32)
            return Student(learned, state, rule.init(learned), head, errors, zero, jnp.float32(0.0), zero)

        def init(key: jax.Array, images: jax.Array, labels: jax.Array) -> State:
            rows = jnp.full((images.shape[0], context.classes), 1 / context.classes, jnp.float32)
            return State({"images": images, "rows": rows}, labels, drawn(key), adam.init(rows))

        def step(key: jax.Array, state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
            for_rows, for_net = jax.random.split(key)
            shown, student, rows = seen(context, state.learned, state.labels), state.network, state.learned["rows"]
            taken = jax.random.permutation(for_rows, shown.images.shape[0])[: method.inner_batch]
            images, wanted = shown.images[taken], losses.onehot(batch.labels, context.classes)

            def loss(rows: jax.Array) -> tuple[jax.Array, tuple]:
                picked = context.repeat(rows)[taken]
                logits, student_after = outer(method, context, student, images, picked, batch.images)
                return losses.cross_entropy(logits, wanted), (logits, student_after)

            (value, (logits, student)), slope = jax.value_and_grad(loss, has_aux=True)(rows)
            moves, held = adam.update(slope, state.optimiser)
            moved = jnp.clip(rows + moves, 0, 1)
            moved = moved / jnp.maximum(jnp.sum(moved, axis=1, keepdims=True), 1e-6)
            student = trained(method, context, rule, jax.lax.stop_gradient(student), images,
                              context.repeat(rows if method.kind == "second_order" else moved)[taken])  # fmt: skip
            error = 1 - losses.correct(logits, batch.labels) / batch.labels.shape[0]
            student, anew = watched(student, error)
            student = jax.lax.cond(anew, lambda: drawn(for_net), lambda: student)
            info = {"loss": value, "error": error, "anew": anew.astype(jnp.float32)}
            return State(state.learned | {"rows": moved}, state.labels, student, held), info

        def extract(state: State) -> Made:
            return Made(state.learned["images"], logits_of(state.learned["rows"]))

        return Distiller(init, step, extract, method.steps)


def with_bias(features: jax.Array) -> jax.Array:
    """Features and a column of ones."""
    return jnp.concatenate([features, jnp.ones((features.shape[0], 1), features.dtype)], axis=1)


def by_ridge(
    method: Any, context: Context, student: Student, images: jax.Array, rows: jax.Array, real: jax.Array
) -> tuple[jax.Array, Student]:
    """Logits of real images by the calibrated head, moved towards the regression of ``rows``; the student has it."""

    def features(x: jax.Array) -> jax.Array:
        out = context.net.apply(student.learned["params"], student.state, x, train=True)
        return with_bias(out.features)

    local = krr.fitted(features(images), rows, method.ridge)
    head = (1 - SHARE) * student.head + SHARE * local
    return features(real) @ (student.learned["scale"] * head), student._replace(head=head)


def by_second_order(
    method: Any, context: Context, student: Student, images: jax.Array, rows: jax.Array, real: jax.Array
) -> tuple[jax.Array, Student]:
    """Logits of real images by the network after one step of descent on the images."""

    def inner(params: Tree) -> jax.Array:
        return losses.cross_entropy(context.net.apply(params, student.state, images, train=True).logits, rows)

    params = student.learned["params"]
    ahead = jax.tree.map(lambda p, g: p - method.inner_lr * g, params, jax.grad(inner)(params))
    return context.net.apply(ahead, student.state, real, train=True).logits, student


def trained(method: Any, context: Context, rule: Any, student: Student, images: jax.Array, rows: jax.Array) -> Student:
    """The student after its step on the images: through its own head, or through the calibrated running one."""

    def loss(learned: dict[str, Tree]) -> tuple[jax.Array, Tree]:
        out = context.net.apply(learned["params"], student.state, images, train=True)
        ridge = method.kind == "ridge"
        logits = with_bias(out.features) @ (learned["scale"] * student.head) if ridge else out.logits
        return losses.cross_entropy(logits, rows), out.state

    slope, state = jax.grad(loss, has_aux=True)(student.learned)
    moves, held = rule.update(slope, student.optimiser)
    learned: Any = optax.apply_updates(student.learned, moves)
    return student._replace(learned=learned, state=state, optimiser=held)


def watched(student: Student, error: jax.Array) -> tuple[Student, jax.Array]:
    """The student with its record of errors, and whether it has stopped learning."""
    gap = student.errors.shape[0]
    errors = jnp.roll(student.errors, -1).at[-1].set(error)
    count, total = student.count + 1, jnp.sum(errors)
    first, better = count <= gap, total < student.lowest
    anew = ~first & ~better & (student.since >= gap)
    lowest = jnp.where(first | better, total, student.lowest)
    since = jnp.where(first | better, 0, student.since + 1)
    return student._replace(errors=errors, count=count, lowest=lowest, since=since), anew
