"""``--check``: every configuration resolves and its memory is estimated from shapes; no data is touched."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ddjax import config, estimate, launch
from ddjax.__main__ import exit_code
from ddjax.types import Net, Outputs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def checked(*argv):
    return exit_code(launch.main, [*map(str, argv), "--check"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_is_checked_without_data(path, monkeypatch, capsys, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("data was touched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "open_data", refuse)
    monkeypatch.setattr(estimate, "device_bytes", lambda: 1 << 40)
    assert checked("--config", path) == 0
    found = json.loads(capsys.readouterr().out)
    run = config.read_config(str(path))
    assert found["schema"] == 1 and found["fits"] is True and found["device_bytes"] == 1 << 40
    assert set(found["stages_bytes"]) == {"teachers", "distill", "evaluate"}
    assert found["needed_bytes"] == max(found["stages_bytes"].values()) > 0
    assert found["images"] == found["classes"] * run.method.ipc
    if run.data.size:
        assert found["image_shape"][:2] == [run.data.size] * 2
    assert min(found["stages_bytes"].values()) > found["images"] * math.prod(found["image_shape"])
    assert not list(tmp_path.iterdir())


def test_a_run_that_does_not_fit_exits_with_two(monkeypatch, capsys, tmp_path):
    argv = ("--config", ROOT / "configs" / "digits.py", "--workdir", tmp_path / "run")
    assert checked(*argv) == 0
    said = capsys.readouterr()
    needed = json.loads(said.out)["needed_bytes"]
    assert "--check: fits." in said.err
    monkeypatch.setattr(estimate, "device_bytes", lambda: needed - 1)
    assert checked(*argv) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["fits"] is False and "does not fit" in said.err
    monkeypatch.setattr(estimate, "device_bytes", lambda: needed)
    assert checked(*argv) == 0
    assert not (tmp_path / "run").exists()


def test_a_set_without_a_card_cannot_be_checked(capsys):
    assert checked("--data.train", "folder:/nowhere") == 2
    assert "--data.card" in capsys.readouterr().err


def test_more_of_anything_needs_more(monkeypatch, capsys):
    def needed(*flags):
        assert checked("--config", ROOT / "configs" / "digits.py", *flags) == 0
        return json.loads(capsys.readouterr().out)["stages_bytes"]

    base = needed()
    assert needed("--teacher.batch", "256")["teachers"] > base["teachers"]
    assert needed("--evaluate.seeds", "9")["evaluate"] > base["evaluate"]
    assert needed("--method.ipc", "5")["distill"] > base["distill"]
    assert needed("--method.objective", "inner")["distill"] > base["distill"]  # gradients of the pool


def toy():
    """logits = x W with W [4, 3]: every byte of it can be counted by hand."""

    def init(key):
        return {"w": jnp.zeros((4, 3), jnp.float32)}, {"seen": jnp.zeros((2,), jnp.float32)}

    def apply(params, state, x, *, train, key=None, taps=False):
        logits = jnp.matmul(x.reshape(x.shape[0], 4), params["w"])
        return Outputs(logits, logits, {}, state)

    return Net("toy", init, apply, lambda state: {}, (2, 2, 1), 3)


def test_training_of_a_linear_map_is_counted_by_hand():
    params, state, batch = 4 * 12, 4 * 2, 4 * 5 * 4
    kept = batch  # the derivative in W needs x
    one = 4 * params + state + kept + 2 * batch  # weights, gradient, two moments; residuals; images twice
    assert estimate.training(toy(), 1, 5, "scan") == one
    assert estimate.training(toy(), 3, 5, "scan") == 3 * (4 * params + state) + kept + 2 * batch
    assert estimate.training(toy(), 3, 5, "vmap") == 3 * one


def test_bytes_of_a_tree_leave_out_keys():
    tree = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": [jnp.zeros(5, jnp.int8)], "key": jax.random.key(0)}
    assert estimate.nbytes(tree) == 24 + 5
    assert estimate.device_bytes() > 1 << 28
