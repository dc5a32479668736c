"""THE loop: any method, one compiled chunk of steps, resumable to the bit.

Order: start images -> init -> restore -> [feed, run a chunk, check, record, save] -> extract. The loop knows what a
method needs (``Needs``), never which method it is; step ``i`` uses ``key(seed, "distill", i)`` and nothing else that is
random, so a run that is killed and resumed passes through the same states.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.api import make_callable
from ddjax.errors import ConfigError, DivergenceError
from ddjax.keys import key
from ddjax.rundir import stop_if_asked
from ddjax.supply import Supply
from ddjax.survey import normalise
from ddjax.types import Batch, Distiller, Made, Start, Teachers, Tree

FARTHEST = 1e4  # from 0, of a normalised image that still counts as one
CHUNK = 50


def make_chunk(distiller: Distiller, supply: Supply) -> Callable:
    """``run(base key, state, teachers, fed, start, count) -> (state, info of the last step)``, compiled once."""

    def run(base: jax.Array, state: Tree, teachers: Teachers | None, fed: Tree, start: jax.Array, count: jax.Array):
        def one(i: jax.Array, state: Tree):
            batch = Batch(step=start + i, teachers=teachers, **supply.fields(fed, i))
            state, info = distiller.step(jax.random.fold_in(base, start + i), state, batch)
            return state, dict(info)

        after, info = jax.eval_shape(one, start, state)
        check_state(state, after)
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), info)
        return jax.lax.fori_loop(0, count, lambda i, carry: one(i, carry[0]), (state, nothing))

    return jax.jit(run, donate_argnums=1)


def distill(
    distiller: Distiller,
    supply: Supply,
    teachers: Teachers | None,
    first: Start,
    *,
    log,
    checkpoint,
    config_hash: str,
    every: int,
) -> Made:
    """Run a method to its end from the real images ``first``; returns what it made, float32, normalised space."""
    seed, card = supply.seed, supply.data.card
    images = normalise(jnp.asarray(first.images), card.mean, card.std)
    given = [jnp.asarray(a) for a in (first.labels, first.logits) if a is not None]
    state = jax.jit(distiller.init)(key(seed, "distill-init"), images, *given)
    start, base, chunk = 0, key(seed, "distill"), supply.longest(min(CHUNK, every))
    found = checkpoint.restore(state, config_hash=config_hash)
    if found is not None:
        state, start = found
    saved = start
    run = make_chunk(distiller, supply)
    with log.progress("distill", distiller.steps) as bar:
        bar.advance(start)
        while start < distiller.steps:
            stop_if_asked(checkpoint, start, state, config_hash)
            count = min(chunk, distiller.steps - start)
            fed = supply.chunk(start, chunk)
            state, info = run(base, state, teachers, fed, jnp.int32(start), jnp.int32(count))
            values = {name: float(v) for name, v in jax.device_get(info).items()}
            check_finite(values, start, count, saved)
            log.record("distill", start + count, **values)
            before, start = start, start + count
            if start < distiller.steps and start // every > before // every:
                checkpoint.save(start, state, config_hash)
                saved = start
            bar.advance(count, **values)
    made = distiller.extract(state)
    found = jax.tree.map(np.asarray, made if isinstance(made, Made) else Made(made))
    check_images(found.images, saved)
    return found


def check_state(before: Tree, after: Tree) -> None:
    """ConfigError where a method's step does not hand on the state as it got it: other parts, shapes or types."""

    def parts(tree: Tree) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}

    old, new = parts(before), parts(after)
    changed = [f"state{name}: {old.get(name, 'nothing')} becomes {new.get(name, 'nothing')}"
               for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]  # fmt: skip
    if changed:
        raise ConfigError(
            f"method: its step changes the state: {'; '.join(changed)}. Allowed: the same shapes and types."
        )


def check_finite(values: dict[str, Any], start: int, count: int, saved: int) -> None:
    """DivergenceError that names the window of steps and the last good checkpoint."""
    odd = [name for name, value in values.items() if not np.isfinite(value)]
    if odd:
        raise DivergenceError(
            f"distill: {', '.join(odd)} not finite in steps {start}..{start + count - 1}; last good checkpoint: step "
            f"{saved}. Lower the method's learning rate."
        )


def check_images(images: np.ndarray, saved: int) -> None:
    """DivergenceError for images that have left all bounds though each loss was finite."""
    most = float(np.abs(images).max(initial=0.0))
    if not most <= FARTHEST:
        raise DivergenceError(
            f"distill: the images reach {most:.2g} (normalised; legal ones stay near 0); last good checkpoint: step "
            f"{saved}. Lower the method's learning rate, --method.lr."
        )


def to_pixels(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised float images as uint8: ``round(255 (x std + mean))``, clipped to 0..255."""
    scaled = 255.0 * (images * np.asarray(std, np.float32) + np.asarray(mean, np.float32))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


make_callable(__name__)
