"""Stored labels: the pool's mean on the very view that students replay; plans are pure; tampering is noticed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import models, relabel
from ddjax.errors import DataError
from ddjax.kernels import augment as views
from ddjax.mesh import Spread
from ddjax.types import Augment, Teachers

SHAPE, CLASSES, SIZE, BATCH = (8, 8, 1), 3, 6, 4
AUGMENT = Augment(pad=1, flip=True, cutmix=1.0)
ONE = Spread("scan")


@functools.cache
def net():
    return models.build("convnet1-w8-batch", image_shape=SHAPE, classes=CLASSES)


@functools.cache
def pool(size=4):
    return Teachers(*jax.vmap(net().init)(jax.random.split(jax.random.key(0), size)))


@functools.cache
def images():
    return jax.random.normal(jax.random.key(1), (SIZE, *SHAPE))


def member(j, teachers=None):
    return jax.tree.map(lambda a: a[j], (teachers or pool())[:2])


def plan(epochs=3, augment=AUGMENT):
    return relabel.Plan(7, SIZE, BATCH, epochs, augment)


@functools.cache
def table():
    return relabel.targets(plan(), relabel.Pool(net(), pool(), ONE), images())


def remade(plan, v):
    """Batch ``v`` of a plan, made again from its number and the plan's key alone."""
    index = jnp.asarray(plan.index()[v])
    view = views.draw_view(jax.random.fold_in(plan.key(), v), plan.augment, index, v, image_size=SHAPE[:2])
    return views.apply_view(images()[index], view), view


# ------------------------------------------------------------------------------------------- plans


def test_a_plan_holds_the_steps_asked_for_and_no_more_epochs_than_allowed():
    assert relabel.plan(0, 100, 10, 500, AUGMENT).epochs == 50
    assert relabel.plan(0, 100, 10, 501, AUGMENT).epochs == 51
    assert relabel.plan(0, 100, 10, 500, AUGMENT, epochs=7).epochs == 7
    assert relabel.plan(0, 100, 10, 500, AUGMENT, epochs=70).epochs == 50
    assert relabel.plan(0, 300, 256, 500, AUGMENT).count == 500


def test_an_epoch_shows_every_image_once():
    whole = relabel.Plan(7, 6, 2, 5, AUGMENT)
    assert whole.index().shape == (15, 2)
    for epoch in whole.index().reshape(5, 6):
        assert sorted(epoch) == list(range(6))


def test_a_students_order_is_a_pure_function_and_each_round_a_permutation_of_the_epochs():
    small = relabel.Plan(7, 6, 2, 5, AUGMENT)  # five epochs of three batches
    order = small.order(11, 0, 45)
    assert np.array_equal(order[13:29], small.order(11, 13, 16))
    assert not np.array_equal(order, small.order(12, 0, 45))
    rounds = order.reshape(3, 5, 3)
    assert not np.array_equal(rounds[0], rounds[1])
    for epochs in rounds:
        assert sorted(epochs[:, 0] // 3) == list(range(5))
        assert (epochs % 3 == np.arange(3)[None]).all()  # the batches of an epoch stay together, in order


# ------------------------------------------------------------------------------------------- labels


def test_a_stored_label_is_the_mean_of_the_members_logits_on_the_remade_view():
    assert table().shape == (plan().count, BATCH, CLASSES) and table().dtype == np.float16
    assert plan().augment.cutmix and plan().count == 3
    for v in range(plan().count):
        seen, _ = remade(plan(), v)
        logits = np.stack([net().apply(*member(j), seen, train=False).logits for j in range(4)])
        np.testing.assert_allclose(table()[v], logits.mean(0), rtol=2e-3, atol=2e-3)


def test_a_batch_is_the_same_for_whoever_makes_it_again():
    """Students take their images by position, the label stage by number: both see the same pixels."""
    index = jnp.asarray(plan().index()[2])
    stored, view = relabel.seen(plan(), images(), plan().key(), index, jnp.int32(2))
    student, _ = relabel.seen(plan(), images()[index], plan().key(), jnp.arange(BATCH, dtype=jnp.int32), jnp.int32(2))
    assert np.array_equal(stored, student) and np.array_equal(stored, remade(plan(), 2)[0])
    assert np.array_equal(view.index, index)


def test_batch_specific_labels_normalise_by_the_views_labelled_at_once():
    one = Teachers(*jax.tree.map(lambda a: a[:1], pool()[:2]))
    found = relabel.targets(plan(), relabel.Pool(net(), one, ONE, "base", batched=True), images())
    for v in range(plan().count):
        seen, _ = remade(plan(), v)
        own = net().apply(*member(0), seen, train=True).logits
        np.testing.assert_allclose(found[v], own, rtol=2e-3, atol=2e-3)
        alone = np.asarray(net().apply(*member(0), seen[:2], train=True).logits)
        assert np.abs(found[v][:2] - alone).max() > 0.01  # who else is in the batch counts


def test_a_pool_of_one_is_the_base_model_bit_for_bit():
    """Of a fixed plan: the mean over one network is that network, and how it is mapped does not matter."""
    one = Teachers(*jax.tree.map(lambda a: a[:1], pool()[:2]))
    found = relabel.targets(plan(), relabel.Pool(net(), one, ONE, "pool"), images())
    base = relabel.targets(plan(), relabel.Pool(net(), one, ONE, "base"), images())
    assert np.array_equal(found, base)

    @jax.jit
    def plainly(index, v, key):
        def one(inputs):
            x, _ = relabel.seen(plan(), images(), key, *inputs)
            return net().apply(*member(0), x, train=False).logits.astype(jnp.float16)

        return jax.lax.map(one, (index, v))

    direct = plainly(plan().index(), np.arange(plan().count, dtype=np.int32), plan().key())
    np.testing.assert_allclose(found, direct, rtol=2e-3, atol=1e-3)  # fp16: a rounding apart at most


def test_softmax_averaging_stores_the_logits_of_the_mean_probability():
    tau = 4.0
    found = relabel.targets(plan(), relabel.Pool(net(), pool(), ONE, softened=tau), images())
    for v in range(plan().count):
        seen, _ = remade(plan(), v)
        soft = [jax.nn.softmax(net().apply(*member(j), seen, train=False).logits / tau) for j in range(4)]
        np.testing.assert_allclose(jax.nn.softmax(found[v].astype(np.float32) / tau), np.mean(soft, 0), atol=2e-3)


def test_labels_do_not_depend_on_chunks_or_devices():
    source = relabel.Pool(net(), pool(), Spread("scan", 4))
    np.testing.assert_allclose(relabel.targets(plan(), source, images(), chunk=2), table(), rtol=2e-3, atol=2e-3)


def test_one_program_labels_every_chunk_of_every_set():
    traces = []

    class Counted(relabel.Pool):
        def pooled(self, *args):
            traces.append(1)
            return super().pooled(*args)

    source = Counted(net(), pool(), ONE)
    store = relabel.storer(plan(), source)
    for shift in (0.0, 1.0):
        relabel.targets(plan(), source, images() + shift, store=store, chunk=2)
    assert len(traces) == 1


def test_logits_beyond_half_precision_are_an_error():
    huge = Teachers(jax.tree.map(lambda a: 1e6 * a, pool().params), pool().state)
    with pytest.raises(DataError, match=r"label: \d+ of 36 stored logits are not finite in fp16"):
        relabel.targets(plan(), relabel.Pool(net(), huge, ONE), images())


def test_hard_labels_are_the_classes_of_the_images():
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 2)
    hard = relabel.Hard(labels, CLASSES)
    found = relabel.targets(plan(augment=Augment(pad=1, flip=True)), hard, images())
    assert np.array_equal(found.argmax(-1), labels[plan().index()]) and (found.sum(-1) == 1).all()
    assert not hard.soft


def test_cutmix_mixes_hard_labels_by_the_area_that_came_in():
    hard = relabel.Hard(np.repeat(np.arange(CLASSES, dtype=np.int32), 2), CLASSES)
    found, mixed = relabel.targets(plan(), hard, images()), 0
    for v in range(plan().count):
        seen, view = remade(plan(), v)
        plain = views.apply_view(
            images()[view.index], view._replace(mix_box=jnp.zeros((BATCH, 4), jnp.int32))
        )  # the same crops, nothing pasted
        for b in range(BATCH):
            share = 1 - np.prod(np.asarray(view.mix_box[b, 2:])) / 64
            one, other = hard.table[view.index[b]], hard.table[view.index[view.mix_index[b]]]
            np.testing.assert_allclose(found[v, b], share * one + (1 - share) * other, atol=1e-3)
            pasted = (np.asarray(seen[b]) != np.asarray(plain[b])).sum()
            assert pasted <= round(64 * (1 - share))
            mixed += 0 < share < 1
    assert mixed > 3


# -------------------------------------------------------------------------------------------- files


def test_what_is_saved_is_read_back(tmp_path):
    relabel.save(tmp_path / "labels", "pool", plan(), table(), SIZE)
    assert np.array_equal(relabel.load(tmp_path / "labels"), table())
    first = (tmp_path / "labels" / "labels.safetensors").read_bytes()
    relabel.save(tmp_path / "labels", "pool", plan(), table(), SIZE)  # replaced whole; equal input, equal bytes
    assert (tmp_path / "labels" / "labels.safetensors").read_bytes() == first
    relabel.save(tmp_path / "labels", "hard", plan(), None, SIZE)
    assert relabel.load(tmp_path / "labels") is None
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_file_that_was_changed_is_refused(harm, tmp_path):
    relabel.save(tmp_path / "labels", "pool", plan(), table(), SIZE)
    path = tmp_path / "labels" / "labels.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if harm == "flip" else bytes(content[:-10]))
    with pytest.raises(DataError, match=r"labels\.safetensors"):
        relabel.load(tmp_path / "labels")
    with pytest.raises(DataError, match="does not exist"):
        relabel.load(tmp_path / "nowhere")
