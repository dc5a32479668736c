"""The numbers of a run, from its files: rows over seeds, report.json, the table at the end.

    accuracy of a row = mean over seeds ± sample standard deviation (n - 1); none for one seed
    interval of a row = mean ± t(0.975, n - 1) s / sqrt(n), within [0, 1]

Accuracies are fractions in files and percent where people read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddjax import literature, scores, storage
from ddjax.log import duration
from ddjax.runfiles import Files, read
from ddjax.storage import size

if TYPE_CHECKING:
    from ddjax.protocols import Protocol

SCHEMA = 1
BASELINES = {
    "random_hard": "Random real images",
    "random_soft": "Random real images",
    "random_early_soft": "Random real images, labels of a teacher stopped early",
    "random_same_bytes": "Random real images, as many bytes",
    "kmeans": "k-means images",
    "herding": "Herding images",
    "kcenter": "k-center images",
    "forgetting": "Forgetting images",
    "base_labels": "The set, relabelled",
    "full_data": "All training images",
}
TITLES = {"bptt": "BPTT", "rgm": "RGM"}  # beside the names in ddjax.literature; other names get a capital


def rows(files: Files) -> list[dict[str, Any]]:
    """One row for each set x architecture x label source x protocol, over its seeds.

    The run's own set first, then baselines in the order of ``BASELINES``; architectures in the
    order of the configuration. A seed that occurs twice counts once, by its last line; lines of other images or
    views than the row's last one do not count (``inputs``).
    """
    groups: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    for line in files.results:
        cell = tuple(line[name] for name in ("name", "arch", "label_source", "protocol"))
        group = groups.setdefault(cell, {})
        if any(other.get("inputs") != line.get("inputs") for other in group.values()):
            group.clear()
        group[line["seed"]] = line
    found = []
    for (name, arch, source, protocol), lines in groups.items():
        values = np.array([line["accuracy"] for line in lines.values()], np.float64)
        several = len(values) > 1
        found.append({
            "name": name, "arch": arch, "label_source": source, "protocol": protocol,
            "budget": next(iter(lines.values())).get("budget"),
            "lr": next(iter(lines.values())).get("lr"),
            "accuracy_mean": float(values.mean()),
            "accuracy_std": float(values.std(ddof=1)) if several else None,
            "seeds": len(values),
            "accuracies": {seed: float(line["accuracy"]) for seed, line in sorted(lines.items())},
            "interval": _interval(values),
            "on_test": any(line.get("selected_on") == "test" for line in lines.values()),
            "wall_s": _mean([line["wall_s"] for line in lines.values() if line.get("wall_s") is not None]),
        })  # fmt: skip
    evaluated = files.config.get("evaluate", {})
    wanted = [protocol_id(files.config), *evaluated.get("archs", ()), *BASELINES]
    own = files.made.meta.get("label_source") if files.made else None

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        arch = wanted.index(row["arch"]) if row["arch"] in wanted else len(wanted)  # judged later: after the run's own
        name = wanted.index(row["name"]) if row["name"] in wanted else -1
        return row["protocol"] != wanted[0], arch, name, row["label_source"] != own

    return sorted(found, key=place)


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean, within [0, 1]: what repeating the seeds on this very set would vary."""
    found = scores.t_interval(list(values))
    return None if found is None else (max(0.0, found[0]), min(1.0, found[1]))


def protocol_id(config: Mapping[str, Any]) -> str | None:
    """The id under which the rows that a configuration asks for stand."""
    asked = config.get("evaluate", {})
    if not asked.get("modify"):
        return asked.get("protocol")
    rule = rule_of(config)
    return f"{asked.get('protocol')}+modified" if rule is None else rule.id


def taken_views(files: Files, protocol: str) -> str:
    """The augmentation that rows of a protocol have because the set's manifest names it (P-DC: dsa); "" for none."""
    from ddjax.protocols import PROTOCOLS
    from ddjax.viewing import TAKES

    rule = rule_of(files.config) if "+modified" in protocol else PROTOCOLS.get(protocol)
    named = files.made.meta.get("augment") if files.made else None
    return str(named) if rule and named in TAKES.get(rule.augment, ()) else ""


def rule_of(config: Mapping[str, Any]) -> "Protocol | None":
    """The protocol that a configuration asks for, modified as it says; None where this ddjax knows no such thing."""
    from ddjax.modify import read
    from ddjax.protocols import PROTOCOLS

    asked = config.get("evaluate", {})
    plain = PROTOCOLS.get(str(asked.get("protocol")))
    fields, problems = read(plain, map(str, asked.get("modify") or ())) if plain else ({}, {"": ""})
    return plain.modified(**fields) if plain and not problems else None


def own_cell(files: Files) -> tuple[str, str, str, str] | None:
    """Name, architecture, label source and protocol of the first row of the run's own set under its protocol."""
    protocol = protocol_id(files.config)
    own = (row for row in rows(files) if row["name"] not in BASELINES and row["protocol"] == protocol)
    return next(((row["name"], row["arch"], row["label_source"], row["protocol"]) for row in own), None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def summary(files: Files) -> dict[str, Any]:
    """The content of report.json: rows of the run's protocol only."""
    config, made = files.config, files.made
    dataset = (made.meta.get("dataset") or {}) if made else {}
    protocol, judged = protocol_id(config), config.get("judged_on") or {}
    chosen = [row for row in rows(files) if row["protocol"] == protocol]
    common = ("arch", "label_source", "accuracy_mean", "accuracy_std", "seeds")
    cost, own, kept = files.cost or {}, own_cell(files), components(files)
    return {
        "schema": SCHEMA,
        "dataset": judged.get("dataset") or dataset.get("card") or str(config["data"]["train"]),
        "method": method_name(files),
        "ipc": config["method"]["ipc"],
        "protocol": protocol,
        "results": [{k: r[k] for k in common} for r in chosen if r["name"] not in BASELINES],
        "baselines": [{k: r[k] for k in ("name", "budget", *common)} for r in chosen if r["name"] in BASELINES],
        "scores": scores.of(files.results, own) if own else None,
        "cost": {
            "wall_s": cost.get("wall_s", {}),
            "peak_memory_bytes": cost.get("peak_memory_bytes"),
            "compile_s": cost.get("compile_s"),
        },
        "bytes": {
            "images": kept.get("images"),
            "labels": storage.of_labels(kept) if kept else None,
            "projector": 0,
            "backbone_if_shipped": 0,
            **({"zca": kept["zca"]} if "zca" in kept else {}),
        },
    }


def components(files: Files) -> dict[str, int]:
    """Bytes of each component of the run's set, as ``ddjax set show`` and ``check`` count them; {} without a set."""
    return storage.components(files.made, files.labels) if files.made else {}


class Cited(NamedTuple):
    """A paper that a run's numbers stand on: what for, in a few words, and as BibTeX."""

    what: str
    short: str
    bibtex: str


def made_by(files: Files) -> list[Cited]:
    """The paper of the method that made the set: what an imported set brings, or what a known name of ours tells."""
    source, what = files.made.meta.get("source") if files.made else None, f"the set, {title(files)}"
    if files.config["method"].get("imported"):
        told = source if isinstance(source, dict) else {}
        return [Cited(what, str(told.get("paper")), str(told["citation"]))] if told.get("citation") else []
    own = ":" in str(files.config["method"]["class"])  # a class of the user's
    known = None if own else literature.method(method_name(files))
    return [Cited(what, known[1].short, known[1].bibtex)] if known else []


def judged_by(files: Files) -> list[Cited]:
    """The papers of the protocols that the run's rows stand under."""
    names = dict.fromkeys(str(line["protocol"]).partition("+")[0] for line in files.results)
    papers = [(name, paper) for name in names for paper in literature.of_protocol(name)]
    return [Cited(f"protocol {name}", paper.short, paper.bibtex) for name, paper in papers]


def references(files: Files) -> list[str]:
    """BibTeX of all that the run used: what it wrote down itself, the method of its set, its protocols."""
    return [files.citations, *(found.bibtex for found in (*made_by(files), *judged_by(files)))]


def method_name(files: Files) -> str:
    """``teddy``; of a user's class, ``path.py:Name``, the name in lower case."""
    return str(files.config["method"]["class"]).rsplit(":", 1)[-1].lower()


def title(files: Files) -> str:
    """The method's name as people write it; of a set that others made its method, or its layout, and that it was
    imported."""
    name, about = method_name(files), files.config["method"]
    if about.get("imported"):
        return f"{about.get('name') or about.get('layout') or f'{name} layout'}, imported"
    known = literature.method(name)
    return known[0] if known else TITLES.get(name, name.capitalize())


def budget_note(budget: Mapping[str, Any] | None) -> str:
    """What a baseline was given, in words: ``20 epochs, 180 steps, lr 0.05``; empty where nothing is said.

    Lists (what was tried on the way) stay in the files.
    """
    first = ("epochs", "steps", "images", "seconds", "ipc")
    found = {k: v for k, v in (budget or {}).items() if v is not None and not isinstance(v, list | dict)}
    if "stopped_epoch" in found:
        found["stopped_epoch"] = f"{found['stopped_epoch']} of {found.pop('epochs', '?')}"
    names = sorted(found, key=lambda name: (first.index(name) if name in first else len(first), name))
    return ", ".join(_spent(name, found[name]) for name in names)


def _spent(name: str, value: Any) -> str:
    """One entry of a budget: ``20 epochs``, ``34 s``, ``12 kB allowed``."""
    whole = {"full_data": "full-data features", "pixels": "pixels"}
    words = {
        "seconds": lambda: duration(float(value)),
        "features": lambda: f"on {whole.get(value, value)}",
        "ipc": lambda: f"{value:,} images per class",
        "bytes": lambda: size(value),
        "bytes_allowed": lambda: f"{size(value)} allowed",
        "cut_by": lambda: f"cut by {value}",
        "forgotten": lambda: f"forgotten {value:,} times in all",
        "teacher": lambda: f"labels of {'the network on all images' if value == 'full_data' else value}",
        "teacher_accuracy": lambda: f"its accuracy {100 * value:.1f} %",
        "stopped_epoch": lambda: f"stopped after epoch {value}",
        "chosen_on": lambda: f"chosen on {value}",
    }
    if name in words:
        return words[name]()
    return f"{value:,} {name}" if name in ("epochs", "steps", "images") else f"{name.replace('_', ' ')} {value}"


def percent(mean: float, std: float | None) -> str:
    """``51.0 ± 1.2``; an en dash where there is one seed."""
    return f"{100 * mean:.1f} ± " + ("–" if std is None else f"{100 * std:.1f}")


def table(run_folder: Path | str) -> list[dict[str, str]]:
    """The rows that a run ends with, for ``Log.table``."""
    found = rows(read(run_folder))
    several = len({row["protocol"] for row in found}) > 1
    return [
        {
            "set": row["name"], "labels": row["label_source"], "network": row["arch"],
            **({"protocol": row["protocol"]} if several else {}),
            "accuracy %": percent(row["accuracy_mean"], row["accuracy_std"]),
            "seeds": str(row["seeds"]),
        }
        for row in found
    ]  # fmt: skip
