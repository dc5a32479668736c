"""The pages are followed literally: the method of docs/add-a-method.md is built and run from its text."""

import re
from pathlib import Path

import numpy as np
import pytest

from ddjax import config, launch
from ddjax.__main__ import exit_code
from ddjax.synset import DistilledSet

ROOT = Path(__file__).resolve().parents[1]


def test_the_method_of_the_page_distils(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.S)
    assert code is not None
    (tmp_path / "mean_match.py").write_text(code.group(1))
    monkeypatch.chdir(tmp_path)
    words = ["--config", "mean_match.py", "--method.rate", "0.2", "--workdir", "run", "--only", "teachers", "distill"]
    assert launch.main(words) == 0
    made = DistilledSet.load(tmp_path / "run")
    flat = made.images.reshape(10, -1).astype(float)
    assert np.abs(flat - flat.mean(axis=0)).mean() < 20  # twenty steps towards one mean: the images are alike
    again, _ = config.load(["--config", "run/config.json"])
    assert again.method.rate == 0.2


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
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.S)
    assert code is not None and "return State(images)," in code.group(1)
    (tmp_path / "slipped.py").write_text(code.group(1).replace("return State(images),", slip))
    monkeypatch.chdir(tmp_path)
    assert exit_code(launch.main, ["--config", "slipped.py", "--workdir", "run", "--only", "teachers", "distill"]) == 2
    assert re.search(told, capsys.readouterr().err)
