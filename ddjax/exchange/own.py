"""Read back what `export` wrote: an export carries a copy of the set's manifest, so nothing about it has to be asked.

npz and torch give every bit back. A folder, a Hugging Face directory and a webdataset tar give the 8-bit pixels, which
are the set itself where it was uint8; a float set comes back as pixels, without its whitening, and says so.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from ddjax import schema
from ddjax.data.archives import Members, open_folder, open_tar
from ddjax.data.base import Undecodable, listing
from ddjax.data.decode import decode
from ddjax.data.sources import open_source
from ddjax.data.torchfile import read_pt
from ddjax.data.zipped import npz
from ddjax.errors import DataError
from ddjax.exchange.export import SOFT
from ddjax.exchange.layouts import existing
from ddjax.files import content_hash
from ddjax.setcheck import IMAGES, MANIFEST, SCHEMA
from ddjax.synset import ABOUT, EXTRA, DistilledSet
from ddjax.zca import TENSORS, Zca

NO_EXPORT = "is no export of ddjax (no manifest with what was exported); name its --preset"


def read(source: Path | str) -> DistilledSet:
    """The set in an export; ``DataError`` where ``source`` is none, or was changed."""
    path = existing(Path(source).expanduser())
    where = f"SRC = {str(source)!r}"
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise DataError(f"{where} {NO_EXPORT}.")
        about = manifest((path / MANIFEST).read_bytes(), where)
        return _hub(path, about, where) if about["export"].get("to") == "hf" else _folder(path, about, where)
    beside = path.with_name(f"{path.name}.{MANIFEST}")
    with path.open("rb") as stream:
        start = stream.read(262)
    if start[257:] == b"ustar" and beside.is_file():
        return _tar(path, manifest(beside.read_bytes(), where), where)
    if start[:2] != b"PK":
        raise DataError(f"{where} {NO_EXPORT}.")
    return _torch(path, where) if b"data.pkl" in start[:80] else _npz(path, where)


def recognised(source: str) -> str:
    """What to do with a source of ours that another preset cannot read, as a sentence; nothing for those of others."""
    folder = Path(source).expanduser()
    folder = folder.parent if folder.name == IMAGES else folder
    if (folder / IMAGES).is_file() and (folder / MANIFEST).is_file():
        return f" {str(folder)!r} is a set of ddjax: every command reads it as it is."
    try:
        read(source)
    except DataError:
        return ""
    return " It is an export of ddjax: --preset ddjax."


def manifest(content: bytes | str, where: str) -> dict[str, Any]:
    """The manifest that goes with an export, whole and unchanged."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {MANIFEST} is not valid JSON: {error}.") from None
    if not isinstance(about, dict) or not isinstance(about.get("export"), dict):
        raise DataError(f"{where} {NO_EXPORT}.")
    if isinstance(about.get("schema"), int) and about["schema"] > SCHEMA:
        raise DataError(f"{where} has schema {about['schema']}; this ddjax reads up to {SCHEMA}. Upgrade ddjax.")
    wrong = schema.problems(f"manifest-{SCHEMA}", about)
    if wrong:
        raise DataError(f"{where}: {MANIFEST}: {' '.join(wrong)}")
    if content_hash({k: v for k, v in about.items() if k != "hash"}) != about["hash"]:
        raise DataError(f"{where}: {MANIFEST} is not as it was written (its hash differs). Copy the export again.")
    return about


def _made(about: dict[str, Any], where: str, images: np.ndarray, labels: np.ndarray, **learned: Any) -> DistilledSet:
    """The set, if it is of the shape that the manifest says."""
    if list(images.shape) != about["shape"]:
        raise DataError(f"{where}: {MANIFEST} says shape {about['shape']}, the images have {list(images.shape)}.")
    meta = {name: about[name] for name in ABOUT} | {name: about[name] for name in EXTRA if name in about}
    if "label_logits" in about["bytes"] and not isinstance(learned["label_logits"], np.ndarray):
        raise DataError(f"{where}: holds no label_logits, of which {MANIFEST} tells.")
    if "learned_lr" in about["export"]:
        learned.setdefault("learned_lr", about["export"]["learned_lr"])
    return DistilledSet(
        images, labels.astype(np.int32), about["class_names"], about["mean"], about["std"], meta, **learned
    )


# -------------------------------------------------------------------------------------- with every bit


def _npz(path: Path, where: str) -> DistilledSet:
    held = npz(path, where)
    if held.get("manifest", np.zeros(1)).dtype.kind != "U" or not {"images", "labels"} <= held.keys():
        raise DataError(f"{where} {NO_EXPORT}.")
    about = manifest(str(held["manifest"]), where)
    zca = {name: held[f"zca_{name}"] for name in TENSORS if f"zca_{name}" in held}
    return _made(
        about, where, held["images"], held["labels"], label_logits=held.get("label_logits"),
        zca=_zca(about, zca, where),
    )  # fmt: skip


def _zca(about: dict[str, Any], held: dict[str, Any], where: str) -> Zca | None:
    if about["zca"] is None:
        return None
    absent = [name for name in TENSORS if not isinstance(held.get(name), np.ndarray)]
    if absent:
        raise DataError(f"{where}: holds no zca {' and no '.join(absent)}.")
    said = about["zca"]
    return Zca(said["transform"], said["eps"], held["mean"], held["matrix"], held["inverse"], said.get("fitted"))


def _torch(path: Path, where: str) -> DistilledSet:
    held = read_pt(path)
    if not isinstance(held, dict) or not isinstance(held.get("manifest"), str):
        raise DataError(f"{where} {NO_EXPORT}.")
    about = manifest(held["manifest"], where)
    images, labels = held.get("images"), held.get("labels")
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray) or images.ndim != 4:
        raise DataError(f"{where}: holds no images [N, D, H, W] with labels.")
    d, h, w = images.shape[1:]
    last = np.arange(d * h * w).reshape(d, h, w).transpose(1, 2, 0).ravel()  # DHW positions in HWD order
    zca = held.get("zca")
    parts = {name: zca.get(name) for name in ("mean", "matrix", "inverse")} if isinstance(zca, dict) else {}
    found = _zca(about, parts, where)
    if found is not None and (len(found.mean) != len(last) or found.matrix.shape != found.inverse.shape):
        raise DataError(f"{where}: zca of {len(found.mean)} values for images of {len(last)}.")
    if found is not None:
        square = np.ix_(last, last)
        found = found._replace(mean=found.mean[last], matrix=found.matrix[square], inverse=found.inverse[square])
    logits = held.get("label_logits")
    return _made(about, where, images.transpose(0, 2, 3, 1), labels, label_logits=logits, zca=found)


# ------------------------------------------------------------------------------------------- as pixels


def _pixels(members: Members, wanted: list[int], where: str) -> np.ndarray:
    """The images at ``wanted`` of the members, which must be of one shape."""
    found = []
    for i in wanted:
        try:
            found.append(decode(members.read(i)))
        except Undecodable as error:
            raise DataError(f"{where}: {members.paths[i]}: {error}.") from None
    shapes = sorted({image.shape for image in found})
    if len(shapes) != 1:
        raise DataError(f"{where}: {len(found)} images of {len(shapes)} shapes: {listing([str(s) for s in shapes])}.")
    return np.stack(found)


def _numbered(members: Members, ending: str, where: str) -> list[int]:
    """The members that end so, by the number that is their name: the positions 0, 1, 2, ... in the set."""
    chosen = [i for i, path in enumerate(members.paths) if path.endswith(ending)]
    stems = [members.paths[i].rpartition("/")[2][: -len(ending)] for i in chosen]
    numbers = [int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 16 else -1 for stem in stems]
    order = sorted(zip(numbers, chosen, strict=True))
    if [number for number, _ in order] != list(range(len(order))):
        raise DataError(f"{where}: its {ending} files are not 0, 1, 2, ... without a gap; some are lost or not ours.")
    return [i for _, i in order]


def _folder(path: Path, about: dict[str, Any], where: str) -> DistilledSet:
    folders, members = about["export"].get("class_folders"), open_folder(path, where)
    if not isinstance(folders, list) or len(folders) != about["classes"]:
        raise DataError(f"{where}: {MANIFEST} names no folder for each class.")
    rows = _numbered(members, ".png", where)
    names = [members.paths[i].partition("/")[0] for i in rows]
    strange = sorted(set(names) - set(folders))
    if strange:
        raise DataError(f"{where}: {len(strange)} class folders that {MANIFEST} does not name: {listing(strange)}.")
    labels = np.array([folders.index(name) for name in names], np.int32)
    logits = None
    if "label_logits" in about["bytes"]:
        try:
            logits = load(members.find(SOFT) or b"").get("label_logits")
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{where}: {SOFT} is no safetensors file: {error}.") from None
    return _made(about, where, _pixels(members, rows, where), labels, label_logits=logits)


def _tar(path: Path, about: dict[str, Any], where: str) -> DistilledSet:
    members = open_tar(path, where)
    try:
        told = [json.loads(members.read(i)) for i in _numbered(members, ".json", where)]
        labels = np.array([one["label"] for one in told], np.int32)
        rows = [one.get("label_logits") for one in told]
        logits = None if rows[0] is None else np.array(rows, np.float32)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, Undecodable) as error:
        raise DataError(f"{where}: a .json of it is not what an export writes ({error}).") from None
    return _made(about, where, _pixels(members, _numbered(members, ".png", where), where), labels, label_logits=logits)


def _hub(path: Path, about: dict[str, Any], where: str) -> DistilledSet:
    source = next(iter(open_source("SRC", f"parquet:{path}").values()))
    members = Members(where, [source.name(i) for i in range(len(source))], read=lambda i: _whole(source.get(i)))
    logits = _logits(path, where) if "label_logits" in about["bytes"] else None
    return _made(about, where, _pixels(members, list(range(len(source))), where), source.labels, label_logits=logits)


def _whole(found: bytes | np.ndarray) -> bytes:
    return found if isinstance(found, bytes) else found.tobytes()


def _logits(path: Path, where: str) -> np.ndarray:
    import pyarrow.parquet as pq

    files = sorted(path.rglob("*.parquet"))
    try:
        columns = [pq.read_table(io.BytesIO(file.read_bytes()), columns=["label_logits"]) for file in files]
        return np.array([row for table in columns for row in table.column(0).to_pylist()], np.float32)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: its label_logits cannot be read ({error}).") from None
