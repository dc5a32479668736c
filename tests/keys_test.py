"""Named key streams: a function of (seed, name, step), and of nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ddjax import keys


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


CASES = list(itertools.product((0, 1, 7), ("pool", "view", "student/0"), (0, 1, 2)))


def test_keys_are_distinct_and_repeatable():
    found = [bits(keys.key(*case)) for case in CASES]
    assert len(set(found)) == len(CASES)
    assert found == [bits(keys.key(*case)) for case in CASES]


def test_the_step_may_be_traced_and_nothing_is_compiled_twice():
    traces = []

    @jax.jit
    def draw(step):
        traces.append(1)
        return jax.random.key_data(keys.key(3, "pool", step))

    for step in range(4):
        np.testing.assert_array_equal(draw(jnp.int32(step)), jax.random.key_data(keys.key(3, "pool", step)))
    assert len(traces) == 1


def test_a_pool_member_drawn_at_every_step_is_uniform():
    steps = jnp.arange(10_000, dtype=jnp.int32)
    members = jax.jit(jax.vmap(lambda step: jax.random.randint(keys.key(0, "pool", step), (), 0, 9)))(steps)
    counts = np.bincount(np.asarray(members), minlength=9)
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 1e-3
    pairs = np.bincount(np.asarray(members[::2]) * 9 + np.asarray(members[1::2]), minlength=81)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_host_generators_are_distinct_repeatable_and_uniform():
    found = [keys.numpy_rng(*case).integers(2**62) for case in CASES]
    assert len(set(found)) == len(CASES)
    assert found == [keys.numpy_rng(*case).integers(2**62) for case in CASES]
    first = [keys.numpy_rng(0, "pool", step).integers(9) for step in range(5000)]
    assert stats.chisquare(np.bincount(first, minlength=9)).pvalue > 1e-3


def test_a_draw_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    keys.numpy_rng(0, "pool", 1).normal(size=10)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
