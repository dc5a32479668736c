"""Distribution matching: class by class, the mean feature of the images is that of real ones, in random networks.

    min_S  E_{theta ~ random, A} sum_c || mean_i psi_theta(A(x_ci)) - mean_j psi_theta(A(s_cj)) ||^2

psi: flattened features before the classifier; A: one DSA op with the same parameters for both sides of a class. The
networks are never trained. Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, eq. 4.

Formulation: one class after another (``pool_mean``: a scan on a CPU), its real images in parts whose maps fit the
caches, without derivative; elsewhere all classes at once.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import optax

from ddjax.kernels import dsa, moments
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, below_one, positive, require
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Batch, Distiller, Needs, Tree


@dataclasses.dataclass(frozen=True)
class DM(Matching):
    """DM's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    steps: int | None = None
    """Updates of the images, each in one network."""
    lr: float | None = None
    """Learning rate of the images (SGD), normalised pixel space."""
    momentum: float = 0.5
    """Momentum of the images."""
    real_batch: int | None = None
    """Real images of each class in a step (at most those of the smallest class)."""
    dsa: bool = True
    """Differentiable Siamese augmentation, in matching and by P-DC."""

    REFERENCE: ClassVar[str] = PAPERS["zhao2023distribution"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(steps=20000, lr=1.0, real_batch=256),
        "cifar10": dict(lr={1: 1.0, 100: 10.0}),
        # ours, reduced: two cores; of 8x8 images a third layer leaves one pixel, and instance norm little of that
        "digits": dict(arch="convnet2-w32", steps=300, lr=0.1),
    }
    NO_BATCH_NORM: ClassVar[str] = "features are taken class by class"

    @property
    def needs(self) -> Needs:
        return Needs(real="per_class", real_batch=self.real_batch or 0)

    @property
    def augment(self) -> str | None:
        return "dsa" if self.dsa else None

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(self, prefix, steps=(1, None), real_batch=(1, None))
        return problems + positive(self, prefix, lr=1.0) + below_one(self, prefix, momentum=0.5)

    def build(self, context: Context) -> Distiller:
        """Matches the mean features of every class in one fresh network a step."""
        method: Any = self

        def gap(part: tuple, net: Tree) -> jax.Array:
            return moments.mean_gap(*features(context, *augmented(method, context, part), net)[:2])

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Batch) -> tuple[jax.Array, dict]:
            return context.classes * context.pool_mean(gap)(parts(context, key, seen, batch), net), {}

        sgd = optax.sgd(method.lr, method.momentum)
        return by_matching(context, steps=method.steps, optimiser=sgd, objective=objective)


def parts(context: Context, key: jax.Array, seen: Seen, batch: Batch) -> tuple:
    """What ``pool_mean`` deals out, class by class: a key, real images ``[b, ...]``, own images ``[n, ...]``."""
    return jax.random.split(key, context.classes), batch.images, seen.by_class(context.classes)


def augmented(method: DM, context: Context, part: tuple) -> tuple[jax.Array, jax.Array]:
    """Real and own images of a class under the same op with the same parameters."""
    key, real, made = part
    return dsa.siamese(key, real, made, context.dsa_ops) if method.dsa else (real, made)


def features(context: Context, real: jax.Array, made: jax.Array, net: Tree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features ``[b, F]`` of the real images, without derivative; features ``[n, F]`` and logits of the own ones."""

    def of(x: jax.Array) -> jax.Array:
        return context.net.apply(*net, x, train=False).features

    size = moments.at_once(context.image_shape, jax.default_backend())
    out = context.net.apply(*net, made, train=False)
    return moments.in_parts(of, jax.lax.stop_gradient(real), size), out.features, out.logits
