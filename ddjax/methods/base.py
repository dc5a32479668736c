"""What a method is: a frozen dataclass of hyper-parameters that knows its needs and builds three pure functions.

A method never touches a mesh, a file, a logger or the clock, and the loop never knows a method's name. A method may be
defined in a user's own config file: subclass :class:`Method`, set ``REFERENCE``, write ``needs`` and ``build``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax.numpy as jnp

from ddjax.errors import out_of_range
from ddjax.kernels import patches
from ddjax.kernels.dsa import DSA_OPS
from ddjax.types import Augment, Distiller, Needs, Net


class Context(NamedTuple):
    """The problem a method is built for: the network, the set's shape and its legal pixel range.

    ``net`` is the network called ``method.arch`` where the method has such a field, else that of the teachers.
    """

    net: Net
    ipc: int
    classes: int
    image_shape: tuple[int, int, int]
    low: tuple[float, ...]  # smallest legal value of each channel, normalised space
    high: tuple[float, ...]
    augment: Augment  # the card's own views
    pool_mean: Callable[
        [Callable], Callable
    ]  # mean of fn(member, *shared) over axis 0 of its first argument, on the mesh
    factor: int = 1  # tiles along a side of a stored image
    members: int = 1  # teachers that a step is fed: P

    @property
    def dsa_ops(self) -> tuple[str, ...]:
        """The ops of DSA that the data set admits: no flip where the card's own views have none (digits)."""
        return tuple(op for op in DSA_OPS if op != "flip" or self.augment.flip)

    def decode(self, images: Any) -> Any:
        """``[N, H, W, D]`` stored images as the ``[N f^2, H, W, D]`` that networks see, those of an image together."""
        return patches.decode(images, self.factor)

    def repeat(self, rows: Any) -> Any:
        """What belongs to stored images (labels, logits), once for each image that they decode to."""
        return jnp.repeat(rows, self.factor**2, axis=0, total_repeat_length=rows.shape[0] * self.factor**2)


def context(method: Any, net: Net, card: Any, shape: tuple[int, int, int], classes: int, mean: Callable, **more: Any):
    """The problem of ``method`` on a data set's card."""
    low = tuple(float((0.0 - m) / s) for m, s in zip(card.mean, card.std, strict=True))
    high = tuple(float((1.0 - m) / s) for m, s in zip(card.mean, card.std, strict=True))
    return Context(net, method.ipc, classes, shape, low, high, card.augment, mean, method.factor, **more)


@dataclasses.dataclass(frozen=True)
class Method:
    """A distillation method as a value; fields left ``None`` are filled per (card, ipc) by :meth:`filled`."""

    ipc: int = 1
    """Images per class of the distilled set."""
    factor: int = 1
    """Tiles along a side of each stored image, upsampled when used: factor^2 images for the bytes of one (IDC)."""
    budget: Literal["card", "published"] = "card"
    """Which defaults: the data set's row (digits': ours, reduced), or the paper's there too."""

    REFERENCE: ClassVar[str] = ""
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    REDUCED: ClassVar[tuple[str, ...]] = ("digits",)  # rows of DEFAULTS that are ours: passed over by budget=published
    LABELS: ClassVar[str] = "hard"  # what label.source=auto means without learned labels: hard | pool | base
    STORE: ClassVar[str] = "pixels"  # how images are kept: pixels (uint8) | float (float32, not clipped to the range)

    @property
    def needs(self) -> Needs:
        """What each step must be fed."""
        return Needs()

    @property
    def label_source(self) -> str:
        """What ``label.source=auto`` means for this method: ``learned`` where it learns labels, else LABELS."""
        return "learned" if "logits" in self.learns else self.LABELS

    @property
    def learns(self) -> tuple[str, ...]:
        """What is learned besides images: ``logits``, ``lr``."""
        return ()

    @property
    def augment(self) -> str | None:
        """The augmentation that the images were made for (``dsa``): protocols that ask take it from the manifest."""
        return None

    def build(self, context: Context) -> Distiller:
        """The three pure functions of this method on one problem."""
        raise TypeError(f"{type(self).__name__} does not define build(context) -> Distiller")

    def filled(self, card: str, ipc: int) -> Self:
        """This method with every ``None`` replaced: row ``card`` of DEFAULTS, else row ``""``.

        A row maps a field to its value, or to ``{ipc threshold: value}`` (the row of the largest threshold <= ipc).
        """
        row = {**self.DEFAULTS.get("", {}), **self.DEFAULTS.get(self.row(card), {})}
        values = {}
        for name, value in row.items():
            if getattr(self, name) is None:
                if isinstance(value, Mapping):
                    value = value[max(k for k in value if k <= max(ipc, min(value)))]
                values[name] = value
        return dataclasses.replace(self, **values)

    def departures(self, card: str) -> dict[str, tuple[Any, Any]]:
        """What is not as published on a data set, ``{field: (this, published)}``; {} for a method without a paper."""
        if not self.REFERENCE:
            return {}
        published = type(self)(ipc=self.ipc, budget="published").filled(card, self.ipc)
        pairs = {f.name: (getattr(self, f.name), getattr(published, f.name)) for f in dataclasses.fields(self)}
        return {name: pair for name, pair in pairs.items() if name != "budget" and pair[0] != pair[1]}

    def row(self, card: str) -> str:
        """The row of DEFAULTS for a data set: its own, or ``""`` where that is ours and the paper's is wanted."""
        return "" if self.budget == "published" and card in self.REDUCED else card

    def unfilled(self) -> Self:
        """This method with every field back at ``None`` that may be: what ``filled`` then gives is a table's."""
        empty = {f.name: None for f in dataclasses.fields(self) if f.init and f.default is None}
        return dataclasses.replace(self, **empty)

    def check(self, prefix: str = "method") -> list[str]:
        """Every complaint about the hyper-parameters, as sentences."""
        return require(self, prefix, ipc=(1, None), factor=(1, 8))


def require(value: Any, prefix: str, **ranges: tuple[float | None, float | None]) -> list[str]:
    """Sentences for the fields of ``value`` outside their closed ranges ``(low, high)``; None = unbounded."""
    problems = []
    for name, (low, high) in ranges.items():
        number = getattr(value, name)
        if number is None:
            continue
        allowed = (f">= {low}" if low is not None else "") + (
            f"{' and ' if low is not None else ''}<= {high}" if high is not None else ""
        )
        if low is not None and not number >= low:
            problems.append(out_of_range(f"{prefix}.{name}", number, allowed, low))
        elif high is not None and not number <= high:
            problems.append(out_of_range(f"{prefix}.{name}", number, allowed, high))
    return problems


def positive(value: Any, prefix: str, **nearest: float) -> list[str]:
    """Sentences for the fields of ``value`` not above 0, each with a valid number of its own size; None passes."""
    given = {name: getattr(value, name) for name in nearest}
    return [
        out_of_range(f"{prefix}.{name}", number, "> 0", nearest[name])
        for name, number in given.items()
        if number is not None and not number > 0
    ]


def below_one(value: Any, prefix: str, **nearest: float) -> list[str]:
    """Sentences for the fields of ``value`` outside [0, 1), as momenta and decays are: at 1 they forget nothing."""
    given = {name: getattr(value, name) for name in nearest}
    return [
        out_of_range(f"{prefix}.{name}", number, ">= 0 and < 1", nearest[name])
        for name, number in given.items()
        if number is not None and not 0 <= number < 1
    ]
