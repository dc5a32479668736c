"""Bit-exact round trips, named refusals, and a SIGKILL at any instant."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddjax.checkpoint import Checkpoint
from ddjax.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[1]


class State(NamedTuple):
    params: dict
    key: jax.Array
    rest: tuple


def _state(fill: float = 0.0) -> State:
    weights = jnp.arange(16.0).reshape(8, 2) + fill
    params = {"w": weights, "half": jnp.ones(3, jnp.bfloat16), "none": jnp.zeros((0, 3))}
    rest = (3, 2.5, True, None, np.arange(3), np.float32(7), jnp.array([True, False]))
    return State(params, jax.random.split(jax.random.key(5), 2), rest)


def _leaves(tree):
    keyed = lambda x: hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    data = [jax.random.key_data(x) if keyed(x) else x for x in jax.tree.leaves(tree)]
    return [(type(x), str(np.asarray(x).dtype), np.asarray(x).tobytes()) for x in data]


def test_round_trip_is_bit_exact_and_keeps_kinds(tmp_path):
    state = _state()
    with Checkpoint(tmp_path / "c") as checkpoint:
        assert checkpoint.restore(state, config_hash="h") is None
        assert checkpoint.latest() is None
        for step in (1, 4, 9):
            checkpoint.save(step, _state(step), "h")
        checkpoint.save(9, _state(1000), "h")
    with Checkpoint(tmp_path / "c") as checkpoint:
        restored, step = checkpoint.restore(state, config_hash="h")
    assert step == 9
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert _leaves(restored) == _leaves(_state(9))
    assert restored.key.dtype == state.key.dtype
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["4", "9"]
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.clear()
        assert checkpoint.latest() is None
        checkpoint.save(1, state, "h")


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    advance = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    state = advance(jnp.arange(1e6, dtype=jnp.float32))
    expected = np.array(state)
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(1, {"x": state}, "h")
        for _ in range(5):
            state = advance(state)
        like = {"x": jax.ShapeDtypeStruct(expected.shape, jnp.float32)}
        jax.block_until_ready(state)
    with Checkpoint(tmp_path) as checkpoint:
        restored, _ = checkpoint.restore(like, config_hash="h")
    np.testing.assert_array_equal(restored["x"], expected)


@pytest.mark.parametrize("count", [8, 4, 1])
def test_saved_on_eight_devices_restored_on_fewer(tmp_path, count):
    def sharding(n):
        mesh = Mesh(np.array(jax.devices()[:n]), ("pool",), axis_types=(AxisType.Auto,))
        return NamedSharding(mesh, PartitionSpec("pool"))

    value = jnp.arange(32.0).reshape(16, 2)
    key = jax.random.split(jax.random.key(0), 8)
    state = jax.device_put({"x": value, "key": key}, sharding(8))
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(3, state, "h")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(count)), state)
    with Checkpoint(tmp_path) as checkpoint:
        restored, step = checkpoint.restore(like, config_hash="h")
    assert step == 3
    assert restored["x"].sharding == restored["key"].sharding == sharding(count)
    assert len(restored["x"].addressable_shards) == count
    np.testing.assert_array_equal(restored["x"], value)
    np.testing.assert_array_equal(jax.random.key_data(restored["key"]), jax.random.key_data(key))


def test_another_configuration_is_refused(tmp_path):
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(3, {"x": jnp.zeros(2)}, "a" * 64)
    with (
        Checkpoint(tmp_path) as checkpoint,
        pytest.raises(CheckpointError, match=r"another configuration.*aaaaaaaaaaaa.*bbbbbbbbbbbb"),
    ):
        checkpoint.restore({"x": jnp.zeros(2)}, config_hash="b" * 64)


def test_differences_are_listed_before_anything_is_read(tmp_path):
    stored = {f"p{i:02d}": jnp.zeros(i + 1) for i in range(14)} | {"same": jnp.zeros(2), "d": 1}
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(3, stored, "h")
    like = {f"p{i:02d}": jnp.zeros(i + 2) for i in range(13)}
    like |= {"same": jnp.zeros(2), "d": jnp.zeros((), jnp.int32), "new": jnp.zeros(1)}
    with Checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError) as caught:
        checkpoint.restore(like, config_hash="h")
    lines = str(caught.value).splitlines()
    assert lines[1].strip() == "d: stored int[], wanted int32[]"
    assert lines[2].strip() == "new: not stored, wanted float32[1]"
    assert lines[3].strip() == "p00: stored float32[1], wanted float32[2]"
    assert len(lines) == 12
    assert lines[-1].strip() == "and 6 more"


def test_dtype_is_never_cast(tmp_path):
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(1, {"x": jnp.zeros(2)}, "h")
    with Checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="bfloat16"):
        checkpoint.restore({"x": jnp.zeros(2, jnp.bfloat16)}, config_hash="h")


def test_what_cannot_be_stored_is_a_type_error(tmp_path):
    with Checkpoint(tmp_path) as checkpoint:
        with pytest.raises(TypeError, match="str"):
            checkpoint.save(1, {"x": "text"}, "h")
        with pytest.raises(TypeError, match="twice"):
            checkpoint.save(1, {"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}, "h")


def test_a_damaged_step_is_named_with_the_way_out(tmp_path, capfd):
    state = {"x": jnp.arange(1000.0)}
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(1, state, "h")
        checkpoint.save(2, state, "h")
    for path in (tmp_path / "2" / "state").rglob("d/*"):
        os.truncate(path, 10)
    with (
        Checkpoint(tmp_path) as checkpoint,
        pytest.raises(CheckpointError, match=r"/2' cannot be read.*continue from step 1"),
    ):
        checkpoint.restore(state, config_hash="h")
    assert "tensorstore_spec" not in capfd.readouterr().err


# What TensorStore still had in hand when a write failed reports to an event loop that is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moved", ["before", "while"])
def test_an_error_of_a_background_save_is_fatal(tmp_path, moved, capfd):
    folder = tmp_path / "c"
    state = {"x": jnp.zeros(4_000_000)}
    checkpoint = Checkpoint(folder)
    checkpoint.save(1, state, "h")
    checkpoint.save(1, state, "h")  # waits for the first; step 1 exists
    with pytest.raises(CheckpointError, match=r"step 2 in .* was not written"):
        if moved == "while":
            checkpoint.save(2, state, "h")
        folder.rename(tmp_path / "moved")
        folder.write_text("a file where the folder was")
        if moved == "before":
            checkpoint.save(2, state, "h")
        checkpoint.close()
    assert capfd.readouterr().err == ""


WORKER = """
import sys, numpy as np
from ddjax.checkpoint import Checkpoint
like = {"a": np.zeros((64, 1000), np.float32), "b": np.zeros(3, np.int32)}
with Checkpoint(sys.argv[1]) as checkpoint:
    found = checkpoint.restore(like, config_hash="h")
    step = found[1] if found else 0
    while True:
        step += 1
        checkpoint.save(step, {k: np.full_like(v, step) for k, v in like.items()}, "h")
        print(step, flush=True)
"""


def _killed_rounds(folder: Path, rounds: int) -> None:
    rng = random.Random(rounds)
    like = {"a": np.zeros((64, 1000), np.float32), "b": np.zeros(3, np.int32)}
    last = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", WORKER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as worker:
            assert worker.stdout is not None
            announced = int(worker.stdout.readline())
            time.sleep(rng.uniform(0, 0.4))
            worker.send_signal(signal.SIGKILL)
            announced = max([announced, *(int(line) for line in worker.stdout if line[-1] == "\n")])
        with Checkpoint(folder) as checkpoint:
            found = checkpoint.restore(like, config_hash="h")
        assert found is not None or announced == 1
        if found is not None:
            state, step = found
            assert announced - 1 <= step <= announced + 1
            assert step >= last
            last = step
            for leaf in state.values():
                np.testing.assert_array_equal(leaf, np.full_like(leaf, step))
        leftovers = [p.name for p in folder.iterdir() if not p.name.isdigit()]
        assert leftovers == []
    assert last > 0


def test_sigkill_leaves_the_last_complete_step(tmp_path):
    _killed_rounds(tmp_path / "c", 3)


@pytest.mark.slow
def test_sigkill_many_times(tmp_path):
    _killed_rounds(tmp_path / "c", 40)
