"""Views against NumPy, jax.image and dm-pix; distributions of the draws; replay; derivatives."""

import contextlib
import functools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddjax.kernels import augment
from ddjax.types import Augment

B, H, W, D = 6, 8, 10, 3
EVERYTHING = Augment(pad=2, flip=True, area=(0.3, 1.0), roll=3, cutmix=1.0)
apply_view = jax.jit(augment.apply_view, static_argnames="size")


def images(n=B, height=H, width=W, seed=0):
    return np.random.default_rng(seed).normal(size=(n, height, width, D)).astype(np.float32)


def identity(n=B):
    return augment.identity_view(jnp.arange(n, dtype=jnp.int32))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(seed, options, n=B, size=(H, W)):
    index = jnp.arange(n, dtype=jnp.int32)
    return augment.draw_view(jax.random.key(seed), options, index, 0, image_size=size)


@contextlib.contextmanager
def lenient():
    """What dm-pix needs: it promotes ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_identity_is_exact():
    x = images()
    np.testing.assert_array_equal(apply_view(x, identity()), x)
    np.testing.assert_array_equal(apply_view(x, draw(0, Augment())), x)


def test_crop_equals_a_slice_of_the_padded_image():
    x, pad = images(64), 3
    view = draw(1, Augment(pad=pad), 64)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    found = apply_view(x, view)
    for b, (top, left, height, width) in enumerate(np.asarray(view.box)):
        assert (height, width) == (H, W)
        rows, cols = slice(top + pad, top + pad + H), slice(left + pad, left + pad + W)
        np.testing.assert_array_equal(found[b], padded[b, rows, cols])


def test_flip_and_roll_equal_numpy_and_dm_pix():
    x = images()
    view = identity()._replace(
        flip=jnp.asarray([True, False, True, True, False, False]),
        roll=jnp.asarray([2, -3], jnp.int32),
    )
    found = apply_view(x, view)
    with lenient():
        flipped = np.asarray(jax.vmap(dm_pix.flip_left_right)(x))
    for b in range(B):
        expected = np.roll(flipped[b] if view.flip[b] else x[b], (2, -3), axis=(0, 1))
        np.testing.assert_array_equal(found[b], expected)


def numpy_crop(image, box, out):
    """Half-pixel bilinear resize of a zero-padded crop, pixel by pixel."""
    (top, left, height, width), (rows, cols) = box, out
    padded = np.zeros((height, width, image.shape[-1]))
    for i in range(height):
        for j in range(width):
            if 0 <= top + i < image.shape[0] and 0 <= left + j < image.shape[1]:
                padded[i, j] = image[top + i, left + j]
    found = np.empty((rows, cols, image.shape[-1]))
    for i in range(rows):
        for j in range(cols):
            y = min(max((i + 0.5) * height / rows - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / cols - 0.5, 0), width - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, height - 1), min(b + 1, width - 1)
            above = padded[a, b] * (1 - x + b) + padded[a, d] * (x - b)
            below = padded[c, b] * (1 - x + b) + padded[c, d] * (x - b)
            found[i, j] = above * (1 - y + a) + below * (y - a)
    return found


BOXES = [[0, 0, 8, 10], [2, 3, 4, 5], [1, 1, 3, 7], [-2, 4, 7, 9], [5, -3, 6, 6], [3, 4, 1, 1]]


@pytest.mark.parametrize("out", [(H, W), (5, 13)])
def test_bilinear_crop_equals_an_independent_reference(out):
    x = images()
    view = identity()._replace(box=jnp.asarray(BOXES, jnp.int32))
    found = apply_view(x, view, size=out)
    assert found.shape == (B, *out, D)
    for b, box in enumerate(BOXES):
        np.testing.assert_allclose(found[b], numpy_crop(x[b], box, out), atol=1e-5)


def test_bilinear_crop_equals_jax_image_and_dm_pix():
    x, box = images(1), (2, 3, 4, 5)
    view = identity(1)._replace(box=jnp.asarray([box], jnp.int32))
    found = apply_view(x, view)[0]
    crop = x[0, 2:6, 3:8]
    resized = jax.image.resize(crop, (H, W, D), "linear", antialias=False)
    np.testing.assert_allclose(found, resized, atol=1e-5)
    scale = np.diag([4 / H, 5 / W, 1.0])
    offset = np.array([2 + 0.5 * 4 / H - 0.5, 3 + 0.5 * 5 / W - 0.5, 0.0])
    with lenient():
        warped = dm_pix.affine_transform(jnp.asarray(x[0]), scale, offset=offset, order=1)
    inner = slice(1, -1)  # at its border dm-pix looks outside the box, a crop does not
    np.testing.assert_allclose(found[inner, inner], warped[inner, inner], atol=1e-5)


def test_order_is_crop_flip_roll_cutmix():
    x, view = images(), draw(5, EVERYTHING)
    plain = view._replace(mix_box=jnp.zeros((B, 4), jnp.int32))
    expected = np.stack([numpy_crop(x[b], np.asarray(view.box[b]), (H, W)) for b in range(B)])
    expected = np.where(np.asarray(view.flip)[:, None, None, None], expected[:, :, ::-1], expected)
    expected = np.roll(expected, np.asarray(view.roll), axis=(1, 2))
    np.testing.assert_allclose(apply_view(x, plain), expected, atol=1e-5)
    mixed = expected.copy()
    for b, (top, left, height, width) in enumerate(np.asarray(view.mix_box)):
        rows, cols = slice(top, top + height), slice(left, left + width)
        mixed[b, rows, cols] = expected[view.mix_index[b], rows, cols]
    assert not np.array_equal(mixed, expected)
    np.testing.assert_allclose(apply_view(x, view), mixed, atol=1e-5)


def torchvision_box(rng, height, width, area, ratio):
    """RandomResizedCrop.get_params, written from its documentation."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    return 0, 0, height, width  # a square image holds any ratio


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.6, 1.0)])
def test_resized_crops_follow_torchvision(area):
    n, side = 4000, 32
    boxes = np.asarray(draw(2, Augment(area=area), n, (side, side)).box).astype(float)
    top, left, height, width = boxes.T
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= side
    assert (left + width).max() <= side
    slack = (height + width + 1) / 2  # what rounding both sides may change of the area
    assert (height * width >= area[0] * side**2 - slack).all()
    assert (height * width <= area[1] * side**2 + slack).all()
    assert ((width + 0.5) / (height - 0.5) >= 3 / 4).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()
    rng = np.random.default_rng(0)
    theirs = np.array([torchvision_box(rng, side, side, area, (3 / 4, 4 / 3)) for _ in range(n)])
    for ours, other in zip(boxes.T, theirs.T.astype(float), strict=True):
        assert stats.ks_2samp(ours, other).pvalue > 1e-3


def test_a_crop_that_never_fits_is_the_largest_central_one():
    boxes = draw(3, Augment(area=(0.9, 1.0)), B, (8, 64)).box
    np.testing.assert_array_equal(boxes, np.tile([0, 26, 8, 11], (B, 1)))
    boxes = draw(3, Augment(area=(0.9, 1.0)), B, (64, 9)).box
    np.testing.assert_array_equal(boxes, np.tile([26, 0, 12, 9], (B, 1)))


def test_draws_are_uniform():
    n = 5000
    view = draw(4, Augment(pad=2, flip=True, roll=3), n)
    for corner in (view.box[:, 0], view.box[:, 1]):
        counts = np.bincount(np.asarray(corner) + 2, minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.binomtest(int(view.flip.sum()), n).pvalue > 1e-3
    keys = jax.random.split(jax.random.key(0), 700)
    index, options = jnp.arange(1, dtype=jnp.int32), Augment(roll=3)

    def roll(key):
        return augment.draw_view(key, options, index, 0, image_size=(H, W)).roll

    counts = np.bincount(np.asarray(jax.jit(jax.vmap(roll))(keys)).ravel() + 3, minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3


def numpy_mix(rng, alpha, side):
    """CutMix's box on a square image, written from the paper; the share of pixels that stays."""
    half = int(side * np.sqrt(1 - rng.beta(alpha, alpha))) // 2
    y, x = rng.integers(side, size=2)
    area = np.prod([min(c + half, side) - max(c - half, 0) for c in (y, x)])
    return 1 - area / side**2


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_cutmix_shares_are_those_of_the_clipped_boxes(alpha):
    n = 2000
    view = draw(6, Augment(cutmix=alpha), n, (32, 32))
    top, left, height, width = np.asarray(view.mix_box).T
    assert min(top.min(), left.min(), height.min(), width.min()) >= 0
    assert (top + height).max() <= 32
    assert (left + width).max() <= 32
    np.testing.assert_allclose(view.mix_lambda, 1 - height * width / 1024, atol=1e-6)
    np.testing.assert_array_equal(np.sort(view.mix_index), np.arange(n))
    marker = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, 32, 32, 1))
    mixed = np.asarray(apply_view(marker, view))[..., 0]
    own = (mixed == np.arange(n)[:, None, None]).mean(axis=(1, 2))
    others = np.asarray(view.mix_index) != np.arange(n)
    np.testing.assert_allclose(own[others], np.asarray(view.mix_lambda)[others], atol=1e-6)
    rng = np.random.default_rng(0)
    theirs = [numpy_mix(rng, alpha, 32) for _ in range(n)]
    assert stats.ks_2samp(view.mix_lambda, theirs).pvalue > 1e-3


def test_labels_mix_as_the_pixels_do():
    view = draw(6, Augment(cutmix=1.0))
    targets = jnp.asarray(np.eye(B, dtype=np.float32))
    mixed = np.asarray(augment.mix_labels(targets, view))
    constant = np.broadcast_to(targets[:, None, None], (B, H, W, B))
    np.testing.assert_allclose(mixed, apply_view(constant, view).mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(augment.mix_labels(targets, identity()), targets)


def test_a_recorded_view_replays_bit_for_bit(tmp_path):
    x, view = images(), draw(7, EVERYTHING)
    first = np.asarray(apply_view(x, view))
    stored = view._replace(key=jax.random.key_data(view.key))._asdict()
    np.savez(tmp_path / "view.npz", **{k: np.asarray(v) for k, v in stored.items()})
    with np.load(tmp_path / "view.npz") as read:
        fields = {name: jnp.asarray(read[name]) for name in read.files}
    again = type(view)(**{**fields, "key": jax.random.wrap_key_data(fields["key"])})
    np.testing.assert_array_equal(apply_view(x, again), first)
    redrawn = augment.draw_view(again.key, EVERYTHING, again.index, again.epoch, image_size=(H, W))
    np.testing.assert_array_equal(apply_view(x, redrawn), first)


def test_second_derivative_in_the_images():
    """A Hessian-vector product through the view against differences of the gradient."""
    with jax.enable_x64(True):
        x = images().astype(np.float64)
        v = np.random.default_rng(1).normal(size=x.shape)
        view = draw(8, EVERYTHING)

        def curved(x):
            return jnp.sum(jnp.tanh(augment.apply_view(x, view)) ** 2)

        slope = jax.jit(jax.grad(curved))
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(curved), (x,), (v,))[1])(x, v)
        difference = (slope(x + 1e-5 * v) - slope(x - 1e-5 * v)) / 2e-5
        assert np.abs(product).max() > 0.1
        np.testing.assert_allclose(product, difference, atol=1e-8)


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        apply_view(np.zeros((B, H, W, D), np.uint8), identity())


def test_half_precision_stays_half():
    x = jnp.asarray(images(), jnp.bfloat16)
    found = apply_view(x, draw(1, Augment(pad=2, flip=True)))
    assert found.dtype == jnp.bfloat16
    expected = apply_view(x.astype(jnp.float32), draw(1, Augment(pad=2, flip=True)))
    np.testing.assert_array_equal(found.astype(jnp.float32), expected)


def test_compiled_once_for_every_key_index_and_epoch():
    traces = []

    @jax.jit
    def step(key, x, index, epoch):
        traces.append(1)
        view = augment.draw_view(key, EVERYTHING, index, epoch, image_size=(H, W))
        targets = jnp.eye(B, dtype=jnp.float32)
        return augment.apply_view(x, view), augment.mix_labels(targets, view), view.epoch

    for epoch in range(3):
        index = jnp.arange(B, dtype=jnp.int32) + 10 * epoch
        *_, recorded = step(jax.random.key(epoch), images(), index, jnp.int32(epoch))
        assert recorded == epoch
    assert len(traces) == 1
