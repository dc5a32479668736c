"""RandAugment's ops against Pillow, one by one; draws; what normalised images come back as."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ddjax.kernels import augment, randaugment
from ddjax.types import Augment

H, W, B = 24, 24, 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def pixels(n=B, depth=3, seed=0):
    """Smooth images with some range left, as photographs have."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 236, (n, 4, 4, depth))
    return (np.repeat(np.repeat(small, 6, 1), 6, 2) + rng.integers(-9, 10, (n, H, W, depth))).astype(np.uint8)


@functools.cache
def op(name):
    return jax.jit(randaugment.OPS[name], static_argnums=2)


def ours(name, image, sign, magnitude):
    return np.asarray(op(name)(jnp.asarray(image, jnp.float32), jnp.float32(sign), magnitude / 30))


def theirs(name, image, sign, magnitude):
    """The op as Pillow has it, with torchvision's range."""
    s, made = magnitude / 30, Image.fromarray(image)

    def affine(*six):
        return made.transform(made.size, Image.Transform.AFFINE, six, Image.Resampling.NEAREST)

    if name == "rotate":
        return made.rotate(sign * 30 * s)
    if name in ("shear_x", "shear_y"):
        shear = sign * 0.3 * s
        return affine(1, shear, 0, 0, 1, 0) if name == "shear_x" else affine(1, 0, 0, shear, 1, 0)
    if name in ("translate_x", "translate_y"):
        moved = -sign * int(150 / 331 * W * s)
        return affine(1, 0, moved, 0, 1, 0) if name == "translate_x" else affine(1, 0, 0, 0, 1, moved)
    enhance = {"brightness": ImageEnhance.Brightness, "color": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
               "sharpness": ImageEnhance.Sharpness}  # fmt: skip
    if name in enhance:
        return enhance[name](made).enhance(1 + sign * 0.9 * s)
    return {
        "posterize": lambda: ImageOps.posterize(made, 8 - round(4 * s)),
        "solarize": lambda: ImageOps.solarize(made, 255 * (1 - s)),
        "autocontrast": lambda: ImageOps.autocontrast(made),
        "equalize": lambda: ImageOps.equalize(made),
        "identity": lambda: made,
    }[name]()


@pytest.mark.parametrize("name", list(randaugment.OPS))
def test_each_op_equals_pillows(name):
    moved = 0
    for image, sign, magnitude in zip(pixels(), (1, -1, 1, -1, 1), (9, 9, 17, 25, 30), strict=True):
        found, expected = ours(name, image, sign, magnitude), np.asarray(theirs(name, image, sign, magnitude))
        moved = max(moved, np.abs(expected.astype(float) - image).max())
        if name in ("shear_x", "shear_y", "rotate"):  # a pixel on the very edge of two may fall to either
            assert (found != expected).any(axis=2).mean() < 0.03
        else:  # greys are rounded otherwise
            assert np.abs(found - expected).max() <= (1 if name in ("color", "autocontrast", "sharpness") else
                                                      2 if name == "contrast" else 0)  # fmt: skip
    assert name == "identity" or moved > 3


def test_flat_and_grey_images():
    flat = np.full((H, W, 1), 77, np.uint8)
    for name in ("autocontrast", "equalize", "color", "sharpness"):
        assert np.array_equal(ours(name, flat, 1, 9), flat)
    grey = pixels(1, 1)[0]
    assert (
        np.abs(ours("contrast", grey, 1, 9) - np.asarray(theirs("contrast", grey[..., 0], 1, 9))[..., None]).max() <= 2
    )


def normal(images):
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=2)
def seen(key, images, options):
    index = jnp.arange(images.shape[0], dtype=jnp.int32)
    view = augment.draw_view(key, options, index, 0, image_size=(H, W))
    return augment.apply_view(images, view, augment=options), view


def test_every_image_goes_through_its_own_recorded_ops():
    options = Augment(randaugment=(2, 9), scale=(MEAN, STD))
    images = pixels(40, seed=1)
    found, view = seen(jax.random.key(0), normal(images), options)
    assert view.ops.shape == (2, 40) and view.numbers.shape == (2, 40, 3)
    assert len(np.unique(view.ops)) > 10
    names = list(randaugment.OPS)
    for b in range(0, 40, 7):
        expected = images[b]
        for layer in range(2):
            sign = -1 if view.numbers[layer, b, 0] < 0.5 else 1
            expected = ours(names[int(view.ops[layer, b])], expected, sign, 9)
        np.testing.assert_allclose(found[b], normal(expected), atol=1e-4)
    again, _ = seen(jax.random.key(1), normal(images), options)
    assert seen._cache_size() == 1 and not np.array_equal(again, found)


def test_magnitudes_have_a_range():
    with pytest.raises(ValueError, match=r"magnitude = 31; allowed: 0 .. 30"):
        seen(jax.random.key(0), normal(pixels()), Augment(randaugment=(1, 31), scale=(MEAN, STD)))
