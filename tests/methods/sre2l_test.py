"""CDA, FADRM and DWA on SRe2L's loop: schedules at known points, stages by hand, and the cases that are SRe2L."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import models
from ddjax.kernels import augment as views
from ddjax.mesh import Spread
from ddjax.methods import Context
from ddjax.methods.sre2l import CDA, FADRM, SRe2L, applied, bilinear, directed
from ddjax.types import Augment, Batch, Moments, Teachers

CLASSES, IPC, SHAPE = 3, 2, (8, 8, 1)
SMALL = dict(ipc=IPC, steps=8, batch=100, lr=0.1, stat_scope="global", alpha=0.1, flip=False, roll=1)


@functools.cache
def net():
    return models.build("convnet1-w4-batch", image_shape=SHAPE, classes=CLASSES)


@functools.cache
def teachers():
    """One network with made-up statistics."""
    params, state = jax.tree.map(lambda a: a[None], net().init(jax.random.key(7)))
    stats = {"block0/norm": Moments(jnp.ones(1), jnp.full((1, 4), 0.3), jnp.full((1, 4), 0.7))}
    return Teachers(params, state, stats)


@functools.cache
def real():
    return jnp.clip(jax.random.normal(jax.random.key(3), (CLASSES * IPC, *SHAPE)), -2.0, 2.0)


def run(method, steps):
    """Every state of the first ``steps`` steps, from the same real images and keys."""
    context = Context(
        net=net(), ipc=IPC, classes=CLASSES, image_shape=SHAPE, low=(-2.0,), high=(2.0,), augment=Augment(),
        pool_mean=Spread("scan").mean,
    )  # fmt: skip
    distiller = method.build(context)
    state = distiller.init(jax.random.key(0), real(), jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), IPC))
    step = jax.jit(lambda key, state, i, fed: distiller.step(key, state, Batch(i, teachers=fed)))
    states = [state]
    for i in range(steps):
        states.append(step(jax.random.fold_in(jax.random.key(1), i), states[-1], jnp.int32(i), teachers())[0])
    assert step._cache_size() == 1
    return states


def same(a, b):
    return all(np.array_equal(x.images, y.images) for x, y in zip(a, b, strict=True))


@functools.cache
def cropped():
    return run(SRe2L(**SMALL, init="real", crop_area=(0.25, 1.0)), 8)


# ---------------------------------------------------------------------------------------------------------------- CDA


@pytest.mark.parametrize(
    ("curriculum", "milestone", "points"),
    [
        ("cosine", 1.0, {0: 1.0, 50: 0.54, 25: 0.08 + 0.92 * (1 + 0.5**0.5) / 2, 99: 0.0802}),
        ("linear", 0.5, {0: 1.0, 25: 0.54, 49: 0.0984, 50: 0.08, 99: 0.08}),
        ("step", 0.5, {0: 1.0, 49: 1.0, 50: 0.08, 99: 0.08}),
        ("cosine", 0.0, {0: 0.08, 99: 0.08}),
    ],
)
def test_the_smallest_crop_falls_as_published(curriculum, milestone, points):
    method = CDA(steps=100, crop_area=(0.08, 1.0), curriculum=curriculum, milestone=milestone)
    found = [float(method.smallest(jnp.int32(update))) for update in points]
    np.testing.assert_allclose(found, list(points.values()), atol=1e-4)


def test_crops_are_whole_images_at_first_and_parts_at_last():
    method = CDA(**SMALL, crop_area=(0.08, 1.0))
    index = jnp.arange(200, dtype=jnp.int32)
    boxes = jax.jit(
        lambda update: views.draw_view(jax.random.key(2), method.views(update), index, 0, image_size=SHAPE[:2]).box
    )
    area = [np.asarray(boxes(jnp.int32(update))[:, 2:]).prod(1) / 64 for update in (0, 4, 7)]
    assert (area[0] > 0.95).all() and area[2].min() < 0.15
    assert area[1].min() > 0.4 and area[0].mean() > area[1].mean() > area[2].mean()


def test_a_curriculum_that_is_over_at_once_is_sre2l():
    kwargs = SMALL | {"init": "real", "crop_area": (0.25, 1.0)}
    assert same(run(CDA(**kwargs, milestone=0.0), 8), cropped())
    assert not same(run(CDA(**kwargs), 8), cropped())


# -------------------------------------------------------------------------------------------------------------- FADRM


def test_without_a_residual_fadrm_is_sre2l_bit_for_bit():
    kwargs = SMALL | {"init": "real", "crop_area": (0.25, 1.0), "sizes": (1.0,) * 4}
    assert same(run(FADRM(**kwargs, blend=1.0), 8), cropped())
    half = run(FADRM(**kwargs, blend=0.5), 8)
    assert same(half[:3], cropped()[:3]) and not same(half, cropped())  # the second stage begins at step 2


def test_a_stage_begins_with_the_first_images_blended_in():
    method = FADRM(steps=8, sizes=(1.0, 1.0), blend=0.75)
    rows, x = jnp.arange(6, dtype=jnp.int32), real() + 1
    for update, wanted, anew in [(0, x, True), (1, x, False), (4, 0.75 * x + 0.25 * real(), True), (5, x, False)]:
        found, starts = method.enter(jnp.int32(update), x, {"first": real()}, rows)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert bool(starts) == anew


@pytest.mark.parametrize(("source", "target"), [(8, 6), (6, 8), (8, 4), (5, 9), (7, 7)])
def test_images_are_resized_bilinearly_without_antialiasing(source, target):
    row = np.random.default_rng(0).normal(size=(source, 1)).astype(np.float32)
    expected = jax.image.resize(row, (target, 1), "bilinear", antialias=False)
    np.testing.assert_allclose(bilinear(source, target) @ row, expected, atol=1e-5)


def test_smaller_images_lie_in_the_corner_and_are_shown_whole():
    sizes, x = (0.5, 1.0), real()
    small = applied(sizes, "first", jnp.int32(0), x)
    np.testing.assert_allclose(
        small[:, :4, :4], jax.image.resize(x, (6, 4, 4, 1), "bilinear", antialias=False), atol=1e-5
    )
    assert not np.asarray(small[:, 4:]).any() and not np.asarray(small[:, :, 4:]).any()
    back = jax.image.resize(small[:, :4, :4], x.shape, "bilinear", antialias=False)
    for found in (applied(sizes, "whole", jnp.int32(0), small), applied(sizes, "next", jnp.int32(1), small)):
        np.testing.assert_allclose(found, back, atol=1e-5)
    assert np.array_equal(applied(sizes, "whole", jnp.int32(1), x), x)


def test_images_of_a_smaller_stage_keep_to_their_corner_and_end_whole():
    method = FADRM(**SMALL, init="real", sizes=(0.5, 1.0), blend=0.5)
    states = run(method, 8)
    assert not np.asarray(states[4].images[:, 4:]).any() and np.asarray(states[4].images[:, :4, :4]).any()
    assert not np.array_equal(states[4].images, states[3].images)
    assert (np.abs(np.asarray(states[8].images)).mean((1, 2, 3)) > 0.1).all()
    assert np.abs(np.asarray(states[8].images[:, 4:])).mean() > 0.1


# ---------------------------------------------------------------------------------------------------------------- DWA


def test_fadrm_has_the_released_numbers_of_each_data_set():
    found = {card: FADRM().filled(card, 50) for card in ("imagenette", "imagenet", "cifar100", "tiny_imagenet")}
    assert {card: (one.lr, one.batch, one.steps) for card, one in found.items()} == {
        "imagenette": (0.05, 10, 2000), "imagenet": (0.25, 100, 2000), "cifar100": (0.25, 100, 2000),
        "tiny_imagenet": (0.01, 100, 1000),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("card", "crop", "roll", "steps"),
    [
        ("cifar100", None, 4, 1000), ("tiny_imagenet", (0.08, 1.0), 4, 4000), ("imagenette", (0.08, 1.0), 32, 4000),
        ("imagenet", (0.08, 1.0), 32, 4000),
    ],
)  # fmt: skip
def test_sre2l_crops_as_released_where_images_are_64_pixels_and_more(card, crop, roll, steps):
    found = SRe2L().filled(card, 50)
    assert (found.crop_area, found.roll, found.steps) == (crop, roll, steps)


def test_adjusted_weights_go_up_the_gradient_by_the_stated_length():
    slope = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)}

    def line(w):
        return jnp.sum(slope["a"] * w["a"]) + slope["b"] * w["b"]

    start = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    end = directed(line, start, 5, 0.1)
    np.testing.assert_allclose(end["a"], start["a"] + 0.1 * np.array([0.6, 0.0]), atol=1e-6)
    np.testing.assert_allclose(end["b"], 0.5 - 0.1 * 0.8, atol=1e-6)
    turning = directed(lambda w: -jnp.sum((w["a"] - 5.0) ** 2), start, 4, 0.4)  # each step a tenth, towards (5, 5)
    assert 0 < float(jnp.linalg.norm(turning["a"] - start["a"])) <= 0.4 + 1e-6
    assert not np.asarray(turning["b"] - start["b"]).any()


def test_each_batch_of_images_meets_a_model_of_its_own():
    method = SRe2L(**SMALL | {"batch": 3, "steps": 2}, init="real", adjust_steps=3, adjust_length=0.06)
    kept = [jax.tree.map(np.asarray, state.kept["adjusted"]) for state in run(method, 4)]

    def between(a, b):
        return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)))

    model = jax.tree.map(lambda a: np.asarray(a[0]), teachers().params)
    assert 0.03 < between(kept[1], model) <= 0.06 + 1e-5
    assert between(kept[1], kept[2]) == 0 and between(kept[3], kept[4]) == 0
    assert between(kept[2], kept[3]) > 1e-3 and between(kept[3], model) <= 0.06 + 1e-5


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (CDA(milestone=1.5), "milestone"),
        (CDA(curriculum="up"), "curriculum"),
        (FADRM(sizes=(1.0, 0.5)), "sizes"),
        (FADRM(sizes=(2.0, 1.0)), "sizes"),
        (FADRM(sizes=(1.0,) * 4, steps=3), "steps"),
        (FADRM(blend=-0.1), "blend"),
        (SRe2L(adjust_steps=-1), "adjust_steps"),
        (SRe2L(variance_weight=-1.0), "variance_weight"),
    ],
)
def test_a_wrong_value_is_named(method, named):
    (problem,) = method.check("method")
    assert problem.startswith(f"method.{named}") and "llowed" in problem
