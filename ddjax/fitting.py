"""Do a stored set and the real data belong together? Same classes, by name; same images; the same data as before.

Labels are matched by class name: real data whose folders sort in another order than the set's are counted in the set's
order. What contradicts (other classes, another card, other data than the results that stand in a folder) is refused.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data import Dataset
from ddjax.data.base import listing
from ddjax.data.split import Split
from ddjax.errors import ConfigError, DataError
from ddjax.files import content_hash, read_json
from ddjax.synset import DistilledSet


def fitted(made: DistilledSet, data: Dataset, where: str) -> Dataset:
    """The data with labels in the set's class order; DataError where classes, card or image shape differ."""
    if set(made.class_names) != set(data.class_names):
        only_set, only_data = (sorted(set(a) - set(b)) for a, b in ((made.class_names, data.class_names),
                                                                    (data.class_names, made.class_names)))  # fmt: skip
        sides = [f"{len(only)} only in {side}: {listing(only)}"
                 for side, only in (("the set", only_set), ("data.train", only_data)) if only]  # fmt: skip
        raise DataError(
            f"set = {where!r} has {len(made.class_names)} classes, data.train {len(data.class_names)}; "
            f"{'; '.join(sides)}. Allowed: the same names, in any order."
        )
    card = (made.meta.get("dataset") or {}).get("card")
    if card not in (None, "custom", data.card.id) and data.card.id != "custom":
        raise DataError(
            f"set = {where!r} was made of {card}, data.train is {data.card.id}; allowed: the same. Where the images "
            f"are those of {card}: --data.card {card}."
        )
    if made.images.shape[1:] != data.train.shape:
        raise DataError(
            f"set = {where!r} has images {made.images.shape[1:]}, data.train {data.train.shape}; allowed: the same. "
            f"Nearest: --data.size {made.images.shape[1]} --data.resize squash."
        )
    return data if made.class_names == data.class_names else in_order(data, made.class_names)


def in_order(data: Dataset, names: tuple[str, ...]) -> Dataset:
    """The same data with label ``i`` meaning ``names[i]``."""
    position = np.array([names.index(name) for name in data.class_names], np.int32)

    def part(split: Split) -> Split:
        found = copy.copy(split)
        found.__dict__.pop("hash", None)  # which is of the old labels
        found.labels = position[split.labels]
        return found

    return dataclasses.replace(
        data, train=part(data.train), val=part(data.val), test=part(data.test), class_names=names,
        card=dataclasses.replace(data.card, class_names=names), hash=content_hash([data.hash, list(names)]),
        notes=(*data.notes, "labels: counted in the class order of the set"),
    )  # fmt: skip


def judged_on(data: Dataset, spec: Any) -> dict[str, Any]:
    """What a folder's results are measured on: the card's name, or the SPEC where there is none, and the hash."""
    return {"dataset": str(spec) if data.card.id == "custom" else data.card.id, "hash": data.hash}


def check_same_data(made: DistilledSet, data: Dataset, config: Path, home: Path | None) -> None:
    """ConfigError where results of other data stand in the folder: numbers of two data sets never share a file."""
    if not config.exists():
        return
    before = (read_json(config).get("judged_on") or {}).get("hash")
    if home is not None and config.parent == home:
        before = (made.meta.get("dataset") or {}).get("hash")
    if before is not None and before != data.hash:
        raise ConfigError(
            f"--workdir = {str(config.parent)!r} holds results on other data than data.train and data.test name now; "
            "allowed: the same data, or a new --workdir."
        )
