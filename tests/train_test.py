"""Training of a pool: equals one network written out, compiles once, resumes to the bit, folds only watch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import models, train
from ddjax.checkpoint import Checkpoint
from ddjax.errors import DivergenceError
from ddjax.mesh import Spread
from ddjax.teachers import snapshot_epochs, snapshots
from ddjax.train import Example, Recipe

SHAPE, CLASSES, N = (8, 8, 1), 3, 12


@functools.cache
def net(norm="batch"):
    return models.build(f"convnet2-w8-{norm}", image_shape=SHAPE, classes=CLASSES)


@functools.cache
def real():
    x = jax.random.normal(jax.random.key(5), (N, *SHAPE))
    return x, jnp.asarray(np.arange(N) % CLASSES)


def make_batch(data, index):
    images, labels = data
    return Example(images[index], jax.nn.one_hot(labels[index], CLASSES), jnp.float32(0.0))


def chunks(start, n, members=2):
    index = np.stack([np.random.Generator(np.random.Philox(s)).integers(0, N, 4) for s in range(start, start + n)])
    return train.Chunk(real(), jnp.broadcast_to(jnp.asarray(index, jnp.int32)[None], (members, n, 4)))


def fresh(recipe, members=2, fold=None, norm="batch"):
    made = [train.init_member(net(norm), recipe, jax.random.key(i), 0.05, fold) for i in range(members)]
    return jax.tree.map(lambda *a: jnp.stack(a), *made)


def fitted(recipe, steps=7, chunk=3, how="scan", fold=None, members=2, devices=1, norm="batch", **kwargs):
    run = train.make_run(train.make_step(net(norm), recipe, make_batch, fold), Spread(how, devices))
    feed = functools.partial(chunks, members=members)
    return train.fit(run, fresh(recipe, members, fold, norm), feed, steps=steps, stage="test", chunk=chunk, **kwargs)


@pytest.mark.parametrize(("optimiser", "norm"), [("sgd", "batch"), ("adamw", "none")])
def test_equals_the_update_rule_written_out(optimiser, norm):
    """AdamW without norms: before a norm the biases' gradient is rounding alone, which Adam makes large."""
    recipe = Recipe(optimiser=optimiser, weight_decay=0.01)
    ours = fitted(recipe, steps=3, norm=norm)
    p, s = net(norm).init(jax.random.key(1))
    m = v = jax.tree.map(jnp.zeros_like, p)
    for i in range(3):
        index = chunks(i, 1).xs[0, 0]
        x, y = real()[0][index], real()[1][index]

        def loss(p, s=s, x=x, y=y):
            out = net(norm).apply(p, s, x, train=True)
            return -jax.nn.log_softmax(out.logits)[jnp.arange(4), y].mean(), out.state

        (_, s), g = jax.value_and_grad(loss, has_aux=True)(p)
        lr = 0.05 * 0.5 * (1 + np.cos(np.pi * i / 3))
        decay = jax.tree.map(lambda p: 0.01 * p if p.ndim > 1 else 0.0 * p, p)
        if optimiser == "sgd":
            m = jax.tree.map(lambda m, g, d: 0.9 * m + g + d, m, g, decay)
            p = jax.tree.map(lambda p, m, lr=lr: p - lr * m, p, m)
        else:
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            scaled = jax.tree.map(
                lambda m, v, i=i: m / (1 - 0.9 ** (i + 1)) / (jnp.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8), m, v
            )
            p = jax.tree.map(lambda p, u, d, lr=lr: p - lr * (u + d), p, scaled, decay)
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(p), strict=True):
        np.testing.assert_allclose(a[1], b, atol=2e-5)


def test_mapping_and_chunking_do_not_change_the_result():
    recipe = Recipe()
    base = fitted(recipe)
    again = fitted(recipe, chunk=7)
    for a, b in zip(jax.tree.leaves(base.params), jax.tree.leaves(again.params), strict=True):
        assert np.array_equal(a, b)
    for how in ("vmap", "unroll"):
        for a, b in zip(jax.tree.leaves(base.params), jax.tree.leaves(fitted(recipe, how=how).params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_two_steps_agree_on_one_and_four_devices():
    one, four = (fitted(Recipe(), steps=2, members=4, devices=devices) for devices in (1, 4))
    assert len(jax.tree.leaves(four.params)[0].sharding.device_set) == 4
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_batch_split_over_four_devices_trains_the_same():
    seen = []

    def trained(over):
        def split(data, index):
            batch = make_batch(data, index)
            jax.debug.inspect_array_sharding(batch.images, callback=lambda s: seen.append(s.num_devices))
            return batch._replace(images=over.batch(batch.images, 1))

        run = train.make_run(train.make_step(net(), Recipe(), split), over)
        feed = functools.partial(chunks, members=1)
        return train.fit(run, fresh(Recipe(), 1), feed, steps=2, stage="test", chunk=2)

    one, four = trained(Spread("scan")), trained(Spread("scan", 4, split=True))
    assert max(seen) == 4
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_one_trace_serves_every_chunk_and_length():
    traces, recipe = [], Recipe()
    inner = train.make_step(net(), recipe, make_batch)

    def step(*args):
        traces.append(1)
        return inner(*args)

    run = train.make_run(step, Spread("scan"))
    for steps in (2, 5):
        train.fit(run, fresh(recipe), chunks, steps=steps, stage="test", chunk=3)
    assert len(traces) == 1


def test_resuming_from_a_checkpoint_ends_with_the_same_bits(tmp_path):
    recipe, stops = Recipe(optimiser="adamw"), []
    whole = fitted(recipe)

    class Killed(Exception):
        pass

    def kill(n, **shown):
        stops.append(n)
        if sum(stops) >= 6:
            raise Killed

    with pytest.raises(Killed), Checkpoint(tmp_path / "c") as saved:
        fitted(recipe, checkpoint=saved, config_hash="h", every=3, advance=kill)
    with Checkpoint(tmp_path / "c") as saved:
        assert saved.latest() in (3, 6)
        resumed = fitted(recipe, checkpoint=saved, config_hash="h", every=3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert np.array_equal(a, b)


def test_snapshots_watch_without_changing_training():
    recipe, fold = Recipe(), snapshots((2, 5))
    plain, watched = fitted(recipe), fitted(recipe, fold=fold)
    short = fitted(recipe, steps=7, chunk=2)  # same schedule, other chunks
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(watched.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    run = train.make_run(train.make_step(net(), recipe, make_batch), Spread("scan"))
    at_two, _ = run(fresh(recipe), *chunks(0, 7), jnp.int32(0), jnp.int32(2), jnp.int32(7))
    kept = jax.tree.map(lambda a: a[:, 0], watched.fold[0])
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(at_two.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert jax.tree.structure(short.params) == jax.tree.structure(plain.params)


def test_masked_weights_stay_exactly_zero():
    recipe = Recipe(optimiser="adamw")
    p, s = net().init(jax.random.key(0))
    mask = jax.tree.map(lambda a: (jax.random.uniform(jax.random.key(a.size), a.shape) > 0.5).astype(a.dtype), p)
    member = train.member_of(recipe, jax.tree.map(jnp.multiply, p, mask), s, 0.05, mask=mask)
    members = jax.tree.map(lambda a: a[None], member)
    run = train.make_run(train.make_step(net(), recipe, make_batch), Spread("scan"))
    done = train.fit(run, members, lambda a, n: chunks(a, n, 1), steps=4, stage="test", chunk=2)
    for a, m in zip(jax.tree.leaves(done.params), jax.tree.leaves(mask), strict=True):
        assert (np.asarray(a[0])[np.asarray(m) == 0] == 0).all()


def test_divergence_names_stage_and_window():
    run = train.make_run(train.make_step(net(), Recipe(), make_batch), Spread("scan"))
    broken = fresh(Recipe())._replace(lr=jnp.full((2,), jnp.inf))
    with pytest.raises(DivergenceError, match=r"teachers: the loss is not finite in steps [03]\.\.[25]"):
        train.fit(run, broken, chunks, steps=9, stage="teachers", chunk=3)


def test_schedule_warms_up_then_falls_to_zero():
    rate = [float(train.schedule(jnp.int32(i), jnp.int32(10), 2)) for i in range(11)]
    assert rate[:2] == pytest.approx([0.5, 1.0]) and rate[2] == pytest.approx(1.0)
    assert rate[6] == pytest.approx(0.5) and rate[10] == pytest.approx(0.0, abs=1e-6)


def test_loss_follows_the_kind_of_target():
    z = jax.random.normal(jax.random.key(0), (4, 3))
    hard = Example(jnp.zeros((4, 1)), jax.nn.one_hot(jnp.arange(4) % 3, 3), jnp.float32(0.0))
    np.testing.assert_allclose(
        train.batch_loss(z, hard, 4.0), -jax.nn.log_softmax(z)[jnp.arange(4), jnp.arange(4) % 3].mean(), rtol=1e-6
    )
    same = Example(jnp.zeros((4, 1)), z.astype(jnp.float32), jnp.float32(1.0))
    np.testing.assert_allclose(train.batch_loss(z, same, 4.0), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "size", "epochs", "chosen"),
    [("log", 9, 50, (1, 2, 3, 4, 6, 10, 16, 25, 40)), ("linear", 3, 10, (1, 4, 8)), ((2, 3), 2, 5, (2, 3)),
     ("log", 5, 5, (1, 2, 3, 4, 5))],
)  # fmt: skip
def test_snapshot_epochs_rise_and_spread(rule, size, epochs, chosen):
    found = snapshot_epochs(rule, size, epochs)
    assert len(found) == size and all(a < b for a, b in itertools.pairwise(found))
    assert found[0] >= 1 and found[-1] <= epochs
    assert found == chosen
