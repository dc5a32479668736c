"""Acceptance gates of Teddy: is the weak pool worth what is claimed, beside the controls, on real images?

    python benchmarks/gates.py digits                      gates A2 and A3
    python benchmarks/gates.py fashion_mnist --data ...    gate A4 (also cifar10)

Every cell is an ordinary run (``python -m ddjax.launch ...``; the exact words are stored with the result): protocol
ddjax-1, students of equal seeds compared in pairs. A gate that does not hold is written down as it is.
"""

import argparse
import json
import math
from pathlib import Path

import harness
import numpy as np

from ddjax import launch
from ddjax.files import read_lines

SEEDS = 5
POST = ["--teacher.pool.mode", "posterior", "--teacher.pool.prune", "0.3", "0.6", "--teacher.pool.tune_epochs", "2",
        "--teacher.pool.accept", "0.8", "0.995"]  # fmt: skip
SINGLE = ["--method", "sre2l", "--method.lr", "0.1"]  # Teddy's rate: the pool alone is to differ


def run(name: str, words: list[str], folder: Path, extra: list[str], *, hard: bool = False) -> dict:
    """One run (resumed if it is there); then the same set with hard labels, if asked."""
    kept = folder / name / "gate.json"
    if kept.exists():
        return json.loads(kept.read_text())
    base = [*words, *extra, "--workdir", str(folder / name)]
    launch.main([*base, "--resume"])
    if hard:
        none = [] if "--evaluate.baselines" in base else ["--evaluate.baselines", "none"]
        launch.main([*base, "--only", "label", "evaluate", "--label.source", "hard", *none])
    cells: dict = {}
    for line in read_lines(folder / name / "results.jsonl"):
        cells.setdefault(f"{line['name']}/{line['label_source']}", []).append(line)
    pool = json.loads((folder / name / "teachers" / "pool.json").read_text())
    found = {
        "command": "python -m ddjax.launch " + " ".join(words),
        "teacher_validation_accuracy": pool["accuracy"],
        "pool_validation_accuracy": pool["pool_accuracy"],
        "cells": {
            key: {
                "accuracy": [line["accuracy"] for line in lines],
                "mean": float(np.mean([line["accuracy"] for line in lines])),
                "std": float(np.std([line["accuracy"] for line in lines], ddof=1)) if len(lines) > 1 else None,
                "seeds": [line["seed"] for line in lines],
                "lr": lines[0]["lr"],
                "wall_s_per_seed": lines[0]["wall_s"],
                "budget": lines[0]["budget"],
            }
            for key, lines in cells.items()
        },
    }
    kept.write_text(json.dumps(found))
    return found


def paired(a: dict, b: dict) -> dict:
    """Mean difference a - b over equal seeds, its standard error and one-sided p by the sign-flip test."""
    d = np.asarray(a["accuracy"]) - np.asarray(b["accuracy"])
    flips = [np.mean(d * s) for s in np.array(np.meshgrid(*[[1, -1]] * len(d))).T.reshape(-1, len(d))]
    return {
        "difference": float(d.mean()),
        "standard_error": float(d.std(ddof=1) / math.sqrt(len(d))),
        "p_one_sided": float(np.mean(np.asarray(flips) >= d.mean() - 1e-12)),
    }


def gate(text: str, a: dict, b: dict, margin: float) -> dict:
    """Whether a >= b + margin, with the paired numbers."""
    found = paired(a, b)
    return {"gate": text, "margin": margin, **found, "holds": found["difference"] >= margin}


def digits(folder: Path, extra: list[str]) -> dict:
    """Gates A2 (IPC 1) and A3 (IPC 10)."""
    config = ["--config", "configs/digits.py", "--evaluate.seeds", str(SEEDS)]
    none = ["--evaluate.baselines", "none"]
    runs = {
        "ipc1-prior": run("ipc1-prior", config, folder, extra),
        "ipc1-single": run("ipc1-single", [*config, *none, *SINGLE, "--method.stat_scope", "class"], folder, extra),
    }
    for scope in ("class", "global"):
        stat = ["--method.ipc", "10", "--method.stat_scope", scope]
        first = [] if scope == "class" else none
        runs[f"ipc10-prior-{scope}"] = run(f"ipc10-prior-{scope}", [*config, *stat, *first], folder, extra, hard=True)
        runs[f"ipc10-post-{scope}"] = run(
            f"ipc10-post-{scope}", [*config, *stat, *none, *POST], folder, extra, hard=True
        )
        runs[f"ipc10-single-{scope}"] = run(
            f"ipc10-single-{scope}", [*config, *none, *SINGLE, *stat], folder, extra, hard=True
        )

    def cell(name: str, which: str) -> dict:
        return runs[name]["cells"][which]

    own = {"prior": "teddy/pool", "post": "teddy/pool", "single": "sre2l/base"}
    hard = {"prior": "teddy/hard", "post": "teddy/hard", "single": "sre2l/hard"}
    one, single = cell("ipc1-prior", "teddy/pool"), cell("ipc1-single", "sre2l/base")
    gates = [
        gate("A2: IPC 1, prior pool + own labels >= single converged + own labels + 5", one, single, 0.05),
        gate(
            "A2: IPC 1, prior pool >= random real + same labels + 3", one, cell("ipc1-prior", "random_soft/pool"), 0.03
        ),
    ]
    for kind in ("single", "prior", "post"):
        for labels, margin in ((own, 0.01), (hard, 0.05)):
            gates.append(
                gate(
                    f"A3: IPC 10, {kind}, {labels[kind][6:]} labels: class >= global statistics + {margin:.0%}",
                    cell(f"ipc10-{kind}-class", labels[kind]), cell(f"ipc10-{kind}-global", labels[kind]), margin,
                )
            )  # fmt: skip
    gates.append(
        gate(
            "A3: IPC 10, mild post pool + own labels >= single converged + own labels",
            cell("ipc10-post-class", own["post"]), cell("ipc10-single-class", own["single"]), 0.0,
        )
    )  # fmt: skip
    return {"runs": runs, "gates": gates}


def images(name: str, folder: Path, extra: list[str], ipcs: list[int]) -> dict:
    """Gate A4: pool >= one converged model, ConvNet-3, IPC 1 and 10, controls beside them."""
    config = ["--config", f"configs/{name}.py", "--evaluate.seeds", str(SEEDS)]
    runs, gates = {}, []
    for ipc in ipcs:
        words = [*config, "--method.ipc", str(ipc)]
        single = ["--method", "sre2l", "--method.ipc", str(ipc), "--method.stat_scope", "class", "--method.lr", "0.1",
                  "--method.alpha", "0.1", "--method.steps", "500", "--evaluate.baselines", "none"]  # fmt: skip
        runs[f"ipc{ipc}-prior"] = run(f"ipc{ipc}-prior", words, folder, extra)
        runs[f"ipc{ipc}-single"] = run(f"ipc{ipc}-single", [*config, *single], folder, extra)
        a, b = runs[f"ipc{ipc}-prior"]["cells"]["teddy/pool"], runs[f"ipc{ipc}-single"]["cells"]["sre2l/base"]
        found = gate(f"A4: {name}, IPC {ipc}, prior pool + own labels >= single converged + own labels", a, b, 0.0)
        gates.append(found | {"holds": found["holds"] and found["p_one_sided"] < 0.05})
    return {"runs": runs, "gates": gates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("digits", "fashion_mnist", "cifar10"))
    parser.add_argument("--folder", type=Path, default=Path("runs/gates"), help="where the runs lie")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    args, extra = parser.parse_known_args()
    folder = args.folder / args.name
    found = digits(folder, extra) if args.name == "digits" else images(args.name, folder, extra, args.ipc)
    for line in found["gates"]:
        print(f"{'holds ' if line['holds'] else 'FAILS '} {line['gate']}: {line['difference']:+.3f} "
              f"+- {line['standard_error']:.3f}, p = {line['p_one_sided']:.3f}")  # fmt: skip
    print(harness.write(f"gates-{args.name}", {"protocol": "ddjax-1", **found}))


if __name__ == "__main__":
    main()
