"""The files that others publish, as arrays: which array is which is told by names in the file, never by guessing.

{"data": [[images, labels], ...], "accs_all_exps": {arch: [...]}}     VICO: one of several sets
images.pt,labels.pt,lr.pt[,zca]     or a folder that holds images*.pt, labels*.pt, lr*.pt, zca*
a .npz, .pt or .pkl of {"images": ..., "labels": ...} (or image and label, x and y, ...), or of [images, labels]
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.base import listing
from ddjax.data.sources import beside
from ddjax.data.torchfile import read_pt
from ddjax.data.zipped import npy, npz
from ddjax.errors import ConfigError, DataError, out_of_range

NAMES = (
    ("images", "labels"), ("image", "label"), ("x", "y"), ("X", "y"), ("x_proto", "y_proto"), ("data", "labels"),
    ("image_syn", "label_syn"), ("images_best", "labels_best"),
)  # fmt: skip
RATES = ("lr", "syn_lr", "learned_lr")
PARTS = {"images": ("images", "image_syn"), "labels": ("labels", "label_syn"), "lr": ("lr", "syn_lr"), "zca": ("zca",)}
REPEATED = 64 << 20  # bytes of a list that names the same array again and again
ENDINGS = (".pt", ".pth", ".pkl", ".pickle", ".npz", ".npy")
WHITENING = {
    "mean": ("mean", "zca_mean", "mean_vector"),
    "matrix": ("matrix", "whitening_transform", "transform_matrix"),
    "inverse": ("inverse", "rev_whitening_transform", "transform_inv"),
}


@dataclasses.dataclass
class Raw:
    """What a source holds, nothing checked: ``names`` are those of its arrays, ``about`` goes into the manifest."""

    where: str
    images: np.ndarray
    labels: np.ndarray
    lr: Any = None
    zca: Mapping[str, np.ndarray] | None = None
    names: tuple[str, str] = ("images", "labels")
    torch: bool = False  # written by torch: [N, D, H, W]
    first: bool | None = None  # whether the channels come first; None: as the sizes say
    files: tuple[Path, ...] = ()
    place: np.ndarray | None = None  # of pictures: where the i-th by name lies in the set
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    order: str = ""  # the axes as they were taken, and why


def existing(path: Path) -> Path:
    """``path``, if a file or a folder is there; else `DataError` with the nearest name beside it."""
    if path.is_file() or path.is_dir():
        return path
    if path.exists():
        raise DataError(f"SRC = {str(path)!r} is a pipe, a device or a socket; allowed: a file or a folder.")
    raise DataError(f"SRC = {str(path)!r} does not exist.{beside(path)}")


def read_file(path: Path) -> Any:
    """A ``.npz`` as a dict, a ``.npy`` as an array, anything else by the restricted reader of ``.pt`` and pickles."""
    path = existing(path)
    if path.is_dir():
        raise DataError(f"SRC = {str(path)!r} is a folder; allowed: a file, one of {' '.join(ENDINGS)}.")
    where = f"file = {str(path)!r}"
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror}).") from error
    if start == b"\x93NUMPY":
        return npy(path.read_bytes(), where)
    return npz(path, where) if path.suffix.lower() == ".npz" else read_pt(path)


def vico(path: Path, index: int | None) -> Raw:
    """One of the sets in a VICO-style file; its accuracies, of every network, stand in ``about``."""
    held, where = read_file(path), f"file = {str(path)!r}"
    sets = held.get("data") if isinstance(held, dict) else None
    if not isinstance(sets, list | tuple) or not sets:
        raise DataError(f"{where}: holds {kind(held)}; allowed for --preset vico: {{'data': [[images, labels], ...]}}.")
    chosen = 0 if index is None else index
    if not 0 <= chosen < len(sets):
        raise ConfigError(out_of_range("--index", chosen, f"0 to {len(sets) - 1}, the sets of {path.name}",
                                       min(max(chosen, 0), len(sets) - 1)))  # fmt: skip
    pair = sets[chosen]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise DataError(f"{where}: set {chosen} holds {kind(pair)}; allowed: [images, labels].")
    accuracy, note = _accuracies(held.get("accs_all_exps"), chosen, len(sets))
    about = {"index": chosen, "sets": len(sets), "accuracy": accuracy} | ({"note": note} if note else {})
    images, labels = _array(pair[0], f"{where}: images"), _array(pair[1], f"{where}: labels")
    return Raw(where, images, labels, torch=True, first=True, files=(path,), about=about)


def _accuracies(stored: Any, chosen: int, sets: int) -> tuple[dict[str, Any], str]:
    """Per network: mean and std over all sets, how many, and those of the chosen set where they divide evenly.

    Fractions: a file with a number above 1 holds percent, which is divided by 100 and said.
    """
    found, lost = {}, []
    for arch, values in stored.items() if isinstance(stored, dict) else ():
        flat = np.asarray(values, np.float64).ravel() if _numeric(values) else np.full(1, np.nan)
        if flat.size and (flat >= 0).all() and (flat <= 100).all():
            found[word(arch)] = flat
        elif flat.size:
            lost.append(word(arch))
    percent = any(flat.max() > 1 for flat in found.values())
    notes = ["the accuracies in the file are percent; they are kept as fractions"] if percent else []
    notes += [f"accuracies that are no numbers from 0 to 100 are left out: {listing(lost)}"] if lost else []
    made = {}
    for arch, values in found.items():
        flat = values / 100 if percent else values
        each = flat.size // sets if flat.size % sets == 0 else 0
        made[arch] = {
            "mean": float(flat.mean()), "std": float(flat.std()), "count": int(flat.size),
            "of_this_set": flat[chosen * each : (chosen + 1) * each].tolist(),
        }  # fmt: skip
    return made, "; ".join(notes)


def _numeric(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iuf"
    return isinstance(values, list | tuple) and all(isinstance(v, int | float | np.number) for v in values)


def arrays(source: str) -> Raw:
    """Arrays of one file, of several (``images.pt,labels.pt,lr.pt``), or of a folder that holds them."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _several(_in_folder(path), source)
    if "," in source and not path.exists():
        places = [Path(part.strip()).expanduser() for part in source.split(",")]
        if not 2 <= len(places) <= 4 or not all(part.strip() for part in source.split(",")):
            raise ConfigError(f"SRC = {source!r}: allowed are images.pt,labels.pt[,lr.pt[,zca.npz]].")
        return _several(dict(zip(("images", "labels", "lr", "zca"), places, strict=False)), source)
    return _single(path)


def _in_folder(folder: Path) -> dict[str, Path]:
    """The files of a set in ``folder``: ``images_best.pt`` before ``images.pt`` before a single ``images_*.pt``."""
    files = sorted(
        entry for entry in folder.iterdir() if entry.suffix in (*ENDINGS, ".safetensors") and entry.is_file()
    )
    found: dict[str, Path] = {}
    for part, stems in PARTS.items():
        fits = [f for f in files if any(f.stem == s or f.stem.startswith(f"{s}_") for s in stems)]
        best = [f for f in fits if f.stem.endswith("_best")] or [f for f in fits if f.stem in stems] or fits
        if len(best) > 1:
            raise DataError(
                f"SRC = {str(folder)!r} holds {len(best)} files of {part}: {listing([f.name for f in best])}. "
                "Allowed: name them, images.pt,labels.pt,lr.pt."
            )
        found |= {part: best[0]} if best else {}
    if not {"images", "labels"} <= found.keys():
        raise DataError(
            f"SRC = {str(folder)!r} holds {listing([f.name for f in files]) or 'no arrays'}; "
            "allowed: images*.pt and labels*.pt, and perhaps lr*.pt."
        )
    return found


def _several(places: dict[str, Path], source: str) -> Raw:
    where = f"SRC = {source!r}"
    held = {part: read_file(path) for part, path in places.items()}
    _check_order({part: _role(_only(value)) for part, value in held.items()}, places, where)
    return Raw(
        where,
        _array(_only(held["images"]), f"file = {str(places['images'])!r}"),
        _array(_only(held["labels"]), f"file = {str(places['labels'])!r}"),
        lr=held.get("lr"),
        zca=_whitening(held["zca"], f"file = {str(places['zca'])!r}") if "zca" in held else None,
        torch=places["images"].suffix not in (".npy", ".npz"),
        files=tuple(places.values()),
    )


def _check_order(roles: dict[str, str], places: dict[str, Path], where: str) -> None:
    """`ConfigError` with the right order where the files are plainly those of a set in another one."""
    parts = [part for part in ("images", "labels", "lr") if part in roles]
    if sorted(roles[part] for part in parts) == sorted(parts) and any(roles[part] != part for part in parts):
        file = {roles[part]: str(places[part]) for part in parts}
        told = ", ".join(f"{places[part].name} holds the {roles[part]}" for part in parts)
        right = ",".join([*(file[part] for part in parts), *(str(places[p]) for p in places if p not in parts)])
        raise ConfigError(f"{where}: the files are in another order: {told}. Write SRC = {right}.")


def _role(value: Any) -> str:
    """What an array is by its shape: four axes are images, one number a rate, the rest labels."""
    if not isinstance(value, np.ndarray | np.number | int | float):
        return ""
    return "images" if np.ndim(value) >= 3 else "lr" if np.size(value) == 1 else "labels"


def _only(held: Any) -> Any:
    """The array of a ``.npz`` or dict that holds just one."""
    return next(iter(held.values())) if isinstance(held, dict) and len(held) == 1 else held


def _single(path: Path) -> Raw:
    held, where = read_file(path), f"file = {str(path)!r}"
    torch = path.suffix not in (".npy", ".npz")
    if isinstance(held, list | tuple) and len(held) in (2, 3):
        pair: dict[str, Any] = dict(zip(("images", "labels", "lr"), held, strict=False))
    elif isinstance(held, dict):
        pair = {word(key): value for key, value in held.items()}
    else:
        raise DataError(
            f"{where}: holds {kind(held)}; allowed: images and labels, as a dict or a list; where they are files of "
            "their own, SRC is images.pt,labels.pt,lr.pt or their folder."
        )
    names = next(((x, y) for x, y in NAMES if x in pair and y in pair), None)
    if names is None:
        hint = " It looks like a VICO-style file: --preset vico." if _is_vico(pair) else ""
        told = f"{where}: holds {kind(pair)}; allowed: images and labels, image and label, or x and y."
        raise DataError(told + hint)
    images, labels = (_array(pair[name], f"{where}: {name}") for name in names)
    zca = _whitening(pair, where) if any(n in pair for n in WHITENING["matrix"]) else None
    lr = next((pair[name] for name in RATES if name in pair), None)
    return Raw(where, images, labels, lr, zca, names, torch, False if names[0] == "image" else None, (path,))


def _is_vico(held: dict[str, Any]) -> bool:
    """Whether a dict looks like ``{"data": [[images, labels], ...], "accs_all_exps": ...}``."""
    return "accs_all_exps" in held or isinstance(held.get("data"), list | tuple)


def _whitening(held: Any, where: str) -> dict[str, np.ndarray]:
    """Mean, matrix and perhaps inverse of a stored transform, under any of the names in use."""
    found = {}
    for part, names in WHITENING.items():
        value = next((held[name] for name in names if name in held), None) if isinstance(held, dict) else None
        if value is not None:
            found[part] = _array(value, f"{where}: {part}")
    if "matrix" not in found:
        raise DataError(
            f"{where}: holds {kind(held)}; allowed: zca_mean, whitening_transform, rev_whitening_transform."
        )
    return found


def _array(value: Any, where: str) -> np.ndarray:
    """An array of numbers; a list of equal ones is stacked."""
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(v, np.ndarray | np.number | int | float) for v in value)
    ):
        value = _stacked([np.asarray(v) for v in value], where)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise DataError(f"{where}: holds {kind(value)}; allowed: an array of numbers.")
    return value


def _stacked(items: list[np.ndarray], where: str) -> np.ndarray:
    """Equal arrays as one; a few bytes named over and over are refused."""
    shapes = sorted({item.shape for item in items}, key=str)
    if len(shapes) > 1:
        raise DataError(f"{where}: {len(items)} items of {len(shapes)} shapes: {listing([str(s) for s in shapes])}.")
    whole, own = sum(i.nbytes for i in items), sum(i.nbytes for i in {id(i): i for i in items}.values())
    if whole > max(REPEATED, 4 * own):
        raise DataError(f"{where}: {len(items)} items of {whole} bytes in all repeat {own} bytes.")
    return np.stack(items)


def kind(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, dict):
        return f"a dict of {listing([repr(word(key)) for key in value]) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        f"an array {value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    )


def word(key: Any) -> str:
    """A key of a dict as text (Python 2 wrote bytes), cut to 60 characters."""
    return (key[:60].decode("latin-1") if isinstance(key, bytes) else str(key))[:60]
