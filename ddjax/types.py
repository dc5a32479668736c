"""The values that pass between the rooms of ddjax; every shape letter is defined here, once.

Letters: ``N`` images of a set, ``B`` images of a batch, ``H W`` height and width, ``D`` channels of an image,
``C`` classes, ``K`` images per class (IPC), ``P`` networks of a pool, ``F`` features. Images are ``[N, H, W, D]``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Tree = Any  # a nested dict (or NamedTuple) of arrays
CONV_TAP = "conv:"  # how the names of convolutions' taps begin; their number follows, in the order of the layers


class Outputs(NamedTuple):
    """What a network returns: ``logits [B, C]``, ``features [B, F]``, ``taps``, and its new ``state``."""

    logits: jax.Array
    features: jax.Array
    taps: Mapping[str, jax.Array]  # name of a layer -> its input [B, ..., channels]; {} unless asked for
    state: Tree


class Net(NamedTuple):
    """A network as pure functions over plain nested dicts.

    ``init(key) -> (params, state)``; ``apply(params, state, x, *, train, key=None, taps=False) -> Outputs``, taps of
    the normalisation layers (True), or of the convolutions too ("all");
    ``running(state) -> {tap name: (mean [c], var [c])}``, the running statistics of its batch norms ({} without any).
    """

    name: str
    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., Outputs]
    running: Callable[[Tree], Mapping[str, tuple[jax.Array, jax.Array]]]
    image_shape: tuple[int, int, int]
    classes: int


class Augment(NamedTuple):
    """Which random views a set admits (static numbers; nothing here is drawn).

    Order: randaugment, then shuffle, crop, flip, roll, then dsa or dc, then CutMix or MixUp.
    """

    pad: int = 0  # zero padding of a random crop, pixels
    flip: bool = False  # left-right, probability 1/2
    area: tuple[float, float] | None = None  # RandomResizedCrop: fraction of the area kept; None = off
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # RandomResizedCrop: width / height
    roll: int = 0  # cyclic shift of the whole batch by up to this many pixels
    cutmix: float = 0.0  # alpha of CutMix's Beta(alpha, alpha); 0 = off
    cutmix_p: float = 1.0  # probability that a batch is mixed
    mixup: float = 0.0  # alpha of MixUp's Beta(alpha, alpha); 0 = off; not together with CutMix
    mix_batch: bool = False  # one lambda and one box for the whole batch, as most published recipes draw them
    shuffle: int = 0  # patch shuffle: columns and rows, each cut into this many strips in random order; 0, 1 = off
    dsa: tuple[str, ...] = ()  # kernels/dsa: one of these ops for a batch
    dsa_always: tuple[str, ...] = ()  # and before it, all of these in order
    dc: tuple[str, ...] = ()  # kernels/dcaug: one of these ops for each image
    randaugment: tuple[int, int] | None = None  # kernels/randaugment: ops an image, magnitude of 0 .. 30
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())  # mean, std by which randaugment finds the pixels

    def said(self) -> dict[str, Any]:
        """The fields by name, without those that came later where they are off: what hashes and files hold."""
        always = Augment._fields[:6]
        return {k: v for k, v in self._asdict().items() if k in always or v != Augment._field_defaults[k]}

    def __repr__(self) -> str:
        return f"Augment({', '.join(f'{name}={value!r}' for name, value in self.said().items())})"

    @property
    def mixes(self) -> bool:
        """Whether labels are mixed too."""
        return bool(self.cutmix or self.mixup)

    @property
    def layers(self) -> int:
        """How many drawn ops an image goes through, besides crop, flip, roll and mixing."""
        return (1 + len(self.dsa_always) if self.dsa else 0) + bool(self.dc) + (self.randaugment or (0,))[0]


class View(NamedTuple):
    """One random view of a batch: enough to make it again, and the name under which its stored label is found."""

    index: jax.Array  # [B] which image of the set
    epoch: jax.Array  # [] or [B] which epoch of stored views
    key: jax.Array  # the key it was drawn from
    box: jax.Array  # [B, 4] top, left, height, width of the crop, pixels of the source (may lie outside: zeros)
    flip: jax.Array  # [B] bool
    roll: jax.Array  # [2] cyclic shift (rows, columns), pixels, of the whole batch
    mix_index: jax.Array  # [B] partner, a position in the batch (its own position: no mixing)
    mix_lambda: jax.Array  # [B] share that stays the image's own: of the pixels (CutMix) or of their values (MixUp)
    mix_box: jax.Array  # [B, 4] the rectangle taken from the partner: top, left, height, width, pixels
    strips: jax.Array  # [B, 2, f] patch shuffle: which strip comes to which place, rows and columns; f = 0: none
    ops: jax.Array  # [L, B] which op of the Augment's names, in each of its L layers
    numbers: jax.Array  # [L, B, 3] uniform numbers that the op's parameters are made of


class Moments(NamedTuple):
    """Count, mean and biased variance per channel: ``[]``/``[c]``, or ``[C]``/``[C, c]`` when taken class by class."""

    count: jax.Array
    mean: jax.Array
    var: jax.Array


class Teachers(NamedTuple):
    """A pool of weak models, every leaf stacked on a leading axis ``P``; ``None`` where a method did not ask."""

    params: Tree
    state: Tree
    statistics: Mapping[str, Moments] | None = None  # tap name -> moments of the real data at that layer
    gradients: Tree | None = None  # mean gradient of the loss on the real data, like params
    class_probs: jax.Array | None = None  # [P, C, C] mean softmax of each class of the real data


class Batch(NamedTuple):
    """What one step of a method is fed; a field is ``None`` unless the method's ``needs`` name it."""

    step: jax.Array  # [] int32
    images: jax.Array | None = None  # [B, ...] normalised; per_class: [C, b, ...], class c in row c
    labels: jax.Array | None = None  # [B] or [C, b] int32
    teachers: Teachers | None = None
    more: jax.Array | None = None  # [A, ...] images drawn from all classes, besides those above
    more_labels: jax.Array | None = None  # [A]
    start: jax.Array | None = None  # [F] weights of an expert, all leaves in one row (jax.flatten_util.ravel_pytree)
    target: jax.Array | None = None  # [F] the same expert's, later


class Experts(NamedTuple):
    """Which trajectories of networks trained on the real set a step is fed two points of (static).

    Step i draws an expert and an epoch t of ``low .. top(i) - 1``, ``start`` are its weights after t epochs, ``target``
    after t + ``span``; top grows linearly from ``first`` to ``high`` within ``grow`` steps (``grow`` 0: ``high``).
    """

    count: int = 100  # experts
    epochs: int = 50  # of each; its weights are kept after every one, and before the first
    span: int = 2
    low: int = 0
    high: int = 20
    first: int = 0
    grow: int = 0
    rate: float = 0.01  # plain SGD: no momentum, no decay, constant rate
    batch: int = 256
    ops: tuple[str, ...] = ()  # kernels/dsa: the augmentation of their training
    arch: str = "convnet3"
    store: str = ""  # a folder of experts made before; "": $DDJAX_CACHE/experts/<hash>
    fields: tuple[str, str] = ("experts", "expert_epochs")  # what the method calls count and epochs


class Needs(NamedTuple):
    """Static record of what a method is given to start from and what ``Distiller.step`` must be fed."""

    real: str = "none"  # none | iid | per_class
    real_batch: int = 0  # images of a step: all of them (iid), of each class (per_class; at most its smallest class)
    also: int = 0  # more images of a step, drawn from all classes
    start: str = "random"  # real images that init gets: see ddjax.selection.STARTS
    start_logits: bool = False  # init gets as a fourth argument the logits of experts who class them right
    experts: Experts | None = None
    teachers: bool = False
    statistics: str = "none"  # none | global | class | layers | layers_class (see survey.moments)
    gradients: bool = False
    class_probs: bool = False
    pool: str = "pool"  # which teachers: pool (weak models) | base (the one converged model, P = 1)


class Start(NamedTuple):
    """The real images that a method begins with, class by class."""

    images: Any  # uint8 [N, H, W, D]
    labels: Any  # int32 [N]
    logits: Any = None  # float32 [N, C]


class Made(NamedTuple):
    """What a method has made, in the order of the labels given to ``init``; NumPy arrays where the loop hands it on."""

    images: Any  # [N, H, W, D] normalised space, as stored (a factor not decoded)
    label_logits: Any = None  # [N, C] learned labels
    learned_lr: Any = None  # [] learning rate learned with the images


class Distiller(NamedTuple):
    """A method bound to one problem: three pure functions.

    ``init(key, images [N, H, W, D], labels [N]) -> State`` (what must survive to the next step);
    ``step(key, State, Batch) -> (State, Info)`` (Info, a dict of scalars, is only logged);
    ``extract(State) -> images [N, H, W, D]``, normalised space, in the order of the labels given to ``init``; a method
    that learns labels or a learning rate too gives a ``Made``.
    """

    init: Callable[..., Tree]
    step: Callable[..., tuple[Tree, Mapping[str, jax.Array]]]
    extract: Callable[[Tree], "jax.Array | Made"]
    steps: int  # how many times the loop calls step


class LabelSource(Protocol):
    """Where a student's targets come from; the student loop knows nothing else about labels."""

    soft: bool

    def labels(self, key: jax.Array, images: jax.Array, view: View) -> jax.Array:
        """Targets ``[B, C]`` of a view: one-hot rows when hard, logits when soft."""
        ...

    def nbytes(self) -> int:
        """Bytes that must be kept to hand these labels to somebody else."""
        ...
