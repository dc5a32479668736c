"""Real archives, where they lie beside the checkout: counts and moments as their notes state."""

import numpy as np
import pytest

from ddjax.config import Data
from ddjax.data import open_data, open_source
from ddjax.data.split import Want, load


def rows(source, per_class: int) -> np.ndarray:
    """The first images of every class."""
    return np.concatenate([np.flatnonzero(source.labels == c)[:per_class] for c in np.unique(source.labels)])


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of pixels / 255 per channel, from counts of the byte values."""
    flat = images.reshape(-1, images.shape[-1])
    counts = [np.bincount(flat[:, d], minlength=256) / len(flat) for d in range(flat.shape[1])]
    value = np.arange(256) / 255
    mean = np.array(counts) @ value
    return mean, np.sqrt(np.array(counts) @ value**2 - mean**2)


def test_cifar10_zip(shared_data):
    spec = f"zip:{shared_data}/cifar10/train.zip"
    (part, source), *rest = open_source("data.train", spec).items()
    assert (part, rest) == ("train", [])
    assert np.bincount(source.labels).tolist() == [5000] * 10
    images = load(source, rows(source, 200), Want(None, None, "none"))
    assert images.shape == (2000, 32, 32, 3)
    mean, std = moments(images)
    np.testing.assert_allclose(mean, (0.4913, 0.4821, 0.4465), atol=0.01)
    np.testing.assert_allclose(std, (0.2452, 0.2428, 0.2606), atol=0.01)
    test = f"zip:{shared_data}/cifar10/test.zip"
    found = open_data(Data(train=spec, test=test, subset=1000), 0)
    assert found.card.id == "cifar10"
    assert [len(s) for s in (found.train, found.val, found.test)] == [900, 100, 10000]


@pytest.mark.slow
def test_cifar10_zip_whole(shared_data):
    source = open_source("data.train", f"zip:{shared_data}/cifar10/train.zip")["train"]
    mean, std = moments(load(source, np.arange(50000), Want(None, None, "none")))
    np.testing.assert_allclose(mean, (0.4913, 0.4821, 0.4465), atol=5.1e-5)
    np.testing.assert_allclose(std, (0.2452, 0.2428, 0.2606), atol=5.1e-5)


def test_lossless_cifar10_lies_near_its_jpeg_twins(shared_data):
    path = shared_data / "cifar10-lossless" / "test_lossless.npz"
    held = open_source("data.train", f"npz:{path}")[""]
    assert np.bincount(held.labels).tolist() == [26, 23, 31, 29, 19, 26, 19, 20, 35, 21]
    jpegs = open_source("data.test", f"zip:{shared_data}/cifar10/test.zip")["test"]
    with np.load(path) as arrays:
        twins = [str(p).removeprefix("cifar10/") for p in arrays["jpeg_path"]]
    position = {jpegs.name(i): i for i in range(len(jpegs))}
    chosen = np.array([position[next(n for n in position if n.endswith(t))] for t in twins[:20]])
    np.testing.assert_array_equal(jpegs.labels[chosen], held.labels[:20])
    images = load(jpegs, chosen, Want(None, None, "none")).astype(float)
    rms = np.sqrt(((images - held.pixels[:20]) ** 2).mean())
    assert 5 < rms < 11


def test_fashion_mnist_idx(shared_data):
    root = shared_data / "fashion-mnist"
    train, test = (f"idx:{root}/{p}-images-idx3-ubyte.gz,{root}/{p}-labels-idx1-ubyte.gz" for p in ("train", "t10k"))
    found = open_data(Data(train=train, test=test, card="fashion_mnist"), 0)
    assert [len(s) for s in (found.train, found.val, found.test)] == [54000, 6000, 10000]
    assert found.class_names[9] == "Ankle boot"
    source = open_source("data.train", train)[""]
    assert np.bincount(source.labels).tolist() == [6000] * 10
    mean, std = moments(source.pixels)
    assert (round(float(mean[0]), 4), round(float(std[0]), 4)) == (0.2860, 0.3530)


def test_tiny_imagenet_20_zip(shared_data):
    train, test = (f"zip:{shared_data}/tiny-imagenet-20/{p}.zip" for p in ("train", "val"))
    found = open_data(Data(train=train, test=test, card="tiny_imagenet"), 0)
    assert [len(s) for s in (found.train, found.val, found.test)] == [2700, 300, 1000]
    assert found.train.shape == (64, 64, 3)
    assert found.card.classes == 20
    assert found.class_names == tuple(sorted(found.class_names))
    mean, std = moments(np.concatenate([found.train.images, found.val.images]))
    np.testing.assert_allclose(mean, (0.4942, 0.4469, 0.3978), atol=5.1e-5)
    np.testing.assert_allclose(std, (0.2801, 0.2744, 0.2832), atol=5.1e-5)


def test_imagenette_zip(shared_data):
    train, test = (f"zip:{shared_data}/imagenette-224-subset/{p}.zip" for p in ("train", "val"))
    found = open_data(Data(train=train, test=test, subset=100, size=64, resize="squash"), 0)
    assert found.card.id == "imagenette"
    assert [len(s) for s in (found.train, found.val, found.test)] == [90, 10, 200]
    assert found.train.shape == (64, 64, 3)


def test_imagenet_originals_need_a_rule_and_follow_it(shared_data):
    source = open_source("data.train", f"zip:{shared_data}/imagenet-originals/images.zip")[""]
    assert len(source) == 20
    index = np.arange(20)
    squashed = load(source, index, Want((96, 96), None, "squash"))
    cropped = load(source, index, Want((96, 96), None, "crop"))
    assert squashed.shape == cropped.shape == (20, 96, 96, 3)
    square = [i for i in index if "foxhound" in source.name(i) or "dingo" in source.name(i)]
    np.testing.assert_array_equal(squashed[square], cropped[square])
    assert (squashed != cropped).any()
    with pytest.raises(Exception, match=r"images are not .* but .*--data\.resize squash"):
        load(source, index, Want(None, None, "none"))
