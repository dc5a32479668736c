"""Who made a set of others: named by the user, or by a file name that leaves no doubt; a layout alone names nobody.

A layout is shared (MTT's by TESLA, FTD and DATM; class folders by everybody), so a set whose method nobody names is
called by its layout and cites no method.
"""

import itertools
import re
from typing import Any, NamedTuple

from ddjax import literature
from ddjax.data.cards import CARDS, Card
from ddjax.errors import ConfigError
from ddjax.exchange.layouts import Raw
from ddjax.exchange.presets import Preset
from ddjax.tally import BASELINES

LONGEST = 80  # characters of a name
VICO = {"DC": None, "DSA": "dsa", "DM": "dsa"}  # of VICO's file names: the augmentation that their evaluation uses
LAYOUTS = {"vico": "VICO layout", "mtt": "MTT layout", "datm-zca": "MTT layout with ZCA", "rfad-zca": "RFAD layout"}
FREPO = "FRePo layout"  # of rfad-zca's files that name their arrays image and label
OTHER = "Unnamed set"


class Named(NamedTuple):
    """``method``: what the manifest says of it; ``told``: what ``source`` says of how it is known and whom to cite."""

    method: dict[str, Any]
    told: dict[str, Any]
    augment: str | None
    notes: list[str]


def named(given: str | None, raw: Raw, preset: Preset) -> Named:
    """The method of a set: ``given`` (free text), else the one in a VICO file's name, else the layout's name alone.

    ConfigError for a name that is none.
    """
    release = _of_file(raw) if preset.name == "vico" else None
    name, how = (release, "the file's name") if given is None else (_checked(given), "--method")
    if name is None:
        layout = FREPO if preset.name == "rfad-zca" and raw.names[0] == "image" else LAYOUTS.get(preset.name, OTHER)
        method = {"class": slug(layout), "layout": layout, "imported": True}
        note = "the files do not say which method made the set, so no paper of one is cited; --method NAME says it"
        return Named(method, {}, preset.augment, [note])
    known = literature.method(name)
    label, told = known[0] if known else name, {"method_named_by": how}
    notes = [] if known else [f"{name} is in no table of known methods, so no paper is cited for it{_hint(name)}"]
    if known:
        told |= {"paper": known[1].short, "citation": known[1].bibtex}
    augment = preset.augment
    if preset.name == "vico":
        augment = VICO.get(label, VICO.get(release or "", augment))
    return Named({"class": slug(label), "name": label, "imported": True}, told, augment, notes)


def _hint(name: str) -> str:
    near = literature.near(name)
    return f" (did you mean {near}?)" if near else ""


def slug(label: str) -> str:
    """``FRePo layout`` -> ``frepo-layout``: the name of the set's rows, never that of a baseline."""
    found = re.sub(r"[\W_]+", "-", label.casefold()).strip("-")
    return f"{found}-set" if found in BASELINES else found


def _of_file(raw: Raw) -> str | None:
    """``DSA`` of ``res_DSA_MNIST_ConvNet_10ipc.pt``."""
    words = raw.files[0].stem.upper().split("_") if raw.files else []
    return words[1] if len(words) > 2 and words[0] == "RES" and words[1] in VICO else None


def misnamed(raw: Raw, card: Card | None) -> list[str]:
    """A note where the name of a VICO file, ``res_DC_MNIST_ConvNet_1ipc.pt``, says another data set than the card."""
    if card is None or not raw.files:
        return []
    words = [word for word in re.split(r"[\W_]+", raw.files[0].stem.casefold()) if word]
    told = {*words, *map("".join, itertools.pairwise(words))}  # fashion_mnist, tiny-imagenet: two words
    said = [name for name in CARDS if name.replace("_", "") in told]
    longest = max(said, key=len, default=card.id)
    return [] if longest == card.id else [
        f"the file's name, {raw.files[0].name}, says {longest}, --dataset says {card.id}: class names, mean and std "
        f"are those of {card.id}"
    ]  # fmt: skip


def _checked(given: str) -> str:
    text = " ".join(given.split())
    if not slug(text) or len(text) > LONGEST or not text.isprintable():
        raise ConfigError(f"--method = {given[:LONGEST]!r}; allowed: a name of 1 to {LONGEST} characters, as FRePo.")
    return text
