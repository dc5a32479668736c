"""The classical family beside its published numbers: Fashion-MNIST, ConvNet-3, protocol P-DC, three networks.

    python benchmarks/classical.py --data FOLDER [--methods dm dsa] [--ipc 1]

FOLDER holds the four original .gz files. Every cell is an ordinary run; its command, with the reduced budget, stands in
the result and regenerates the row. Cells that are in benchmarks/results/classical-fashion_mnist.json stay as they are;
`python benchmarks/results_page.py` makes the table of docs/results.md.
"""

import argparse
import json
import tempfile
from pathlib import Path

import harness
import numpy as np

from ddjax import launch
from ddjax.files import read_json, read_lines

CONFIG = ["--config", "configs/fashion_mnist_classical.py"]
EXPERTS = "--method.experts 2 --method.expert_epochs 7 --method.max_start 5"
AT_TEN = "--method.steps 10 --method.inner 10 --method.real_batch 64"
BUDGET = {  # flags of a method's reduced budget, by IPC; none: its published one
    "random": {}, "herding": {}, "kcenter": {}, "kmeans": {}, "forgetting": {},
    "dm": {1: "--method.steps 300 --method.real_batch 64", 10: "--method.steps 300 --method.real_batch 64"},
    "dc": {1: "--method.steps 200 --method.real_batch 64", 10: AT_TEN.replace("steps 10", "steps 40")},
    "dsa": {1: "--method.steps 200 --method.real_batch 64", 10: AT_TEN},
    "frepo": {1: "--method.steps 400 --method.real_batch 256", 10: "--method.steps 400 --method.real_batch 256"},
    "idc": {1: "--method.steps 2 --method.inner 50", 10: "--method.factor 1 --method.steps 1 --method.inner 50"},
    "mtt": {1: f"--method.steps 40 {EXPERTS}", 10: f"--method.steps 15 {EXPERTS}"},
}  # fmt: skip
PUBLISHED = {  # test accuracy, %, at IPC 1 and 10, and where it stands
    "random": (51.4, 73.8, "recalled"), "herding": (67.0, 71.1, "recalled"), "kcenter": (66.9, 54.7, "recalled"),
    "forgetting": (42.0, 53.9, "recalled"), "dc": (70.5, 82.3, "VICO readme"), "dsa": (70.6, 84.6, "VICO readme"),
    "mtt": (75.1, 87.2, "review's re-run, recalled"), "frepo": (75.6, 86.2, "recalled; under P-FRePo"),
    "idc": (81.0, 85.3, "IDC readme, at IPC 10 factor 1; under P-IDC"),
}  # fmt: skip
NAME = "classical-fashion_mnist"


def data_flags(folder: Path) -> list[str]:
    """The four files of the set."""

    def pair(part: str) -> str:
        return f"idx:{folder}/{part}-images-idx3-ubyte.gz,{folder}/{part}-labels-idx1-ubyte.gz"

    return ["--data.train", pair("train"), "--data.test", pair("t10k"), "--data.card", "fashion_mnist"]


def cell(method: str, ipc: int, data: list[str], scratch: Path) -> dict:
    """One run: accuracies, cost and the command without the data's place."""
    words = [*CONFIG, "--method", method, "--method.ipc", str(ipc), *BUDGET[method].get(ipc, "").split()]
    out = scratch / f"{method}-{ipc}"
    launch.main([*words, *data, "--workdir", str(out), "--resume"])
    own = read_json(out / "report.json")["results"][0]
    lines = [line for line in read_lines(out / "results.jsonl") if line["label_source"] == own["label_source"]]
    spent = read_json(out / "cost.json")["wall_s"]
    return {
        "command": "python -m ddjax.launch " + " ".join(words), "method": method, "ipc": ipc,
        "accuracy": [line["accuracy"] for line in lines], "seeds": [line["seed"] for line in lines],
        "label_source": own["label_source"], "arch": own["arch"],
        "distill_s": round(spent.get("distill", 0) + spent.get("experts", 0)), "evaluate_s": round(spent["evaluate"]),
        "mean": float(np.mean([line["accuracy"] for line in lines])),
        "std": float(np.std([line["accuracy"] for line in lines], ddof=1)),
    }  # fmt: skip


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the four files")
    flags.add_argument("--methods", nargs="*", default=list(BUDGET), choices=list(BUDGET))
    flags.add_argument("--ipc", type=int, nargs="*", default=[1, 10])
    flags.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ddjax-classical")
    given = flags.parse_args()
    path = harness.RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for ipc in given.ipc:
        for method in given.methods:
            if any((row["method"], row["ipc"]) == (method, ipc) for row in rows):
                continue
            rows.append(cell(method, ipc, data_flags(given.data), given.scratch))
            published = {name: {"1": v[0], "10": v[1], "from": v[2]} for name, v in PUBLISHED.items()}
            print(harness.write(NAME, {"protocol": "P-DC", "published": published, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
