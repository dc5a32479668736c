"""Read a set that somebody else published: ``import_set`` -> `DistilledSet`. Nothing in a file is ever run.

The preset says what the numbers are (`ddjax.exchange.presets`); a range that contradicts it is an error that says what
they look like instead. The card, or ``class_names``, says which classes the labels mean.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.base import listing
from ddjax.data.cards import Card
from ddjax.data.cards import card as card_called
from ddjax.data.sources import beside
from ddjax.errors import ConfigError, DataError, choice
from ddjax.exchange import layouts, naming, spaces, whitened
from ddjax.exchange.layouts import Raw
from ddjax.exchange.presets import Constants, Preset, preset_called
from ddjax.exchange.trees import read_tree
from ddjax.files import content_hash, file_hash
from ddjax.synset import DistilledSet


def import_set(
    src: str,
    *,
    preset: str,
    card: str | None = None,
    class_names: Sequence[str] | None = None,
    index: int | None = None,
    train: Any = None,
    constants: Constants | None = None,
    method: str | None = None,
    seed: int | None = None,
) -> DistilledSet:
    """The set in ``src`` as images ``[N, H, W, D]``, labels ``[N]`` and what else it carries (logits, rate, ZCA).

    ``src``: a file, a folder, ``images.pt,labels.pt,lr.pt``, or ``TREE,STORE``: pictures and the soft labels of their
    views, as `ddjax.exchange.softlabels.Relabelled`. ``index``: which set of a VICO file. ``train``: a SPEC
    of the real images, from which a ZCA preset fits its transform where none is stored. ``constants``: mean and std per
    channel where neither preset nor card knows them. ``method``: who made it (free text). ``seed``: of the order of the
    STORE's labels, 42 unless told. Errors: ConfigError for arguments, DataError for files.
    """
    wanted, known = preset_called(preset), card_called(card, argument="--dataset") if card else None
    names = _names(class_names, known)
    if not str(src).strip() or "\0" in str(src):
        raise ConfigError(f"SRC = {str(src)!r}; allowed: a file, a folder, or images.pt,labels.pt,lr.pt.")
    if index is not None and wanted.name != "vico":
        raise ConfigError(f"--index = {index}: only --preset vico holds several sets in a file.")
    src, store = _with_labels(str(src), wanted)
    if seed is not None and store is None:
        raise ConfigError(f"--seed = {seed}: only the soft labels of TREE,STORE have an order drawn from a seed.")
    raw, names = _read(src, wanted, known, names, names if class_names is not None else None, index)
    if names is None:
        raise ConfigError(f"card {known.id if known else None} lists no class names; give --classes FILE.")
    images = spaces.channels_last(raw, wanted, known)
    labels, soft, kind = spaces.labels(raw, len(images), len(names), wanted)
    spaces.check_finite(raw.where, images, labels, names)
    said: dict[str, Any] = {"preset": wanted.name, "space": wanted.space, "labels": kind, **raw.about}
    settle = whitened.settle if wanted.zca else spaces.settle
    space = settle(raw, images, wanted, known, train, constants)
    said |= space.said
    if known is not None and images.shape[1:3] != known.size:
        said["card_size"] = f"{known.size[0]}x{known.size[1]}"
    who = naming.named(method, raw, wanted)
    said |= who.told
    if said.get("note") == whitened.KIP and who.method.get("name") not in (None, "KIP"):
        del said["note"]
    more = naming.misnamed(raw, known) if wanted.name == "vico" else []
    more += _without_rate(raw, wanted)
    said["notes"] = [f"{wanted.name}: {note}." for note in (*_notes(said), *space.notes, *more, *who.notes)]
    made = DistilledSet(
        images=space.images,
        labels=labels,
        class_names=tuple(names),
        mean=space.mean,
        std=space.std,
        meta=_meta(raw, wanted, known, said, who, "learned" if soft is not None else "hard"),
        label_logits=soft,
        learned_lr=_rate(raw),
        zca=space.zca,
    )
    return made if store is None else _relabelled(made, store, raw, wanted, seed)


def _with_labels(src: str, preset: Preset) -> tuple[str, Path | None]:
    """``TREE,STORE``: the pictures, and the folder of the soft labels of their views; errors where they are no such."""
    places = [Path(part.strip()).expanduser() for part in src.split(",")]
    if preset.space != "pixels" or len(places) != 2 or Path(src).expanduser().exists():
        return src, None
    tree, store = places
    if not store.is_dir() and not _is_tree(tree):
        return src, None
    from ddjax.exchange.fkd import is_store

    allowed = "Allowed: TREE,STORE, class folders of pictures and the folder of epoch_0, epoch_1, ..."
    if not store.is_dir():
        what = "is a file." if store.exists() else f"does not exist.{beside(store)}"
        raise DataError(f"SRC = {src!r}: the folder of labels {str(store)!r} {what} {allowed}")
    if is_store(tree) and not is_store(store):
        raise ConfigError(f"SRC = {src!r}: {tree} holds the labels (epoch_0). {allowed} Write SRC = {store},{tree}.")
    return str(tree), store


def _relabelled(made: DistilledSet, store: Path, raw: Raw, preset: Preset, seed: int | None) -> DistilledSet:
    """The set with the soft labels in ``store``; what could not be verified of them is among its notes."""
    from ddjax.exchange import fkd, softlabels

    if not fkd.is_store(store) or raw.place is None:
        what = "holds no epoch_0" if raw.place is not None else "belongs to pictures in class folders"
        raise DataError(f"labels = {str(store)!r} {what}; allowed: TREE,STORE with STORE/epoch_0/batch_0.tar, ...")
    height, width = made.images.shape[1:3]
    seed = softlabels.SEED if seed is None else seed
    views, order = fkd.read_fkd(
        store, made.labels, classes=len(made.class_names), size=(height, width), place=raw.place, seed=seed
    )
    source = dict(made.meta["source"])
    source["files"] = [*source["files"], _named(store)]
    source |= {"order_seed": seed, "order_verified": order.verified}
    source["notes"] = [*source["notes"], *(f"{preset.name}: {note}." for note in order.notes)]
    said = {**made.meta, "label_source": "fkd", "source": source}
    return softlabels.Relabelled.of(dataclasses.replace(made, meta=said), views)


def _named(path: Path) -> dict[str, Any]:
    """Name and hash of a file; of a folder how many files it holds, and the hash of their paths and hashes."""
    if path.is_file():
        return {"name": path.name, "sha256": file_hash(path)}
    held = sorted((entry.relative_to(path).as_posix(), entry) for entry in path.rglob("*") if entry.is_file())
    digest = content_hash([[name, file_hash(entry)] for name, entry in held])
    return {"name": f"{path.resolve().name}/", "count": len(held), "sha256": digest}


def _names(given: Sequence[str] | None, card: Card | None) -> list[str] | None:
    """The class names in label order, or None where a folder may tell them; one of card and names there must be."""
    if given is None:
        if card is None:
            raise ConfigError(
                "class names are not known: give --dataset CARD, or --classes FILE, a line for each class in order."
            )
        return list(card.class_names) if card.class_names else None
    names = [str(name) for name in given]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice or not names or not all(names):
        what = f"twice: {listing(twice)}" if twice else "one of them empty" if names else "none"
        raise DataError(f"--classes: {len(names)} names, {what}; allowed: a line for each class, all different.")
    strange = [name for name in names if card and card.class_names and name not in card.class_names]
    if card and strange:
        raise DataError(f"--classes: {choice(f'class of card {card.id}', strange[0], card.class_names or ())}")
    if card and not card.class_names and len(names) > card.classes:
        raise DataError(f"--classes: {len(names)} names; card {card.id} has {card.classes} classes.")
    return names


def _read(
    src: str, preset: Preset, card: Card | None, names: list[str] | None, given: list[str] | None, index: int | None
) -> tuple[Raw, list[str] | None]:
    path = Path(src).expanduser()
    if preset.name == "vico":
        return layouts.vico(layouts.existing(path), index), names
    if preset.space == "pixels" and _is_tree(path):
        return read_tree(path, card, given)
    return layouts.arrays(src), names


def _is_tree(path: Path) -> bool:
    """A folder of class folders, or an archive of one; a folder of arrays is none."""
    if path.is_dir():
        return not any(entry.is_file() and entry.suffix in layouts.ENDINGS for entry in path.iterdir())
    return path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def _notes(said: dict[str, Any]) -> list[str]:
    """What a user of the set has to know and may not expect, in sentences."""
    notes = [said["note"]] if "note" in said else []
    if said["constants"].startswith("unknown"):
        notes.append(
            "the channel mean and std of the images are not known, so they are kept as networks saw them (mean 0, "
            "std 1), and real test images will not match; say --dataset, --mean and --std, or --data.train"
        )
    if said["constants"] == "measured on the set itself":
        notes.append(
            "mean and std are measured on these images themselves; say --dataset, --mean and --std, or --data.train "
            "for those of real images"
        )
    if "card_size" in said:
        notes.append(f"the images are not {said['card_size']}, the size of the card's")
    if said.get("sets", 1) > 1:
        notes.append(f"set {said['index']} of {said['sets']} (--index)")
    if said["labels"].startswith("targets"):
        notes.append(
            "the labels are targets of a regression, not logits: protocols with squared error take them as they are"
        )
    return notes


def _without_rate(raw: Raw, preset: Preset) -> list[str]:
    """What a set without a learned rate cannot be judged by."""
    if preset.protocol != "P-MTT" or raw.lr is not None:
        return []
    return ["no learned rate is among the files, and P-MTT trains at it: name lr.pt too, or judge by another protocol"]


def _rate(raw: Raw) -> float | None:
    """The learned learning rate: one positive number."""
    if raw.lr is None:
        return None
    values = np.asarray(raw.lr) if isinstance(raw.lr, int | float | np.ndarray | np.number) else np.empty(0)
    if values.size != 1 or values.dtype.kind not in "iuf":
        what = repr(raw.lr) if isinstance(raw.lr, str) else layouts.kind(raw.lr)
        raise DataError(f"{raw.where}: the learning rate is {what:.60}; allowed: one number > 0.")
    rate = float(values.reshape(()))
    if not np.isfinite(rate) or rate <= 0:
        raise DataError(f"{raw.where}: the learning rate is {rate}; allowed: a number > 0.")
    return rate


def _meta(
    raw: Raw, preset: Preset, card: Card | None, said: dict[str, Any], who: naming.Named, label_source: str
) -> dict[str, Any]:
    """What the manifest says of the set's making: as much as its files tell."""
    said |= {"files": [_named(path) for path in raw.files if path.exists()]}
    return {
        "dataset": {"card": card.id, "hash": card.hash, "licence": card.licence, "notes": []} if card else None,
        "method": who.method,
        "teacher": None,
        "label_source": label_source,
        "protocol": preset.protocol,
        "seeds": [],
        "licence": card.licence if card else None,
        "source": said,
    } | ({"augment": who.augment} if who.augment else {})
