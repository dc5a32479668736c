"""Batches are a function of (seed, name, step); resident and streamed feeds give the same bytes."""

import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddjax.config import Data
from ddjax.data import Feed, open_data
from ddjax.data.sampler import epoch_batches
from ddjax.errors import ConfigError, DataError


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.data())
def test_an_epoch_shows_every_image_at_most_once(n, data):
    batch = data.draw(st.integers(1, n))
    steps = n // batch
    found = epoch_batches(3, "x", steps, steps, n, batch)  # epoch 1
    assert found.shape == (steps, batch)
    assert found.dtype == np.int32
    assert len(set(found.ravel().tolist())) == steps * batch
    assert found.min() >= 0
    assert found.max() < n
    if n % batch == 0:
        assert sorted(found.ravel()) == list(range(n))


def test_batches_are_a_pure_function_of_seed_name_and_step():
    whole = epoch_batches(0, "train", 0, 40, 23, 5)
    parts = [epoch_batches(0, "train", start, 8, 23, 5) for start in range(0, 40, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, epoch_batches(1, "train", 0, 40, 23, 5))
    assert not np.array_equal(whole, epoch_batches(0, "other", 0, 40, 23, 5))
    assert not np.array_equal(whole[:4], whole[4:8])  # a new permutation every epoch


def test_a_batch_may_not_exceed_the_set():
    for batch, use in ((24, 23), (0, 1)):
        with pytest.raises(ConfigError, match=rf"batch = {batch} .*1 \.\. 23.*valid: {use}"):
            epoch_batches(0, "train", 0, 1, 23, batch)


@pytest.fixture(scope="module")
def spec(made, colour, tmp_path_factory) -> str:
    path = made.write_zip(tmp_path_factory.mktemp("feed") / "a.zip", made.files(colour))
    return f"zip:{path}"


@pytest.fixture(scope="module")
def both(spec):
    resident = open_data(Data(train=spec), 0)
    streamed = open_data(Data(train=spec), 0, resident_bytes=1000)
    assert resident.train.images is not None
    assert streamed.train.images is None
    assert any(note.startswith("streamed:") for note in streamed.notes)
    return resident, streamed


def test_a_streamed_split_equals_a_resident_one(both):
    resident, streamed = both
    index = np.array([3, 0, 3, 49])
    for part in ("train", "val", "test"):
        held, read = getattr(resident, part), getattr(streamed, part)
        pick = index % len(held)
        np.testing.assert_array_equal(held.gather(pick), read.gather(pick))
        np.testing.assert_array_equal(held.labels, read.labels)
        assert held.shape == read.shape
        assert len(read.hash) == 64
    assert resident.card.mean == streamed.card.mean


def batches(feed: Feed, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels, index = feed.chunk(start, count)
    assert isinstance(images, jax.Array)
    assert index.shape == (count, feed.batch)
    assert index.dtype == np.int32
    return np.asarray(images)[np.asarray(index)], np.asarray(labels)[np.asarray(index)]


def test_resident_and_streamed_feeds_agree_bit_for_bit(both):
    feeds = [Feed(data.train, batch=7, seed=5, name="teachers") for data in both]
    assert [feed.resident for feed in feeds] == [True, False]
    for start, count in ((0, 4), (4, 4), (8, 3), (30, 2), (0, 1), (1, 1)):  # ahead, a jump, back
        (images, labels), (seen, told) = (batches(feed, start, count) for feed in feeds)
        np.testing.assert_array_equal(images, seen)
        np.testing.assert_array_equal(labels, told)


def test_a_resident_feed_keeps_its_arrays(both):
    feed = Feed(both[0].train, batch=7, seed=5, name="teachers")
    first, again = feed.chunk(0, 2), feed.chunk(2, 2)
    assert first[0] is again[0]
    assert first[1] is again[1]


def test_a_set_in_memory_that_does_not_fit_the_device_is_streamed(both):
    feed = Feed(both[0].train, batch=7, seed=5, name="teachers", resident_bytes=1000)
    assert not feed.resident
    held = Feed(both[0].train, batch=7, seed=5, name="teachers")
    np.testing.assert_array_equal(batches(feed, 3, 2)[0], batches(held, 3, 2)[0])


def test_an_unreadable_image_stops_a_streamed_feed_by_name(spec, both):
    path = Path(spec.removeprefix("zip:"))
    data = bytearray(path.read_bytes())
    streamed = open_data(Data(train=spec), 0, resident_bytes=1000)
    data[data.index(b"IDAT") + 40] ^= 255
    with path.open("r+b") as out:
        out.write(data)
    with pytest.raises(DataError, match=r"cannot be decoded: \w+/airplane/\d+\.png \(damaged"):
        streamed.train.gather(np.arange(len(streamed.train)))
    feed = Feed(streamed.train, batch=len(streamed.train), seed=0, name="x")
    with pytest.raises(DataError, match=r"cannot be decoded: \w+/airplane/\d+\.png \(damaged"):
        feed.chunk(0, 1)


def test_a_dropped_feed_leaves_no_threads(both):
    before = threading.active_count()
    feed = Feed(both[1].val, batch=2, seed=5, name="teachers")
    feed.chunk(0, 2)
    feed.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before
