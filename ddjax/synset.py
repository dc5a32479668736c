"""The distilled set as a folder: ``images.safetensors`` and ``manifest.json``.

Equal sets give equal bytes. The file holds ``images [N, H, W, D]`` and ``labels [N]``; the
manifest says what they mean (class names in label order, value range, the channel mean and
deviation that the pixels expect) and how they came to be (dataset, method, teacher, label source,
protocol, seeds, licence). Whatever does not fit is refused on loading, by name. NumPy and
safetensors are all that a reader needs.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

import ddjax
from ddjax.errors import DataError, choice
from ddjax.files import atomic_folder, content_hash, read_json, to_json

SCHEMA = 1
IMAGES, MANIFEST = "images.safetensors", "manifest.json"
ABOUT = ("dataset", "method", "teacher", "label_source", "protocol", "seeds", "licence")
DTYPES = ("uint8", "float32")
FIELDS = {
    "ddjax": str, "classes": int, "class_names": list, "shape": list, "dtype": str, "space": str,
    "range": list, "mean": list, "std": list, "zca": dict | str | None, "decode": dict | str | None,
    "bytes": dict, "sha256": str, "hash": str,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledSet:
    """A distilled set and where it comes from. ``DataError`` when the parts do not fit together.

    ``images``: ``[N, H, W, D]``, uint8 pixels, or float32 in normalised space, which is
    ``(pixel / 255 - mean) / std`` per channel. ``labels``: int32 ``[N]``, indices of
    ``class_names``. ``meta``: what the manifest says under the names of ``ABOUT``; JSON values.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        fields = {
            "images": np.ascontiguousarray(self.images),
            "labels": np.ascontiguousarray(self.labels),
            "class_names": tuple(str(name) for name in self.class_names),
            "mean": tuple(float(value) for value in self.mean),
            "std": tuple(float(value) for value in self.std),
            "meta": dict(self.meta),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        _check("DistilledSet", self.images, self.labels, self.class_names, self.mean, self.std)

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)``: float32 ``[N, H, W, D]`` on the scale black 0, white 1, and int32.

        Any transform of storage is undone. Networks of ``ddjax`` see ``(images - mean) / std``;
        images that were learned as floats may lie a little outside of [0, 1].
        """
        if self.images.dtype == np.uint8:
            return self.images.astype(np.float32) / np.float32(255), self.labels.copy()
        std, mean = (np.array(values, np.float32) for values in (self.std, self.mean))
        return self.images * std + mean, self.labels.copy()

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``, without the hashes of the files."""
        pixels = self.images.dtype == np.uint8
        low, high = (0, 255) if pixels else (float(self.images.min()), float(self.images.max()))
        dataset = self.meta.get("dataset") or {}
        about = {name: self.meta.get(name) for name in ABOUT}
        return about | {
            "schema": SCHEMA,
            "ddjax": ddjax.__version__,
            "licence": about["licence"] or dataset.get("licence"),
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "shape": list(self.images.shape),
            "dtype": str(self.images.dtype),
            "space": "pixels" if pixels else "normalised",
            "range": [low, high],
            "mean": list(self.mean),
            "std": list(self.std),
            "zca": None,
            "decode": None,
            "bytes": {"images": self.images.nbytes, "labels": self.labels.nbytes},
        }

    def save(self, folder: Path | str) -> Path:
        """Write the set as ``folder``, whole or not at all; a set that is there is replaced."""
        content = save({"images": self.images, "labels": self.labels})
        about = self.manifest() | {"sha256": hashlib.sha256(content).hexdigest()}
        about["hash"] = content_hash(about)
        with atomic_folder(folder) as out:
            (out / IMAGES).write_bytes(content)
            (out / MANIFEST).write_text(to_json(about), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a set from its folder or a run's; ``DataError`` names what does not fit."""
        folder = _find(Path(path))
        about = read_json(folder / MANIFEST)
        where = f"set = {str(folder)!r}"
        _check_manifest(about, where)
        tensors = _read(folder / IMAGES, about["sha256"])
        missing = {"images", "labels"} - tensors.keys()
        if missing:
            raise DataError(f"{where}: {IMAGES} holds no {' and no '.join(sorted(missing))}.")
        images, labels = tensors["images"], tensors["labels"]
        for name, found in {"shape": list(images.shape), "dtype": str(images.dtype)}.items():
            if about[name] != found:
                raise DataError(f"{where}: {MANIFEST} says {name} {about[name]}, the images have {found}.")
        if about["classes"] != len(about["class_names"]):
            raise DataError(f"{where}: {len(about['class_names'])} class names for {about['classes']} classes.")
        parts = (images, labels, about["class_names"], about["mean"], about["std"])
        _check(where, *parts)
        return cls(*parts, meta={name: about[name] for name in ABOUT})


def _find(path: Path) -> Path:
    for folder in (path, path / "synset"):
        if (folder / MANIFEST).is_file():
            return folder
    raise DataError(f"set = {str(path)!r} holds no {MANIFEST}: allowed are a set's folder or a run's.")


def _check_manifest(about: Any, where: str) -> None:
    """Schema, fields with their JSON types, hash of the manifest itself, transforms we can undo."""
    schema = about.get("schema") if isinstance(about, dict) else None
    if not isinstance(schema, int):
        raise DataError(f"{where}: {MANIFEST} names no schema, so it is no distilled set.")
    if schema > SCHEMA:
        raise DataError(f"{where} has schema {schema}; this ddjax reads up to schema {SCHEMA}. Upgrade ddjax.")
    absent = [name for name in (*FIELDS, *ABOUT) if name not in about]
    if absent:
        raise DataError(f"{where}: {MANIFEST} lacks {', '.join(absent)}.")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(about[name], kind)]
    if wrong:
        raise DataError(f"{where}: {MANIFEST} has a value of the wrong kind at {', '.join(wrong)}.")
    if content_hash({k: v for k, v in about.items() if k != "hash"}) != about["hash"]:
        raise DataError(
            f"{where}: {MANIFEST} is not as it was written (its hash differs). Copy the set again, "
            "or load it with its original manifest and save it with the new values."
        )
    for name in ("zca", "decode"):
        if about[name] is not None:
            raise DataError(f"{where}: {name} = {about[name]!r} is not known; allowed: null.")


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The tensors of a file whose hash is known."""
    if not path.is_file():
        raise DataError(f"file = {str(path)!r} does not exist.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"file = {str(path)!r} ({len(content)} bytes) is not the one of its {MANIFEST}: "
            "it was cut short or changed (sha256 differs). Copy the set again."
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise DataError(f"file = {str(path)!r} is no safetensors file: {error}.") from None


def _check(
    where: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Shapes, types, label range, finite pixels, class map: the first that fails is a DataError."""
    if images.ndim != 4 or images.size == 0:
        raise DataError(f"{where}: images have shape {images.shape}; allowed: [N, H, W, D], N >= 1.")
    if str(images.dtype) not in DTYPES:
        raise DataError(f"{where}: images are {choice('dtype', images.dtype, DTYPES)}")
    if labels.shape != images.shape[:1] or labels.dtype != np.int32:
        raise DataError(
            f"{where}: labels are {labels.dtype}{list(labels.shape)}; "
            f"allowed: int32[{len(images)}], one for each image."
        )
    low, high, classes = int(labels.min()), int(labels.max()), len(class_names)
    if low < 0 or high >= classes:
        raise DataError(
            f"{where}: labels run from {low} to {high}; allowed: 0 to {classes - 1}, "
            f"the indices of the {classes} class names."
        )
    if len(set(class_names)) < classes:
        raise DataError(f"{where}: a class name occurs twice: {sorted(class_names)}.")
    channels = images.shape[3]
    if len(mean) != channels or len(std) != channels:
        raise DataError(
            f"{where}: mean has {len(mean)} and std {len(std)} values; allowed: {channels}, one for each channel."
        )
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise DataError(f"{where}: mean = {list(mean)}, std = {list(std)}; allowed: finite, std > 0.")
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if bad.size:
        raise DataError(
            f"{where}: {bad.size} of {len(images)} images hold values that are not finite; "
            f"the first is image {bad[0]}, class {class_names[int(labels[bad[0]])]!r}."
        )
