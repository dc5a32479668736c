"""Baselines that need a teacher or a budget: forgetting, a teacher stopped early, equal bytes, the line-up of rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import baselines, config, early, evaluate, models, relabel, teachers, train, zca
from ddjax.data import open_data
from ddjax.exchange import softlabels
from ddjax.files import append_line, read_json
from ddjax.log import Log
from ddjax.mesh import Spread
from ddjax.protocols import Protocol
from ddjax.synset import DistilledSet
from ddjax.types import Augment, Teachers

pytestmark = pytest.mark.usefixtures("quick_compiles")
ARCH, CLASSES, IPC, ONE = "convnet1-w8-batch", 10, 2, Spread("scan")


@functools.cache
def data():
    return open_data(config.Data(train="digits", subset=200), 0)


@functools.cache
def net():
    return models.build(ARCH, image_shape=(8, 8, 1), classes=CLASSES)


# ---------------------------------------------------------------------------------------- forgetting


def test_a_transition_from_right_to_wrong_counts_once():
    """Image 0: wrong, right, wrong, right, wrong -> 2. Image 1: right, right -> 0. Image 2 is never right -> 0."""
    fold = baselines.watch(4, 1)
    carry = fold.init({"w": jnp.zeros(2)}, {})
    seen = [([0, 1], [0, 1]), ([0, 2], [1, 0]), ([0, 1], [0, 1]), ([0, 2], [1, 0]), ([3, 0], [1, 0])]
    for step, (index, right) in enumerate(seen):
        logits = jnp.asarray([[0.0, 1.0] if ok else [1.0, 0.0] for ok in right])
        batch = train.Example(
            jnp.zeros((2, 1)), jnp.asarray([[0.0, 1.0]] * 2), jnp.float32(0), jnp.asarray(index), logits
        )
        carry = fold.update(carry, jnp.int32(step), {"w": jnp.full(2, step + 1.0)}, {}, None, batch)
    assert carry["forgotten"].tolist() == [2, 0, 0, 0] and carry["right"].tolist() == [False, True, False, True]


def test_counting_watches_training_and_equals_a_record_of_every_step():
    trainer = teachers.Trainer(net(), baselines.RECIPE, data(), 30, 0, ONE, 50)
    steps = 24  # four epochs of six
    shape = (steps, 30)

    def init(params, state):
        return {"index": jnp.zeros(shape, jnp.int32), "right": jnp.zeros(shape, bool)}

    def update(carry, step, params, state, grads, batch):
        right = jnp.argmax(batch.logits, -1) == jnp.argmax(batch.targets, -1)
        return {"index": carry["index"].at[step].set(batch.index), "right": carry["right"].at[step].set(right)}

    def trained(fold, at=None):
        member = train.init_member(net(), baselines.RECIPE, jax.random.key(0), 1e-2, fold)
        if at:
            member = member._replace(fold=member.fold | {"at": jnp.asarray(at, jnp.int32)})
        return trainer.fit(jax.tree.map(lambda a: a[None], member), steps, "full_data", fold=fold, chunk=12)

    watched = trained(baselines.watch(len(data().train), 2), at=(6, 24))
    record = trained(train.Fold(init, update))
    for a, b in zip(jax.tree.leaves(watched.params), jax.tree.leaves(record.params), strict=True):
        np.testing.assert_array_equal(a, b)  # watching changes nothing
    counts, before = np.zeros(len(data().train), int), {}
    index, right = np.asarray(record.fold["index"][0]), np.asarray(record.fold["right"][0])
    assert all(sorted(index[e * 6 : e * 6 + 6].ravel()) == list(range(180)) for e in range(4))  # positions in the split
    for i, ok in zip(index.ravel().tolist(), right.ravel().tolist(), strict=True):
        counts[i] += before.get(i, False) and not ok
        before[i] = ok
    assert counts.sum() > 5
    np.testing.assert_array_equal(watched.fold["forgotten"][0], counts)
    last = jax.tree.map(lambda a: a[0, 1], watched.fold["snapshots"])
    first = jax.tree.map(lambda a: a[0, 0], watched.fold["snapshots"])
    done = jax.tree.map(lambda a: a[0], (watched.params, watched.state))
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(done), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, c) for a, c in zip(jax.tree.leaves(done), jax.tree.leaves(first), strict=True))


# --------------------------------------------------------------------------- the teacher stopped early


def full(stopped):
    """A network on all data whose snapshots are as good as their names say: 0 is random, 1 is trained."""
    members = jax.vmap(net().init)(jax.random.split(jax.random.key(1), 2))
    good = trained_well()
    snapshots = [jax.tree.map(lambda a: a[0], members), good]
    ordered = [snapshots[i] for i in stopped]
    return baselines.FullData(
        *good, 0.9, {"epochs": 20}, np.zeros(180, np.int32), Teachers(*teachers.stack(ordered)),
        tuple(range(1, len(ordered) + 1)), tuple(0.1 + 0.8 * i for i in stopped),
    )  # fmt: skip


@functools.cache
def trained_well():
    trainer = teachers.Trainer(net(), baselines.RECIPE, data(), 60, 0, ONE, 500)
    member = train.init_member(net(), baselines.RECIPE, jax.random.key(0), 1e-2)
    done = trainer.fit(jax.tree.map(lambda a: a[None], member), 60, "full_data")
    return jax.tree.map(lambda a: a[0], (done.params, done.state))


@functools.cache
def longer():
    rule = Protocol(id="tiny", rates=(1e-2,), step_range=(60, 60), max_batch=10)
    plan = relabel.plan(0, CLASSES * IPC, 10, 60, Augment(pad=1))
    return evaluate.students(net(), rule, plan, data().card.mean, data().card.std, over=ONE)


def early_row(folder, stopped):
    images = baselines.random_images(data(), IPC, 0)
    unseen = dataclasses.replace(data(), test=None)  # nothing may be chosen by it
    return early.row(
        longer(), net(), full(stopped), images, unseen, over=ONE, seed=0,
        results=folder / "results.jsonl", scratch=folder / "scratch", every=50, log=Log(None),
    )  # fmt: skip


def test_the_snapshot_whose_students_do_best_on_validation_gives_the_labels(tmp_path):
    row = early_row(tmp_path, (0, 1, 0))
    assert (row.name, row.label_source) == ("random_early_soft", "early")
    assert (row.budget["stopped_epoch"], row.budget["chosen_on"]) == (2, "validation")
    assert row.budget["tried_epochs"] == [1, 2, 3] and row.budget["teacher_accuracy"] == pytest.approx(0.9)
    tried = row.budget["tried_accuracy"]
    assert tried[1] == max(tried) > tried[0] == pytest.approx(tried[2])
    for a, b in zip(jax.tree.leaves(row.source.teachers.params), jax.tree.leaves(trained_well()[0]), strict=True):
        np.testing.assert_array_equal(a[0], b)


def test_a_choice_that_was_made_is_kept(tmp_path, monkeypatch):
    row = early_row(tmp_path, (0, 1))
    kept = next((tmp_path / "scratch").glob("early-*.json"))
    assert read_json(kept) == row.budget["tried_accuracy"]
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("chosen again"))
    assert early_row(tmp_path, (0, 1)).budget == row.budget
    kept.unlink()  # the stage's scratch is gone, its lines stand
    cell = evaluate.cell_of(longer(), row)
    append_line(tmp_path / "results.jsonl", {**cell, "seed": 0, "accuracy": 0.5, "budget": row.budget})
    assert early_row(tmp_path, (0, 1)).budget == row.budget


# ----------------------------------------------------------------------------------------- equal bytes


@pytest.mark.parametrize(("asked", "ipc"), [(1, 1), (5 * 10 * 68, 5), (6 * 10 * 68 - 1, 5)])
def test_bytes_buy_whole_images_with_their_labels(asked, ipc):
    row = baselines.same_bytes(data(), asked, CLASSES, 0)
    assert row.images.shape[0] == 10 * ipc and row.budget["ipc"] == ipc and row.budget["cut_by"] is None
    assert row.budget["bytes"] == 10 * ipc * (64 + 4) and row.budget["bytes_allowed"] == asked
    assert np.array_equal(np.asarray(row.source.table).argmax(1), np.repeat(np.arange(10), ipc))
    real = data().train.gather(np.arange(180)).reshape(180, -1)
    found = [np.flatnonzero((real == image).all(1))[0] for image in np.asarray(row.images).reshape(10 * ipc, -1)]
    assert len(set(found)) == 10 * ipc and np.array_equal(data().train.labels[found], np.repeat(np.arange(10), ipc))


def test_bytes_worth_more_than_the_training_set_end_as_the_training_set(monkeypatch):
    row = baselines.same_bytes(data(), 10**9, CLASSES, 0)
    assert row.images.shape[0] == 180 and row.budget["cut_by"] == "the training set"
    assert row.budget["bytes"] == 180 * 68 and row.budget["ipc"] == np.bincount(data().train.labels).max()
    assert sorted(np.asarray(row.source.table).argmax(1)) == sorted(data().train.labels)
    monkeypatch.setattr(baselines, "RESIDENT_BYTES", 3 * 10 * 68)
    assert baselines.same_bytes(data(), 10**9, CLASSES, 0).budget | {"bytes_allowed": 0} == {
        "bytes_allowed": 0, "bytes": 3 * 680, "ipc": 3, "cut_by": "8 GiB"
    }  # fmt: skip


def test_a_set_pays_for_its_images_and_for_the_labels_that_are_stored():
    """Canvases as they are stored, not their tiles; a transform with the images; recorded views with their labels."""
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20, np.int32)
    names, real = tuple(map(str, range(CLASSES))), data().train.gather(np.arange(180)).astype(np.float32)
    made = DistilledSet(images, labels, names, (0.5,), (0.5,))
    hard = evaluate.Row("set", "hard", images, relabel.Hard(labels, CLASSES))
    assert baselines.bytes_of(hard, made) == 20 * 64 + 20 * 4
    floats = dataclasses.replace(made, images=images.astype(np.float32))
    assert baselines.bytes_of(hard, floats) == 20 * 256 + 20 * 4
    table = np.zeros((6, 10, 10), np.float16)
    soft = evaluate.Row("set", "pool", images, relabel.Stored(table), table)
    assert baselines.bytes_of(soft, made) == 20 * 64 + 1200
    canvases = dataclasses.replace(made, images=images[:5], labels=labels[:5], factor=2)
    assert baselines.bytes_of(hard, canvases) == 5 * 64 + 5 * 4
    assert baselines.bytes_of(soft, canvases) == 5 * 64 + 1200
    white = zca.fit(real, transform="eps", eps=0.1)
    learned = dataclasses.replace(floats, label_logits=np.zeros((20, 10), np.float32), learned_lr=0.1, zca=white)
    row = hard._replace(label_source="learned", source=relabel.Learned(learned.label_logits))
    assert baselines.bytes_of(row, learned) == 20 * 256 + 4 * (64 + 2 * 64 * 64) + 20 * 10 * 4
    views = softlabels.Recorded(20, 10, 3, softlabels.FKD, softlabels.tensors(6, 10, 10))
    named = softlabels.Relabelled.of(made, views)
    fkd = hard._replace(label_source="fkd", source=relabel.Stored(views.logits), table=views.logits, views=views)
    assert baselines.bytes_of(fkd, named) == 20 * 64 + 6 * (10 * (20 + 4 + 16 + 1 + 4) + 16 + 4)
    by_teacher = hard._replace(label_source="full_data", source=None)
    assert baselines.bytes_of(by_teacher, made) == 20 * 64 + 20 * 4  # no label is stored but the class


def test_bytes_that_buy_the_same_images_are_no_row_of_their_own():
    own = evaluate.Row("set", "hard", np.zeros((20, 8, 8, 1), np.uint8), relabel.Hard(np.zeros(20, np.int32), CLASSES))
    args = (own, None, None, None, net(), data())
    names, spend = ("random_hard", "random_same_bytes"), 20 * (64 + 4)
    same = baselines.rows(names, *args, ipc=IPC, seed=0, spend=spend)
    assert [row.name for row in same] == ["random_hard"]
    alone = baselines.rows(names[1:], *args, ipc=IPC, seed=0, spend=spend)
    assert [row.name for row in alone] == ["random_same_bytes"]
    np.testing.assert_array_equal(alone[0].images, same[0].images)
    more = baselines.rows(names, *args, ipc=IPC, seed=0, spend=2 * spend)
    assert [row.images.shape[0] for row in more] == [20, 40]
