"""NCFM: class by class, the characteristic function of the images' features is that of real ones.

    min_S  E_{theta, A} sum_c [ 300 mean_t sqrt( a (|phi_x| - |phi_s|)^2
                                                 + (1 - a) 2 (|phi_x| |phi_s| - Re(phi_x conj(phi_s))) )
                                + w CE(f_trained(A(s_c)), c) ],      t ~ N(0, I)

phi: mean of exp(i <t, f>) over the features f of a class, scaled to length 1. theta lies at random on the line between
the first and the last weights of a network trained on the real set; CE judges in the last. Stored images are 2x2
canvases, at first of four real images; pixels stay in the legal range.

Red flags. The paper's min-max over a network that draws the frequencies is off in every released configuration
(``sampling_net: False``) and is not here. Users report 12 % without and 8 % with it on Tiny-ImageNet where the paper
says 21 to 29. The published evaluation trains for 2000 to 4000 epochs; here it is judged like the other methods.
Otherwise as the released code, but for these: there AdamW steps class by class, first on the distances, then on CE,
here once on their sum; its rate is not halved where the loss stays; the frequencies of a step serve all classes; the
networks' own training is plain SGD (see ``rate``) under DSA.

Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ddjax.errors import out_of_range
from ddjax.kernels import dsa, moments
from ddjax.kernels import labels as losses
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, require
from ddjax.methods.dm import features, parts
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Batch, Distiller, Experts, Needs, Tree

OPS = ("color", "crop", "cutout")  # of the matching
SCALE = 300.0


@dataclasses.dataclass(frozen=True)
class NCFM(Matching):
    """NCFM's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    factor: int | None = None  # type: ignore[assignment]
    """Tiles along a side of each stored image, upsampled when used."""
    steps: int | None = None
    """Updates of the images; each draws a network and frequencies."""
    lr: float = 0.01
    """Learning rate of the images (AdamW), pixels in 0 .. 1."""
    weight_decay: float | None = None
    """Decay of the pixels towards black."""
    real_batch: int | None = None
    """Real images of each class in a step (at most those of the smallest class)."""
    frequencies: int | None = None
    """Frequencies t of a step."""
    amplitude: float = 0.5
    """Weight a of the difference in amplitude; that of the phase is 1 - a."""
    calibration: float = 1.0
    """Weight w of the cross-entropy in the trained network."""
    nets: int | None = None
    """Networks trained on the real set beforehand. 0: a fresh random one each step, and no calibration."""
    epochs: int | None = None
    """Epochs of their training."""
    rate: float = 0.1
    """Learning rate of their training: plain SGD, where the release has 0.01 with momentum 0.9."""

    REFERENCE: ClassVar[str] = PAPERS["wang2025ncfm"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(factor=2, steps=20000, weight_decay=5e-4, real_batch=1024, frequencies=4096, nets=20, epochs=60),
        "cifar10": dict(weight_decay=0.01),
        "tiny_imagenet": dict(real_batch=128),
        "imagenette": dict(real_batch=128, epochs=80),
        # ours, reduced: two cores; quarters of 8x8 images have too little in them
        "digits": dict(arch="convnet2-w32", factor=1, steps=300, real_batch=64, frequencies=256, nets=5, epochs=10),
    }
    NO_BATCH_NORM: ClassVar[str] = "features are taken class by class"

    @property
    def needs(self) -> Needs:
        experts = Experts(
            count=self.nets or 0, epochs=self.epochs or 0, span=self.epochs or 0, low=0, high=1, rate=self.rate,
            batch=128, ops=dsa.DSA_OPS, arch=self.arch or self.ARCHS[""], fields=("nets", "epochs"),
        )  # fmt: skip
        return Needs(real="per_class", real_batch=self.real_batch or 0, experts=experts if self.nets else None)

    @property
    def augment(self) -> str | None:
        return "dsa"

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), weight_decay=(0, None), real_batch=(1, None), frequencies=(1, None),
            amplitude=(0, 1), calibration=(0, None), nets=(0, None), epochs=(1, None),
        )  # fmt: skip
        positive = {"lr": 0.01, "rate": 0.1}
        return problems + [
            out_of_range(f"{prefix}.{name}", getattr(self, name), "> 0", use)
            for name, use in positive.items()
            if not getattr(self, name) > 0
        ]

    def build(self, context: Context) -> Distiller:
        """Matches characteristic functions in one network a step."""
        method: Any = self
        low, high = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (context.low, context.high))
        unravel = ravel_pytree(context.net.init(jax.random.key(0))[0])[1]

        def fetch(key: jax.Array, step: jax.Array, kept: Tree, batch: Batch) -> tuple[Tree, tuple]:
            for_fresh, for_share = jax.random.split(key)
            params, state = context.net.init(for_fresh)
            if batch.start is None or batch.target is None:
                return kept, ((params, state), None)
            share = jax.random.uniform(for_share, (), batch.start.dtype)
            between = share * batch.start + (1 - share) * batch.target
            return kept, ((unravel(between), state), (unravel(batch.target), state))

        def gap(part: tuple, nets: tuple, t: jax.Array) -> jax.Array:
            label, key, real, made = part
            real, made = dsa.siamese(key, real, made, OPS)
            between, last = nets
            f, g, _ = features(context, real, made, between)
            value = SCALE * moments.cf_gap(moments.unit(f), moments.unit(g), t, method.amplitude)
            if last is None or not method.calibration:
                return value
            logits = context.net.apply(*last, made, train=False).logits
            targets = losses.onehot(jnp.full(logits.shape[:1], label), context.classes)
            return value + method.calibration * losses.cross_entropy(logits, targets)

        def objective(key: jax.Array, seen: Seen, net: Tree, batch: Batch) -> tuple[jax.Array, dict]:
            for_t, for_parts = jax.random.split(key)
            width = jax.eval_shape(lambda x: features(context, x, x, net[0])[1], seen.images).shape[1]
            t = jax.random.normal(for_t, (method.frequencies, width), jnp.float32)
            dealt = (jnp.arange(context.classes, dtype=jnp.int32), *parts(context, for_parts, seen, batch))
            return context.classes * context.pool_mean(gap)(dealt, net, t), {}

        return by_matching(
            context, steps=method.steps, optimiser=adamw_of_pixels(method.lr, method.weight_decay, low, high),
            objective=objective, fetch=fetch,
            project=lambda learned: learned | {"images": jnp.clip(learned["images"], low, high)},
        )  # fmt: skip


def adamw_of_pixels(lr: float, decay: float, low: jax.Array, high: jax.Array) -> optax.GradientTransformation:
    """AdamW of pixels in 0 .. 1 for images kept in normalised space: moves times the range, decay towards black."""

    def scaled(moves: Tree, params: Tree = None) -> Tree:
        def one(move: jax.Array, x: jax.Array) -> jax.Array:
            range_ = jnp.broadcast_to(high - low, x.shape)
            return -lr * (move * range_ + decay * (x - jnp.broadcast_to(low, x.shape)))

        return jax.tree.map(one, moves, params)

    return optax.chain(optax.scale_by_adam(), optax.stateless(scaled))
