"""The configuration of a run as frozen dataclasses: what may be set, its default, what is refused.

A run is a value: ``Run(data=…, teacher=…, method=…, …)``, written by a ``configs/x.py`` and changed
by dotted flags (``--teacher.pool.size 5``). ``None`` means "from the table of the data set": such
values are filled in by ``Run.filled()`` after the flags. Every group's ``check(prefix)`` returns
sentences, one a problem; nothing here touches a device.
"""

import dataclasses
import importlib.util
import os
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from ddjax.config.values import brief
from ddjax.errors import ConfigError, choice, choices, out_of_range

if TYPE_CHECKING:
    from ddjax.methods.base import Method
    from ddjax.protocols import Protocol as Rules

    class Opens(Protocol):
        """A user's own data set: a frozen dataclass with this method."""

        def open(self) -> Any:
            """The images, as the data room's sources give them."""

    Spec = str | Opens
else:
    Spec = str  # what a flag can write

STAGES = ("teachers", "distill", "label", "evaluate", "report")
CHEAP_BASELINES = ("random_hard", "kmeans", "herding", "kcenter")
BASELINES = (
    *CHEAP_BASELINES,
    *("random_soft", "random_early_soft", "forgetting", "base_labels", "random_same_bytes", "full_data"),
)
GROUPS = ("none", "cheap", "all")  # words for several baselines, each alone
FURTHER = ("optimisers", "coverage", "nas", "continual", "privacy", "augmentation")

# Training of the base model per card; SRe2L's published squeeze recipes where there is one
# (Tiny-ImageNet: Yin and Shen 2024; CIFAR: Yin et al. 2023), the other rows are ours.
TEACHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "": dict(arch="convnet3-batch", epochs=30, batch=128, lr=0.05, weight_decay=5e-4),
    "digits": dict(arch="convnet3-w32-batch", epochs=20, batch=64),
    "cifar10": dict(arch="resnet18", epochs=200, lr=0.1),
    "cifar100": dict(arch="resnet18", epochs=200, lr=0.1),
    "tiny_imagenet": dict(arch="resnet18", epochs=50, batch=256, lr=0.2, weight_decay=1e-4),
    "imagenet": dict(arch="resnet18-imagenet", epochs=90, batch=256, lr=0.1, weight_decay=1e-4),
}


def _at_least(group: Any, prefix: str, **lowest: float) -> list[str]:
    """Sentences for the fields of ``group`` below their least value; None is not looked at."""
    return [
        out_of_range(f"{prefix}.{name}", getattr(group, name), f">= {low}", low)
        for name, low in lowest.items()
        if getattr(group, name) is not None and not getattr(group, name) >= low
    ]


def _fractions(name: str, pair: tuple[float, float], use: tuple[float, float]) -> list[str]:
    """A sentence when ``pair`` is not two fractions in order."""
    if 0 <= pair[0] <= pair[1] <= 1:
        return []
    return [out_of_range(name, pair, "0 <= low <= high <= 1", use)]


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images are distilled."""

    train: Spec = "digits"
    """digits, {folder,zip,tar,npz,cifar,svhn,usps,parquet}:PATH, idx:IMAGES,LABELS, tfds:NAME."""
    test: Spec | None = None
    """The test images, in the same words. None: the set's own test split, else a part held out."""
    card: str | None = None
    """Id of the public set (its size, mean, augmentation are known). None: found from train."""
    size: int | None = None
    """Side of the square images, pixels. None: the card's, or that of the images."""
    resize: Literal["none", "squash", "crop"] = "none"
    """How images of another size are brought to it: an error, squashed, or scaled and cropped."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """What odd colour modes are converted to. auto: grey if every image is grey, else rgb."""
    subset: int | None = None
    """Use only this many training images, the same share of every class. None: all."""
    validation: float = 0.1
    """Share of the training set kept for choices (learning rate); the distiller never sees it."""
    test_fraction: float = 0.2
    """Share of the training set held out for testing where there is no test set."""

    def check(self, prefix: str = "data") -> list[str]:
        """Every complaint about these values, as sentences."""
        from ddjax.data.sources import problem

        problems = []
        for name, spec in (("train", self.train), ("test", self.test)):
            if isinstance(spec, str) or dataclasses.is_dataclass(spec):
                wrong = problem(f"{prefix}.{name}", spec)
                problems += [wrong] if wrong else []
            elif spec is not None or name == "train":
                problems.append(
                    f"{prefix}.{name} = {brief(spec)} cannot be stored; allowed: a text such as "
                    "folder:PATH or npz:PATH, or a frozen dataclass with a method open()."
                )
        if self.card is not None and self.card not in _cards():
            problems.append(choice(f"{prefix}.card", self.card, _cards()))
        for name in ("validation", "test_fraction"):
            share = getattr(self, name)
            if not 0 < share < 1:
                use = 0.99 if share >= 1 else 0.01
                problems.append(out_of_range(f"{prefix}.{name}", share, "0 < share < 1", use))
        return problems + _at_least(self, prefix, size=1, subset=1)

    def card_id(self) -> str:
        """The card that default values are looked up under, judged by words alone; else custom."""
        kind, _, rest = self.train.partition(":") if isinstance(self.train, str) else ("", "", "")
        guess = {
            "cifar": "cifar100" if "100" in rest else "cifar10",
            "tfds": rest.partition("/")[0].partition(":")[0],
        }.get(kind, kind)
        return self.card or (guess if guess in _cards() else "custom")


def _cards() -> list[str]:
    from ddjax.data.cards import CARDS

    return list(CARDS)


@dataclasses.dataclass(frozen=True)
class Pool:
    """The weak models made from the base model, once, and kept."""

    mode: Literal["prior", "posterior", "mixed"] = "prior"
    """prior: snapshots of the base's training; posterior: pruned and tuned; mixed: half of each."""
    size: int = 9
    """How many weak models."""
    snapshots: Literal["log", "linear"] | tuple[int, ...] = "log"
    """Epochs after which a snapshot is kept: spaced by log or evenly, or the epochs themselves."""
    prune: tuple[float, float] = (0.3, 0.7)
    """Range of the share of weights that pruning removes."""
    tune_epochs: int = 2
    """Epochs of training after pruning."""
    accept: tuple[float, float] = (0.5, 0.97)
    """A pruned model is kept if its accuracy over the base model's lies in this range."""

    def check(self, prefix: str = "teacher.pool") -> list[str]:
        """Every complaint about these values, as sentences."""
        problems = _at_least(self, prefix, size=1, tune_epochs=0)
        problems += _fractions(f"{prefix}.prune", self.prune, (0.3, 0.7))
        problems += _fractions(f"{prefix}.accept", self.accept, (0.5, 0.97))
        if isinstance(self.snapshots, tuple):
            wanted = self.size if self.mode == "prior" else len(self.snapshots)
            rising = tuple(sorted({max(1, epoch) for epoch in self.snapshots}))
            if rising != self.snapshots or len(rising) != wanted:
                problems.append(
                    out_of_range(
                        f"{prefix}.snapshots",
                        self.snapshots,
                        f"log, linear, or {wanted} rising epochs >= 1 (one per network)",
                        rising if len(rising) == wanted else "log",
                    )
                )
        return problems


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The base model and the pool of weak models made from it."""

    arch: str | None = None
    """Architecture, e.g. convnet3, convnet3-w64-batch, resnet18, vit. None: the card's."""
    epochs: int | None = None
    """Epochs of training. None: the card's."""
    batch: int | None = None
    """Images per step. None: the card's."""
    lr: float | None = None
    """Peak learning rate, cosine to 0. None: the card's."""
    weight_decay: float | None = None
    """Weight decay. None: the card's."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    weights: str | None = None
    """A base model trained before (teacher.safetensors with its recipe), taken back as it is."""
    pool: Pool = field(default_factory=Pool)

    def filled(self, card: str) -> Self:
        """This group with every None of the recipe replaced from TEACHER_DEFAULTS."""
        row = {**TEACHER_DEFAULTS[""], **TEACHER_DEFAULTS.get(card, {})}
        return dataclasses.replace(self, **{name: row[name] for name in row if getattr(self, name) is None})

    def check(self, prefix: str = "teacher") -> list[str]:
        """Every complaint about these values, as sentences."""
        from ddjax.models import check_name

        problems = _at_least(self, prefix, epochs=1, batch=1, weight_decay=0)
        if self.arch is not None and (wrong := check_name(self.arch)):
            problems.append(f"{prefix}.arch: {wrong}")
        if self.lr is not None and not self.lr > 0:
            problems.append(out_of_range(f"{prefix}.lr", self.lr, "> 0", 0.05))
        last = max(self.pool.snapshots, default=0) if isinstance(self.pool.snapshots, tuple) else 0
        if self.epochs is not None and last > self.epochs >= 1:
            problems.append(
                out_of_range(
                    f"{prefix}.pool.snapshots",
                    self.pool.snapshots,
                    f"epochs <= {prefix}.epochs = {self.epochs}",
                    f"{prefix}.epochs {last}",
                )
            )
        return problems + self.pool.check(f"{prefix}.pool")


@dataclasses.dataclass(frozen=True)
class Label:
    """Where the labels of the distilled images come from."""

    source: Literal["auto", "hard", "learned", "pool", "base"] = "auto"
    """hard: the class; learned: the set's own; pool: weak models' mean logits; base: the base's; auto: the method's."""
    average: Literal["logits", "softmax"] = "logits"
    """What is averaged over a pool: raw logits, or softmax(z / tau) at the protocol's temperature."""
    epochs: int | None = None
    """Views per image whose soft labels are stored and cycled. None: the protocol's."""
    statistics: Literal["running", "batch"] = "running"
    """By which batch norm normalises when a network labels: running ones, or those of the views it labels at once."""

    def check(self, prefix: str = "label") -> list[str]:
        """Every complaint about these values, as sentences."""
        return _at_least(self, prefix, epochs=1)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How the distilled set is judged: students trained from scratch on it."""

    protocol: str = "ddjax-1"
    """ddjax-1, P-DC, P-MTT, P-IDC, P-FRePo, P-FKD, P-RDED, P-EDC, P-HL; P-MTT, P-RDED, P-HL with -best-on-test."""
    modify: tuple[str, ...] = ()
    """Other values for its fields: P-DC epochs=10, ddjax-1 step_range=100,100; the id becomes ID+modified."""
    archs: tuple[str, ...] = ("convnet3",)
    """Architectures of the students: convnet3, convnet3-w64-batch, resnet18, vgg11, alexnet, lenet, mlp, vit, …"""
    seeds: int = 5
    """Students per architecture, all trained in one compiled program."""
    baselines: str | tuple[str, ...] = "all"
    """none, cheap, all, or names: random_hard kmeans herding kcenter random_soft random_early_soft
    forgetting base_labels random_same_bytes full_data."""
    further: tuple[str, ...] = ()
    """Further evaluations: optimisers coverage nas continual privacy augmentation."""

    def check(self, prefix: str = "evaluate") -> list[str]:
        """Every complaint about these values, as sentences."""
        from ddjax.models import check_name

        problems = _at_least(self, prefix, seeds=1)
        try:
            self.rule()
        except ConfigError as error:
            problems += str(error).splitlines()
        problems += [f"{prefix}.archs: {w}" for name in self.archs if (w := check_name(name))]
        if not self.archs:
            problems.append(out_of_range(f"{prefix}.archs", self.archs, "at least one name", ("convnet3",)))
        words = self.baselines if isinstance(self.baselines, tuple) else (self.baselines,)
        problems += choices(f"{prefix}.further", self.further, FURTHER)
        problems += choices(f"{prefix}.baselines", words, (*GROUPS, *BASELINES))
        group = next((word for word in words if word in GROUPS), None)
        if isinstance(self.baselines, tuple) and group:
            told = f"{prefix}.baselines = {','.join(words)!r}: {group!r} stands alone"
            problems.append(f"{told}; allowed: {', '.join(GROUPS)}, or names. Nearest valid: {group}.")
        for name, given in (("archs", self.archs), ("baselines", words), ("further", self.further)):
            once = tuple(dict.fromkeys(given))
            if len(once) < len(given):
                problems.append(out_of_range(f"{prefix}.{name}", ",".join(given), "every name once", ",".join(once)))
        return problems

    def rule(self) -> "Rules":
        """The protocol, with the fields that ``modify`` gives it."""
        from ddjax.modify import changed
        from ddjax.protocols import protocol

        return changed(protocol(self.protocol), self.modify)

    def rate(self) -> str:
        """Where the protocol's rate comes from: grid | learned; grid where there is no such protocol."""
        from ddjax.modify import read
        from ddjax.protocols import PROTOCOLS

        plain = PROTOCOLS.get(self.protocol)
        return read(plain, self.modify)[0].get("rate", plain.rate) if plain else "grid"

    def baseline_names(self) -> tuple[str, ...]:
        """The baselines to run, by name."""
        if isinstance(self.baselines, tuple):
            return self.baselines
        return {"none": (), "cheap": CHEAP_BASELINES, "all": BASELINES}.get(self.baselines, (self.baselines,))


@dataclasses.dataclass(frozen=True)
class Report:
    """The page that a run ends with."""

    images_per_class: int = 10
    """Most images of a class shown in the grid."""
    tensorboard: bool = False
    """Write the curves for TensorBoard too, to RUN/tensorboard (needs the extra [log])."""

    def check(self, prefix: str = "report") -> list[str]:
        """Every complaint about these values, as sentences."""
        problems = _at_least(self, prefix, images_per_class=1)
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            problems.append(f"{prefix}.tensorboard = True needs the package tensorboardX: pip install 'ddjax[log]'.")
        return problems


@dataclasses.dataclass(frozen=True)
class Compute:
    """How the work is laid on the machine; results do not depend on it, beyond rounding."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the networks' activations."""
    mesh: tuple[int, int] | None = None
    """Devices along (pool, data). None: all devices, as many along pool as divide it."""
    pool_how: Literal["auto", "vmap", "unroll", "scan"] = "auto"
    """How networks are mapped over. auto: scan on a CPU, vmap elsewhere."""
    conv: Literal["auto", "fast", "library"] = "auto"
    """Convolution: ours or the library's. auto: ours on a CPU."""
    split_batch: bool | None = None
    """Split one batch over devices. None: only where one device cannot hold it."""
    cache: str | None = None
    """Folder that runs share (compiled programs, teachers). None: $DDJAX_CACHE, ~/.cache/ddjax."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def cache_folder(self) -> Path:
        """The folder that runs share: ``cache``, else ``$DDJAX_CACHE``, else ~/.cache/ddjax."""
        return Path(self.cache or os.environ.get("DDJAX_CACHE") or "~/.cache/ddjax").expanduser()

    def check(self, prefix: str = "compute") -> list[str]:
        """Every complaint about these values, as sentences."""
        problems = _at_least(self, prefix, checkpoint_every=1)
        if self.mesh is not None and min(self.mesh) < 1:
            problems.append(out_of_range(f"{prefix}.mesh", self.mesh, "two counts >= 1", "1 1"))
        return problems


def _default_method() -> "Method":
    from ddjax.methods import METHODS

    return METHODS["teddy"]()


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides a run."""

    seed: int = 0
    """All randomness is a function of this, a name and a step."""
    workdir: str | None = None
    """Folder of the run. None: runs/<name>/<time>."""
    name: str = "run"
    """What the run is called where no folder is given."""
    data: Data = field(default_factory=Data)
    teacher: Teacher = field(default_factory=Teacher)
    method: "Method" = field(default_factory=_default_method)
    label: Label = field(default_factory=Label)
    evaluate: Evaluate = field(default_factory=Evaluate)
    report: Report = field(default_factory=Report)
    compute: Compute = field(default_factory=Compute)

    def filled(self) -> Self:
        """This run with what depends on (card, ipc) filled in; what was given stays."""
        card = self.data.card_id()
        method = self.method.filled(card, self.method.ipc)
        return dataclasses.replace(self, method=method, teacher=self.teacher.filled(card))

    def check(self, prefix: str = "") -> list[str]:
        """Complaints about the top level and about what groups mean together, as sentences."""
        from ddjax.config import together

        return [
            *together.seed(self.seed, prefix),
            *together.workdir(self.workdir, prefix),
            *together.arch(self.method),
            *together.pool(self),
            *together.learned(self),
        ]
