"""Which views the students of a protocol see: a named rule for each published augmentation, by card and set.

    AUGMENTS["dsa"](Setting(images=100, classes=10, card=card, arch="convnet3")) -> Augment

What a published recipe says of flips holds for its photographs: sets of digits are never flipped here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ddjax.kernels.dsa import DSA_OPS
from ddjax.types import Augment

DIGITS = ("digits", "mnist", "svhn", "usps")
PLAIN_IDC = ("cifar100", "tiny_imagenet")  # judged there with the data set's usual crops and flips
LARGE = 128  # pixels


class Setting(NamedTuple):
    """What a protocol is told of the problem."""

    images: int
    classes: int
    card: Any  # data.Card
    arch: str = "convnet3"
    made: str | None = None  # the augmentation that the set's manifest names: dsa | cutmix | None
    learned_lr: float | None = None
    side: int = 32  # pixels high
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())  # mean and std of the set

    @property
    def ipc(self) -> float:
        """Images per class."""
        return self.images / self.classes

    @property
    def flips(self) -> bool:
        """Whether a mirrored image is still of its class."""
        return self.card.id not in DIGITS


def card(setting: Setting) -> Augment:
    """The data set's own crops and flips."""
    return setting.card.augment


def none(setting: Setting) -> Augment:
    """The images as they are."""
    return Augment()


def dsa(setting: Setting) -> Augment:
    """One of six ops a batch, without flips for digits (Zhao and Bilen, ICML 2021)."""
    return Augment(dsa=tuple(op for op in DSA_OPS if op != "flip" or setting.flips))


def dc(setting: Setting) -> Augment:
    """DSA where the set was made for it; else crop, scale or rotate on MNIST, crop or noise for a ConvNet with batch
    norm, and nothing otherwise (Zhao, Mopuri and Bilen, ICLR 2021)."""
    if setting.made == "dsa":
        return dsa(setting)
    if setting.arch.startswith("convnet") and setting.arch.endswith("-batch"):
        return Augment(dc=("crop", "noise"))
    return Augment(dc=("crop", "scale", "rotate")) if setting.card.id == "mnist" else Augment()


def idc(setting: Setting) -> Augment:
    """CutMix on every second batch, before it flip and colour and one of crop, scale, rotate; the usual crops and
    flips on CIFAR-100 and Tiny-ImageNet; large images: random resized crops, every batch mixed (Kim et al., ICML
    2022)."""
    mixed = Augment(cutmix=1.0, cutmix_p=0.5, mix_batch=True)
    if setting.side >= LARGE:
        return mixed._replace(area=(0.5, 1.0), flip=setting.flips, cutmix_p=1.0)
    if setting.card.id in PLAIN_IDC:
        return mixed._replace(pad=setting.card.augment.pad, flip=setting.card.augment.flip)
    return mixed._replace(
        dsa=("crop", "scale", "rotate"), dsa_always=("flip", "color") if setting.flips else ("color",)
    )


def frepo(setting: Setting) -> Augment:
    """One of flip, jitter, zoom, turn, translate, hole a batch; no flips on MNIST and Fashion-MNIST (Zhou et al.,
    NeurIPS 2022)."""
    ops = ("flip", "jitter", "zoom", "turn", "translate", "hole")
    return Augment(dsa=ops if setting.flips and setting.card.id != "fashion_mnist" else ops[1:])


def fkd(setting: Setting) -> Augment:
    """Random resized crops of 8 % of the area or more, flips, CutMix (Yin et al., NeurIPS 2023)."""
    return Augment(area=(0.08, 1.0), flip=setting.flips, cutmix=1.0, mix_batch=True)


def rded(setting: Setting) -> Augment:
    """Patch shuffle and crops of 1 / f of the area or more (f = 2 for large images, else 1: neither), flips, CutMix
    (Sun et al., CVPR 2024)."""
    mixed = Augment(flip=setting.flips, cutmix=1.0, mix_batch=True)
    return mixed._replace(shuffle=2, area=(0.5, 1.0)) if setting.side >= LARGE else mixed


def edc(setting: Setting) -> Augment:
    """Patch shuffle, random resized crops of half the area or more, flips, CutMix (Shao et al., NeurIPS 2024)."""
    return Augment(shuffle=2, area=(0.5, 1.0), flip=setting.flips, cutmix=1.0, mix_batch=True)


def made(setting: Setting) -> Augment:
    """What the set's manifest names: dsa, cutmix, none; the data set's own where it names nothing."""
    if setting.made == "cutmix":
        return card(setting)._replace(cutmix=1.0, mix_batch=True)
    return {"dsa": dsa, "none": none}.get(setting.made or "", card)(setting)


AUGMENTS: dict[str, Callable[[Setting], Augment]] = {
    "card": card, "none": none, "dsa": dsa, "dc": dc, "idc": idc, "frepo": frepo, "fkd": fkd, "rded": rded, "edc": edc,
    "made": made,
}  # fmt: skip
TAKES = {"dc": ("dsa",), "made": ("dsa", "cutmix", "none")}  # what these take of a set's manifest
