"""The digits' augmentation against NumPy and scipy.ndimage.rotate, image by image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ddjax.kernels import augment, dcaug
from ddjax.types import Augment

B = 12


def images(height=14, width=14, depth=2, seed=0):
    return (np.random.default_rng(seed).normal(size=(B, height, width, depth)) + 0.3).astype(np.float32)


@functools.cache
def numbers(seed=1):
    return np.random.default_rng(seed).uniform(size=(B, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=4)
def applied(x, which, u, key, ops):
    return dcaug.apply(x, which, u, key, ops)


def cropped(image, u, mean):
    padded = np.empty((image.shape[0] + 8, image.shape[1] + 8, image.shape[2]))
    padded[:] = mean
    padded[4:-4, 4:-4] = image
    top, left = int(u[0] * 8), int(u[1] * 8)
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def scaled(image, u):
    """Nearest resize to (h, w), put in the middle of a canvas of zeros, of which the middle is taken."""
    height, width = image.shape[:2]
    h, w = (int((0.8 + 0.4 * u[i]) * height) for i in range(2))
    rows, cols = (np.arange(n) * s // n for n, s in ((h, height), (w, width)))
    side = max(h, w, height, width)
    canvas = np.zeros((side, side, image.shape[2]))
    r, c = (side - h) // 2, (side - w) // 2
    canvas[r : r + h, c : c + w] = image[rows][:, cols]
    r, c = (side - height) // 2, (side - width) // 2
    return canvas[r : r + height, c : c + width]


def rotated(image, u, fill):
    big = ndimage.rotate(image.astype(np.float64), int(u[0] * 90) - 45, axes=(0, 1), cval=fill)
    r, c = (big.shape[0] - image.shape[0]) // 2, (big.shape[1] - image.shape[1]) // 2
    return big[r : r + image.shape[0], c : c + image.shape[1]]


@pytest.mark.parametrize("shape", [(14, 14), (9, 13)])
@pytest.mark.parametrize("name", ["crop", "scale", "rotate"])
def test_each_op_equals_the_reference(name, shape):
    x, u = images(*shape), numbers()
    mean = x.mean(axis=(0, 1, 2))
    rules = {
        "crop": lambda i, u: cropped(i, u, mean),
        "scale": scaled,
        "rotate": lambda i, u: rotated(i, u, mean.mean()),
    }
    found = np.asarray(applied(x, np.zeros(B, np.int32), u, jax.random.key(0), (name,)))
    expected = np.stack([rules[name](image, row) for image, row in zip(x, u, strict=True)])
    assert np.abs(expected - x).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=2e-3 if name == "rotate" else 1e-6)


def test_right_angles_of_zero_change_nothing():
    x = images()
    u = np.full((B, 3), 0.5, np.float32)  # 45 steps up from -45 degrees; four pixels up from -4
    for name in ("rotate", "crop"):
        np.testing.assert_allclose(applied(x, np.zeros(B, np.int32), u, jax.random.key(0), (name,)), x, atol=1e-4)


def test_noise_is_small_and_of_the_key():
    x, which = images(), np.zeros(B, np.int32)
    found = np.asarray(applied(x, which, numbers(), jax.random.key(3), ("noise",)))
    assert 0.0008 < (found - x).std() < 0.0012
    assert np.array_equal(found, applied(x, which, numbers(), jax.random.key(3), ("noise",)))
    assert not np.array_equal(found, applied(x, which, numbers(), jax.random.key(4), ("noise",)))


@functools.partial(jax.jit, static_argnums=2)
def seen(key, x, options):
    view = augment.draw_view(key, options, jnp.arange(B, dtype=jnp.int32), 0, image_size=x.shape[1:3])
    return augment.apply_view(x, view, augment=options), view


def test_each_image_gets_one_op_of_its_own():
    options, x = Augment(dc=("crop", "scale", "rotate")), images()
    found, view = seen(jax.random.key(0), x, options)
    assert set(np.asarray(view.ops[0])) == {0, 1, 2}
    for b in range(B):
        alone = applied(x, np.zeros(B, np.int32), view.numbers[0], jax.random.key(0), (options.dc[view.ops[0, b]],))
        np.testing.assert_array_equal(found[b], alone[b])
    seen(jax.random.key(1), x, options)
    assert seen._cache_size() == 1


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match="allowed: some of crop, scale, rotate, noise"):
        dcaug.apply(
            jnp.asarray(images()), jnp.zeros(B, jnp.int32), jnp.asarray(numbers()), jax.random.key(0), ("flip",)
        )
