"""The soft labels stored view by view beside a set, and their mean, one row an image.

They lie in ``labels/``: of the run for a set that `ddjax` made (its views can be drawn again from their seed), in the
set's own folder for one that was imported with recorded views (`ddjax.exchange.softlabels`).
"""

from pathlib import Path
from typing import Any

import numpy as np

from ddjax import storage
from ddjax.errors import DataError
from ddjax.files import file_hash, read_json
from ddjax.setcheck import MANIFEST, STORED
from ddjax.synset import DistilledSet


def labels_of(synset: Path) -> Path | None:
    """The folder of the soft labels stored for the set in ``synset``; None where there are none."""
    places = [synset / "labels", *([synset.parent / "labels"] if synset.name == "synset" else [])]
    found = [place for place in places if (place / "manifest.json").is_file() and _about(place).get("sha256")]
    return found[0] if found else None


def _about(folder: Path) -> dict[str, Any]:
    """What the manifest of stored labels says; DataError where it does not say enough."""
    about = read_json(folder / "manifest.json")
    if not isinstance(about, dict):
        raise DataError(f"labels = {str(folder)!r}: manifest.json is no JSON object.")
    kinds = {"label_source": str} | dict.fromkeys(("images", "batch", "epochs", "views", "seed", "bytes"), int)
    wrong = [name for name, kind in kinds.items() if about.get("sha256") and type(about.get(name)) is not kind]
    if wrong:
        told = f"labels = {str(folder)!r}: manifest.json lacks {', '.join(wrong)}, or holds another kind there."
        raise DataError(told)
    return about


def components(made: DistilledSet, synset: Path) -> dict[str, int]:
    """Bytes of each component of the set that was read from ``synset``, stored soft labels included."""
    folder = labels_of(synset)
    return storage.components(made, None if folder is None else _about(folder))


def told(made: DistilledSet, synset: Path) -> str | None:
    """What soft labels are stored for the set, and where; None where there are none."""
    folder, named = labels_of(synset), made.meta.get(STORED)
    about = named if folder is None else _about(folder)
    if about is None:
        return None
    size = storage.size(about["bytes"])
    where = "not beside this copy of the set" if folder is None else f"in {folder}"
    return f"{about['label_source']} labels of {about['views']:,} views in {about['epochs']:,} epochs, {size}, {where}"


def problems(synset: Path) -> list[str]:
    """What is wrong with the files of the stored soft labels, or with their belonging to this set."""
    folder, said = labels_of(synset), read_json(synset / MANIFEST)
    named = said.get(STORED) if isinstance(said, dict) else None
    if folder is None:
        told = f"the soft labels that {MANIFEST} names are missing: no {str(synset / 'labels')!r}. Copy them from the "
        return [f"{told}folder that the set was imported to, or import it again."] if isinstance(named, dict) else []
    path, about = folder / "labels.safetensors", _about(folder)
    if not path.is_file() or file_hash(path) != about["sha256"]:
        return [f"file = {str(path)!r} is absent, or not the one of its manifest (sha256 differs)."]
    if isinstance(named, dict) and named.get("sha256") not in (None, about["sha256"]):
        return [f"labels = {str(folder)!r} are not those that {MANIFEST} names (sha256 differs): of another set."]
    return []


def recorded(made: DistilledSet, synset: Path) -> DistilledSet:
    """``made`` with the recorded views that lie in ``synset``, where there are any: saving it writes them too."""
    folder = labels_of(synset)
    if folder is None or not _about(folder).get("recorded"):
        return made
    from ddjax.exchange import softlabels

    return softlabels.Relabelled.of(made, softlabels.load(folder))


def mean_labels(synset: Path, images: int, classes: int) -> tuple[np.ndarray | None, list[str]]:
    """``label_logits`` float32 ``[N, C]`` and a note, or None where no soft labels are stored for the set.

    The mean of the stored logits over an image's views: ``z[n] = mean over v, b with index[v, b] = n of z[v, b]``.
    """
    folder = labels_of(synset)
    if folder is None:
        return None, []
    about = _about(folder)
    index, table, counts = _recorded(folder) if about.get("recorded") else _drawn(folder, about)
    if about["images"] != images or table.shape[2] != classes:
        raise DataError(f"labels in {str(folder)!r} are of {about['images']} images, the set has {images}.")
    if index.shape != table.shape[:2]:
        raise DataError(f"labels in {str(folder)!r} are of {table.shape[0]} batches, their manifest says {len(index)}.")
    total = np.zeros((images, classes))
    np.add.at(total, index[counts], table[counts].astype(np.float64))
    views = np.bincount(index[counts], minlength=images)
    if views.min() == 0:
        return None, [f"the stored soft labels leave out {np.sum(views == 0)} images, so none go with them."]
    mixed = about["augment"].get("cutmix") or about["augment"].get("mixup")
    blend = ", mixed with other images as they were labelled" if mixed else ""
    note = (
        f"label_logits are the mean over {views.min()} or more stored views of each image{blend} "
        f"({about['label_source']} labels); only ddjax makes those views again and uses the label of each."
    )
    return (total / views[:, None]).astype(np.float32), [note]


def _drawn(folder: Path, about: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and logits of every view of a run, and which of them count: all."""
    from ddjax import relabel
    from ddjax.types import Augment

    table = relabel.load(folder)
    assert table is not None  # labels_of names soft labels only
    index = relabel.Plan(about["seed"], about["images"], about["batch"], about["epochs"], Augment()).index()
    return index, table, np.ones(index.shape, bool)


def _recorded(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and logits of every recorded view, and which of them count: not what fills up a short batch."""
    from ddjax.exchange import softlabels

    views = softlabels.load(folder)
    held = views.held(np.arange(views.count))
    return views.index(), views.logits, np.arange(views.batch)[None] < held[:, None]
