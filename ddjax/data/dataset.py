"""From the Data group of a configuration to three splits, class names and a card.

    train part -> (test held out) -> subset, by the run's seed -> validation held out -> train, val

What is held out is a fixed stratified choice, the same for every seed, so results compare. Whoever
distils sees ``train`` only. What was decided on the way stands in ``notes``, for the manifest.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddjax.data.base import Parts, Source, listing
from ddjax.data.cards import CARDS, DIGITS, Card
from ddjax.data.cards import card as card_called
from ddjax.data.feed import RESIDENT_BYTES
from ddjax.data.fetch import locate
from ddjax.data.sources import open_source
from ddjax.data.split import Complaints, Split, Want, expected_shape, load, probe
from ddjax.data.stratify import draw, hold_out, subset
from ddjax.errors import ConfigError, DataError
from ddjax.types import Augment

_DIGITS_TEST = 500


@dataclass(frozen=True)
class Dataset:
    """Three splits of one set, the card that describes it, and what was decided on the way."""

    train: Split
    val: Split
    test: Split
    card: Card
    class_names: tuple[str, ...]
    hash: str
    notes: tuple[str, ...]


def open_data(config: Any, seed: int, *, resident_bytes: int = RESIDENT_BYTES) -> Dataset:
    """Open ``config`` (the Data group); ``seed`` draws the subset and nothing else.

    Sets of at most ``resident_bytes`` of uint8 pixels are decoded now, others as they are asked
    for. Every problem of the files is a `DataError` that names and counts them.
    """
    train, test, card, notes = _open_parts(config)
    names = _class_names(train, card, "data.train")
    _check_labels(train, names, "data.train")
    rows = np.arange(len(train))
    if test is None:
        share, total = f"{config.test_fraction:.0%}", round(config.test_fraction * len(rows))
        if card and card.id == "digits" and train.where == "digits":
            rows, test_rows, total = *_fixed_digits(train), _DIGITS_TEST
            notes.append(f"test: the fixed stratified {total} digits of the card")
        else:
            rows, test_rows = hold_out(rows, train.labels, total, "data-test", argument=train.where, class_names=names)
            notes.append(f"test: stratified {share} of the training images held out (no data.test)")
        test = train
    else:
        test, test_rows = _matched(test, train, names, card), np.arange(len(test))
    if config.subset is not None:
        rows = subset(rows, train.labels, config.subset, seed=seed, classes=len(names))
        notes.append(f"train: stratified subset of {config.subset} images drawn with seed {seed}")
    total = round(config.validation * len(rows))
    train_rows, val_rows = hold_out(
        rows, train.labels, total, "data-validation", argument=train.where, class_names=names
    )
    chosen = [(train, train_rows), (train, val_rows), (test, test_rows)]
    splits = _load(chosen, config, card, resident_bytes, notes)
    _note_shared(splits, notes)
    card = _finished(card, splits[0], names, notes)
    found = hashlib.sha256(json.dumps(names).encode())
    for split in splits:
        found.update(split.hash.encode())
    held = dict(zip(("train", "val", "test"), splits, strict=True))
    return Dataset(
        **held,
        card=card,
        class_names=names,
        hash=found.hexdigest(),
        notes=tuple(dict.fromkeys(notes)),
    )


def _open_parts(config: Any) -> tuple[Source, Source | None, Card | None, list[str]]:
    """The training source, the test source or None, the card or None, and notes."""
    spec, test_spec, name, notes = config.train, config.test, config.card, []
    if isinstance(spec, str) and spec in CARDS and spec != "digits":
        name = name or spec
        spec, found = locate(spec)
        test_spec = test_spec if test_spec is not None else found
    parts = open_source("data.train", spec)
    train, used = _choose(parts, ("train", "", "val", "test"))
    test = None
    if test_spec is not None:
        again = isinstance(spec, str) and test_spec == spec
        tests = parts if again else open_source("data.test", test_spec)
        test, which = _choose(tests, ("test", "val", "", "train"))
        if again and which == used:
            raise ConfigError(f"data.test = {test_spec!r} holds the training images themselves.")
    elif used == "train" and ("test" in parts or "val" in parts):
        test, which = _choose(parts, ("test", "val"))
        notes.append(f"test: the {which}/ part of data.train")
    if test is not None:
        notes += test.notes
    left = [part or "undivided" for part, source in parts.items() if source not in (train, test)]
    if left:
        notes.append(f"not used: {listing(left)} of data.train")
    card = card_called(name) if name else _implied(train)
    return train, test, card, [*train.notes, *notes]


def _choose(parts: Parts, order: tuple[str, ...]) -> tuple[Source, str]:
    part = next(part for part in order if part in parts)
    return parts[part], part


def _implied(source: Source) -> Card | None:
    """The card that the format or the class names can only mean."""
    if source.card:
        return CARDS[source.card]
    names = set(source.class_names or ())
    telling = [card for card in CARDS.values() if card.class_names not in (None, DIGITS)]
    return next((card for card in telling if set(card.class_names or ()) == names), None)


def _class_names(source: Source, card: Card | None, argument: str) -> tuple[str, ...]:
    if source.class_names is not None:
        return source.class_names
    if card is None:
        return tuple(str(c) for c in range(int(source.labels.max()) + 1))
    return card.class_names or tuple(str(c) for c in range(card.classes))


def _check_labels(source: Source, names: tuple[str, ...], argument: str) -> None:
    """Errors: labels beyond the classes, a class without images, fewer than two classes."""
    beyond = np.flatnonzero(source.labels >= len(names))
    if beyond.size:
        first = source.name(int(beyond[0]))
        raise DataError(
            f"{argument}: {beyond.size} labels are out of range 0..{len(names) - 1} (first: "
            f"{source.labels[beyond[0]]} of {first})."
        )
    counts = np.bincount(source.labels, minlength=len(names))
    empty = [names[c] for c in np.flatnonzero(counts == 0)]
    if empty:
        raise DataError(
            f"{argument}: {len(empty)} of {len(names)} classes are empty: {listing(empty)}. "
            "Give them images, or leave their names out."
        )
    if len(names) < 2:
        raise DataError(f"{argument}: only one class, {listing(names)}; at least two are needed.")


def _matched(test: Source, train: Source, names: tuple[str, ...], card: Card | None) -> Source:
    """``test`` with its labels counted in the training set's class names."""
    if test.class_names is None and train.class_names is not None:
        test = dataclasses.replace(test, class_names=names)
    own = _class_names(test, card, "data.test")
    _check_labels(test, own, "data.test")
    only_train, only_test = sorted(set(names) - set(own)), sorted(set(own) - set(names))
    if only_train or only_test:
        sides = [
            f"{len(only)} only in {source.where if argument in source.where else argument}: {listing(only)}"
            for argument, source, only in (("data.train", train, only_train), ("data.test", test, only_test))
            if only
        ]
        raise DataError(f"Classes in one split only. {'; '.join(sides)}. Allowed: the same in both.")
    position = np.array([names.index(name) for name in own], np.int64)
    return dataclasses.replace(test, labels=position[test.labels], class_names=names)


def _fixed_digits(source: Source) -> tuple[np.ndarray, np.ndarray]:
    chosen = draw(source.labels, _DIGITS_TEST, "digits-test")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _load(
    chosen: list[tuple[Source, np.ndarray]],
    config: Any,
    card: Card | None,
    resident_bytes: int,
    notes: list[str],
) -> list[Split]:
    """The splits, resident or streamed, all of one shape."""
    want = _want(config, card)
    shape = expected_shape(*chosen[0], want)
    held = sum(len(rows) for _, rows in chosen) * int(np.prod(shape))
    resident = held <= resident_bytes
    if not resident:
        notes.append(f"streamed: {held} bytes of pixels, more than {resident_bytes}")
    arrays, channels, wrong = [], 1, Complaints()
    for source, rows in chosen:
        if resident:
            images = load(source, rows, want, complaints=wrong)
            height, width, depth = images.shape[1:]
        else:
            images = None
            height, width, depth = probe(source, rows, want, complaints=wrong)
        arrays.append(images)
        channels = max(channels, depth)
        want = dataclasses.replace(want, size=(height, width))
    wrong.settle()
    want = dataclasses.replace(want, channels=channels)
    if want.resize != "none":
        notes.append(f"images resized ({want.resize}) to {want.size} by Pillow, bicubic")
    arrays = [a if a is None or a.shape[-1] == channels else np.repeat(a, 3, axis=-1) for a in arrays]
    return [Split(s, rows, want, a) for (s, rows), a in zip(chosen, arrays, strict=True)]


def _note_shared(splits: list[Split], notes: list[str]) -> None:
    """A note where one in a hundred test images or more is, to the bit, a training or validation image too."""
    train, val, test = (split.images for split in splits)
    if train is None or val is None or test is None or not len(test):
        return
    known = {image.tobytes() for part in (train, val) for image in part}
    shared = sum(image.tobytes() in known for image in test)
    if 100 * shared >= len(test):
        notes.append(f"test: {shared} of {len(test)} images are training images too")


def _want(config: Any, card: Card | None) -> Want:
    size = (config.size, config.size) if config.size else None
    if size is None and config.resize != "none":
        if card is None:
            raise ConfigError(f"data.resize = {config.resize!r} needs a size: give --data.size, or --data.card.")
        size = card.size
    channels = {"grey": 1, "rgb": 3, "auto": card.channels if card else None}[config.channels]
    return Want(size, channels, config.resize)


def _finished(card: Card | None, train: Split, names: tuple[str, ...], notes: list[str]) -> Card:
    """The card as it fits these files: classes, names, size, and the mean and std of the pixels."""
    height, width, channels = train.shape
    if card is None:
        mean, std = _channel_moments(train)
        notes.append("mean and std: measured on the training images")
        return Card(
            id="custom",
            classes=len(names),
            size=(height, width),
            channels=channels,
            mean=mean,
            std=std,
            class_names=names,
            augment=Augment(pad=max(1, height // 8)),
            licence="not stated",
            citation="",
            url="",
        )
    mean, std = card.mean, card.std
    if channels != card.channels:
        mean, std = _channel_moments(train)
        notes.append(f"mean and std: measured, the card has {card.channels} channels")
    if len(names) != card.classes:
        notes.append(f"{len(names)} of the {card.classes} classes of {card.id}")
    if (height, width) != card.size:
        notes.append(f"images are {height}x{width}, the card's {card.size[0]}x{card.size[1]}")
    return dataclasses.replace(
        card,
        classes=len(names),
        size=(height, width),
        channels=channels,
        mean=mean,
        std=std,
        class_names=names,
    )


def _channel_moments(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels / 255 per channel, from exact counts of byte values.

    Of a streamed split 2048 evenly spaced images are looked at.
    """
    count = len(split) if split.images is not None else min(2048, len(split))
    index = np.linspace(0, len(split) - 1, count).astype(int)
    held = np.zeros((split.shape[2], 256), np.int64)
    for start in range(0, count, 256):
        images = split.gather(index[start : start + 256])
        for d in range(split.shape[2]):
            held[d] += np.bincount(images[..., d].ravel(), minlength=256)
    value = np.arange(256) / 255.0
    mean = held @ value / held.sum(axis=1)
    variance = held @ value**2 / held.sum(axis=1) - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)), 1 / 255)
    return tuple(round(float(m), 4) for m in mean), tuple(round(float(s), 4) for s in std)
