"""DSA against a reference in NumPy written pixel by pixel; laws of the draws; siamese; derivatives; compiled once."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddjax.kernels import dsa

B, H, W, D = 6, 8, 10, 3
NAMES = tuple(dsa.OPS)


def images(n=B, height=H, width=W, seed=0):
    return np.random.default_rng(seed).normal(size=(n, height, width, D)).astype(np.float32)


@functools.cache
def numbers(n=B, seed=1):
    return np.random.default_rng(seed).uniform(size=(n, 3)).astype(np.float32)


@functools.cache
def op(name):
    return jax.jit(dsa.OPS[name])


def read(image, row, col, edge):
    """Bilinear value of one image at a real place; zeros or the nearest pixel outside."""
    height, width = image.shape[:2]
    total, top, left = np.zeros(image.shape[2]), math.floor(row), math.floor(col)
    for i in (top, top + 1):
        for j in (left, left + 1):
            weight = (1 - abs(row - i)) * (1 - abs(col - j))
            if edge:
                total += weight * image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
            elif 0 <= i < height and 0 <= j < width:
                total += weight * image[i, j]
    return total


def warped(image, place, edge):
    """The image read at ``place(row, col)``, in pixels counted from its centre."""
    height, width = image.shape[:2]
    middle = (height - 1) / 2, (width - 1) / 2
    out = np.empty(image.shape)
    for i in range(height):
        for j in range(width):
            row, col = place(i - middle[0], j - middle[1])
            row, col = row + middle[0], col + middle[1]
            if edge:
                row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)
            out[i, j] = read(image, row, col, edge)
    return out


def blanked(image, top, left, sides):
    out = image.astype(np.float64)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if top <= i < top + sides[0] and left <= j < left + sides[1]:
                out[i, j] = 0
    return out


def spread_about(image, mean, factor):
    return (image - mean) * factor + mean


def reference(name, image, u):
    """What each op does to one image, from the table of the method."""
    image = image.astype(np.float64)
    height, width = image.shape[:2]
    if name == "color":
        image = image + (u[0] - 0.5)
        image = spread_about(image, image.mean(axis=2, keepdims=True), 2 * u[1])
        return spread_about(image, image.mean(), u[2] + 0.5)
    if name == "jitter":
        shift, contrast, saturation = 0.5 * u - 0.25
        image = spread_about(image + shift, (image + shift).mean(), math.exp(contrast))
        return spread_about(image, image.mean(axis=2, keepdims=True), math.exp(saturation))
    if name == "crop":
        most = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        dy, dx = (int(u[i] * (2 * most[i] + 1)) - most[i] for i in range(2))
        return warped(image, lambda i, j: (i + dy, j + dx), edge=False)
    if name == "cutout":
        sides = int(height / 2 + 0.5), int(width / 2 + 0.5)
        centre = [int(u[i] * (image.shape[i] + 1 - sides[i] % 2)) for i in range(2)]
        return blanked(image, centre[0] - sides[0] // 2, centre[1] - sides[1] // 2, sides)
    if name == "hole":
        sides = height // 4, width // 4
        return blanked(image, int(u[0] * (height - sides[0] + 1)), int(u[1] * (width - sides[1] + 1)), sides)
    if name == "flip":
        return image[:, ::-1] if u[0] < 0.5 else image
    if name == "scale":
        sx, sy = (1 / 1.2 + u[i] * (1.2 - 1 / 1.2) for i in range(2))
        return warped(image, lambda i, j: (sy * i, sx * j), edge=False)
    if name == "zoom":
        factor = math.exp(math.log(0.8) + u[0] * math.log(1.25 / 0.8))
        dy, dx = ((2 * u[1 + i] - 1) * abs(image.shape[i] * factor - image.shape[i]) / 2 for i in range(2))
        return warped(image, lambda i, j: ((i + dy) / factor, (j + dx) / factor), edge=True)
    if name == "translate":
        dy, dx = ((2 * u[i] - 1) * image.shape[i] / 8 for i in range(2))
        return warped(image, lambda i, j: (i + dy, j + dx), edge=True)
    angle = (2 * u[0] - 1) * math.pi / 12
    cos, sin, ratio = math.cos(angle), math.sin(angle), height / width
    turned = lambda i, j: (cos * i + sin * j * ratio, cos * j - sin * i / ratio)  # noqa: E731
    return warped(image, turned, edge=name == "turn")


# -------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("name", NAMES)
def test_each_op_equals_the_reference(name):
    x = images()
    for seed in (1, 2):
        found = op(name)(x, numbers(seed=seed))
        expected = np.stack([reference(name, x[b], numbers(seed=seed)[b]) for b in range(B)])
        assert name == "flip" or np.abs(expected - x).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_row_of_numbers_serves_every_image(name):
    x, u = images(), numbers()[:1]
    np.testing.assert_allclose(op(name)(x, u), op(name)(x, np.repeat(u, B, axis=0)), atol=2e-5)


def test_grey_images_and_odd_sizes():
    x = images(2, 7, 9)[..., :1]
    for name in NAMES:
        found = op(name)(x, numbers(2))
        np.testing.assert_allclose(found, np.stack([reference(name, x[b], numbers(2)[b]) for b in range(2)]), atol=2e-5)


# --------------------------------------------------------------------------------------------- draws


@functools.partial(jax.jit, static_argnums=(1, 2))
def many(keys, ops, count):
    return jax.vmap(lambda key: dsa.draw(key, ops, count))(keys)


def test_ops_and_numbers_are_uniform_and_independent_of_each_other():
    drawn = many(jax.random.split(jax.random.key(0), 1200), dsa.DSA_OPS, 2)
    counts = np.bincount(np.asarray(drawn.op), minlength=6)
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3
    u = np.asarray(drawn.u).reshape(1200, 6)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in u.T)
    correlation = np.corrcoef(np.column_stack([np.asarray(drawn.op), u]).T) - np.eye(7)
    assert np.abs(correlation).max() < 0.12


def test_the_laws_of_the_parameters():
    """Shifts, squares and angles from many draws: their sets of values, all reached."""
    n, u = 400, numbers(400)
    marks = np.zeros((n, 32, 32, 1), np.float32)
    marks[:, 16, 16] = 1
    place = np.argwhere(np.asarray(op("crop")(marks, u))[..., 0] > 0)[:, 1:] - 16
    assert set(place[:, 0]) == set(place[:, 1]) == set(range(-4, 5))
    ones = np.ones((n, 32, 32, 1), np.float32)
    lost = (np.asarray(op("cutout")(ones, u)) == 0).sum(axis=(1, 2, 3))
    assert lost.max() == 256 and 64 <= lost.min() <= 90  # a corner square keeps a quarter
    assert ((np.asarray(op("hole")(ones, u)) == 0).sum(axis=(1, 2, 3)) == 64).all()


# --------------------------------------------------------------------------------------------- modes


@functools.partial(jax.jit, static_argnums=(2, 3))
def augmented(key, x, ops=dsa.DSA_OPS, siamese=False):
    return dsa.augment(key, x, ops, siamese=siamese)


def test_a_batch_gets_one_op_and_each_image_its_own_parameters():
    x = np.repeat(images(1), B, axis=0)
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        drawn = dsa.draw(key, dsa.DSA_OPS, B)
        name = dsa.DSA_OPS[int(drawn.op)]
        seen.add(name)
        found = augmented(key, x)
        np.testing.assert_allclose(found, op(name)(x, drawn.u), atol=2e-5)
        assert len({image.tobytes() for image in np.asarray(found)}) > 1
    assert len(seen) >= 4


def test_siamese_treats_all_images_of_both_batches_alike():
    pair = jax.jit(dsa.siamese, static_argnums=3)
    x = images(1)
    for seed in range(4):
        key = jax.random.key(seed)
        a, b = pair(key, np.repeat(x, 3, axis=0), np.repeat(x, B, axis=0), dsa.DSA_OPS)
        alone = augmented(key, x, siamese=True)
        for image in (*a, *b):
            np.testing.assert_allclose(image, alone[0], atol=1e-6)


def test_a_single_op_needs_no_switch_and_names_are_checked():
    x = jnp.asarray(images())
    text = jax.make_jaxpr(lambda k, x: dsa.augment(k, x, ("flip",)))(jax.random.key(0), x)
    assert "cond" not in str(text)
    with pytest.raises(ValueError, match=r"colour.*allowed: one or more of color, crop"):
        dsa.augment(jax.random.key(0), x, ("colour",))
    with pytest.raises(TypeError, match="uint8"):
        dsa.augment(jax.random.key(0), x.astype(jnp.uint8))


def test_half_precision_stays_half():
    for name in NAMES:
        found = op(name)(jnp.asarray(images(), jnp.bfloat16), numbers())
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), op(name)(images(), numbers()), atol=0.15)


# --------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("name", ["color", "rotate", "scale", "cutout"])
def test_derivatives_of_both_orders_equal_differences(name):
    with jax.enable_x64(True):
        x, v = (jnp.asarray(a.astype(np.float64)) for a in (images(), images(seed=3)))
        u = jnp.asarray(numbers())

        def curved(x):
            return jnp.sum(jnp.tanh(dsa.OPS[name](x, u)) ** 2)

        slope = jax.jit(jax.grad(curved))
        step = 1e-5
        difference = (curved(x + step * v) - curved(x - step * v)) / (2 * step)
        np.testing.assert_allclose(np.sum(slope(x) * v), difference, rtol=1e-5)
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(curved), (x,), (v,))[1])(x, v)
        change = (slope(x + step * v) - slope(x - step * v)) / (2 * step)
        assert np.abs(product).max() > 0.1
        np.testing.assert_allclose(product, change, atol=2e-5)  # places are computed in single precision


def test_compiled_once_for_every_key_inside_a_scan():
    traces = []

    @jax.jit
    def steps(keys, x):
        def body(carry, key):
            traces.append(1)
            moved, slope = jax.value_and_grad(lambda c: jnp.sum(dsa.augment(key, c) ** 2))(carry)
            return carry + 1e-3 * slope, moved

        return jax.lax.scan(body, x, keys)

    first, _ = steps(jax.random.split(jax.random.key(0), 3), images())
    second, _ = steps(jax.random.split(jax.random.key(1), 3), images())
    assert np.isfinite(first).all() and not np.array_equal(first, second)
    once = len(traces)
    steps(jax.random.split(jax.random.key(2), 3), images())
    assert len(traces) == once == 1
