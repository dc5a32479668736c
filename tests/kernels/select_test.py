"""Coresets against brute force; class order, distinctness, determinism."""

import itertools

import numpy as np
import pytest

from ddjax.kernels import select

CLASSES, PER_CLASS, FEATURES = 3, 7, 4


def data(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), PER_CLASS)).astype(np.int32)
    features = rng.normal(size=(len(labels), FEATURES)) + labels[:, None]
    return features.astype(np.float32), labels


def choose(name, seed=0, ipc=3, features=None, labels=None):
    if features is None:
        features, labels = data()
    rng = np.random.Generator(np.random.Philox(seed))
    if name == "random":
        return select.random_per_class(rng, labels, ipc)
    if name == "kmeans":
        return select.kmeans(rng, features, labels, ipc)
    if name == "forgetting":
        counts = np.random.default_rng(1).integers(0, 3, len(labels)).astype(np.int32)
        return select.forgetting(rng, counts, labels, ipc)
    return {"herding": select.herding, "kcenter": select.kcenter}[name](features, labels, ipc)


@pytest.mark.parametrize("ipc", [1, 3, PER_CLASS])
@pytest.mark.parametrize("name", ["random", "kmeans", "herding", "kcenter", "forgetting"])
def test_rows_are_distinct_images_class_by_class_and_repeatable(name, ipc):
    _, labels = data()
    rows = choose(name, ipc=ipc)
    np.testing.assert_array_equal(labels[rows], np.repeat(np.arange(CLASSES), ipc))
    assert len(set(rows.tolist())) == len(rows)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, choose(name, ipc=ipc))


def test_random_depends_on_the_generator_and_reaches_every_image():
    _, labels = data()
    draws = [choose("random", seed=seed) for seed in range(60)]
    assert not np.array_equal(draws[0], draws[1])
    assert set(np.concatenate(draws).tolist()) == set(range(len(labels)))


def test_herding_takes_the_nearest_not_the_farthest():
    """By hand: mean (2, 1). First (2, 2), at distance 1; then (1, 0): the mean of both is (1.5, 1), 0.5 away."""
    points = np.array([[0, 0], [2, 2], [5, 2], [1, 0]], np.float32)
    labels = np.zeros(4, np.int32)
    assert points.mean(axis=0).tolist() == [2.0, 1.0]
    assert select.herding(points, labels, 1).tolist() == [1]
    assert select.herding(points, labels, 2).tolist() == [1, 3]  # argmax of the distance would begin with (5, 2)
    assert select.herding(points, labels, 3).tolist() == [1, 3, 2]


def test_kcenter_takes_the_farthest_from_all_before():
    """By hand: mean 3, so start at 3; then 10 (7 away), then -1 (4 away), then 0, the first of those 1 away."""
    points = np.array([[0.0, 0], [2, 0], [3, 0], [10, 0], [4, 0], [-1, 0]], np.float32)
    labels = np.zeros(6, np.int32)
    assert points.mean(axis=0).tolist() == [3.0, 0.0]
    assert select.kcenter(points, labels, 6).tolist()[:4] == [2, 3, 5, 0]
    features, labels = data()
    rows = choose("kcenter", ipc=5).reshape(CLASSES, 5)
    for c in range(CLASSES):
        members, taken = np.flatnonzero(labels == c), [int(rows[c][0])]
        for k in range(1, 5):
            gaps = {i: min(np.linalg.norm(features[i] - features[j]) for j in taken) for i in members if i not in taken}
            assert rows[c][k] == max(gaps, key=gaps.get)
            taken.append(int(rows[c][k]))


def test_kcenter_chooses_distinct_images_where_images_are_equal():
    labels = np.repeat(np.arange(2, dtype=np.int32), 4)
    assert len(set(select.kcenter(np.zeros((8, FEATURES), np.float32), labels, 4).tolist())) == 8


def test_forgetting_takes_the_highest_counts_and_draws_among_equals():
    labels = np.repeat(np.arange(2, dtype=np.int32), 4)
    counts = np.array([0, 3, 1, 1, 2, 2, 2, 0], np.int32)
    draws = [select.forgetting(np.random.Generator(np.random.Philox(s)), counts, labels, 2).tolist() for s in range(40)]
    assert all(rows[0] == 1 and rows[1] in (2, 3) and set(rows[2:]) < {4, 5, 6} for rows in draws)
    assert {rows[1] for rows in draws} == {2, 3} and {tuple(sorted(r[2:])) for r in draws} == {(4, 5), (4, 6), (5, 6)}


def test_herding_equals_brute_force():
    features, labels = data()
    rows = choose("herding", ipc=4).reshape(CLASSES, 4)
    for c in range(CLASSES):
        members = np.flatnonzero(labels == c)
        mean, taken = features[members].astype(np.float64).mean(axis=0), []
        for _ in range(4):
            rest = [i for i in members if i not in taken]
            means = [features[[*taken, i]].astype(np.float64).mean(axis=0) for i in rest]
            taken.append(rest[int(np.argmin([np.linalg.norm(mean - m) for m in means]))])
        assert rows[c].tolist() == taken


def test_herding_of_a_whole_class_is_the_class():
    _, labels = data()
    rows = choose("herding", ipc=PER_CLASS).reshape(CLASSES, PER_CLASS)
    for c in range(CLASSES):
        assert sorted(rows[c]) == np.flatnonzero(labels == c).tolist()


def clusters(seed=0):
    """Two classes of three far-apart clusters of five; the first of each is its very centre."""
    rng = np.random.default_rng(seed)
    points, labels = [], []
    for c, k in itertools.product(range(2), range(3)):
        offsets = rng.normal(size=(2, FEATURES))
        cross = np.concatenate([np.zeros((1, FEATURES)), offsets, -offsets])
        points.append(100 * k * np.eye(FEATURES)[k] + 1000 * c + cross)
        labels += [c] * 5
    return np.concatenate(points).astype(np.float32), np.array(labels, np.int32)


def test_kmeans_finds_the_real_images_nearest_to_the_centres():
    features, labels = clusters()
    for seed in range(5):
        rows = choose("kmeans", seed=seed, features=features, labels=labels)
        assert sorted(rows[:3]) == [0, 5, 10]
        assert sorted(rows[3:]) == [15, 20, 25]


def test_kmeans_of_one_is_the_image_nearest_to_the_class_mean():
    features, labels = data()
    rows = choose("kmeans", ipc=1)
    for c in range(CLASSES):
        members = np.flatnonzero(labels == c)
        gaps = np.linalg.norm(features[members] - features[members].mean(axis=0), axis=1)
        assert rows[c] == members[np.argmin(gaps)]


def test_kmeans_chooses_distinct_images_where_images_are_equal():
    features = np.zeros((8, FEATURES), np.float32)
    labels = np.repeat(np.arange(2, dtype=np.int32), 4)
    rows = choose("kmeans", features=features, labels=labels)
    assert len(set(rows.tolist())) == 6


def test_pixels_may_be_bytes():
    features = np.random.default_rng(0).integers(256, size=(21, 12)).astype(np.uint8)
    labels = data()[1]
    for name in ("kmeans", "herding"):
        ours = choose(name, features=features, labels=labels)
        wide = choose(name, features=features.astype(np.float64), labels=labels)
        np.testing.assert_array_equal(ours, wide)
