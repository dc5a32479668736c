"""Wall time, peak memory and compile time add up, also across resumed runs."""

import ctypes
import platform
import resource
import sys
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


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_what_was_freed_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(64_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 64_000)
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(block)
    before = resident()
    cost.give_back()
    assert resident() < before - 60_000_000
    libc.free(blocks[-1])


def test_it_goes_back_after_a_long_compilation_only(monkeypatch):
    calls = []
    monkeypatch.setattr(cost, "give_back", lambda: calls.append(1))
    jax.jit(lambda x: jnp.sin(x) * 3 + 2)(jnp.ones(19))
    assert not calls
    monkeypatch.setattr(cost, "_LONG", 0.0)
    jax.jit(lambda x: jnp.sin(x) * 3 + 4)(jnp.ones(19))
    assert calls
