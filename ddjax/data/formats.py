"""The archives that people own, as arrays: idx, npz, CIFAR, SVHN, USPS, and scikit-learn's digits.

Formats: idx, http://yann.lecun.com/exdb/mnist/ (big-endian magic 00 00 08 ndim, sizes, bytes);
CIFAR, https://www.cs.toronto.edu/~kriz/cifar.html (rows of label byte(s) and 3072 bytes, channel
by channel); SVHN, MATLAB 5 with X [32, 32, 3, n] and y 1..10 where 10 is the digit 0; USPS, LIBSVM
text with values in [-1, 1] and labels 1..10. No format of this file runs code from a file.
"""

import gzip
import math
import posixpath
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ddjax.data.archives import open_folder, open_tar
from ddjax.data.base import ARRAY_BYTES, Parts, Source, from_arrays, listing
from ddjax.data.cards import CARDS
from ddjax.data.unpickle import restricted_loads
from ddjax.errors import DataError

_NPZ_NAMES = (("images", "labels"), ("x", "y"), ("X", "y"), ("image", "label"), ("data", "labels"))


def digits() -> Parts:
    """The 8x8 digits that ship with scikit-learn, 16 grey levels scaled to 0..255; one part."""
    from sklearn.datasets import load_digits

    rows, labels = load_digits(return_X_y=True)
    images = np.round(np.asarray(rows).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return {"": from_arrays("digits", images, np.asarray(labels), card="digits")}


def idx(path: str, where: str) -> Parts:
    """``IMAGES,LABELS``: a pair of idx files, each plain or gzip."""
    pair = path.split(",")
    if len(pair) != 2 or not all(pair):
        raise DataError(f"{where}: needs two files, idx:IMAGES,LABELS.")
    images = _read_idx(Path(pair[0]).expanduser(), 3)
    labels = _read_idx(Path(pair[1]).expanduser(), 1)
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images in {pair[0]} but {len(labels)} labels in {pair[1]}.")
    return {"": from_arrays(where, images, labels)}


def _read_idx(path: Path, rank: int) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            magic = stream.read(4)
            if magic != bytes([0, 0, 8, rank]):
                kind = {1: "labels", 3: "images"}[rank]
                raise DataError(
                    f"{path}: wrong magic number {magic.hex() or '(empty file)'}; an idx file of "
                    f"{kind} starts with {bytes([0, 0, 8, rank]).hex()}."
                )
            shape = struct.unpack(f">{rank}I", stream.read(4 * rank))
            declared = math.prod(shape)
            if declared > ARRAY_BYTES:
                raise DataError(f"{path}: declares {declared} bytes; limit {ARRAY_BYTES}.")
            data = stream.read(declared + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: truncated or damaged ({error}).") from error
    if len(data) != declared:
        more = "more" if len(data) > declared else f"{len(data)}"
        raise DataError(f"{path}: declares {declared} bytes of shape {shape} but holds {more}.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def npz(path: Path, where: str) -> Parts:
    """``images`` and ``labels``, or ``x`` and ``y``; with ``_train`` or ``train_`` the parts.

    ``class_names`` names the classes where it is there. Object arrays are refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
        large = [f"{name} ({size} bytes)" for name, size in sizes.items() if size > ARRAY_BYTES]
        if large:
            raise DataError(f"{where}: arrays over {ARRAY_BYTES} bytes: {', '.join(large)}.")
        with np.load(path, allow_pickle=False) as found:
            pairs = _npz_pairs(list(found.files))
            named = found["class_names"] if "class_names" in found.files else None
            loaded = {part: (found[x], found[y]) for part, (x, y) in pairs.items()}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where}: cannot be read as plain arrays ({error}).") from error
    if not loaded:
        raise DataError(
            f"{where}: arrays {', '.join(sizes)}; allowed: images and labels, or x and y, "
            "or either with _train and _test after it."
        )
    names = [str(n) for n in named] if named is not None else None
    return {part: from_arrays(where, x, y, names) for part, (x, y) in loaded.items()}


def _npz_pairs(names: list[str]) -> dict[str, tuple[str, str]]:
    """Part to (images, labels) names, for the spellings in use."""
    pairs: dict[str, tuple[str, str]] = {}
    for x, y in _NPZ_NAMES:
        if x in names and y in names:
            pairs.setdefault("", (x, y))
        for part in ("train", "val", "test"):
            for pattern in ("{}_{}", "{1}_{0}"):
                pair = pattern.format(x, part), pattern.format(y, part)
                if pair[0] in names and pair[1] in names:
                    pairs.setdefault(part, pair)
    if len(pairs) > 1:
        pairs.pop("", None)
    return pairs


def cifar(path: Path, where: str) -> Parts:
    """CIFAR-10 or CIFAR-100, binary or python version, a folder or the ``.tar.gz``."""
    members = open_folder(path, where) if path.is_dir() else open_tar(path, where)
    packed = [p for p in members.paths if re.search(r"cifar-100?-\w+\.tar(\.gz)?$", p)]
    if packed and not any(_cifar_part(p) for p in members.paths):
        members = open_tar(path / packed[0], where)
    found = sorted((p, part) for p in members.paths if (part := _cifar_part(p)))
    if not found:
        raise DataError(
            f"{where}: no CIFAR file in it; expected data_batch_1 .. 5 and test_batch (CIFAR-10) "
            "or train and test (CIFAR-100), with or without .bin."
        )
    kinds = {("batch" in posixpath.basename(p), p.endswith(".bin")) for p, _ in found}
    if len(kinds) > 1:
        shown = listing([p for p, _ in found])
        raise DataError(f"{where}: files of more than one CIFAR set or version: {shown}.")
    card = "cifar10" if kinds.pop()[0] else "cifar100"
    pieces: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for member, part in found:
        data = members.find(member) or b""
        pieces.setdefault(part, []).append(_read_cifar(member, data, card, f"{where}: {member}"))
    parts = {}
    for part, held in pieces.items():
        images, labels = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
        parts[part] = from_arrays(where, images, labels, CARDS[card].class_names, card=card)
    return parts


def _cifar_part(member: str) -> str | None:
    name = posixpath.basename(member)
    if re.fullmatch(r"data_batch_\d+(\.bin)?|train(\.bin)?", name):
        return "train"
    return "test" if re.fullmatch(r"test_batch(\.bin)?|test(\.bin)?", name) else None


def _read_cifar(member: str, data: bytes, card: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[n, 32, 32, 3]`` and labels ``[n]`` of one CIFAR file."""
    if member.endswith(".bin"):
        row = 3074 if card == "cifar100" else 3073
        if len(data) % row or not data:
            raise DataError(f"{where}: {len(data)} bytes are no multiple of {row} bytes a row.")
        rows = np.frombuffer(data, np.uint8).reshape(-1, row)
        labels, pixels = rows[:, row - 3073], rows[:, row - 3072 :]
    else:
        held = restricted_loads(data, where=where)
        held = {_text(k): v for k, v in held.items()} if isinstance(held, dict) else {}
        pixels = held.get("data")
        labels = held.get("fine_labels" if card == "cifar100" else "labels")
        if labels is None or not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (3072,):
            raise DataError(f"{where}: is no {card} batch (keys {', '.join(held) or 'none'}).")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels).astype(np.int64)


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def svhn(path: Path, where: str) -> Parts:
    """Cropped SVHN: a ``.mat`` file, or the folder of ``train_32x32.mat``, ``test_32x32.mat``."""
    if path.is_file():
        return {"": _read_svhn(path)}
    files = {part: path / f"{part}_32x32.mat" for part in ("train", "test")}
    found = {part: _read_svhn(file) for part, file in files.items() if file.is_file()}
    if not found:
        raise DataError(f"{where}: neither train_32x32.mat nor test_32x32.mat is in it.")
    return found


def _read_svhn(path: Path) -> Source:
    from scipy.io import loadmat

    try:
        held = loadmat(path, variable_names=["X", "y"])
    except NotImplementedError as error:
        raise DataError(f"{path}: MATLAB 7.3 (HDF5); allowed: MATLAB 5, as published.") from error
    except Exception as error:  # scipy raises almost any type on a malformed file
        raise DataError(f"{path}: not a MATLAB 5 file, or a truncated one ({error}).") from error
    if "X" not in held or "y" not in held or np.ndim(held["X"]) != 4:
        raise DataError(f"{path}: needs X [H, W, D, n] and y [n]; it is no cropped SVHN file.")
    images = np.ascontiguousarray(held["X"].transpose(3, 0, 1, 2))
    return from_arrays(str(path), images, held["y"].astype(np.int64) % 10, card="svhn")


def usps(path: Path, where: str) -> Parts:
    """USPS from LIBSVM's ``usps.bz2`` (train) and ``usps.t.bz2`` (test): a file or their folder."""
    if path.is_file():
        return {"": _read_usps(path)}
    files = {"train": path / "usps.bz2", "test": path / "usps.t.bz2"}
    found = {part: _read_usps(file) for part, file in files.items() if file.is_file()}
    if not found:
        raise DataError(f"{where}: neither usps.bz2 nor usps.t.bz2 is in it.")
    return found


def _read_usps(path: Path) -> Source:
    from sklearn.datasets import load_svmlight_file

    try:
        rows, labels = load_svmlight_file(str(path), n_features=256)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not LIBSVM text of 256 features ({error}).") from error
    pixels = np.round((np.asarray(rows.todense()) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return from_arrays(str(path), pixels.reshape(-1, 16, 16), labels.astype(int) - 1, card="usps")
