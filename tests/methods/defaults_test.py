"""What a method's name brings: its config, its defaults, the paper's budget, and errors that name the remedy."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from ddjax import config, data, launch
from ddjax.__main__ import exit_code
from ddjax.config.document import fields
from ddjax.errors import ConfigError
from ddjax.methods import METHODS
from ddjax.methods.dm import DM

ROOT = Path(__file__).resolve().parents[2]
MAY_STAY_NONE = {"crop_area", "per_step", "class_batch", "threshold"}  # None there is a value: off, or all


def method(*flags: str) -> Any:
    return config.load(["--config", str(ROOT / "configs" / "digits.py"), *flags])[0].method


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_config_that_says_what_to_expect(name):
    path = ROOT / "configs" / f"{name}.py"
    note = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert all(f"\n{word}" in note for word in ("Paper ", "Expected ", "Data ", "Cost ", "Command "))
    assert f"--config configs/{name}.py" in note
    run, _ = config.load(["--config", str(path)])
    assert type(run.method) is METHODS[name] and run.name == name


@pytest.mark.parametrize("name", METHODS)
def test_defaults_fill_every_none(name):
    for card in data.CARDS:
        for budget in ("card", "published"):
            found = METHODS[name](ipc=10, budget=budget).filled(card, 10)
            empty = {field for field in fields(found) if getattr(found, field) is None}
            assert empty <= MAY_STAY_NONE and not found.check("method"), (card, budget)


def test_a_name_brings_the_methods_own_defaults_to_any_config():
    ours = method("--method", "dm")
    assert ours == DM(ipc=1).filled("digits", 1) and ours.steps == DM.DEFAULTS["digits"]["steps"] < 20000
    assert method("--method", "dm", "--method.steps", "20").steps == 20
    assert method("--method", "dm", "--method.ipc", "3").ipc == 3
    cifar, _ = config.load(["--config", str(ROOT / "configs" / "cifar10.py"), "--method", "dm"])
    chosen: Any = cifar.method
    assert (chosen.steps, chosen.ipc, chosen.arch) == (20000, 1, "convnet3")


def test_the_papers_budget_passes_over_the_rows_that_are_ours():
    published = ("--method.budget", "published")
    assert (method("--method", "dm", *published).steps, method("--method", "dm", *published).arch) == (
        20000,
        "convnet3",
    )
    assert method("--method", "dm", *published, "--method.steps", "7").steps == 7  # a flag is a flag
    assert method(*published).steps == METHODS["teddy"].DEFAULTS[""]["steps"]
    cifar, _ = config.load(["--config", str(ROOT / "configs" / "cifar10.py"), *published])
    dropped: Any = cifar.method
    assert dropped.steps == METHODS["teddy"].DEFAULTS["cifar10"]["steps"] != 500  # the file's own 500 is dropped
    again = config.from_json(config.to_json(cifar))
    assert again == dataclasses.replace(cifar, workdir=again.workdir)
    with pytest.raises(ConfigError, match="Did you mean 'published'"):
        method("--method.budget", "publised")


@pytest.mark.parametrize("name", METHODS)
def test_what_would_forget_nothing_is_refused(name):
    """Momenta and running averages at 1 or above, each with a valid number beside it."""
    ours: Any = METHODS[name]().filled("digits", 1)
    decays = [field for field in fields(ours) if field.endswith("momentum") or field == "ema"]
    for field, value in ((field, value) for field in decays for value in (1.0, 2.0, -0.1)):
        (told,) = dataclasses.replace(ours, **{field: value}).check()
        said = re.fullmatch(rf"method.{field} = {value} .* >= 0 and < 1. Nearest valid: ([\d.]+)\.", told)
        assert said and dataclasses.replace(ours, **{field: float(said[1])}).check() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method.budget", "full"], "allowed: card, published. Nearest valid: card."),
        (["--method", "idc", "--method.ops", "crop,foo"], "'foo' is not known; .*rotate. Nearest valid: crop."),
        (["--method", "rat_bptt", "--method.ops", "foo"], "'foo' is not known; .*Nearest valid: color."),
        (["--method", "dm", "--method.lr", "abc"], "allowed: a number or None. For example: 0.1."),
        (["--method", "dm", "--method.steps", "abc"], "allowed: a whole number or None. For example: 1."),
        (["--method", "mtt", "--method.labels", "learnd"], "allowed: hard, teacher, learned, None. Did you mean 'l"),
        (["--evaluate.protocol", "P-XX"], "Nearest valid: P-DC."),
        (["--evaluate.protocol", "ddjx"], "Did you mean 'ddjax-1'"),
        (["--evaluate.baselines", "kmeans,zzz"], "'zzz' is not known; .*Nearest valid: kmeans."),
        (["--method", "dsm"], "Did you mean 'dsa'|Did you mean 'dm'"),
        (["--method", "k-means"], "Did you mean 'kmeans'"),
        (["--method", "rat-bptt"], "Did you mean 'rat_bptt'"),
        (["--method", "dm", "--method.arch", "convnet3-batch"], "Nearest valid: convnet3."),
        (["--method", "dm", "--method.arch", "resnet18"], "Nearest valid: resnet18-instance."),
        (["--method", "dm", "--method.ipc", "200"], r"method.ipc = 200 is out of range; .*Nearest valid: \d+"),
        (["--method", "dm", "--method.ipc", "50", "--method.factor", "3"], r"method.factor = 3 .*Nearest valid: 1"),
        (["--method", "herding", "--method.steps", "5"], "--method.steps is not known"),
        (["--method", "rded", "--method.steps", "5"], "--method.steps is not known"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_done(words, told, tmp_path, capsys):
    run = ["--config", str(ROOT / "configs" / "digits.py"), "--workdir", str(tmp_path / "run"), *words]
    assert exit_code(launch.main, run) == 2
    said = capsys.readouterr().err

    assert re.search(told, said), said
    assert not (tmp_path / "run").exists()
