"""Writes docs/methods/*.md, and the tables of methods in README.md and docs/batch-norm.md.

A page = the method's docstrings, fields, DEFAULTS, needs and REFERENCE, the docstring of configs/<name>.py, and the
rows of docs/results.md that carry the method's name.

python benchmarks/methods_pages.py
"""

import ast
import functools
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from results_page import markdown

from ddjax.config.document import fields
from ddjax.config.flags import _doc
from ddjax.config.values import describe
from ddjax.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("docs", "methods")
MADE = "Written by `python benchmarks/methods_pages.py`."
MARKS = ("<!-- methods: begin -->", "<!-- methods: end -->")


def config_note(name: str) -> str:
    """The docstring of the method's config."""
    return ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text())) or ""


def summary(name: str) -> str:
    """What the method is, from the first line of its config: without data set and budget."""
    return re.split(r",? (?:on |of )?(?:CIFAR|Tiny-ImageNet|ImageNet)|, fully", config_note(name).split("\n")[0])[0]


def entry(reference: str, field: str) -> str:
    """One field of a BibTeX entry, its braces off; "" where there is none."""
    found = re.search(rf"\b{field}\s*=\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", reference)
    return re.sub(r"[{}]", "", found[1]) if found else ""


def source(cls: Any) -> str:
    """Title, venue and year of the paper."""
    where = next((w for f in ("booktitle", "journal") if (w := entry(cls.REFERENCE, f))), "")
    short = re.search(r"\(([A-Z]\w+)\)", where)
    return f"{short[1] if short else where} {entry(cls.REFERENCE, 'year')}".strip()


def example(cls: Any) -> Any:
    """The method on a large data set, defaults filled in."""
    return cls(ipc=10).filled("cifar10", 10)


def real_images(needs: Any) -> str:
    """What a step sees of the real set, in words."""
    parts = []
    if needs.real == "per_class":
        parts.append(f"{needs.real_batch} of each class")
    elif needs.real == "iid":
        parts.append(f"{needs.real_batch} of all classes")
    if needs.also:
        parts.append(f"{needs.also} more of all classes")
    return " and ".join(parts) or "none"


def networks(cls: Any) -> str:
    """Which networks the images are made on, in words."""
    method, needs = example(cls), cls and example(cls).needs
    words = []
    if needs.experts:
        words.append(f"{needs.experts.count} experts of {needs.experts.epochs} epochs (made once, kept)")
    if needs.teachers:
        words.append("the converged base model" if needs.pool == "base" else "the pool of weak models")
    if getattr(method, "arch", None) and (needs.real != "none" or needs.experts or not needs.teachers):
        words.append(f"its own, `{method.arch}` (`--method.arch`)")
    if needs.start == "patches":
        words.append("the converged base model, which scores crops")
    elif needs.start == "forgetting":
        words.append("the network on all data, whose training is counted")
    elif needs.start in ("kmeans", "herding", "kcenter"):
        words.append("the network on all data, which gives features")
    return "; ".join(words) or "none"


def beginning(shown: Any) -> str:
    """What the images are before the first step."""
    chosen = next((getattr(shown, name) for name in ("init", "start") if name in fields(type(shown))), None)
    if chosen == "noise":
        return "noise"
    return {"patches": "mosaics of real images", "experts": "real images that an expert gets right"}.get(
        shown.needs.start, f"real images: `{shown.needs.start}`"
    )


def batch_norm(cls: Any) -> str:
    """Which networks the method takes, as far as batch norm goes."""
    method = example(cls)
    if reason := getattr(cls, "NO_BATCH_NORM", ""):
        return f"refused for `--method.arch`: {reason}"
    if getattr(method, "arch", None):
        return "any"
    if method.needs.teachers:
        return "any; what is matched are the running statistics where the teacher has batch norm, else measured ones"
    return "any: no network is trained or matched"


meaning = functools.cache(_doc)  # what the docstring below a field says


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return ", ".join(f"IPC ≥ {k}: {cell(v)}" for k, v in value.items())
    return f"`{value}`".replace("|", "\\|") if value != "" else '`""`'


def hyper_parameters(cls: Any) -> list[str]:
    """The table of flags, and that of the values which depend on the data set."""
    plain, rows = cls(), []
    for name, hint in fields(cls).items():
        told = next(
            (t for base in cls.__mro__ if name in inspect.get_annotations(base) if (t := meaning(base, name))), ""
        )
        default = "by data set" if getattr(plain, name) is None else cell(getattr(plain, name))
        rows.append([f"`--method.{name}`", describe(hint).replace("|", "\\|"), default, told.replace("|", "\\|")])
    out = ["## Hyper-parameters", "", markdown(["flag", "takes", "default", "meaning"], rows), ""]
    table = {**cls.DEFAULTS}
    if table:
        rows = [[("all others" if not card else f"{card} (ours, reduced)" if card in cls.REDUCED else card),
                 "; ".join(f"{k} {cell(v)}" for k, v in row.items())] for card, row in table.items()]  # fmt: skip
        out += ["By data set; what a row leaves out is that of the first. `--method.budget published` passes over the",
                "rows that are ours.", "", markdown(["data set", "values"], rows), ""]  # fmt: skip
    return out


def results(name: str) -> list[str]:
    """The rows of docs/results.md of that name, under their headings."""
    path, at, head, found = ROOT / "docs" / "results.md", [], "", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        cells = [c.strip() for c in line.strip("|").split("|")]
        if depth := len(line) - len(line.lstrip("#")):
            at, head = [*at[: max(0, depth - 2)], line.lstrip("# ")], ""
        elif line.startswith("|"):
            head = head or line
            if cells[0].strip("`") in (name, f"coreset_{name}"):
                found.setdefault((" / ".join(at), head), []).append(line)
        else:
            head = ""
    if not found:
        return ["No accuracy is stored; its minutes on digits stand in `docs/benchmarks.md`.", ""]
    out = []
    for (where, top), lines in found.items():
        rule = "|" + " --- |" * (top.count("|") - 1)
        out += [f"{where}:", "", top, rule, *lines, ""]
    return out


def page(name: str) -> str:
    """The whole page of a method."""
    cls, shown = METHODS[name], example(METHODS[name])
    needs, module = shown.needs, inspect.getdoc(sys.modules[cls.__module__]) or ""
    own = re.sub(
        r"^.* hyper-parameters; ``None`` is filled per data set.*DEFAULTS\)\.\s*", "", inspect.getdoc(cls) or ""
    )
    made = "8 bits a channel" if shown.STORE == "pixels" else "float32, not clipped"
    labels = f"`{shown.label_source}`" + (f"; it learns {' and '.join(shown.learns)} too" if shown.learns else "")
    about = [own, ""] if own else []
    about += [f"From `{Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()}`:", "", module, ""] if module else []
    return "\n".join([
        f"# {name}", "", MADE, "",
        f"*{entry(cls.REFERENCE, 'title')}*. {entry(cls.REFERENCE, 'author').rstrip('.')}. {source(cls)}.", "",
        *about,
        f"    python -m ddjax.launch --config configs/digits.py --method {name}    # digits: minutes on two cores",
        f"    python -m ddjax.launch --config configs/{name}.py", "",
        "## The published setting", "", "```", config_note(name), "```", "",
        "## What it is fed", "", markdown(["", ""], [
            ["real images of a step", real_images(needs)], ["networks", networks(cls)],
            ["batch norm", batch_norm(cls)], ["begins with", beginning(shown)],
            ["labels (`label.source=auto`)", labels], ["stored as", made],
            ["augmentation that P-DC applies", f"`{shown.augment or 'none'}`"],
        ]), "",
        *hyper_parameters(cls), "## Results", "", *results(name), "## Reference", "", "```", cls.REFERENCE, "```", "",
    ])  # fmt: skip


def readme_table() -> str:
    """One line a method."""
    rows = [[f"[`{name}`]({FOLDER.as_posix()}/{name}.md)", summary(name), source(cls)]
            for name, cls in METHODS.items()]  # fmt: skip
    return markdown(["`--method`", "what it is", "from"], rows)


def norm_table() -> str:
    """Networks and batch norm of every method."""
    rows = [[f"[`{name}`](methods/{name}.md)", networks(cls), batch_norm(cls)] for name, cls in METHODS.items()]
    return markdown(["method", "networks that the images are made on", "batch norm there"], rows)


def between(path: str, table: str) -> str:
    """The text of a page with ``table`` between its marks."""
    text = (ROOT / path).read_text()
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def pages() -> dict[str, str]:
    """Every page by its path below the repository: what the files should hold."""
    found = {f"{FOLDER.as_posix()}/{name}.md": page(name) for name in METHODS}
    return found | {"README.md": between("README.md", readme_table()),
                    "docs/batch-norm.md": between("docs/batch-norm.md", norm_table())}  # fmt: skip


def main() -> None:
    (ROOT / FOLDER).mkdir(exist_ok=True)
    made = pages()
    for path, text in made.items():
        (ROOT / path).write_text(text)
    for old in (ROOT / FOLDER).glob("*.md"):
        if f"{FOLDER.as_posix()}/{old.name}" not in made:
            old.unlink()
    print(f"{len(made)} pages")


if __name__ == "__main__":
    main()
