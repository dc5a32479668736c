"""A set in the layouts that others read: image folder, npz, Hugging Face directory, webdataset tar, torch file.

    folder      OUT/CLASS/NUMBER.png, classes.txt (label order), manifest.json (a copy), label_logits.safetensors
    npz         OUT: images, labels, class_names, mean, std, space, label_logits, learned_lr, zca_*, manifest
    hf          OUT/README.md, data/train-00000-of-00001.parquet: what datasets.load_dataset(OUT) reads
    webdataset  OUT: NUMBER.png, NUMBER.cls, NUMBER.json each image; OUT.manifest.json beside it (a copy)
    torch       OUT: images NCHW, labels, label_logits, class_names, mean, std ...; torch.load(OUT, weights_only=True)

NUMBER is the image's position in the set. Canvases are decoded first: nobody else decodes them. npz and torch keep
every bit; the others hold 8-bit pixels, exact for uint8 sets. Equal sets give equal bytes. What a target cannot hold is
said in the notes, and nothing half-written remains.
"""

import dataclasses
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors.numpy import save

from ddjax import zca as whitening
from ddjax.errors import ConfigError, choice
from ddjax.exchange import hub, tarball, torchfile_out
from ddjax.exchange.pixels import check_depth, loss, pixels, png
from ddjax.files import atomic_folder, atomic_write
from ddjax.rundir import check_writable, is_empty
from ddjax.setcheck import MANIFEST, STORED
from ddjax.synset import DistilledSet

SOFT = "label_logits.safetensors"
NAMES = {"npz": "set.npz", "webdataset": "set.tar", "torch": "set.pt"}  # of a file in a folder that is there
EPOCH = (1980, 1, 1, 0, 0, 0)
LONGEST = 200  # bytes of a class folder's name
TAKEN = (MANIFEST, "classes.txt", SOFT, "thumbs.db", "desktop.ini", "__macosx")
DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{i}" for kind in ("com", "lpt") for i in range(1, 10))}


def export(made: DistilledSet, out: Path | str, to: str, said: Sequence[str] = ()) -> list[str]:
    """Write ``made`` as ``to`` (one of TARGETS) at ``out``; what the target cannot hold, one sentence each.

    ``said``: what was done to the set before; it goes into the notes and the manifest's copy.
    ``ConfigError`` where ``out`` is there already, unless it is an empty folder.
    """
    if to not in TARGETS:
        raise ConfigError(choice("export --to", to, TARGETS))
    place = destination(Path(out), to)
    kept = {name: value for name, value in made.meta.items() if name != STORED}  # which stay behind
    alone = dataclasses.replace(made, meta=kept) if STORED in made.meta else made
    return TARGETS[to](alone.decoded(), place, [*said, *decoding(made), *_misnamed(place, to)])


def _misnamed(place: Path, to: str) -> list[str]:
    """What the reader of a name must know that tells of another kind of file."""
    usual = Path(NAMES.get(to, "")).suffix
    fine = not usual or place.suffix in ("", usual, f"{usual}h")
    return [] if fine else [f"{place.name} is a {usual} file, whatever its name says."]


def decoding(made: DistilledSet) -> list[str]:
    """What the reader of an export of canvases must know."""
    if made.factor == 1:
        return []
    n, f = len(made), made.factor
    return [
        f"the {n} stored canvases of {f}x{f} tiles were decoded to the {n * f * f} images that networks see: the "
        f"export holds {f * f} times as many images as the set stores, and its bytes are not the set's."
    ]


def destination(out: Path, to: str) -> Path:
    """Where the export goes: ``out``, or a file of a usual name in it where it is an empty folder."""
    if out.exists() and not (out.is_dir() and is_empty(out)):
        raise ConfigError(f"OUT = {str(out)!r} is there already; allowed: a path where nothing is, or an empty folder.")
    out = out / NAMES[to] if out.is_dir() and to in NAMES else out
    check_writable(out.parent, "OUT's folder")
    return out


def copy_of_manifest(made: DistilledSet, to: str, notes: list[str], **more: Any) -> bytes:
    """The manifest with what the export did to the set, under ``export``."""
    about = {"to": to, "notes": notes, **more}
    if made.learned_lr is not None:
        about["learned_lr"] = made.learned_lr
    return made.packed(export=about)[MANIFEST]


# ------------------------------------------------------------------------------------------- image folder


def folder(made: DistilledSet, out: Path, said: list[str]) -> list[str]:
    """A folder of class folders of PNG files; labels follow the names, whose order ``classes.txt`` states."""
    check_depth(made, "folder")
    kept, names = pixels(made), folder_names(made.class_names)
    width = max(6, len(str(len(made) - 1)))
    notes = said + loss(made, kept)
    if list(names) != list(made.class_names):
        changed = sum(a != b for a, b in zip(names, made.class_names, strict=True))
        notes.append(f"{changed} class names are no portable folder names; manifest.json lists the folders.")
    empty = len(names) - len(np.unique(made.labels))
    if empty:
        what = "class has" if empty == 1 else "classes have"
        notes.append(f"{empty} {what} no image and so no folder; classes.txt names all classes.")
    if np.any(np.diff(made.labels) < 0):
        notes.append("readers see the images class by class; a file's number is its position in the set.")
    if made.soft:
        notes.append(f"{SOFT} holds the soft labels, a row for each file's number; folders are hard labels.")
    about = copy_of_manifest(made, "folder", notes, class_folders=list(names))
    with atomic_folder(out) as place:
        for label in np.unique(made.labels):
            (place / names[label]).mkdir()
        for i, (image, label) in enumerate(zip(kept.images, made.labels, strict=True)):
            (place / names[label] / f"{i:0{width}d}.png").write_bytes(png(image))
        if made.label_logits is not None:
            (place / SOFT).write_bytes(save({"label_logits": made.label_logits}))
        (place / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (place / MANIFEST).write_bytes(about)
    return notes


def folder_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Folder names for class names: themselves where every system takes them, else percent-encoded, always distinct."""
    found: list[str] = []
    taken: set[str] = set(TAKEN)
    for label, name in enumerate(class_names):
        safe = "".join(c if c.isprintable() and c not in '\\/:*?"<>|%' else quote(c, safe="") for c in name)
        if safe[:1] in (".", " "):
            safe = f"%{ord(safe[0]):02X}{safe[1:]}"
        if safe[-1:] in (".", " "):
            safe = f"{safe[:-1]}%{ord(safe[-1]):02X}"
        device = safe.partition(".")[0].lower() in DEVICES
        if not safe or device or safe.lower() in taken or len(safe.encode()) > LONGEST:
            safe = f"%{label:06d} {safe[: LONGEST // 8]}".rstrip(". ")
        taken.add(safe.lower())
        found.append(safe)
    return tuple(found)


# -------------------------------------------------------------------------------------------------- arrays


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a ``.npy`` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return stream.getvalue()


def npz(made: DistilledSet, out: Path, said: list[str]) -> list[str]:
    """One npz with every bit of the set; ``np.load`` reads it without pickles."""
    notes = list(said)
    if made.images.dtype != np.uint8:
        notes.append(f"images are float32, {made.space}; ddjax's source npz: reads uint8 images only.")
    arrays: dict[str, Any] = made.tensors() | {
        "class_names": np.array(made.class_names), "mean": np.array(made.mean), "std": np.array(made.std),
        "space": np.array(made.space),
    }  # fmt: skip
    if made.zca is not None:
        arrays |= {
            f"zca_{name}": np.array(getattr(made.zca, name)) for name in ("transform", "eps", *whitening.TENSORS)
        }
    arrays["manifest"] = np.array(copy_of_manifest(made, "npz", notes).decode())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), npy(array))
    atomic_write(out, stream.getvalue())
    return notes


def torch(made: DistilledSet, out: Path, said: list[str]) -> list[str]:
    """One ``.pt`` with every bit of the set, images channels first, the whitening in that order too."""
    h, w, d = made.images.shape[1:]
    value: dict[str, Any] = {
        "images": made.images.transpose(0, 3, 1, 2), "labels": made.labels.astype(np.int64),
        "class_names": list(made.class_names), "mean": np.array(made.mean, np.float32),
        "std": np.array(made.std, np.float32), "space": made.space,
    }  # fmt: skip
    if made.label_logits is not None:
        value["label_logits"] = made.label_logits
    if made.learned_lr is not None:
        value["learned_lr"] = made.learned_lr
    if made.zca is not None:
        first = np.arange(h * w * d).reshape(h, w, d).transpose(2, 0, 1).ravel()  # HWD positions in DHW order
        white = made.zca
        value["zca"] = {
            "transform": white.transform, "eps": white.eps, "mean": white.mean[first],
            "matrix": white.matrix[np.ix_(first, first)], "inverse": white.inverse[np.ix_(first, first)],
        }  # fmt: skip
    value["manifest"] = copy_of_manifest(made, "torch", said).decode()
    atomic_write(out, torchfile_out.to_bytes(value))
    return said


# ------------------------------------------------------------------------------------------ other libraries


def hf(made: DistilledSet, out: Path, said: list[str]) -> list[str]:
    """A directory that ``datasets.load_dataset`` reads: parquet with an Image feature, and its dataset card."""
    check_depth(made, "hf")
    kept = pixels(made)
    notes = said + loss(made, kept)
    about = copy_of_manifest(made, "hf", notes)
    parquet = hub.parquet(made, kept.images)
    with atomic_folder(out) as place:
        (place / "data").mkdir()
        (place / hub.DATA).write_bytes(parquet)
        (place / "README.md").write_text(hub.card(made, len(parquet), notes), encoding="utf-8")
        (place / MANIFEST).write_bytes(about)
    return notes


def webdataset(made: DistilledSet, out: Path, said: list[str]) -> list[str]:
    """One tar of samples, and a copy of the manifest beside it, which states the label order."""
    check_depth(made, "webdataset")
    kept = pixels(made)
    notes = said + loss(made, kept)
    content = tarball.samples(made, kept.images)
    atomic_write(out.with_name(f"{out.name}.{MANIFEST}"), copy_of_manifest(made, "webdataset", notes))
    atomic_write(out, content)
    return notes


TARGETS: dict[str, Callable[[DistilledSet, Path, list[str]], list[str]]] = {
    "folder": folder, "npz": npz, "hf": hf, "webdataset": webdataset, "torch": torch,
}  # fmt: skip
