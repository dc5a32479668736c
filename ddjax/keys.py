"""All randomness is a function of (seed, name, step); nothing here has a state."""

import zlib

import jax
import numpy as np


def key(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of stream ``name`` at ``step``: ``fold_in(fold_in(key(seed), crc32(name)), step)``."""
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(stream, step)


def numpy_rng(seed: int, name: str, step: int = 0) -> np.random.Generator:
    """The same idea for host-side draws: a Philox generator that is a function of (seed, name, step)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode()), step])))
