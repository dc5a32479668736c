"""The image rates of digits' reduced rows, chosen on images held out of its training split, never on the test split.

For every method whose row of ``DEFAULTS["digits"]`` names ``lr``: a third of it, the rate itself, three times it; one
image per class, five students under ddjax-1. The training split alone is written to a file and split once more: a third
of it plays the test set. The rate whose students are best there goes into the row; the row stays where the best is not
better by one standard error of both.

    python benchmarks/choose_rates.py [--methods dm dsa]      about 40 minutes on two cores

writes benchmarks/results/choose_rates.json; methods that stand there are not run again.
"""

import argparse
import json
import tempfile
from pathlib import Path

import harness
import numpy as np

from ddjax import launch
from ddjax.config import Data
from ddjax.data import open_data
from ddjax.files import read_lines
from ddjax.methods import METHODS

TIMES = (1 / 3, 1.0, 3.0)
COMMON = "--config configs/digits.py --data.card digits --data.test_fraction 0.33 --evaluate.baselines none"


def names() -> list[str]:
    """Methods whose images have a rate of ours on digits."""
    return [n for n, kind in METHODS.items() if isinstance(kind.DEFAULTS.get("digits", {}).get("lr"), dict | float)]


def rate_of(name: str) -> float:
    """The rate that the row gives at one image per class."""
    return METHODS[name](ipc=1).filled("digits", 1).lr  # type: ignore[attr-defined]


def training_split(scratch: Path) -> Path:
    """All of digits' images that are not its test split, as a file."""
    data, path = open_data(Data(train="digits"), 0), scratch / "training_split.npz"
    parts = [(part.gather(np.arange(len(part))), part.labels) for part in (data.train, data.val)]
    images, labels = (np.concatenate(halves) for halves in zip(*parts, strict=True))
    scratch.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels)
    return path


def accuracies(name: str, lr: float, data: Path) -> list[float]:
    """Accuracies of the students of one run on the third of the training split that plays the test set."""
    out = data.parent / f"{name}-{lr:g}"
    words = [*COMMON.split(), "--data.train", f"npz:{data}", "--method", name, "--method.lr", f"{lr:g}"]
    launch.main([*words, "--workdir", str(out), "--resume"])
    return [line["accuracy"] for line in read_lines(out / "results.jsonl") if line["name"] == name]


def chosen(found: dict[str, list[float]], stands: str) -> str:
    """The best rate; the one that stands where the best is not better by more than one standard error of both."""
    mean = {rate: float(np.mean(v)) for rate, v in found.items()}
    error = {rate: float(np.std(v, ddof=1)) / len(v) ** 0.5 for rate, v in found.items()}
    best = max(mean, key=lambda rate: mean[rate])
    return stands if mean[best] - mean[stands] <= (error[best] ** 2 + error[stands] ** 2) ** 0.5 else best


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--methods", nargs="*", default=names(), choices=names())
    flags.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ddjax-rates")
    given = flags.parse_args()
    path = harness.RESULTS / "choose_rates.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    data = training_split(given.scratch)
    for name in given.methods:
        if name in rows:
            continue
        stands = rate_of(name)
        found = {f"{stands * t:.3g}": accuracies(name, float(f"{stands * t:.3g}"), data) for t in TIMES}
        rows[name] = {"stood": f"{stands:.3g}", "accuracy": found, "chosen": chosen(found, f"{stands:.3g}")}
        print(name, rows[name], flush=True)
        harness.write("choose_rates", {"command": COMMON, "rows": rows})


if __name__ == "__main__":
    main()
