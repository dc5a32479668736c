"""Writes docs/results.md from benchmarks/results/{gates,classical}-*.json: protocol, seeds, spread, cost, command.

python benchmarks/results_page.py
"""

import json

import harness

ORDER = ("digits", "fashion_mnist", "cifar10")
NOTES = {
    "digits": "scikit-learn's 8x8 digits: 1,167 training, 130 validation and 500 test images; teacher and students are "
    "a three-layer batch-norm ConvNet of width 32. Run before the normalisation's derivative was rewritten (same "
    "mathematics, other rounding). `--method.lr 0.1`, Teddy's rate, was sre2l's default then and stands in its "
    "commands since. Of held-out training images sre2l's own best rate is 0.3 (`docs/log.md`); the gates below were "
    "not run at it, nor was Teddy's rate chosen in that way.",
    "fashion_mnist": "Fashion-MNIST, the original files: a stratified 10,000 training images (9,000 train, 1,000 "
    "validation), all 10,000 test images; three-layer batch-norm ConvNet of width 32, teachers of 10 epochs. IPC 1 was "
    "run before the normalisation's derivative was rewritten (same mathematics, other rounding), IPC 10 after.",
    "cifar10": "CIFAR-10 **re-encoded as JPEG** (not the papers' pixels; no number here compares with a paper's): a "
    "stratified 10,000 of the training images (9,000 train, 1,000 validation), all 10,000 test images; three-layer "
    "batch-norm ConvNet of width 32, teachers of 10 epochs.",
}
HEAD = """# Results

Written by `python benchmarks/results_page.py` from `benchmarks/results/`. ± is the standard deviation over students
of different seeds (one distilled set).
"""
GATES = """## Teddy and its gates

From `python benchmarks/gates.py digits|fashion_mnist|cifar10`. Protocol `ddjax-1`: the learning rate is chosen on a
validation split of the training set, the last step counts, the test split is read once. Differences are paired by
seed, p by the exact sign-flip test (its smallest value with five seeds is 0.031). `sre2l` here is the single
converged model under the same budget and statistics as Teddy, so that the pool alone differs.
"""
CLASSICAL = """## The classical family on Fashion-MNIST

From `python benchmarks/classical.py --data FOLDER`. Protocol `P-DC`: three ConvNet-3 (width 128) of new seeds
trained on one distilled set, last epoch. Made from a stratified 10,000 of the training images (papers: all 60,000),
tested on all 10,000 test images. **The budgets are reduced to what two CPU cores do in minutes**; they stand in the
command, and what a command does not name is as published. "Published" is the number of the method's own protocol and
full budget, from where the last column says; "recalled" ones have not been read again in the paper. Distilling includes
the network on all data for the first coreset of a table (`herding` at IPC 1, `kcenter` at 10), which the others take
from the cache, for `mtt` its experts; `dsa` at IPC 1 was halted for about eight minutes, `dc` at IPC 10 ran
at the lowest priority beside other work. At IPC 10 `dc` has 40 networks of 1,000, `dsa` 10, and they train them for 10
epochs instead of 50 between two updates of the images, `idc` has whole images (factor 1). P-DC takes the augmentation
that a set was made for: students of `dm`, `dsa`, `mtt` and `idc` have DSA and 1,001 epochs, all others no augmentation
and 301, so those two groups compare among themselves. Rows at IPC 10 but `random` and `herding` were run with
convolutions by tiles (`docs/log.md`). **Below random**: worse than as many random images, so of no use at this budget.
"""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def cell(key: str, found: dict) -> list[str]:
    """One line of a table."""
    name, source = key.split("/")
    spread = "–" if found["std"] is None else f"{100 * found['std']:.1f}"
    budget = found["budget"] or {}
    told = ", ".join(f"{k} {v}" for k, v in budget.items() if k in ("epochs", "seconds", "features"))
    return [
        name, source, f"{100 * found['mean']:.1f} ± {spread}", str(len(found["seeds"])), f"{found['lr']:g}",
        f"{found['wall_s_per_seed']:.0f} s", told,
    ]  # fmt: skip


def section(name: str, result: dict) -> list[str]:
    """Everything about one data set."""
    out = [f"## {name}", "", NOTES[name], ""]
    machine = result["machine"]
    out += [f"Machine: {machine['cpu']}, {machine['cores']} cores, jax {machine['versions']['jax']}; shared with other "
            "work while this ran, so seconds are an upper bound.", ""]  # fmt: skip
    for run, found in result["runs"].items():
        pool = ", ".join(f"{100 * a:.0f}" for a in found["pool_validation_accuracy"])
        base = f"{100 * found['teacher_validation_accuracy']:.1f}"
        out += [f"### {run}", "", f"    {found['command']}", "",
                f"Validation accuracy, %: base model {base}; pool {pool}.", ""]  # fmt: skip
        rows = [cell(key, value) for key, value in found["cells"].items()]
        out += [
            markdown(["set", "labels", "test accuracy, %", "seeds", "rate", "per seed", "budget"], rows),
            "",
        ]
    out += ["### Gates", ""]
    rows = [
        [
            "holds" if g["holds"] else "**fails**", g["gate"], f"{100 * g['difference']:+.1f}",
            f"{100 * g['standard_error']:.1f}", f"{g['p_one_sided']:.3f}",
        ]
        for g in result["gates"]
    ]  # fmt: skip
    out += [markdown(["", "gate", "difference, points", "standard error", "p (one-sided)"], rows), ""]
    return out


def classical(result: dict) -> list[str]:
    """The table of the classical family: one row a run, the command that regenerates it below."""
    machine, rows, commands = result["machine"], [], []
    random = {row["ipc"]: row["mean"] for row in result["rows"] if row["method"] == "random"}
    for row in sorted(result["rows"], key=lambda r: r["ipc"]):
        published = result["published"].get(row["method"], {})
        told = published.get(str(row["ipc"]), "–")
        below = ", **below random**" if row["mean"] < random[row["ipc"]] else ""
        budget = row["command"].partition("--method.ipc ")[2].partition(" ")[2].replace("--method.", "")
        rows.append([
            row["method"], str(row["ipc"]), f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}{below}",
            str(len(row["seeds"])), budget or "as published", row["label_source"],
            f"{row['distill_s']} s", f"{row['evaluate_s']} s", str(told),
            published.get("from", "–"),
        ])  # fmt: skip
        commands.append("    " + row["command"])
    head = [
        "method",
        "IPC",
        "test accuracy, %",
        "seeds",
        "budget",
        "labels",
        "distilling",
        "evaluating",
        "published, %",
        "from",
    ]
    return [
        CLASSICAL, f"Machine: {machine['cpu']}, {machine['cores']} cores, jax {machine['versions']['jax']}; shared "
        "with other work while this ran, so seconds are an upper bound.", "", markdown(head, rows), "",
        "Each row's command (add `--data.train idx:… --data.test idx:… --workdir DIR`):", "", *commands, "",
    ]  # fmt: skip


def main() -> None:
    out = [HEAD]
    path = harness.RESULTS / "classical-fashion_mnist.json"
    out += classical(json.loads(path.read_text())) if path.exists() else []
    out += [GATES]
    for name in ORDER:
        path = harness.RESULTS / f"gates-{name}.json"
        if path.exists():
            out += section(name, json.loads(path.read_text()))
    page = harness.ROOT / "docs" / "results.md"
    page.write_text("\n".join(out))
    print(page)


if __name__ == "__main__":
    main()
