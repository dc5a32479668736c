"""Named, frozen evaluation protocols: everything about training a student except nets, seeds and label source.

    rule = protocol("P-DC").at(Setting(images=100, classes=10, card=card, arch="convnet3"))

A ``Protocol`` is a value made of published numbers; ``at`` looks up what depends on the problem and gives the ``Rule``
that students are trained by. A published protocol is never edited: a change gets a new id. Overriding a field of one
(``modified``; by words: ``ddjax.modify``) changes its id to ``ID+modified``, so that no table mixes the two. Protocols
of others start with ``P-``; what selects on the test split says so in its name (``…-best-on-test``) and is never a
default.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from ddjax.errors import ConfigError, choice
from ddjax.train import Recipe
from ddjax.types import Augment
from ddjax.viewing import AUGMENTS, Setting

__all__ = ["BEST", "MODIFIED", "PROTOCOLS", "Protocol", "Rule", "Setting", "When", "protocol"]

BEST, MODIFIED = "-best-on-test", "+modified"  # ends of ids


class When(NamedTuple):
    """Fields that take other values in some settings: those for which every condition that is given holds."""

    then: tuple[tuple[str, Any], ...]
    cards: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()  # starts of the student's name
    classes: tuple[int, ...] = ()
    least: int | None = None  # at least so many classes
    ipc: float | None = None  # at most so many images of a class
    side: int | None = None  # at least so many pixels high
    augmented: bool | None = None

    def holds(self, setting: Setting, augmented: bool) -> bool:
        """Whether the setting meets every condition."""
        return (
            (not self.cards or setting.card.id in self.cards)
            and (not self.archs or setting.arch.startswith(self.archs))
            and (not self.classes or setting.classes in self.classes)
            and (self.least is None or setting.classes >= self.least)
            and (self.ipc is None or setting.ipc <= self.ipc)
            and (self.side is None or setting.side >= self.side)
            and (self.augmented is None or augmented == self.augmented)
        )


def ladder(field: str, steps: Iterable[tuple[float, Any]], **conditions: Any) -> tuple[When, ...]:
    """Clauses for a value that depends on the images per class: the first whose bound is not passed decides."""
    return tuple(When(((field, value),), ipc=ipc, **conditions) for ipc, value in steps)


class Rule(NamedTuple):
    """A protocol in one setting: all that the training of students needs (static)."""

    id: str
    batch: int
    per_epoch: int
    steps: int
    augment: Augment
    ragged: bool
    fresh: bool
    recipe: Recipe
    rates: tuple[float, ...]
    chosen_on: str | None  # the split whose accuracy chooses among several rates: val | test; None: there is one
    marks: tuple[int, ...]  # updates after which accuracy on the TEST split is looked at, the best of which counts
    ema: float
    teacher: bool


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to train and judge a student on a small set of ``M`` images.

    ddjax-1: ``steps = clip(epochs * M / batch, *step_range)`` with ``batch = min(M, max_batch)``; the learning rate is
    chosen from ``rates``, one seed each, by accuracy on the validation split (a stratified part of the real training
    set that no distiller sees); the accuracy that counts is the one after the last step, on the test split, which is
    read once. The fields of published protocols are explained in docs/protocols.md.
    """

    id: str
    version: int = 1
    optimiser: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay: str = "weights"
    rate: str = "grid"  # grid: chosen among rates | learned: the set's own
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    schedule: str = "cosine"
    warmup: int = 0
    floor: float = 0.0
    stretch: float = 1.0
    drops: tuple[tuple[int, int, int], ...] = ()  # (a, b, c): the rate drops before epoch (a * epochs) // b + c, from 0
    drop: float = 0.1
    forget: bool = False
    max_batch: int = 256
    epochs: int = 300
    extra_epochs: int = 0
    step_range: tuple[int, int] | None = (500, 20_000)  # None: whole epochs, the ragged last batch included
    steps_by_images: tuple[tuple[int, int], ...] = ()  # (M, updates): the first M that is not passed decides
    augment: str = "card"
    labels: str = "own"  # own: the set's | teacher: of a teacher, for every view
    hard: str = "ce"
    soft: str = "kl"
    tau: float = 4.0  # loss on soft labels: tau^2 KL(softmax(t/tau) || softmax(s/tau)); on hard ones cross-entropy
    ce: float = 0.0
    clean: bool = False
    ema: float = 0.0
    views: str = "stored"  # hard labels: stored (the views of the plan, for all seeds) | fresh (each seed its own)
    select: str = "last"  # last: after the last update | test: best of the looks at the TEST split
    watch: tuple[float, int] = (0.0, 10)  # test: every so many epochs, after this share of them
    validation: float = 0.1
    cases: tuple[When, ...] = ()
    reference: str = ""

    def batch(self, images: int) -> int:
        """Images per step for a set of ``images`` images, where nothing else decides."""
        return min(images, self.max_batch)

    def steps(self, images: int) -> int:
        """Updates of a student on a set of ``images`` images, where nothing else decides."""
        for most, updates in self.steps_by_images:
            if images <= most or most == self.steps_by_images[-1][0]:
                return updates
        if self.step_range is None:
            return (self.epochs + self.extra_epochs) * self.per_epoch(images)
        low, high = self.step_range
        return int(min(max(self.epochs * images // self.batch(images), low), high))

    def per_epoch(self, images: int) -> int:
        """Updates of an epoch."""
        batch = self.batch(images)
        return max(1, images // batch) if self.step_range else math.ceil(images / batch)

    def recipe(self, images: int = 1) -> Recipe:
        """The static part of the training step on a set of ``images`` images."""
        per_epoch = self.per_epoch(images)
        return Recipe(
            optimiser=self.optimiser, momentum=self.momentum, weight_decay=self.weight_decay, warmup=self.warmup,
            tau=self.tau, decay=self.decay, shape=self.schedule, every=per_epoch, stretch=self.stretch,
            drops=tuple((a * self.epochs // b + c) * per_epoch for a, b, c in self.drops), drop=self.drop,
            forget=self.forget, floor=self.floor, hard=self.hard, soft=self.soft, ce=self.ce, clean=self.clean,
        )  # fmt: skip

    def resolved(self, setting: Setting) -> "Protocol":
        """This protocol with the values of the clauses that hold; of several for one field the first decides."""
        augmented, found = AUGMENTS[self.augment](setting) != Augment(), {}
        for case in self.cases:
            if case.holds(setting, augmented):
                found = dict(case.then) | found
        return dataclasses.replace(self, **found, cases=())

    def at(self, setting: Setting) -> Rule:
        """The rule for one set, card and architecture; ConfigError where the set lacks what the protocol takes."""
        here, images = self.resolved(setting), setting.images
        rates = here.rates
        if here.rate == "learned":
            if setting.learned_lr is None:
                raise ConfigError(
                    f"evaluate.protocol = {self.id!r} trains at the rate that the set has learned; this set has none. "
                    "Nearest: --protocol P-DC."
                )
            rates = (setting.learned_lr,)
        judged_on_test = here.select == "test"
        per_epoch, epochs = here.per_epoch(images), here.epochs + here.extra_epochs
        start, every = here.watch
        seen = [n for n in range(1, epochs + 1) if n == epochs or (n - 1 > start * epochs and n % every == 0)]
        return Rule(
            id=self.id, batch=here.batch(images), per_epoch=per_epoch, steps=here.steps(images),
            augment=AUGMENTS[here.augment](setting), ragged=here.step_range is None, fresh=here.views == "fresh",
            recipe=here.recipe(images), rates=rates,
            chosen_on=None if len(rates) == 1 else "test" if judged_on_test else "val",
            marks=tuple(n * per_epoch for n in seen) if judged_on_test else (), ema=here.ema,
            teacher=here.labels == "teacher",
        )  # fmt: skip

    def modified(self, **fields: object) -> "Protocol":
        """This protocol with other values, which no clause overrules, under the id ``ID+modified``; itself where every
        value is its own already."""
        told = {name for case in self.cases for name, _ in case.then}
        new = {name: value for name, value in fields.items() if name in told or value != getattr(self, name)}
        if not new:
            return self
        kept = [case._replace(then=tuple(pair for pair in case.then if pair[0] not in new)) for case in self.cases]
        name = f"{self.id.removesuffix(MODIFIED)}{MODIFIED}"
        return dataclasses.replace(self, id=name, cases=tuple(case for case in kept if case.then), **new)


def best_on_test(plain: Protocol, watch: tuple[float, int]) -> Protocol:
    """The protocol as published where the best look at the test split was reported, under a name that says so."""
    return dataclasses.replace(plain, id=plain.id + BEST, select="test", watch=watch)


def protocol(name: str) -> Protocol:
    """The protocol called ``name``; ConfigError with the nearest name when there is none."""
    if name not in PROTOCOLS:
        use = "P-DC" if name.startswith("P") else "ddjax-1"
        raise ConfigError(choice("evaluate.protocol", name, PROTOCOLS, use))
    return PROTOCOLS[name]


# --------------------------------------------------------------------------------- the published values

_SGD = {"optimiser": "sgd", "weight_decay": 5e-4, "decay": "all", "rates": (0.01,)}  # every parameter decays
_FRESH: dict[str, Any] = {"step_range": None, "views": "fresh"}
_LARGE = 128  # pixels: what is said of ImageNet and its subsets

P_DC = Protocol(
    id="P-DC", **_SGD, schedule="steps", drops=((1, 2, 2),), drop=0.1, forget=True, epochs=1000, extra_epochs=1,
    augment="dc", soft="ce", **_FRESH, cases=(When((("epochs", 300),), augmented=False),),
    reference="Zhao, Mopuri and Bilen, ICLR 2021; Zhao and Bilen, ICML 2021 (released code)",
)  # fmt: skip
P_MTT = dataclasses.replace(
    P_DC, id="P-MTT", rate="learned", rates=(), augment="dsa", cases=(),
    reference="Cazenavette et al., CVPR 2022 (released code)",
)  # fmt: skip
_IDC_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))
_IDC_HUNDRED = ((1, 2000), (10, 1300), (50, 1000), (200, 600), (500, 300), (math.inf, 200))
P_IDC = Protocol(
    id="P-IDC", **_SGD, schedule="steps", drops=((2, 3, 0), (5, 6, 0)), drop=0.2, max_batch=64, epochs=1000,
    augment="idc", soft="ce", **_FRESH,
    cases=(
        When((("rates", (0.1,)), ("weight_decay", 1e-4), ("max_batch", 128)), least=100, side=_LARGE),
        *ladder("epochs", _IDC_HUNDRED, classes=(100,), side=_LARGE), *ladder("epochs", _IDC_EPOCHS, side=_LARGE),
    ),
    reference="Kim et al., ICML 2022 (released code)",
)  # fmt: skip
P_FREPO = Protocol(
    id="P-FRePo", optimiser="adam", weight_decay=0.0, rates=(3e-4,), schedule="warm", warmup=500, floor=0.01,
    max_batch=500, augment="frepo", hard="mse", soft="mse", **_FRESH,
    steps_by_images=((10, 1000), (100, 2000), (200, 20_000), (500, 5000), (1000, 10_000), (5000, 40_000)),
    reference="Zhou, Nezhadarya and Ba, NeurIPS 2022 (released code)",
)  # fmt: skip
_KD: dict[str, Any] = {"rates": (1e-3,), "labels": "teacher", "tau": 20.0, "soft": "plain_kl", "schedule": "stairs"}
P_FKD = Protocol(
    id="P-FKD", **_KD, max_batch=1024, augment="fkd", **_FRESH,
    reference="Yin, Xing and Shen, NeurIPS 2023 (released code)",
)  # fmt: skip
P_RDED = Protocol(
    id="P-RDED", **_KD, stretch=2.0, max_batch=100, augment="rded", clean=True, **_FRESH,
    cases=(
        When((("max_batch", 25), ("rates", (2e-3,))), cards=("cifar100",), archs=("convnet3",)),
        When((("max_batch", 100),), cards=("tiny_imagenet",)),
        *ladder("max_batch", ((1, 20), (10, 100), (math.inf, 200)), classes=(100, 1000)),
        *ladder("max_batch", ((1, 10), (10, 50))),
        When((("rates", (5e-4,)),), archs=("vgg11",)),
        When((("rates", (1e-4,)),), archs=("alexnet", "vit")),
    ),
    reference="Sun et al., CVPR 2024 (released code)",
)  # fmt: skip
P_EDC = Protocol(
    id="P-EDC", rates=(1e-3,), labels="teacher", schedule="tail", max_batch=100, augment="edc", soft="mse_ce", ce=0.025,
    ema=0.99, **_FRESH, cases=(When((("epochs", 1000),), cards=("cifar10", "cifar100")),),
    reference="Shao et al., NeurIPS 2024 (released code)",
)  # fmt: skip
P_HL = Protocol(
    id="P-HL", **(_SGD | {"rates": (1e-3, 5e-3, 1e-2, 5e-2, 1e-1)}), schedule="steps", drops=((1, 2, 0),), drop=0.1,
    augment="made", soft="ce", **_FRESH, reference="Li et al., DD-Ranking, 2025 (released code)",
)  # fmt: skip

_LATE = (0.8, 10)  # every tenth epoch of the last fifth
PROTOCOLS: dict[str, Protocol] = {
    rule.id: rule
    for rule in (
        Protocol(id="ddjax-1"), P_DC, P_MTT, P_IDC, P_FREPO, P_FKD, P_RDED, P_EDC, P_HL,
        best_on_test(P_MTT, (0.0, 100)), best_on_test(P_RDED, _LATE), best_on_test(P_HL, _LATE),
    )
}  # fmt: skip
