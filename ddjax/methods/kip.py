"""KIP: ridge regression with the tangent kernel of an infinitely wide network; no network is ever drawn.

    min_{X_s, Y_s}  1/2 mean (Y_t - K_ts (K_ss + lambda tr(K_ss) / M I)^-1 Y_s)^2,    K: ReLU tangent kernel

Only the fully connected kernel (`kernels.ntk`) is here: a convolution's costs M x B x pixels^2. In float64, as the
release computes, wherever the backend has it. Labels start as centred one-hot rows and are stored as learned:
regression targets for P-FRePo, and softmax of them for cross-entropy (see `frepo`); the released notebook's are fixed
by default. Published accuracies are those of the kernel itself; networks trained on the images reach less.
Source: Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, and the notebook.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ddjax.kernels import krr, ntk
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, Method, positive, require
from ddjax.methods.frepo import krr_precision
from ddjax.methods.matching import Seen, by_matching, per_part
from ddjax.types import Distiller, Needs, Tree


@dataclasses.dataclass(frozen=True)
class KIP(Method):
    """KIP's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of images and labels."""
    lr: float = 0.04
    """Learning rate of images and labels (Adam), normalised pixel space."""
    depth: int = 1
    """Hidden layers of the infinitely wide network."""
    ridge: float = 1e-6
    """Ridge, times the mean of the kernel's diagonal."""
    real_batch: int | None = None
    """Real images of each class in a step (at most those of the smallest class)."""
    learn_labels: bool = True
    """Learn the labels too."""
    precision: str = "auto"
    """The regression's arithmetic: float64 where the backend has it (auto), float64 or float32."""

    REFERENCE: ClassVar[str] = PAPERS["nguyen2021dataset"].bibtex
    STORE: ClassVar[str] = "float"
    DEFAULTS: ClassVar = {
        "": dict(steps=1000, real_batch=500),
        "digits": dict(steps=500, real_batch=50),  # ours, reduced: 8x8 images, two cores
        "cifar100": dict(real_batch=50),
        "tiny_imagenet": dict(real_batch=25),
        "imagenet": dict(real_batch=5),
    }

    @property
    def needs(self) -> Needs:
        return Needs(real="per_class", real_batch=self.real_batch or 0)

    @property
    def learns(self) -> tuple[str, ...]:
        return ("logits",) if self.learn_labels else ()

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(self, prefix, steps=(1, None), depth=(1, 20), real_batch=(1, None))
        return problems + positive(self, prefix, lr=0.04, ridge=1e-6) + krr_precision(self, prefix)

    def build(self, context: Context) -> Distiller:
        """Every step regresses a class-balanced real batch on the set."""
        method: Any = self
        squared = krr.in_double(functools.partial(regression, depth=method.depth, ridge=method.ridge), method.precision)

        def begin(key: jax.Array, images: jax.Array, labels: jax.Array, logits: Any) -> dict[str, Tree]:
            rows = {"logits": krr.centred(labels, context.classes)} if method.learn_labels else {}
            return {"images": images} | rows

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Any) -> tuple[jax.Array, dict]:
            rows = krr.centred(seen.labels, context.classes) if seen.logits is None else seen.logits
            real, labels = given(batch)
            return squared(flat(seen.images), rows, flat(real), krr.centred(labels, context.classes)), {}

        adam = optax.adam(method.lr)
        rule = per_part(images=adam, logits=adam) if method.learn_labels else per_part(images=adam)
        return by_matching(
            context, steps=method.steps, optimiser=rule, objective=objective, start=begin,
            fetch=lambda key, step, kept, batch: (kept, ()),
        )  # fmt: skip


def given(batch: Any) -> tuple[jax.Array, jax.Array]:
    """The real images and labels of a step fed class by class, in one row: ``[B, H, W, D]``, ``[B]``."""
    return batch.images.reshape(-1, *batch.images.shape[2:]), batch.labels.reshape(-1)


def flat(images: jax.Array) -> jax.Array:
    """Images as rows ``[N, H W D]``."""
    return images.reshape(images.shape[0], -1)


def regression(
    x: jax.Array, rows: jax.Array, real: jax.Array, wanted: jax.Array, depth: int, ridge: float
) -> jax.Array:
    """Half the mean squared error of the prediction for ``real [B, d]`` from ``x [M, d]`` and ``rows [M, C]``."""
    found = ntk.kernel(real, x, depth) @ krr.solve(ntk.gram(x, depth), rows, ridge)
    return 0.5 * jnp.mean((found - wanted) ** 2)
