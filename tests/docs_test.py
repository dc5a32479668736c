"""The pages are followed literally: the method of docs/add-a-method.md is built and run from its text."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ddjax import config, launch
from ddjax.__main__ import exit_code
from ddjax.synset import DistilledSet

ROOT = Path(__file__).resolve().parents[1]


def code_of(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


def test_the_method_of_the_page_distils(tmp_path, monkeypatch):
    (tmp_path / "mean_match.py").write_text(code_of("add-a-method.md")[0])
    monkeypatch.chdir(tmp_path)
    words = ["--config", "mean_match.py", "--method.rate", "0.2", "--workdir", "run", "--only", "teachers", "distill"]
    assert launch.main(words) == 0
    made = DistilledSet.load(tmp_path / "run")
    flat = made.images.reshape(10, -1).astype(float)
    assert np.abs(flat - flat.mean(axis=0)).mean() < 20  # twenty steps towards one mean: the images are alike
    again: Any = config.load(["--config", "run/config.json"])[0]
    assert again.method.rate == 0.2


def loaded(path: Path) -> ModuleType:
    """A file of tests/ or benchmarks/ as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_for_the_pages", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_matching_method_of_the_page_distils(tmp_path, monkeypatch, capsys):
    (tmp_path / "second_moments.py").write_text(code_of("add-a-method.md")[1])
    monkeypatch.chdir(tmp_path)
    words = ["--config", "second_moments.py", "--method.factor", "2", "--only", "teachers", "distill"]
    assert launch.main([*words, "--workdir", "run"]) == 0
    made = DistilledSet.load(tmp_path / "run")
    again: Any = config.load(["--config", "run/config.json"])[0]
    assert made.images.shape == (10, 8, 8, 1) and made.decoded().images.shape == (40, 8, 8, 1)
    assert made.images.dtype == np.float32 and again.method.steps == 20  # STORE and DEFAULTS of the page
    lines = [json.loads(line)["values"] for line in (tmp_path / "run/records.jsonl").read_text().splitlines()]
    assert np.isfinite([values["loss"] for values in lines if "loss" in values]).all()
    slips = ["--method.arch", "convnet2-batch", "--method.steps", "0", "--method.real_batch", "0", "--method.lr", "0"]
    assert exit_code(launch.main, ["--config", "second_moments.py", *slips]) == 2
    said = capsys.readouterr().err
    assert "method.arch" in said and "Nearest valid: convnet2." in said and "method.steps = 0" in said
    assert "method.lr = 0.0 is out of range; allowed: > 0. Nearest valid: 1.0." in said


def test_the_pages_line_serves_in_the_battery(tmp_path, monkeypatch):
    (tmp_path / "second_moments.py").write_text(code_of("add-a-method.md")[1])
    text = (ROOT / "docs" / "add-a-method.md").read_text()
    line = re.search(r'"second_moments": dict\(([^)]*)\),', text)
    assert line is not None
    small = dict(pair.split("=") for pair in line.group(1).split(", "))
    battery, cls = loaded(ROOT / "tests/methods/battery_test.py"), loaded(tmp_path / "second_moments.py").SecondMoments
    monkeypatch.setitem(battery.METHODS, "second_moments", cls)
    monkeypatch.setitem(
        battery.SMALL, "second_moments", {key: float(v) if "." in v else int(v) for key, v in small.items()}
    )
    trial = battery.Trial("second_moments")
    battery.test_contract(trial)
    battery.test_a_step_is_traced_once_whatever_it_is_given(trial)
    battery.test_the_loss_falls(trial)
    battery.test_a_run_that_was_killed_ends_with_the_same_bits(trial, tmp_path / "killed", monkeypatch)


def test_the_pages_of_the_methods_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = loaded(ROOT / "benchmarks/methods_pages.py").pages()
    stale = [path for path, text in made.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    assert stale == [], "python benchmarks/methods_pages.py"
    assert {f"docs/methods/{path.name}" for path in (ROOT / "docs/methods").glob("*.md")} <= set(made)


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:docs|configs)/[\w./-]+|[A-Z]+\.(?:md|cff))`", text))
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        ("return State(images[:1]),", r"state\.images: float32\[10, 8, 8, 1\] becomes float32\[1, 8, 8, 1\]"),
        ("return State(images @ images[0, 0]),", r"line \d+: (TypeError|ValueError): "),
    ],
)
def test_a_slip_in_the_users_own_method_is_told_by_file_and_line(slip, told, tmp_path, monkeypatch, capsys):
    code = code_of("add-a-method.md")[0]
    assert "return State(images)," in code
    (tmp_path / "slipped.py").write_text(code.replace("return State(images),", slip))
    monkeypatch.chdir(tmp_path)
    assert exit_code(launch.main, ["--config", "slipped.py", "--workdir", "run", "--only", "teachers", "distill"]) == 2
    assert re.search(told, capsys.readouterr().err)
