"""The distilled set as a folder: ``images.safetensors`` and ``manifest.json``.

Equal sets give equal bytes. The file holds ``images [N, H, W, D]`` and ``labels [N]``, and where they were learned
``label_logits [N, C]`` and ``learned_lr []``; ``zca.safetensors`` beside it holds the transform of whitened images. The
manifest says what they mean (class names in label order, value range, the channel mean and deviation that the pixels
expect) and how they came to be (dataset, method, teacher, label source, protocol, seeds, licence). Whatever does not
fit is refused on loading, by name. NumPy and safetensors are all that a reader needs.
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
from ddjax import zca as whitening
from ddjax.errors import DataError, choice, out_of_range
from ddjax.files import atomic_folder, content_hash, read_json, to_json
from ddjax.zca import Zca

SCHEMA = 1
IMAGES, MANIFEST, WHITENING = "images.safetensors", "manifest.json", "zca.safetensors"
ABOUT = ("dataset", "method", "teacher", "label_source", "protocol", "seeds", "licence")
EXTRA = ("augment", "source")  # in the manifest only where they are given
DTYPES = ("uint8", "float32")
FIELDS = {
    "ddjax": str, "classes": int, "class_names": list, "shape": list, "dtype": str, "space": str,
    "range": list, "mean": list, "std": list, "zca": dict | None, "decode": None,
    "bytes": dict, "sha256": str, "hash": str,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledSet:
    """A distilled set and where it comes from. ``DataError`` when the parts do not fit together.

    ``images [N, H, W, D]``: uint8 pixels, or float32 in normalised space, ``(pixel / 255 - mean) / std`` per channel;
    with ``zca`` they are whitened, ``zca.apply`` of the normalised ones. ``labels``: int32 ``[N]``, indices of
    ``class_names``. ``label_logits``: float32 ``[N, C]``, learned labels; their softmax is the target, and a protocol
    that regresses takes them as they are. ``learned_lr``: the learning rate learned with the images. ``meta``: what the
    manifest says under the names of ``ABOUT`` and ``EXTRA``; JSON values.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _: dataclasses.KW_ONLY
    label_logits: np.ndarray | None = None
    learned_lr: float | None = None
    zca: Zca | None = None

    def __post_init__(self) -> None:
        logits, lr = self.label_logits, self.learned_lr
        fields = {
            "images": np.ascontiguousarray(self.images),
            "labels": np.ascontiguousarray(self.labels),
            "class_names": tuple(str(name) for name in self.class_names),
            "mean": tuple(float(value) for value in self.mean),
            "std": tuple(float(value) for value in self.std),
            "meta": dict(self.meta),
            "label_logits": None if logits is None else np.ascontiguousarray(logits),
            "learned_lr": None if lr is None else float(np.float32(lr)),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        _check("DistilledSet", self.images, self.labels, self.class_names, self.mean, self.std)
        _check_learned("DistilledSet", self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def soft(self) -> bool:
        """Whether the set carries labels of its own, ``label_logits``."""
        return self.label_logits is not None

    @property
    def space(self) -> str:
        """What the numbers of ``images`` are: pixels | normalised | whitened."""
        if self.images.dtype == np.uint8:
            return "pixels"
        return "normalised" if self.zca is None else "whitened"

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)``: float32 ``[N, H, W, D]`` on the scale black 0, white 1, and int32.

        Any transform of storage is undone. Networks of ``ddjax`` see ``(images - mean) / std``, whitened where the set
        has a ``zca``; images that were learned as floats may lie a little outside of [0, 1].
        """
        if self.images.dtype == np.uint8:
            return self.images.astype(np.float32) / np.float32(255), self.labels.copy()
        std, mean = (np.array(values, np.float32) for values in (self.std, self.mean))
        images = self.images if self.zca is None else whitening.unapply(self.zca, self.images)
        return images * std + mean, self.labels.copy()

    def tensors(self) -> dict[str, np.ndarray]:
        """What ``images.safetensors`` holds, by name."""
        found = {"images": self.images, "labels": self.labels}
        if self.label_logits is not None:
            found["label_logits"] = self.label_logits
        if self.learned_lr is not None:
            found["learned_lr"] = np.array(self.learned_lr, np.float32)
        return found

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``, without the hashes of the files."""
        pixels = self.images.dtype == np.uint8
        low, high = (0, 255) if pixels else (float(self.images.min()), float(self.images.max()))
        dataset = self.meta.get("dataset") or {}
        about = {name: self.meta.get(name) for name in ABOUT}
        about |= {name: self.meta[name] for name in EXTRA if self.meta.get(name) is not None}
        kept = {name: value.nbytes for name, value in self.tensors().items()}
        if self.zca is not None:
            kept["zca"] = sum(getattr(self.zca, name).nbytes for name in whitening.TENSORS)
        return about | {
            "schema": SCHEMA,
            "ddjax": ddjax.__version__,
            "licence": about["licence"] or dataset.get("licence"),
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "shape": list(self.images.shape),
            "dtype": str(self.images.dtype),
            "space": self.space,
            "range": [low, high],
            "mean": list(self.mean),
            "std": list(self.std),
            "zca": None,
            "decode": None,
            "bytes": kept,
        }

    def save(self, folder: Path | str) -> Path:
        """Write the set as ``folder``, whole or not at all; a set that is there is replaced."""
        content = save(self.tensors())
        about = self.manifest() | {"sha256": hashlib.sha256(content).hexdigest()}
        white = None if self.zca is None else whitening.to_bytes(self.zca)
        if self.zca is not None and white is not None:
            digest = hashlib.sha256(white).hexdigest()
            about["zca"] = {"transform": self.zca.transform, "eps": self.zca.eps, "hash": digest}
        about["hash"] = content_hash(about)
        with atomic_folder(folder) as out:
            (out / IMAGES).write_bytes(content)
            if white is not None:
                (out / WHITENING).write_bytes(white)
            (out / MANIFEST).write_text(to_json(about), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a set from its folder or a run's; ``DataError`` names what does not fit."""
        folder = _find(Path(path))
        about = read_json(folder / MANIFEST)
        where = f"set = {str(folder)!r}"
        _check_manifest(about, where)
        tensors = _tensors(folder / IMAGES, about["sha256"])
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
        meta = {name: about[name] for name in ABOUT} | {name: about[name] for name in EXTRA if name in about}
        lr, zca = tensors.get("learned_lr"), None
        if about["zca"] is not None:
            kept = _bytes(folder / WHITENING, about["zca"]["hash"])
            zca = whitening.from_bytes(kept, transform=about["zca"]["transform"], eps=about["zca"]["eps"])
        made = cls(
            *parts, meta=meta, label_logits=tensors.get("label_logits"),
            learned_lr=None if lr is None else float(lr), zca=zca,
        )  # fmt: skip
        if made.space != about["space"]:
            raise DataError(f"{where}: {MANIFEST} says space {about['space']!r}, the images are {made.space!r}.")
        return made


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
    wrong = [name for name, kind in FIELDS.items() if kind is not None and not isinstance(about[name], kind)]
    if wrong:
        raise DataError(f"{where}: {MANIFEST} has a value of the wrong kind at {', '.join(wrong)}.")
    if content_hash({k: v for k, v in about.items() if k != "hash"}) != about["hash"]:
        raise DataError(
            f"{where}: {MANIFEST} is not as it was written (its hash differs). Copy the set again, "
            "or load it with its original manifest and save it with the new values."
        )
    if about["decode"] is not None:
        raise DataError(f"{where}: decode = {about['decode']!r} is not known; allowed: null.")
    absent = {"transform", "eps", "hash"} - (about["zca"] or dict.fromkeys(("transform", "eps", "hash"))).keys()
    if absent:
        raise DataError(f"{where}: {MANIFEST} lacks {', '.join(f'zca.{name}' for name in sorted(absent))}.")


def _bytes(path: Path, sha256: str) -> bytes:
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


def _tensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The tensors of a file whose hash is known."""
    try:
        return load(_bytes(path, sha256))
    except (SafetensorError, KeyError, ValueError) as error:
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


def _check_learned(where: str, made: DistilledSet) -> None:
    """Learned labels, learned rate, whitening: the first that fails is a DataError."""
    logits, lr, zca, shape = made.label_logits, made.learned_lr, made.zca, (len(made.labels), len(made.class_names))
    if logits is not None and (logits.shape != shape or logits.dtype != np.float32):
        raise DataError(
            f"{where}: label_logits are {logits.dtype}{list(logits.shape)}; allowed: float32{list(shape)}, "
            "a row for each image, a column for each class."
        )
    if logits is not None and not np.isfinite(logits).all():
        raise DataError(f"{where}: label_logits hold values that are not finite.")
    if lr is not None and not (np.isfinite(lr) and lr > 0):
        raise DataError(f"{where}: {out_of_range('learned_lr', lr, '> 0', 0.01)}")
    if zca is not None and made.images.dtype != np.float32:
        raise DataError(f"{where}: {made.images.dtype} images with a zca; allowed: float32, whitened by it.")
    wrong = whitening.problems(zca, made.images.shape[1:]) if zca is not None else []
    if wrong:
        raise DataError(f"{where}: {' '.join(wrong)}")
