"""What a set is, for a person: the facts of its manifest, its class map, the bytes of each component."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddjax import storage
from ddjax.exchange.hub import title
from ddjax.synset import DistilledSet

NAMED = 12  # classes on a line of their own; the others are counted
WIDE = 14  # characters of a name before its value


def facts(made: DistilledSet, name: str, kept: Mapping[str, int], stored: str | None = None) -> str:
    """The text of ``ddjax set show``, without the recipe; ``kept``: bytes by component; ``stored``: labels beside."""
    about, (n, h, w, d) = made.manifest(), made.images.shape
    data, source = made.meta.get("dataset") or {}, made.meta.get("source")
    low, high = about["range"]
    rows = [
        ("images", f"{n} of {h}x{w}x{d}, {about['dtype']} {made.space} in [{low:g}, {high:g}]"),
        ("networks see", seen(made)),
        ("labels", labels(made)),
        ("stored labels", stored),
        ("dataset", _listed({key: data.get(key) for key in ("card", "hash", "notes")}) or "not stated"),
        ("licence", about["licence"] or "not stated"),
        ("method", method(made)),
        ("teacher", _listed(made.meta.get("teacher") or {}) or "none stated"),
        ("protocol", about["protocol"] or "not stated"),
        ("augmentation", about.get("augment")),
        ("learned rate", None if made.learned_lr is None else f"{made.learned_lr:.6g}"),
        ("seeds", ", ".join(map(str, about["seeds"] or [])) or None),
        *(_source(source) if isinstance(source, dict) else [("source", source)]),
        ("bytes", storage.told(kept)),
        ("decode", decode(made)),
        ("written by", f"ddjax {about['ddjax']}, schema {about['schema']}"),
    ]
    told = [f"{key:<{WIDE}}{value}" for key, value in rows if value is not None]
    return "\n".join([f"{name}: {title(made)}", "", *told, "", *class_map(made)])


def seen(made: DistilledSet) -> str:
    """How a network wants to see pixels."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (made.mean, made.std))
    text = f"(pixel / 255 - [{mean}]) / [{std}]"
    if made.zca is None:
        return text
    fitted = f", fitted on {made.zca.fitted['images']:,} images" if made.zca.fitted else ""
    return f"{text}, then ZCA ({made.zca.transform}, eps {made.zca.eps:g}{fitted})"


def decode(made: DistilledSet) -> str:
    """What networks see of a stored image."""
    n, f = len(made), made.factor
    if f == 1:
        return "none: the images are stored as they are"
    return f"factor {f}: each of the {n} is a canvas of {f}x{f} tiles, each upsampled: networks see {n * f * f} images"


def labels(made: DistilledSet) -> str:
    """What targets there are."""
    source = made.meta.get("label_source") or "not stated"
    soft = f"; label_logits [{len(made)}, {len(made.class_names)}]" if made.soft else ""
    return f"class indices{soft}; source: {source}"


def method(made: DistilledSet) -> str:
    """``FRePo, imported``; of a set made here its hyper-parameters."""
    about = dict(made.meta.get("method") or {})
    if about.pop("imported", False):
        name, layout = about.get("name"), about.get("layout") or about.get("class")
        return f"{name}, imported" if name else f"not stated; imported, {layout}"
    return _listed(about) or "not stated"


def class_map(made: DistilledSet) -> list[str]:
    """Label, name and number of images of each class, the first ones."""
    counts = made.counts()
    width = len(str(len(counts) - 1))
    lines = [f"  {i:>{width}}  {name} ({counts[i]})" for i, name in enumerate(made.class_names)]
    more = [f"  ... and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    of = "images by their largest learned label" if made.soft and counts.min() != counts.max() else "images"
    return [f"label  class ({of})", *lines[:NAMED], *more]


# ------------------------------------------------------------------------------------ dicts as words


def _source(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an imported set was read from, a line for each thing that a person asks: files, paper, accuracies, notes."""
    apart = ("files", "note", "notes", "accuracy", "paper", "citation")
    yield "source", _listed({key: value for key, value in about.items() if key not in apart})
    files = [one for one in _list(about.get("files")) if isinstance(one, dict)]
    for one in files[:NAMED]:
        count = f", {one['count']:,} files" if isinstance(one.get("count"), int) else ""
        yield "  file", f"{one.get('name')}{count}, sha256 {_short(one.get('sha256'))}"
    if len(files) > NAMED:
        yield "  file", f"and {len(files) - NAMED} more"
    if about.get("paper"):
        yield "  paper", str(about["paper"])
    stored = about.get("accuracy")
    for arch, found in stored.items() if isinstance(stored, dict) else ():
        yield "  accuracy", f"{arch}: {accuracy(found) if isinstance(found, dict) else _short(found)}"
    for note in _list(about.get("notes")):
        yield "  note", str(note)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def accuracy(found: Mapping[str, Any]) -> str:
    """``91.6 ± 0.5 % over 20 (of this set 91.2, 91.8)``, as the authors stored it."""
    own, mean, std = _list(found.get("of_this_set")), found.get("mean"), found.get("std")
    sound = all(isinstance(value, int | float) for value in own)
    if not (sound and isinstance(mean, int | float) and isinstance(std, int | float)):
        return _listed(found)
    told = f"{100 * mean:.1f} ± {100 * std:.1f} % over {found.get('count')}"
    return f"{told} (of this set {', '.join(f'{100 * value:.1f}' for value in own)})" if own else told


def _listed(about: Mapping[str, Any]) -> str:
    """``key: value; key: value``; groups as ``group.key: value``, long values cut, empty ones left out."""
    found = {key: value for key, value in _flat(about) if value not in (None, [], "")}
    return "; ".join(f"{key.replace('_', ' ')}: {_short(value)}" for key, value in found.items())


def _flat(about: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in about.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return _listed(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value[:NAMED])) + (" …" if len(value) > NAMED else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) == 64 and not text.strip("0123456789abcdef"):
        return f"{text[:12]}…"
    return text if len(text) <= 100 else text[:99] + "…"
