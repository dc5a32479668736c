"""One tiny set of pixels, and the same set written as every kind of source."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddjax.data import CARDS

NAMES = CARDS["cifar10"].class_names
PER_CLASS = {"train": 6, "test": 2}


def make(part: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random images of ten classes, class by class, and their labels."""
    count = PER_CLASS[part] * len(NAMES)
    rng = np.random.default_rng({"train": 1, "test": 2}[part])
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, np.repeat(np.arange(len(NAMES)), PER_CLASS[part])


@pytest.fixture(scope="session")
def colour() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {part: make(part, (32, 32, 3)) for part in PER_CLASS}


@pytest.fixture(scope="session")
def grey() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {part: make(part, (16, 16)) for part in PER_CLASS}


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def files(parts: dict[str, tuple[np.ndarray, np.ndarray]], names=NAMES) -> dict[str, bytes]:
    """``part/class/number.png`` of every image."""
    return {
        f"{part}/{names[label]}/{i:04d}.png": png(image)
        for part, (images, labels) in parts.items()
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    }


def write_folder(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_bytes(members: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def nested_tar(members: dict[str, bytes]) -> bytes:
    """Class tars inside part folders of one tar, as ImageNet is packed."""
    inner: dict[str, dict[str, bytes]] = {}
    for name, data in members.items():
        folder, _, file = name.rpartition("/")
        inner.setdefault(folder, {})[file] = data
    return tar_bytes({f"{folder}.tar": tar_bytes(held) for folder, held in inner.items()})


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def rows_of(images: np.ndarray) -> np.ndarray:
    """CIFAR's rows: channel by channel."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar_binary(parts) -> dict[str, bytes]:
    held = {}
    for part, (images, labels) in parts.items():
        joined = np.concatenate([labels[:, None].astype(np.uint8), rows_of(images)], axis=1)
        halves = np.array_split(joined, 2) if part == "train" else [joined]
        for i, half in enumerate(halves, 1):
            name = f"data_batch_{i}.bin" if part == "train" else "test_batch.bin"
            held[f"cifar-10-batches-bin/{name}"] = half.tobytes()
    return held


def cifar_python(parts, protocol: int = 2) -> dict[str, bytes]:
    held = {}
    for part, (images, labels) in parts.items():
        name = "data_batch_1" if part == "train" else "test_batch"
        value = {b"data": rows_of(images), b"labels": labels.tolist(), b"batch_label": b"x"}
        held[f"cifar-10-batches-py/{name}"] = pickle.dumps(value, protocol=protocol)
    return held


def write_mat(folder: Path, parts) -> Path:
    from scipy.io import savemat

    folder.mkdir()
    for part, (images, labels) in parts.items():
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": y})
    return folder


def write_parquet(folder: Path, parts) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    folder.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for part, (images, labels) in parts.items():
        for k, rows in enumerate(np.array_split(np.arange(len(images)), 2)):
            held = [{"bytes": png(images[i]), "path": f"{i}.png"} for i in rows]
            table = pa.table({"image": held, "label": labels[rows]})
            table = table.replace_schema_metadata(metadata)
            pyarrow.parquet.write_table(table, folder / f"{part}-{k:05d}-of-00002.parquet", row_group_size=7)
    return folder


def write_libsvm(folder: Path, parts) -> Path:
    import bz2

    folder.mkdir()
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        images, labels = parts[part]
        values = images.reshape(len(images), -1) / 127.5 - 1
        lines = [
            f"{label + 1} " + " ".join(f"{j}:{v:.6f}" for j, v in enumerate(row, 1))
            for label, row in zip(labels, values, strict=True)
        ]
        (folder / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """A folder of two classes of eight 8x8 images, with files added or (None) taken away."""

    def build(changes: dict[str, bytes | None] | None = None, root: str = "set") -> Path:
        rng = np.random.default_rng(0)
        members: dict[str, bytes | None] = {
            f"{name}/{i}.png": png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            for name in ("cat", "dog")
            for i in range(8)
        }
        members |= changes or {}
        return write_folder(tmp_path / root, {k: v for k, v in members.items() if v is not None})

    return build


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The writers of this file."""
    return SimpleNamespace(**{name: held for name, held in globals().items() if callable(held)})
