"""Who sees which image: disjoint, exhaustive, stratified, fixed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddjax.config import Data
from ddjax.data import Arrays, open_data
from ddjax.data.stratify import draw, shares


def many(n: int = 400) -> Arrays:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4]))
    images = np.arange(n, dtype=np.uint16).view(np.uint8).reshape(n, 1, 2)
    return Arrays(images, labels)


def rows(split) -> set[int]:
    return set(split.rows.tolist())


def test_the_parts_are_disjoint_and_make_up_the_whole():
    found = open_data(Data(train=many()), 0)
    parts = [rows(found.train), rows(found.val), rows(found.test)]
    assert [len(part) for part in parts] == [288, 32, 80]
    assert set.union(*parts) == set(range(400))
    for split in (found.train, found.val, found.test):
        np.testing.assert_array_equal(split.labels, many().labels[split.rows])
        share = np.bincount(split.labels, minlength=4) / len(split)
        np.testing.assert_allclose(share, np.bincount(many().labels) / 400, atol=1.5 / len(split))
    assert "test: stratified 20% of the training images held out (no data.test)" in found.notes


def test_what_is_held_out_does_not_depend_on_the_seed():
    found, other = (open_data(Data(train=many()), seed) for seed in (0, 1))
    assert found.hash == other.hash


def test_a_subset_is_drawn_by_the_seed_and_leaves_the_test_part_alone():
    whole = open_data(Data(train=many()), 0)
    small = [open_data(Data(train=many(), subset=100), seed) for seed in (0, 0, 1)]
    assert rows(small[0].train) == rows(small[1].train) != rows(small[2].train)
    for found in small:
        assert len(found.train) + len(found.val) == 100
        assert rows(found.test) == rows(whole.test)
        assert not rows(found.train) & (rows(found.val) | rows(found.test))
        assert "train: stratified subset of 100 images" in " ".join(found.notes)


def test_a_test_set_of_its_own_leaves_the_training_set_whole():
    found = open_data(Data(train=many(), test=many(40), validation=0.25), 0)
    assert [len(s) for s in (found.train, found.val, found.test)] == [300, 100, 40]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_shares_sum_exactly_and_stay_in_bounds(counts, data):
    counts = np.array(counts)
    total = data.draw(st.integers(len(counts), int(counts.sum())))
    dealt = shares(counts, total, counts)
    assert dealt.sum() == total
    assert (dealt >= 1).all()
    assert (dealt <= counts).all()
    exact = counts * total / counts.sum()
    if (exact >= 1).all():
        assert (np.abs(dealt - exact) < 1).all()


def test_a_smaller_draw_is_part_of_a_larger_one():
    labels = np.repeat(np.arange(5), 20)
    drawn = [draw(labels, total, "x") for total in (10, 25, 50)]
    assert not (drawn[0] & ~drawn[1]).any()
    assert not (drawn[1] & ~drawn[2]).any()


def test_a_card_of_our_own_measures_the_training_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)
    found = open_data(Data(train=Arrays(images, np.arange(300) % 3)), 0)
    pixels = found.train.images / 255
    assert found.card.id == "custom"
    np.testing.assert_allclose(found.card.mean, pixels.mean((0, 1, 2)), atol=5e-5)
    np.testing.assert_allclose(found.card.std, pixels.std((0, 1, 2)), atol=5e-5)
    assert found.card.size == (6, 6)
    assert found.card.classes == 3


@pytest.mark.parametrize("change", ["pixel", "label", "order"])
def test_the_hash_sees_every_change(change):
    base, other = many(), many()
    images, labels = other.images.copy(), other.labels.copy()
    if change == "pixel":
        images[5] ^= 1
    elif change == "label":
        labels[[0, -1]] = labels[[-1, 0]]
    else:
        images[[0, 1]] = images[[1, 0]]
    first = open_data(Data(train=base), 0)
    assert first.hash != open_data(Data(train=Arrays(images, labels)), 0).hash
    assert first.hash == open_data(Data(train=many()), 0).hash


def test_test_images_that_are_training_images_are_told():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(60) % 2
    apart = open_data(Data(train=Arrays(images[:40], labels[:40]), test=Arrays(images[40:], labels[40:])), 0)
    assert not [note for note in apart.notes if "training images too" in note]
    shared = open_data(Data(train=Arrays(images[:40], labels[:40]), test=Arrays(images[30:], labels[30:])), 0)
    assert "test: 10 of 30 images are training images too" in shared.notes
