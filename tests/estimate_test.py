"""``--check``: every configuration resolves, its memory is estimated from shapes, data are needed for neither."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import config, estimate, launch, liveness, models
from ddjax.__main__ import exit_code
from ddjax.errors import DataError
from ddjax.methods import METHODS
from ddjax.methods.dm import DM
from ddjax.types import Net, Outputs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def checked(*argv):
    return exit_code(launch.main, [*map(str, argv), "--check"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_is_checked_without_data(path, monkeypatch, capsys, tmp_path):
    def absent(*args, **kwargs):
        raise DataError("the data are elsewhere")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "open_data", absent)
    monkeypatch.setattr(estimate, "device_bytes", lambda: 1 << 40)
    assert checked("--config", path) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "--check: by shapes alone, without the data: the data are elsewhere\n" in said.err
    run = config.read_config(str(path))
    assert found["schema"] == 1 and found["fits"] is True and found["device_bytes"] == 1 << 40
    told = {"teachers", "distill", "evaluate"} | ({"experts"} if run.filled().method.needs.experts else set())
    assert set(found["stages_bytes"]) == told
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


def test_a_set_without_a_card_is_checked_where_it_can_be_read(tmp_path, capsys):
    assert checked("--data.train", "folder:/nowhere") == 2
    assert "--data.card" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, (60, 8, 8, 3), np.uint8), labels=np.arange(60) % 3)
    flags = ("--data.train", f"npz:{tmp_path / 'a.npz'}", "--teacher.arch", "convnet1-w8-batch", "--method.ipc", "2",
             "--method.steps", "2")  # fmt: skip
    assert checked(*flags, "--evaluate.archs", "mlp") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["image_shape"], found["classes"], found["images"]) == ([8, 8, 3], 3, 6)


def test_more_images_than_the_smallest_class_has_are_refused_where_the_data_can_be_read(capsys, tmp_path):
    argv = ("--config", ROOT / "configs" / "digits.py", "--method.ipc", "500", "--workdir", tmp_path / "run")
    assert checked(*argv) == 2
    said = capsys.readouterr()
    assert "method.ipc = 500 is out of range; allowed: <= " in said.err and "smallest class" in said.err
    assert said.out == "" and not (tmp_path / "run").exists()


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


ROW = jax.ShapeDtypeStruct((1000,), jnp.float32)  # 4000 bytes


def test_what_lives_at_once_is_counted_by_hand():
    assert liveness.of(lambda x: x, ROW) == 4000
    assert liveness.of(lambda x: x + 1.0, ROW) == 8000
    assert liveness.of(lambda x: (x + 1.0) * 2.0, ROW) == 12000  # what is added to stays with the caller
    assert liveness.of(lambda x: ((x + 1.0) * 2.0) - 3.0, ROW) == 12000  # the sum is read no more
    assert liveness.of(lambda x: jax.jit(lambda y: (y + 1.0) * 2.0)(x), ROW) == 12000
    one = liveness.of(lambda x: jnp.sum(x * 3.0), ROW)
    assert one == 8004
    branches = lambda x: jax.lax.cond(True, lambda y: jnp.sum((y + 1.0) * 2.0), lambda y: jnp.float32(0.0), x)  # noqa: E731
    assert 12000 <= liveness.of(branches, ROW) <= 12020


def chain(remat: bool, steps: int) -> int:
    """Peak of the gradient of ``steps`` steps that each keep two rows for the way back, or one with remat."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.sin(jnp.exp(x)), None

    body = jax.checkpoint(step) if remat else step
    return liveness.of(jax.grad(lambda x: jnp.sum(jax.lax.scan(body, x, None, length=steps)[0])), ROW)


def test_a_loop_keeps_its_residuals_and_remat_makes_them_again():
    stored, again = (chain(remat, 20) - chain(remat, 10) for remat in (False, True))
    assert stored == 10 * 2 * 4000 and again == 10 * 4000


def distilling(name: str, card: str = "cifar10", how: str = "scan", **more: Any) -> tuple[int, int]:
    """Bytes of a method's step on a card, and of its network's parameters."""
    cls: Any = METHODS[name]
    run = config.settled(config.Run(data=config.Data(train=card), method=cls(ipc=1, **more)))
    shape, classes, found = estimate.problem(run)
    net = models.build(run.method.arch, image_shape=shape, classes=classes)
    return estimate.distilling(run, net, net, classes, found, how), estimate.nbytes(
        jax.eval_shape(net.init, jax.random.key(0))[0]
    )


def test_trajectory_matching_grows_by_parameters_not_by_activations():
    small: Any = dict(arch="convnet3-w32", experts=2)
    (ten, weights), (twenty, _), (forty, _) = (distilling("mtt", inner_steps=n, **small) for n in (10, 20, 40))
    assert 0 < forty - twenty == 2 * (twenty - ten) and (twenty - ten) / 10 <= 2.2 * weights
    maps = 32 * 32 * 32 * 4 * 10  # the first layer's, of ten images: what a step without remat would keep, and more
    assert maps > 2.2 * weights


def test_class_by_class_only_one_class_is_alive():
    ten, hundred = (distilling("dm", card, arch="convnet3-w32")[0] for card in ("cifar10", "cifar100"))
    fed = 90 * (256 + 6) * 32 * 32 * 3 * 4  # real images and a few copies of the set's
    assert 0 < hundred - ten < 1.5 * fed
    at_once = distilling("dm", "cifar10", "vmap", arch="convnet3-w32")[0]
    assert at_once > 4 * ten


def test_the_estimate_is_near_what_the_compiler_reserves():
    run = config.settled(config.Run(method=DM(ipc=2, arch="convnet3-w32", real_batch=32, dsa=False)))
    shape, classes, card = estimate.problem(run)
    net = models.build("convnet3-w32", image_shape=shape, classes=classes)
    told = estimate.distilling(run, net, net, classes, card, "scan")
    problem = estimate.context(run.method, net, card, shape, classes, estimate.Spread("scan").mean)
    distiller = run.method.build(problem)
    images = jax.ShapeDtypeStruct((2 * classes, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2 * classes,), jnp.int32)
    state = jax.eval_shape(distiller.init, jax.random.key(0), images, labels)
    batch = estimate.fed(run.method.needs, net, net, 1, classes, card)
    reserved: Any = jax.jit(distiller.step).lower(jax.random.key(0), state, batch).compile().memory_analysis()
    held = reserved.temp_size_in_bytes + reserved.argument_size_in_bytes + reserved.output_size_in_bytes
    assert 0.5 * held <= estimate.FACTOR * told <= 2.5 * held
