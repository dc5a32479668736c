"""IDC: several images on one canvas, matched by the gradients of convolutions along training on *real* images.

    min_S  E_{theta_0} sum_{t < inner} sum_c || G(A(decode(S)_c); theta_t) - G(A(T_c); theta_t) ||
    G: gradient of the class's mean cross-entropy, the convolutions' kernels alone;  ||.||: sum of squares, or of
    absolute values;  theta_{t+1}: a pass over ``net_images`` real images, augmented and cut-mixed

``decode`` cuts a canvas into factor x factor tiles and upsamples each (``kernels.patches``); a canvas starts as so many
real images. One step of ours is one t; after ``inner`` of them pixels are cut to [0, 1] and the network is drawn anew.

As released: the rate is that of pixels in [0, 1] and grows with ipc / 10 and with the area, told for 28 pixels a side
on MNIST and for 32 on Fashion-MNIST, which has 28 too; A is the same for all
images of a class and its real ones: colour, then crop, then cutout (MNIST goes without cutout and CutMix where the
factor is above 1); networks of 100 and more classes of ImageNet train at ten times the rate; the set is stepped class
by class with one momentum buffer, so that every image coasts while the other classes have their turn. Over the C turns
of a step that is

    b <- m^C b + g,   S <- S - rate (1 - m^C) / (1 - m) b       (but for the place of the cut to [0, 1] among the turns)

Other than released: tiles start averaged, not by nearest pixels; what pads a side that the factor does not divide is 0
in normalised space; networks are not trained before their first step (ImageNet, whose published network, ResNetAP-10,
is not here either); one factor only (no "multi", "bound").

Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, sections 4, 5.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import choice, choices, out_of_range
from ddjax.kernels import augment as views
from ddjax.kernels import dsa, gradients
from ddjax.kernels.labels import cross_entropy, onehot
from ddjax.literature import PAPERS
from ddjax.methods.base import Context, below_one, positive, require
from ddjax.methods.matching import Matching, Seen, by_matching
from ddjax.types import Augment, Batch, Distiller, Needs, Tree

DISTANCES: dict[str, Callable[[Tree, Tree], jax.Array]] = {"mse": gradients.l2, "l1": gradients.l1}
FIRST, LAST = ("flip", "color"), ("cutout",)  # ops that are always applied, and where; of the others one is drawn


@dataclasses.dataclass(frozen=True)
class IDC(Matching):
    """IDC's hyper-parameters; ``None`` is filled per data set (see DEFAULTS)."""

    factor: int | None = None  # type: ignore[assignment]
    """Tiles along a side of each stored image, upsampled when used; 1 is IDC-I."""
    steps: int | None = None
    """Networks that the images are matched on, one after another (outer iterations)."""
    inner: int | None = None
    """Updates of the images on each network."""
    lr: float | None = None
    """Learning rate of the images (SGD), pixels in [0, 1], at 10 images a class and ``lr_side`` pixels."""
    lr_side: int | None = None
    """Side of the images that ``lr`` is told for: the rate is lr (ipc / 10) (side / lr_side)^2."""
    momentum: float = 0.5
    """Momentum of the images, turn by turn of the classes."""
    distance: Literal["mse", "l1"] | None = None
    """Distance of the gradients: summed squares or summed absolute values."""
    real_batch: int | None = None
    """Real images of each class in a step (at most those of the smallest class)."""
    most: int = 128
    """Images of the set in a step, of each class, at most: others are drawn at random."""
    ops: tuple[str, ...] | None = None
    """Augmentation, ops of DSA: flip and color always, cutout last, one of the others."""
    cutmix: float | None = None
    """Probability that a batch of the networks' training is cut-mixed (then without cutout)."""
    net_images: int | None = None
    """Real images that the network is trained on after each step."""
    net_batch: int | None = None
    """Images in an update of the networks."""
    net_lr: float | None = None
    """Learning rate of the networks (SGD)."""
    net_momentum: float = 0.9
    """Momentum of the networks."""
    net_decay: float | None = None
    """Weight decay of the networks, all parameters."""

    REFERENCE: ClassVar[str] = PAPERS["kim2022efficient"].bibtex
    DEFAULTS: ClassVar = {
        "": dict(
            factor=2, steps=2000, inner=100, lr=5e-3, lr_side=32, distance="mse", ops=("color", "crop", "cutout"),
            cutmix=0.5, net_images=500, real_batch=64, net_batch=64, net_lr=0.01, net_decay=5e-4,
        ),
        # ours, reduced: 8x8 images, two cores; tiles of 4x4 pixels hold too little there (74 against 81 % at ipc 1)
        "digits": dict(factor=1, steps={1: 6, 10: 3}, inner=50, lr=0.05, lr_side=8, net_images=128),
        "mnist": dict(distance="l1", lr=1e-4, lr_side=28, ops=("color", "crop"), cutmix=0.0),
        "mnist, factor 1": dict(distance="l1", lr=1e-4, lr_side=28),
        "fashion_mnist": dict(distance="l1", lr=1e-4),
        "cifar10": dict(net_images=2000),
        "cifar100": dict(net_images=2000),
        "imagenette": dict(factor=3, steps=500, distance="l1", lr=3e-3, lr_side=224, cutmix=1.0),
        # released for any 100 classes or more of ImageNet; other sets of many classes keep the first row's
        "imagenet": dict(
            factor=3, steps=500, distance="l1", lr=1e-3, lr_side=224, cutmix=1.0, real_batch=128, net_batch=128,
            net_lr=0.1, net_decay=1e-4,
        ),
    }  # fmt: skip
    STORE: ClassVar[str] = "pixels"
    NO_BATCH_NORM: ClassVar[str] = "gradients are taken class by class"
    # ours: at 8x8 a third block would normalise 2x2 pixels, and gradients of gradients would jump
    ARCHS: ClassVar[Mapping[str, str]] = {**Matching.ARCHS, "digits": "convnet2-w32"}

    @property
    def needs(self) -> Needs:
        """Real images of each class, and what the network is trained on: whole batches."""
        size = self.net_batch or 1
        also = -(-(self.net_images or size) // size) * size
        return Needs(real="per_class", real_batch=self.real_batch or 0, also=also)

    def row(self, card: str) -> str:
        """A row of its own where the release decides by the factor too."""
        found = super().row(card)
        whole = f"{found}, factor 1"
        return whole if self.factor == 1 and whole in self.DEFAULTS else found

    @property
    def augment(self) -> str | None:
        return "dsa"

    def check(self, prefix: str = "method") -> list[str]:
        problems = super().check(prefix)
        problems += require(
            self, prefix, steps=(1, None), inner=(1, None), lr_side=(1, None), real_batch=(1, None), most=(1, None),
            cutmix=(0, 1), net_images=(1, None), net_batch=(1, None), net_decay=(0, None),
        )  # fmt: skip
        problems += positive(self, prefix, lr=5e-3, net_lr=0.01)
        problems += below_one(self, prefix, momentum=0.5, net_momentum=0.9)
        if self.distance is not None and self.distance not in DISTANCES:
            problems.append(choice(f"{prefix}.distance", self.distance, DISTANCES))
        problems += choices(f"{prefix}.ops", self.ops or (), dsa.DSA_OPS)
        family = (self.arch or "").partition("-")[0]
        if family in ("mlp", "vit"):
            problems.append(out_of_range(f"{prefix}.arch", self.arch, "a network with convolutions", "convnet3"))
        return problems

    def build(self, context: Context) -> Distiller:
        """A state machine: the position on the network's path is the step modulo ``inner``."""
        method: Any = self
        fetch, update, network = path(method, context)
        found = by_matching(
            context, steps=method.steps * method.inner, optimiser=optimiser(method, context),
            objective=objective(method, context), fetch=fetch, update=update, network=network,
        )  # fmt: skip
        low, high = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (context.low, context.high))

        def step(key: jax.Array, state: Any, batch: Batch) -> tuple[Any, Any]:
            state, info = found.step(key, state, batch)
            images, last = state.learned["images"], batch.step % method.inner == method.inner - 1
            images = jnp.where(last, jnp.clip(images, low, high), images)
            return state._replace(learned={**state.learned, "images": images}), info

        return found._replace(step=step)


def optimiser(method: Any, context: Context) -> optax.GradientTransformation:
    """SGD of pixels in [0, 1], written for normalised ones, over the turns of all classes."""
    side, kept = max(context.image_shape[:2]), method.momentum**context.classes
    rate = method.lr * (context.ipc / 10) * (side / method.lr_side) ** 2 * (1 - kept) / (1 - method.momentum)
    scale = jnp.square(jnp.asarray(context.high) - jnp.asarray(context.low))  # 1 / std^2 of each channel

    def to_pixels(updates: Tree, params: Tree = None) -> Tree:
        return jax.tree.map(lambda g: g * scale[None, None, None].astype(g.dtype), updates)

    return optax.chain(optax.stateless(to_pixels), optax.sgd(rate, kept))


def turns(ops: tuple[str, ...], *, cutout: bool = True) -> list[tuple[str, ...]]:
    """The ops in the order of their application; of several in one turn one is drawn."""
    drawn = tuple(op for op in ops if op not in (*FIRST, *LAST))
    first, last = ([(op,) for op in names if op in ops] for names in (FIRST, LAST))
    return [*first, *([drawn] if drawn else []), *(last if cutout else [])]


def alike(key: jax.Array, ops: tuple[str, ...], a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both batches through ``ops``, with the same parameters for every image of either."""
    for place, some in enumerate(turns(ops)):
        a, b = dsa.siamese(jax.random.fold_in(key, place), a, b, some)
    return a, b


def objective(method: Any, context: Context) -> Callable:
    """The sum over classes of the distances of the two gradients in the convolutions' kernels."""
    piece, distance = gradients.piece(jax.default_backend()), DISTANCES[method.distance]

    def one(part: tuple, net: Tree) -> jax.Array:
        key, label, real, made = part
        for_images, for_ops = jax.random.split(key)
        if made.shape[0] > method.most:
            made = made[jax.random.permutation(for_images, made.shape[0])[: method.most]]
        real, made = alike(for_ops, method.ops, real, made)
        params, state, _ = net

        def loss(params: Tree, x: jax.Array) -> jax.Array:
            logits = context.net.apply(params, state, x, train=False).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

        wanted = jax.lax.stop_gradient(gradients.by_pieces(loss, params, real, piece))
        return distance(*map(gradients.convolutions, (jax.grad(loss)(params, made), wanted)))

    def total(key: jax.Array, seen: Seen, net: Tree, batch: Batch) -> tuple[jax.Array, dict]:
        keys, labels = jax.random.split(key, context.classes), jnp.arange(context.classes, dtype=jnp.int32)
        parts = (keys, labels, batch.images, seen.by_class(context.classes))
        return context.classes * context.pool_mean(one)(parts, net), {}

    return total


def path(method: Any, context: Context) -> tuple[Callable, Callable, Callable]:
    """The network's way: drawn anew at each ``inner``-th step, trained on real images after the others."""

    def fresh(key: jax.Array) -> Tree:
        params, state = context.net.init(key)
        return params, state, jax.tree.map(jnp.zeros_like, params)

    def fetch(key: jax.Array, step: jax.Array, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        net = jax.lax.cond(step % method.inner == 0, fresh, lambda key: kept, key)
        return net, net

    def update(key: jax.Array, step: jax.Array, kept: Tree, seen: Seen, batch: Batch) -> Tree:
        more = step % method.inner < method.inner - 1  # the step after the last one draws another
        return trained(method, context, key, kept, batch, more)

    return fetch, update, fresh


def trained(method: Any, context: Context, key: jax.Array, net: Tree, batch: Batch, more: jax.Array) -> Tree:
    """``net`` (parameters, state, momentum) after a pass over ``batch.more``, if there is to be ``more``."""
    (params, state, momentum), x, labels = net, batch.more, batch.more_labels
    assert x is not None and labels is not None  # as `needs` asks
    size = min(method.net_batch, x.shape[0])
    targets, blend = onehot(labels, context.classes), Augment(cutmix=1.0, cutmix_p=method.cutmix, mix_batch=True)

    def update(i: jax.Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        params, momentum = carry
        for_ops, for_mix = jax.random.split(jax.random.fold_in(key, i))
        some, wanted = (jax.lax.dynamic_slice_in_dim(a, i * size, size) for a in (x, targets))
        for place, ops in enumerate(turns(method.ops, cutout=not method.cutmix)):
            some = dsa.augment(jax.random.fold_in(for_ops, place), some, ops)
        if method.cutmix:
            index = jnp.arange(size, dtype=jnp.int32)
            view = views.draw_view(for_mix, blend, index, 0, image_size=context.image_shape[:2])
            some, wanted = views.apply_view(some, view), views.mix_labels(wanted, view)

        def loss(params: Tree) -> jax.Array:
            return cross_entropy(context.net.apply(params, state, some, train=True).logits, wanted)

        pull = jax.tree.map(lambda g, p: g + method.net_decay * p, jax.grad(loss)(params), params)
        momentum = jax.tree.map(lambda m, g: method.net_momentum * m + g, momentum, pull)
        return jax.tree.map(lambda p, m: p - method.net_lr * m, params, momentum), momentum

    batches = jnp.where(more, x.shape[0] // size, 0)
    params, momentum = jax.lax.fori_loop(0, batches, update, (params, momentum))
    return params, state, momentum
