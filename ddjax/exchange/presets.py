"""What the releases of others mean by their numbers: one preset names one pixel space, with its constants.

``normalised`` is ``(pixel / 255 - mean) / std`` per channel with the constants of the release (they differ between
releases for one set of images); ``whitened`` is that, then ZCA. The trajectory methods whiten ``pixel / 255`` itself
(mean 0, std 1); the kernel methods whiten normalised images. Sources: Zhao et al., ICLR 2021 (vico); Cazenavette et
al., CVPR 2022 (mtt); Guo et al., ICLR 2024 (datm-zca); Nguyen et al., NeurIPS 2021, Loo et al., NeurIPS 2022, Zhou et
al., NeurIPS 2022 (rfad-zca); Yin et al., NeurIPS 2023, Sun et al., CVPR 2024, Su et al., CVPR 2024 (pixels).
"""

import dataclasses
from collections.abc import Mapping

from ddjax.errors import ConfigError, choice

Constants = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of a channel, of pixels / 255

_IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10: Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
VICO: dict[str, Constants] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": _CIFAR10,
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": _IMAGENET,
    "imagenette": _IMAGENET,
    "imagenet": _IMAGENET,
}
MTT: dict[str, Constants] = VICO | {"cifar100": _CIFAR10}  # the trajectory releases kept CIFAR-10's
FREPO: dict[str, Constants] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": ((0.4759, 0.4481, 0.3926), (0.2763, 0.2687, 0.2813)),
}
NUMBERED = ("digits", "mnist", "fashion_mnist", "svhn", "usps", "cifar10", "cifar100")  # sets labelled by numbers


@dataclasses.dataclass(frozen=True)
class Preset:
    """One way in which sets are published.

    ``space``: pixels | normalised | whitened. ``scale``: what white is in a file of pixels (None: as its type and
    range say, where they leave no doubt). ``zca``: transform and eps. ``soft``: what a float label matrix holds,
    logits (or probabilities, which their sums tell) | targets of a regression. ``first``: whether arrays are
    ``[N, D, H, W]`` (None: as the sizes say).
    """

    name: str
    about: str
    space: str
    constants: Mapping[str, Constants] = dataclasses.field(default_factory=dict)
    scale: int | None = None
    zca: tuple[str, float] | None = None
    soft: str = "logits"
    first: bool | None = None
    protocol: str | None = None
    augment: str | None = None


_ALL = (
    Preset(
        "vico", "VICO-style .pt: {'data': [[images, labels], ...], 'accs_all_exps': {...}}", "normalised", VICO,
        first=True, protocol="P-DC",
    ),
    Preset(
        "mtt", "MTT, TESLA, FTD without ZCA: images.pt,labels.pt,lr.pt", "normalised", MTT, first=True,
        protocol="P-MTT", augment="dsa",
    ),
    Preset(
        "datm-zca", "DATM, MTT, FTD with ZCA (eps 0.1): images.pt,labels.pt,lr.pt", "whitened", zca=("eps", 0.1),
        first=True, protocol="P-MTT", augment="dsa",
    ),
    Preset(
        "rfad-zca", "RFAD, KIP, FRePo with ZCA (trace-regularised, 0.1): .npz, .pt or .pkl of arrays", "whitened",
        FREPO, zca=("trace", 0.1), soft="targets", protocol="P-FRePo",
    ),
    Preset("pixels", "image folders (SRe2L, RDED, D4M), or arrays of pixels", "pixels"),
    Preset("pixels-1", "arrays of pixels, black 0, white 1", "pixels", scale=1),
    Preset("pixels-255", "arrays of pixels, black 0, white 255", "pixels", scale=255),
)  # fmt: skip
PRESETS = {preset.name: preset for preset in _ALL}


def preset_called(name: str) -> Preset:
    """The preset of that name; `ConfigError` with the nearest one."""
    if name not in PRESETS:
        raise ConfigError(choice("--preset", name, PRESETS))
    return PRESETS[name]
