"""The image rates of digits' reduced rows, chosen on images held out of its training split, never on the test split.

For every method whose row of ``DEFAULTS["digits"]`` names ``lr``: a third of it, the rate itself, three times it; one
image per class, three students under ddjax-1, three tenths of the training split as validation images. The rate whose
students are best there goes into the row; the row stays where the best is not better by one standard error of both.

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
from ddjax.files import read_lines
from ddjax.methods import METHODS

TIMES = (1 / 3, 1.0, 3.0)
COMMON = "--config configs/digits.py --data.validation 0.3 --evaluate.seeds 3 --evaluate.baselines none --method.ipc 1"


def names() -> list[str]:
    """Methods whose images have a rate of ours on digits."""
    return [n for n, kind in METHODS.items() if isinstance(kind.DEFAULTS.get("digits", {}).get("lr"), dict | float)]


def rate_of(name: str) -> float:
    """The rate that the row gives at one image per class."""
    return METHODS[name](ipc=1).filled("digits", 1).lr  # type: ignore[attr-defined]


def validation(name: str, lr: float, scratch: Path) -> list[float]:
    """Accuracies of the students of one run on the held-out training images."""
    out = scratch / f"{name}-{lr:g}"
    words = [*COMMON.split(), "--method", name, "--method.lr", f"{lr:g}", "--workdir", str(out), "--resume"]
    launch.main(words)
    lines = [line for line in read_lines(out / "results.jsonl") if line["name"] == name]
    return [line["validation_accuracy"] for line in lines]


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
    for name in given.methods:
        if name in rows:
            continue
        stands = rate_of(name)
        found = {f"{stands * t:.3g}": validation(name, float(f"{stands * t:.3g}"), given.scratch) for t in TIMES}
        rows[name] = {"stood": f"{stands:.3g}", "validation": found, "chosen": chosen(found, f"{stands:.3g}")}
        print(name, rows[name], flush=True)
        harness.write("choose_rates", {"command": COMMON, "rows": rows})


if __name__ == "__main__":
    main()
