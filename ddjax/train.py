"""Supervised training of a pool of networks as one pure, once-compiled program: teachers and students alike.

    theta_{t+1} = theta_t - lr * schedule(t) * u(g_t),    g_t = grad loss(theta_t; batch_t)

``M`` members train side by side (mapped and dealt to devices by ``over``); a batch is made inside the program by
``make_batch(data, x)`` from data that stays on the device and a small per-step input ``x``.
``fold = (init, update)`` watches training without changing it: snapshots, statistics of the path, forgetting counts.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.errors import DivergenceError
from ddjax.kernels import labels as losses
from ddjax.mesh import Spread
from ddjax.rundir import stop_if_asked
from ddjax.types import Net, Tree


class Recipe(NamedTuple):
    """How the weights move (static)."""

    optimiser: str = "sgd"  # sgd (heavy ball) | adamw (decoupled decay) | adam (no decay)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: int = 0  # steps of linear warm-up before the cosine
    tau: float = 1.0  # temperature of the loss on soft targets
    decay: str = "weights"  # what decays: weights (leaves of two or more dimensions) | all
    shape: str = "cosine"  # of the rate: cosine | stairs | tail | steps | warm; see rate_factor
    every: int = 1  # steps for which the rate of stairs and tail stays
    stretch: float = 1.0  # stairs: how many times the training's length the cosine's half period is
    drops: tuple[int, ...] = ()  # steps: from which update on the rate is multiplied by drop, each time
    drop: float = 0.1
    forget: bool = False  # steps: the momentum is lost at a drop
    floor: float = 0.0  # warm: the rate's last value, a share of the peak
    hard: str = "ce"  # loss on probabilities: ce | mse (on targets as they are given)
    soft: str = "kl"  # loss on teacher logits: kl (tau^2 KL) | plain_kl (KL) | ce (their softmax) | mse (the same,
    # centred) | mse_ce (mean squared difference of logits + ce times the cross-entropy with the image's class)
    ce: float = 0.0
    clean: bool = False  # before each update a pass over the unmixed images moves the running statistics


class Example(NamedTuple):
    """One batch as the step sees it: targets are probabilities when ``soft`` is 0, teacher logits when it is 1."""

    images: jax.Array  # [B, H, W, D] normalised
    targets: jax.Array  # [B, C]
    soft: jax.Array  # [] 0. or 1.
    index: jax.Array | None = None  # [B] positions of the images in their split, for a fold that asks which they were
    logits: jax.Array | None = None  # [B, C] what the network said of them before the update; the step fills it in
    weight: jax.Array | None = None  # [B] 1. for what counts, 0. for what fills up a short last batch; None: all count
    hard: jax.Array | None = None  # [B, C] the images' own classes, unmixed, for the loss mse_ce
    clean: jax.Array | None = None  # [B, H, W, D] the images unmixed, for a recipe that asks


class Member(NamedTuple):
    """What survives to a member's next step; stacked on a leading axis ``M`` outside the map."""

    params: Tree
    state: Tree
    optimiser: Tree
    lr: jax.Array  # [] peak learning rate
    mask: Tree  # {} or a tree like params of zeros (held at zero) and ones
    fold: Tree


class Fold(NamedTuple):
    """What watches training: ``init(params, state)``, ``update(carry, step, params, state, grads, batch)``; pure."""

    init: Callable[..., Tree] = lambda params, state: {}
    update: Callable[..., Tree] = lambda carry, step, params, state, grads, batch: carry


def transform(recipe: Recipe, params: Tree) -> optax.GradientTransformation:
    """The update direction of a recipe, before the learning rate."""
    weights = jax.tree.map(lambda p: p.ndim > 1 or recipe.decay == "all", params)
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=weights)
    if recipe.optimiser == "adam":
        return optax.chain(optax.scale_by_adam())
    if recipe.optimiser == "adamw":
        return optax.chain(optax.scale_by_adam(), decay)
    return optax.chain(decay, optax.trace(recipe.momentum))


def schedule(step: jax.Array, total: jax.Array, warmup: int) -> jax.Array:
    """Linear warm-up over ``warmup`` steps, then cosine to 0 at ``total``; a factor in [0, 1]."""
    step, total = step.astype(jnp.float32), total.astype(jnp.float32)
    rise = (step + 1.0) / max(warmup, 1)
    phase = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    return jnp.where(step < warmup, rise, 0.5 * (1.0 + jnp.cos(jnp.pi * phase)))


def rate_factor(recipe: Recipe, step: jax.Array, total: jax.Array) -> jax.Array:
    """The rate at update ``step`` of ``total`` as a share of its peak; e = floor(step / every), E = total / every.

    cosine  warm-up, then 1/2 (1 + cos(pi t / T)) by updates (``schedule``)
    stairs  1/2 (1 + cos(pi e / (stretch E)))
    tail    the same with stretch 2 up to e = 5 E / 6; from there 1/2 (1 + cos(5 pi / 12)) (1 - e / E)
    steps   drop ** (how many of ``drops`` are past)
    warm    step / warmup, then a cosine from 1 to ``floor`` at the end
    """
    if recipe.shape == "cosine":
        return schedule(step, total, recipe.warmup)
    if recipe.shape == "steps":
        past = sum(((step >= at).astype(jnp.float32) for at in recipe.drops), start=jnp.float32(0.0))
        return jnp.float32(recipe.drop) ** past
    if recipe.shape == "warm":
        at, end = step.astype(jnp.float32), total.astype(jnp.float32)
        phase = jnp.clip((at - recipe.warmup) / jnp.maximum(end - recipe.warmup, 1.0), 0.0, 1.0)
        fall = recipe.floor + (1.0 - recipe.floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * phase))
        return jnp.where(at < recipe.warmup, at / max(recipe.warmup, 1), fall)
    if recipe.shape not in ("stairs", "tail"):
        raise ValueError(f"recipe: shape = {recipe.shape!r}; allowed: cosine, stairs, tail, steps, warm.")
    share = (step // recipe.every).astype(jnp.float32) * recipe.every / total.astype(jnp.float32)
    if recipe.shape == "stairs":
        return 0.5 * (1.0 + jnp.cos(jnp.pi * share / recipe.stretch))
    smooth = 0.5 * (1.0 + jnp.cos(jnp.pi * share / 2.0))
    return jnp.where(share <= 5.0 / 6.0, smooth, 0.5 * (1.0 + math.cos(5 * math.pi / 12)) * (1.0 - share))


def batch_loss(logits: jax.Array, batch: Example, tau: float) -> jax.Array:
    """Cross-entropy to probabilities, or ``tau^2 KL`` to teacher logits, as the batch says."""
    targets = batch.targets.astype(logits.dtype)
    soft = losses.soft_kl(logits, targets, tau)
    return jnp.where(batch.soft > 0.5, soft, losses.cross_entropy(logits, targets))


def loss_of(recipe: Recipe, logits: jax.Array, batch: Example) -> jax.Array:
    """The loss of a batch under a recipe: by the kind of its targets, over the images that count."""
    if (recipe.hard, recipe.soft) == ("ce", "kl") and batch.weight is None:
        return batch_loss(logits, batch, recipe.tau)
    targets = batch.targets.astype(logits.dtype)
    hard = losses.by_image(recipe.hard, logits, targets)
    if recipe.soft == "mse_ce":
        if batch.hard is None:
            raise ValueError("the loss mse_ce needs the images' classes.")
        soft = jnp.mean((logits - targets) ** 2, axis=-1) + recipe.ce * losses.by_image("ce", logits, batch.hard)
    elif recipe.soft in ("kl", "plain_kl"):
        soft = losses.by_image("kl", logits, targets, recipe.tau) * (recipe.tau**2 if recipe.soft == "kl" else 1.0)
    else:
        soft = losses.by_image(recipe.soft, logits, losses.as_probabilities(recipe.soft, targets))
    each = jnp.where(batch.soft > 0.5, soft, hard)
    return jnp.mean(each) if batch.weight is None else jnp.sum(each * batch.weight) / jnp.sum(batch.weight)


def init_member(net: Net, recipe: Recipe, key: jax.Array, lr: float | jax.Array, fold: Fold | None = None) -> Member:
    """A fresh member; call it under ``jax.vmap`` over keys and rates for a pool."""
    return member_of(recipe, *net.init(key), lr, fold=fold)


def member_of(
    recipe: Recipe, params: Tree, state: Tree, lr: Any, *, mask: Tree = None, fold: Fold | None = None
) -> Member:
    """A member that starts from given weights; ``mask`` holds the zeros of a pruned network at zero."""
    carry = (fold or Fold()).init(params, state)
    optimiser = transform(recipe, params).init(params)
    return Member(params, state, optimiser, jnp.asarray(lr, jnp.float32), mask or {}, carry)


def make_step(net: Net, recipe: Recipe, make_batch: Callable, fold: Fold | None = None) -> Callable:
    """``step(member, data, x, step, total) -> (member, loss)`` of one member; pure."""
    fold = fold or Fold()

    def step(member: Member, data: Tree, x: Tree, count: jax.Array, total: jax.Array):
        batch, before = make_batch(data, x), member.state
        if recipe.clean and batch.clean is not None and jax.tree.leaves(before):
            before = net.apply(member.params, before, batch.clean, train=True).state

        def loss(params):
            out = net.apply(params, before, batch.images, train=True)
            return loss_of(recipe, out.logits, batch), (out.state, out.logits)

        (value, (state, logits)), grads = jax.value_and_grad(loss, has_aux=True)(member.params)
        if member.mask:
            grads = jax.tree.map(jnp.multiply, grads, member.mask)
        optimise, moved = transform(recipe, member.params), member.optimiser
        if recipe.forget:
            kept = jnp.all(count != jnp.asarray(recipe.drops, count.dtype)).astype(jnp.float32)
            moved = jax.tree.map(lambda m: m * kept.astype(m.dtype), moved)
        direction, optimiser = optimise.update(grads, moved, member.params)
        rate = member.lr * rate_factor(recipe, count, total)
        params = jax.tree.map(lambda p, d: p - rate * d, member.params, direction)
        carry = fold.update(member.fold, count, params, state, grads, batch._replace(logits=logits))
        return Member(params, state, optimiser, member.lr, member.mask, carry), value

    return step


def average(decay: float) -> Fold:
    """A fold that holds the running average of the weights, ``a <- decay a + (1 - decay) theta``, from the first on."""

    def update(carry, step, params, state, grads, batch):
        return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, carry, params)

    return Fold(lambda params, state: jax.tree.map(jnp.copy, params), update)


def make_run(step: Callable, over: Spread) -> Callable:
    """``run(members [M], data, xs [M, n], start, count, total) -> (members, mean loss [M])``, compiled once.

    Takes the first ``count <= n`` inputs of ``xs``; the members' buffers are donated; ``data`` is shared by them.
    """

    def one(member: Member, inputs: Tree, data: Tree, start: jax.Array, count: jax.Array, total: jax.Array):
        def body(i, carry):
            member, summed = carry
            x = jax.tree.map(lambda a: a[i], inputs)
            member, value = step(member, data, x, start + i, total)
            return member, summed + value

        member, summed = jax.lax.fori_loop(0, count, body, (member, jnp.float32(0.0)))
        return member, summed / count.astype(jnp.float32)

    def run(members: Member, data: Tree, xs: Tree, start: jax.Array, count: jax.Array, total: jax.Array):
        return over.map(one, 2)(members, xs, data, start, count, total)

    return jax.jit(run, donate_argnums=0)


CHUNK = 50  # steps that one call of a compiled program takes, at most


class Chunk(NamedTuple):
    """What a stretch of training is fed: shared ``data`` and per-member inputs ``xs [M, n, ...]``."""

    data: Tree
    xs: Tree


def fit(
    run: Callable,
    members: Member,
    chunks: Callable[[int, int], Chunk],
    *,
    steps: int,
    stage: str,
    chunk: int = CHUNK,
    advance: Callable[..., None] = lambda n, **shown: None,
    checkpoint: Any = None,
    config_hash: str = "",
    every: int = 500,
    finite: bool = True,
    marks: tuple[int, ...] = (),
    look: Callable[[int, Member], None] = lambda step, members: None,
) -> Member:
    """Train ``members`` for ``steps`` steps; resumes from ``checkpoint`` and saves to it about every ``every`` steps.

    ``look(step, members)`` is called after the updates that ``marks`` names (before a checkpoint of that step).

    ``chunks(start, n)`` must be a pure function of its arguments: a run that is killed and resumed then ends with the
    same bits. A non-finite loss raises DivergenceError naming the stage and the window of steps; with ``finite`` False
    it is let pass (a search over learning rates, where a member may diverge and lose).
    """
    start = saved = 0
    if checkpoint is not None:
        chunk = min(chunk, every)
        found = checkpoint.restore(members, config_hash=config_hash)
        if found is not None:
            members, start = found
            saved = start
            advance(start)
    total = jnp.int32(steps)
    while start < steps:
        stop_if_asked(checkpoint, start, members, config_hash)
        ahead = [mark for mark in marks if mark > start]
        count = min(chunk, steps - start, *(mark - start for mark in ahead[:1]))
        data, xs = chunks(start, chunk)
        members, loss = run(members, data, xs, jnp.int32(start), jnp.int32(count), total)
        value = jax.device_get(loss)
        if finite and not jnp.isfinite(value).all():
            raise DivergenceError(
                f"{stage}: the loss is not finite in steps {start}..{start + count - 1}; last good checkpoint: step "
                f"{saved}. Lower the learning rate or check the input images for odd values."
            )
        start += count
        if start in marks:
            look(start, members)
        if checkpoint is not None and start < steps and start // every > (start - count) // every:
            checkpoint.save(start, members, config_hash=config_hash)
            saved = start
        advance(count, loss=float(value.mean()))
    return members
