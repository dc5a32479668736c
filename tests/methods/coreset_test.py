"""Coresets: the images of the baselines' rows, kept to the byte; canvases; what they have not; what is too much."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import baselines, config, models, selection
from ddjax.config import Data
from ddjax.data import open_data
from ddjax.distill import to_pixels
from ddjax.errors import ConfigError
from ddjax.evaluate import Row
from ddjax.kernels import patches
from ddjax.mesh import Spread
from ddjax.methods import METHODS
from ddjax.methods.coreset import Coreset, Herding, Random
from ddjax.methods.idm import IDM
from ddjax.methods.rded import RDED
from ddjax.relabel import Hard
from ddjax.survey import normalise

NAMES = ("random", "kmeans", "herding", "kcenter", "forgetting")


@functools.cache
def digits():
    return open_data(Data(train="digits", subset=200), 0)


@functools.cache
def trained() -> baselines.FullData:
    """A network that was never trained, with counts of forgetting made up."""
    net = models.build("convnet1-w4", image_shape=(8, 8, 1), classes=10)
    forgotten = np.random.default_rng(0).integers(0, 5, len(digits().train)).astype(np.int32)
    return baselines.FullData(*net.init(jax.random.key(0)), 0.0, {}, forgotten, None, (), ())


class Evaluated(NamedTuple):
    archs: tuple[str, ...] = ("convnet1-w4",)


class Run(NamedTuple):
    method: Any
    seed: int = 0
    evaluate: Evaluated = Evaluated()


class Job(NamedTuple):
    run: Run
    data: Any
    over: Spread = Spread("scan")

    def net(self, arch: str):
        return models.build(arch, image_shape=(8, 8, 1), classes=10)


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(selection.lineup, "shared_teacher", lambda job: trained())


def start(method, seed: int = 0):
    return selection.start(Job(Run(method, seed), digits()), None, None)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_coreset_is_the_baselines_row_of_its_name(name):
    found = start(METHODS[name](ipc=3), seed=4)
    own = Row("x", "hard", np.zeros((30, 8, 8, 1), np.uint8), Hard(np.zeros(30, np.int32), 10))
    rows = baselines.rows((name,), own, None, None, trained(), Job(Run(None), None).net("convnet1-w4"), digits(),
                          ipc=3, seed=4)  # fmt: skip
    assert [row.name for row in rows] == [name]
    assert np.array_equal(found.images, rows[0].images)
    assert np.array_equal(found.labels, np.repeat(np.arange(10), 3))


def test_random_is_a_draw_of_its_own_by_class():
    found, data = start(Random(ipc=3)), digits()
    assert not np.array_equal(found.images, baselines.random_images(data, 3, 0))
    for image, label in zip(found.images, found.labels, strict=True):
        same = (data.train.images == image).all(axis=(1, 2, 3))
        assert label in data.train.labels[same]
    assert not np.array_equal(found.images, start(Random(ipc=3), seed=1).images)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_kept_to_the_byte(name):
    method, card = METHODS[name](ipc=3), digits().card
    assert isinstance(method, Coreset)
    distiller = method.build(None)
    assert distiller.steps == 0
    images = start(method).images
    state = distiller.init(jax.random.key(0), normalise(images, card.mean, card.std), jnp.zeros(30, jnp.int32))
    assert distiller.step(jax.random.key(0), state, None)[1] == {}
    assert np.array_equal(to_pixels(np.asarray(distiller.extract(state)), card.mean, card.std), images)


def test_labels_are_the_classes_or_those_of_the_base_model():
    assert (Herding().label_source, Herding(soft=True).label_source, RDED().label_source) == ("hard", "base", "base")


def test_a_canvas_holds_the_images_that_four_times_the_budget_buys():
    canvases, four = start(Herding(ipc=2, factor=2)).images, start(Herding(ipc=8)).images
    assert canvases.shape == (20, 8, 8, 1)
    wanted = patches.mosaic(four.astype(np.float32), 2)
    assert np.array_equal(canvases, np.clip(np.round(wanted), 0, 255).astype(np.uint8))
    top_left = canvases[0, :4, :4, 0].astype(float).ravel()  # the first of them, a quarter of the size
    halves = four[:4].reshape(4, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(4, 16)
    assert np.argmax([np.corrcoef(top_left, half)[0, 1] for half in halves]) == 0


@pytest.mark.parametrize("name", [*NAMES, "rded"])
def test_steps_are_refused_with_the_reason(name):
    with pytest.raises(ConfigError, match=r"--method\.steps is not known \(coresets and RDED .* have no steps\)"):
        config.load(["--data.train", "digits", "--method", name, "--method.steps", "5"])


@pytest.mark.parametrize(
    ("method", "argument"),
    [(Random(ipc=30), "method.ipc"), (Herding(ipc=6, factor=2), "method.factor"),
     (IDM(ipc=6, factor=2), "method.factor"), (RDED(ipc=6, tiles=2), "method.tiles"),
     (RDED(ipc=2, factor=2, tiles=2), "method.tiles")],
)  # fmt: skip
def test_more_images_than_the_smallest_class_has_is_a_named_error(method, argument):
    held = int(np.bincount(digits().train.labels).min())
    with pytest.raises(ConfigError) as caught:
        selection.check(method, digits())
    said = str(caught.value)
    assert said.startswith(f"{argument} = ") and f"<= {held}, the training images of the smallest class" in said


def test_as_many_as_the_smallest_class_has_are_admitted():
    held = int(np.bincount(digits().train.labels).min())
    selection.check(Random(ipc=held), digits())
    selection.check(RDED(ipc=held // 4, tiles=2), digits())
    assert start(Random(ipc=held)).images.shape[0] == 10 * held
