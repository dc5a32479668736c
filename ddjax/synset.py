"""The distilled set as a folder: ``images.safetensors`` and ``manifest.json``.

Equal sets give equal bytes. The file holds ``images [N, H, W, D]`` and ``labels [N]``, and where they were learned
``label_logits [N, C]`` and ``learned_lr []``; ``zca.safetensors`` beside it holds the transform of whitened images. The
manifest says what they mean (class names in label order, value range, the channel mean and deviation that the pixels
expect) and how they came to be (dataset, method, teacher, label source, protocol, seeds, licence). Whatever does not
fit is refused on loading, by name. NumPy and safetensors are all that a reader needs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save

import ddjax
from ddjax import schema, setcheck
from ddjax import zca as whitening
from ddjax.errors import DataError
from ddjax.files import atomic_folder, content_hash, to_json
from ddjax.kernels import patches
from ddjax.setcheck import IMAGES, MANIFEST, SCHEMA, STORED, WHITENING, Parts
from ddjax.zca import Zca

__all__ = ["ABOUT", "EXTRA", "IMAGES", "MANIFEST", "SCHEMA", "WHITENING", "DistilledSet", "find"]

ABOUT = ("dataset", "method", "teacher", "label_source", "protocol", "seeds", "licence")
EXTRA = ("augment", "departures", "modify", "source", STORED)  # in the manifest only where they are given


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledSet:
    """A distilled set and where it comes from. ``DataError`` when the parts do not fit together.

    ``images [N, H, W, D]``: uint8 pixels, or float32 in normalised space, ``(pixel / 255 - mean) / std`` per channel;
    with ``zca`` they are whitened, ``zca.apply`` of the normalised ones. ``labels``: int32 ``[N]``, indices of
    ``class_names``. ``label_logits``: float32 ``[N, C]``, learned labels; their softmax is the target, and a protocol
    that regresses takes them as they are. ``learned_lr``: the learning rate learned with the images. ``factor`` f > 1:
    each stored image is a canvas of f x f tiles that ``decoded`` turns into f^2 images (``kernels.patches``). ``meta``:
    what the manifest says under the names of ``ABOUT`` and ``EXTRA``; JSON values.
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
    factor: int = 1

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
        setcheck.refuse("DistilledSet", setcheck.parts(self._parts()))

    def _parts(self) -> Parts:
        names = ("images", "labels", "class_names", "mean", "std", "label_logits", "learned_lr", "zca", "factor")
        return Parts(*(getattr(self, name) for name in names))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def soft(self) -> bool:
        """Whether the set carries labels of its own, ``label_logits``."""
        return self.label_logits is not None

    @property
    def space(self) -> str:
        """What the numbers of ``images`` are: pixels | normalised | whitened."""
        return self._parts().space

    @property
    def ipc(self) -> int:
        """Images per class as stored: ``N / C``, of a set with equal numbers of every class or with learned labels."""
        return len(self.labels) // len(self.class_names)

    def counts(self) -> np.ndarray:
        """Images of each class as stored ``[C]``; by the largest label where labels are learned."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def even(self) -> bool:
        """Whether there are as many images as ``ipc`` says: ``C`` divides ``N``."""
        return len(self.labels) % len(self.class_names) == 0

    def decoded(self) -> "DistilledSet":
        """The set that networks are trained on: factor 1, ``f^2`` images in place of each canvas, float32."""
        if self.factor == 1:
            return self
        images = self.images
        if images.dtype == np.uint8:
            mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
            images = (images.astype(np.float32) / np.float32(255) - mean) / std
        logits, times = self.label_logits, self.factor**2
        return dataclasses.replace(
            self, images=patches.decode(images, self.factor), labels=np.repeat(self.labels, times), factor=1,
            label_logits=None if logits is None else np.repeat(logits, times, axis=0),
        )  # fmt: skip

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)``: float32 ``[N, H, W, D]`` on the scale black 0, white 1, and int32.

        Any transform of storage is undone. Networks of ``ddjax`` see ``(images - mean) / std``, whitened where the set
        has a ``zca``; images that were learned as floats may lie a little outside of [0, 1]. Canvases are decoded.
        """
        if self.factor > 1:
            return self.decoded().arrays()
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

    def _bytes(self) -> dict[str, int]:
        """Bytes of each component, the soft labels that are stored beside the set among them."""
        named = self.meta.get(STORED)
        return self._parts().bytes() | ({STORED: named.get("bytes", 0)} if isinstance(named, dict) else {})

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``, without the hashes of the files."""
        dataset = self.meta.get("dataset")
        about = {name: self.meta.get(name) for name in ABOUT}
        about |= {name: self.meta[name] for name in EXTRA if self.meta.get(name) is not None}
        return about | {
            "schema": SCHEMA,
            "ddjax": ddjax.__version__,
            "licence": about["licence"] or (dataset.get("licence") if isinstance(dataset, dict) else None),
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "shape": list(self.images.shape),
            "dtype": str(self.images.dtype),
            "space": self.space,
            "range": self._parts().range(),
            "mean": list(self.mean),
            "std": list(self.std),
            "zca": None,
            "decode": {"factor": self.factor} if self.factor > 1 else None,
            "bytes": self._bytes(),
        }

    def packed(self, **more: Any) -> dict[str, bytes]:
        """The files of the set's folder by name; ``more`` goes into the manifest. Equal sets give equal bytes."""
        files = {IMAGES: save(self.tensors())}
        about = self.manifest() | more | {"sha256": hashlib.sha256(files[IMAGES]).hexdigest()}
        if self.zca is not None:
            files[WHITENING] = whitening.to_bytes(self.zca)
            digest = hashlib.sha256(files[WHITENING]).hexdigest()
            about["zca"] = {**self.zca.said, "hash": digest}
        try:
            about = json.loads(to_json(about | {"hash": content_hash(about)}))
        except (TypeError, ValueError) as error:
            raise DataError(f"DistilledSet: meta holds what JSON cannot: {error}.") from None
        setcheck.refuse("DistilledSet: manifest", schema.problems(f"manifest-{SCHEMA}", about))
        return files | {MANIFEST: to_json(about).encode()}

    def save(self, folder: Path | str) -> Path:
        """Write the set as ``folder``, whole or not at all; a set that is there is replaced."""
        files = self.packed()
        with atomic_folder(folder) as out:
            for name, content in files.items():
                (out / name).write_bytes(content)
        return Path(folder)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a set from its folder or a run's; one ``DataError`` names everything that does not fit."""
        folder = find(path)
        about, found, wrong = setcheck.folder(folder, where := f"set = {str(folder)!r}")
        setcheck.refuse(where, wrong)
        assert found is not None  # where nothing is wrong there are parts
        meta = {name: about[name] for name in ABOUT} | {name: about[name] for name in EXTRA if name in about}
        return cls(
            *found[:5], meta, label_logits=found.label_logits, learned_lr=found.learned_lr, zca=found.zca,
            factor=found.factor,
        )  # fmt: skip


def find(path: Path | str) -> Path:
    """The folder of the set that ``path`` names: itself, or ``synset`` in the folder of a run."""
    if (Path(path) / "labels.safetensors").is_file() and not (Path(path) / IMAGES).exists():
        raise DataError(f"set = {str(path)!r} holds labels of views, no images; allowed are a set's folder or a run's.")
    for folder in (Path(path), Path(path) / "synset"):
        if (folder / MANIFEST).is_file():
            return folder
    from ddjax.data.sources import beside

    place = Path(path)
    if not place.exists():
        raise DataError(f"set = {str(path)!r} does not exist.{beside(place)}")
    if place.is_file():
        told = f"set = {str(path)!r} is a file; allowed: a set's folder or a run's."
        raise DataError(f"{told} Sets of others: ddjax set import {place.name} OUT --preset NAME, then OUT.")
    raise DataError(f"set = {str(path)!r} holds no {MANIFEST}: allowed are a set's folder or a run's.")
