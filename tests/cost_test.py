"""Wall time, peak memory and compile time add up, also across resumed runs."""

import time

import jax
import jax.numpy as jnp
import pytest

from ddjax import cost
from ddjax.cost import Cost


def test_stages_accumulate_and_survive_a_resume():
    first = Cost()
    with first.stage("distill"):
        time.sleep(0.02)
    with pytest.raises(RuntimeError), first.stage("distill"):
        time.sleep(0.02)
        raise RuntimeError
    before = first.as_dict()
    assert before["schema"] == 1
    assert 0.04 <= before["wall_s"]["distill"] < 1
    second = Cost(before)
    with second.stage("distill"):
        time.sleep(0.02)
    with second.stage("label"):
        pass
    after = second.as_dict()
    assert after["wall_s"]["distill"] >= before["wall_s"]["distill"] + 0.02
    assert after["wall_s"]["label"] < 0.02
    assert Cost(after | {"peak_memory_bytes": 1 << 60}).peak_memory_bytes() == 1 << 60


def test_compilation_is_heard_once_per_program():
    spent = Cost({"compile_s": 100.0})
    assert spent.compile_s == 100.0
    function = jax.jit(lambda x: jnp.cos(x) * 3 + 1)
    function(jnp.ones(17))
    once = spent.compile_s
    assert once > 100
    function(jnp.ones(17))
    assert spent.compile_s - once < 0.01


def test_peak_memory_is_that_of_the_process_on_a_cpu():
    assert 50e6 < cost.peak_memory_bytes() < 500e9
