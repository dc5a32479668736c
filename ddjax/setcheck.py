"""What must hold of a distilled set, in memory and in its files: every way to be wrong has its sentence.

``parts`` judges arrays and values; ``folder`` reads a set's files and gathers all that is wrong with them: JSON Schema
of the manifest, hashes, tensors, shapes, value range, finite pixels, class map, transform, bytes of each component. A
reader refuses what is found here, and ``ddjax set check`` lists the whole of it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from ddjax import schema
from ddjax import zca as whitening
from ddjax.errors import DataError, choice, out_of_range
from ddjax.files import content_hash, read_json
from ddjax.kernels import patches
from ddjax.zca import Zca

SCHEMA = 1
IMAGES, MANIFEST, WHITENING = "images.safetensors", "manifest.json", "zca.safetensors"
DTYPES = ("uint8", "float32")
TENSORS = ("images", "labels", "label_logits", "learned_lr")
STORED = "stored_labels"  # soft labels view by view, in labels/: their name in the manifest and among its bytes


class Parts(NamedTuple):
    """What a set consists of, before anybody vouches for it."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_logits: np.ndarray | None = None
    learned_lr: float | None = None
    zca: Zca | None = None
    factor: int = 1

    @property
    def space(self) -> str:
        """What the numbers of ``images`` are: pixels | normalised | whitened."""
        if self.images.dtype == np.uint8:
            return "pixels"
        return "normalised" if self.zca is None else "whitened"

    def bytes(self) -> dict[str, int]:
        """Bytes of each component as it lies in the files."""
        found = {"images": self.images.nbytes, "labels": self.labels.nbytes}
        if self.label_logits is not None:
            found["label_logits"] = self.label_logits.nbytes
        if self.learned_lr is not None:
            found["learned_lr"] = 4
        if self.zca is not None:
            found["zca"] = sum(getattr(self.zca, name).nbytes for name in whitening.TENSORS)
        return found

    def range(self) -> list[float]:
        """The least and the greatest value that images of this kind hold."""
        return [0, 255] if self.images.dtype == np.uint8 else [float(self.images.min()), float(self.images.max())]


def refuse(where: str, wrong: Sequence[str]) -> None:
    """One DataError with every sentence of ``wrong``; nothing where there is none."""
    if len(wrong) == 1:
        raise DataError(f"{where}: {wrong[0]}")
    if wrong:
        raise DataError(f"{where} has {len(wrong)} problems:" + "".join(f"\n  - {one}" for one in wrong))


# ------------------------------------------------------------------------------------------ in memory


def parts(given: Parts) -> list[str]:
    """What does not fit together; what depends on something wrong is not looked at."""
    images, classes = given.images, len(given.class_names)
    wrong = []
    if images.ndim != 4 or images.size == 0:
        wrong.append(f"images have shape {images.shape}; allowed: [N, H, W, D], N >= 1.")
    if str(images.dtype) not in DTYPES:
        wrong.append(f"images are {choice('dtype', images.dtype, DTYPES)}")
    if wrong:
        return wrong
    if given.labels.shape != images.shape[:1] or given.labels.dtype != np.int32:
        said = f"{given.labels.dtype}{list(given.labels.shape)}"
        wrong.append(f"labels are {said}; allowed: int32[{len(images)}], one for each image.")
    else:
        wrong += _labels(given.labels, classes)
    if len(set(given.class_names)) < classes:
        wrong.append(f"a class name occurs twice: {sorted(given.class_names)}.")
    wrong += _channels(given.mean, given.std, images.shape[3])
    wrong += _tiles(given.factor, images.shape[1:3])
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3))) if images.dtype == np.float32 else np.array([])
    if bad.size:
        first = f"the first is image {bad[0]}"
        named = f", class {given.class_names[int(given.labels[bad[0]])]!r}" if not wrong else ""
        wrong.append(f"{bad.size} of {len(images)} images hold values that are not finite; {first}{named}.")
    return [*wrong, *_learned(given)]


def _labels(labels: np.ndarray, classes: int) -> Iterator[str]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        yield (
            f"labels run from {low} to {high}; allowed: 0 to {classes - 1}, the indices of the {classes} class names."
        )


def _channels(mean: Sequence[float], std: Sequence[float], channels: int) -> Iterator[str]:
    if len(mean) != channels or len(std) != channels:
        yield f"mean has {len(mean)} and std {len(std)} values; allowed: {channels}, one for each channel."
    if not np.isfinite([*mean, *std]).all() or min(std, default=1) <= 0:
        yield f"mean = {list(mean)}, std = {list(std)}; allowed: finite, std > 0."


def _tiles(factor: int, size: tuple[int, int]) -> Iterator[str]:
    if factor < 1 or not patches.fits(factor, size):
        most = max(f for f in range(1, min(size) + 1) if patches.fits(f, size))
        yield out_of_range("factor", factor, f"1 to {most}, so that every tile of {size[0]}x{size[1]} has pixels", most)


def _learned(given: Parts) -> Iterator[str]:
    """Learned labels, learned rate, whitening."""
    logits, lr, shape = given.label_logits, given.learned_lr, (len(given.images), len(given.class_names))
    if logits is not None and (logits.shape != shape or logits.dtype != np.float32):
        said = f"{logits.dtype}{list(logits.shape)}"
        yield f"label_logits are {said}; allowed: float32{list(shape)}, a row an image and a column a class."
    elif logits is not None and not np.isfinite(logits).all():
        yield f"label_logits hold {(~np.isfinite(logits)).sum()} values that are not finite."
    if lr is not None and not (np.isfinite(lr) and lr > 0):
        yield out_of_range("learned_lr", lr, "> 0", 0.01)
    if given.zca is not None and given.images.dtype != np.float32:
        yield f"{given.images.dtype} images with a zca; allowed: float32, whitened by it."
    elif given.zca is not None:
        yield from whitening.problems(given.zca, given.images.shape[1:])


# ----------------------------------------------------------------------------------------- in its files


def folder(path: Path, where: str) -> tuple[dict[str, Any], Parts | None, list[str]]:
    """The manifest of the set in ``path``, its parts (None where the files do not give them), and all that is wrong."""
    about = manifest(path / MANIFEST, where)
    wrong = schema.problems(f"manifest-{SCHEMA}", about)
    sound = not wrong
    wrong = [f"{MANIFEST}: {one}" for one in wrong] + list(_seal(about))
    held, missing = _tensors(path / IMAGES, about.get("sha256"))
    wrong += missing
    if not sound or held is None:
        return about, None, wrong
    zca, missing = _whitening(path / WHITENING, about["zca"])
    wrong += missing
    lr, scalar = held.get("learned_lr"), True
    if lr is not None and (lr.shape != () or lr.dtype != np.float32):
        wrong.append(f"{IMAGES}: learned_lr is {lr.dtype}{list(lr.shape)}; allowed: float32[].")
        scalar = False
    given = Parts(
        images=held["images"],
        labels=held["labels"],
        class_names=tuple(about["class_names"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        label_logits=held.get("label_logits"),
        learned_lr=float(lr) if lr is not None and scalar else None,
        zca=zca,
        factor=(about["decode"] or {}).get("factor", 1),
    )
    wrong += parts(given)
    if not missing and scalar:
        wrong += _said(about, given)
    return about, given, wrong


def manifest(path: Path, where: str) -> dict[str, Any]:
    """The JSON object of a manifest of a schema that this ddjax knows; else ``DataError``."""
    try:
        about = read_json(path)
        json.dumps(about, ensure_ascii=False).encode()
    except RecursionError:
        raise DataError(f"{where}: {MANIFEST} is nested too deep for a manifest.") from None
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {MANIFEST} holds text that is no Unicode: {error}.") from None
    named = about.get("schema") if isinstance(about, dict) else None
    if named is not None and not schema.is_kind("integer", named):
        raise DataError(f"{where}: {MANIFEST}: schema = {named!r}; allowed: a whole number up to {SCHEMA}.")
    if named is None:
        raise DataError(f"{where}: {MANIFEST} names no schema, so it is no distilled set.")
    if named > SCHEMA:
        raise DataError(f"{where} has schema {named}; this ddjax reads up to schema {SCHEMA}. Upgrade ddjax.")
    return about


def _seal(about: dict[str, Any]) -> Iterator[str]:
    """The manifest's hash of itself, and that it is a set's."""
    if content_hash({k: v for k, v in about.items() if k != "hash"}) != about.get("hash"):
        yield (
            f"{MANIFEST} is not as it was written (its hash differs). Copy the set again, or load it with its "
            "original manifest and save it with the new values."
        )
    if "export" in about:
        yield f"{MANIFEST} is the copy of an export; give the set itself, or read the export with `ddjax set import`."


def _bytes(path: Path, sha256: Any) -> bytes:
    """The content of a file whose hash is known."""
    if not path.is_file():
        raise DataError(f"file = {str(path)!r} does not exist.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"file = {str(path)!r} ({len(content)} bytes) is not the one of its {MANIFEST}: "
            "it was cut short or changed (sha256 differs). Copy the set again."
        )
    return content


def _tensors(path: Path, sha256: Any) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """The tensors of ``images.safetensors``, None where there are no images with labels; and what is wrong."""
    try:
        held = load(_bytes(path, sha256))
    except DataError as error:
        return None, [str(error)]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        return None, [f"file = {str(path)!r} is no safetensors file of numbers: {error}."]
    wrong = [f"{path.name} holds no {name}." for name in ("images", "labels") if name not in held]
    other = sorted(held.keys() - set(TENSORS))
    extra = [f"{path.name} holds {', '.join(other)}; allowed: {', '.join(TENSORS)}."] if other else []
    return (None if wrong else held), wrong + extra


def _whitening(path: Path, about: dict[str, Any] | None) -> tuple[Zca | None, list[str]]:
    """The transform beside the images, where the manifest names one."""
    if about is None:
        return None, [f"{path.name} lies in the folder, but zca is null in {MANIFEST}."] if path.exists() else []
    try:
        content, fitted = _bytes(path, about["hash"]), about.get("fitted")
        return whitening.from_bytes(content, transform=about["transform"], eps=about["eps"], fitted=fitted), []
    except DataError as error:
        return None, [str(error)]


def _said(about: dict[str, Any], given: Parts) -> Iterator[str]:
    """Where the manifest and the tensors disagree."""
    if about["classes"] != len(about["class_names"]):
        yield f"{len(about['class_names'])} class names for {about['classes']} classes."
    beside = {STORED: about[STORED]["bytes"]} if about.get(STORED) else {}
    found = {
        "shape": list(given.images.shape), "dtype": str(given.images.dtype), "space": given.space,
        "bytes": given.bytes() | beside,
    }  # fmt: skip
    if given.images.size and str(given.images.dtype) in DTYPES and np.isfinite(given.images).all():
        found["range"] = given.range()
    for name, value in found.items():
        if about[name] != value:
            yield f"{MANIFEST} says {name} {about[name]}, the files have {value}."
