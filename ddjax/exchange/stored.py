"""The soft labels of a run, one row an image: the mean of those stored for its views."""

from pathlib import Path

import numpy as np

from ddjax.errors import DataError
from ddjax.files import file_hash, read_json


def labels_of(synset: Path) -> Path | None:
    """The folder of the soft labels stored for the set in ``synset``; None outside of a run, or for hard labels."""
    folder = synset.parent / "labels"
    if synset.name != "synset" or not (folder / "manifest.json").is_file():
        return None
    return folder if read_json(folder / "manifest.json").get("sha256") else None


def problems(synset: Path) -> list[str]:
    """What is wrong with the files of the run's soft labels."""
    folder = labels_of(synset)
    if folder is None:
        return []
    path = folder / "labels.safetensors"
    whole = path.is_file() and file_hash(path) == read_json(folder / "manifest.json")["sha256"]
    return [] if whole else [f"file = {str(path)!r} is absent, or not the one of its manifest (sha256 differs)."]


def mean_labels(synset: Path, images: int, classes: int) -> tuple[np.ndarray | None, list[str]]:
    """``label_logits`` float32 ``[N, C]`` and a note, or None where no soft labels are stored for the set.

    The mean of the stored logits over an image's views: ``z[n] = mean over v, b with index[v, b] = n of z[v, b]``.
    """
    folder = labels_of(synset)
    if folder is None:
        return None, []
    from ddjax import relabel
    from ddjax.types import Augment

    about, table = read_json(folder / "manifest.json"), relabel.load(folder)
    if table is None or about["images"] != images or table.shape[2] != classes:
        raise DataError(f"labels in {str(folder)!r} are of {about['images']} images, the set has {images}.")
    plan = relabel.Plan(about["seed"], images, about["batch"], about["epochs"], Augment())
    index = plan.index()
    if index.shape != table.shape[:2]:
        raise DataError(f"labels in {str(folder)!r} are of {table.shape[0]} batches, their manifest says {len(index)}.")
    total = np.zeros((images, classes))
    np.add.at(total, index.ravel(), table.reshape(-1, classes).astype(np.float64))
    count = np.bincount(index.ravel(), minlength=images)
    if count.min() == 0:
        return None, [f"the stored soft labels leave out {np.sum(count == 0)} images, so none go with them."]
    mixed = about["augment"].get("cutmix") or about["augment"].get("mixup")
    blend = ", mixed with other images as they were labelled" if mixed else ""
    note = (
        f"label_logits are the mean over {count.min()} or more stored views of each image{blend} "
        f"({about['label_source']} labels); only ddjax can draw those views again and use the label of each."
    )
    return (total / count[:, None]).astype(np.float32), [note]
