"""Views as published recipes draw them: MixUp, CutMix of whole batches, patch shuffle, DSA; what is said of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddjax.kernels import augment, dsa
from ddjax.types import Augment

B, H, W, D = 6, 8, 10, 3
EARLIER = Augment(pad=2, flip=True, area=(0.3, 1.0), roll=3, cutmix=1.0)


def images(n=B, seed=0):
    return np.random.default_rng(seed).normal(size=(n, H, W, D)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def seen(seed, x, options, size=None):
    index = jnp.arange(x.shape[0], dtype=jnp.int32)
    view = augment.draw_view(jax.random.key(seed), options, index, 0, image_size=x.shape[1:3], size=size)
    return augment.apply_view(x, view, size=size, augment=options), view


def test_mixup_blends_images_and_labels_alike():
    x = images(64)
    found, view = seen(1, x, Augment(mixup=0.8))
    share, partner = np.asarray(view.mix_lambda), np.asarray(view.mix_index)
    assert stats.kstest(share, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(np.sort(partner), np.arange(64))
    expected = share[:, None, None, None] * x + (1 - share)[:, None, None, None] * x[partner]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    labels = np.asarray(augment.mix_labels(jnp.eye(64, dtype=jnp.float32), view))
    np.testing.assert_allclose(
        labels, share[:, None] * np.eye(64) + (1 - share)[:, None] * np.eye(64)[partner], atol=1e-6
    )


@pytest.mark.parametrize("options", [Augment(cutmix=1.0, mix_batch=True), Augment(mixup=1.0, mix_batch=True),
                                     Augment(cutmix=0.4, mix_batch=True)])  # fmt: skip
def test_one_share_and_box_for_the_whole_batch(options):
    shares = []
    for seed in range(60):
        _, view = seen(seed, images(16), options)
        assert len(np.unique(view.mix_lambda)) == len(np.unique(view.mix_box, axis=0)) == 1
        shares.append(float(view.mix_lambda[0]))
    if options.mixup:
        assert stats.kstest(shares, "uniform").pvalue > 1e-3
    else:  # the law of the shares is that of single images
        index = jnp.arange(400, dtype=jnp.int32)
        each = augment.draw_view(jax.random.key(0), Augment(cutmix=options.cutmix), index, 0, image_size=(H, W))
        assert stats.ks_2samp(shares, np.asarray(each.mix_lambda)).pvalue > 1e-3


@pytest.mark.parametrize("options", [Augment(cutmix=1.0, cutmix_p=0.25), Augment(mixup=1.0, cutmix_p=0.25)])
def test_a_batch_is_mixed_whole_or_not_at_all(options):
    mixed, x = [], images()
    for seed in range(80):
        found, view = seen(seed, x, options)
        alone = np.asarray(view.mix_index) == np.arange(B)
        if alone.all() and (view.mix_lambda == 1).all():
            np.testing.assert_allclose(found, x, atol=1e-6)
            np.testing.assert_array_equal(augment.mix_labels(jnp.eye(B, dtype=jnp.float32), view), np.eye(B))
        mixed.append(bool((np.asarray(view.mix_lambda) < 1).any()))
    assert stats.binomtest(sum(mixed), 80, 0.25).pvalue > 1e-3


def numpy_shuffled(image, rows, cols):
    """Strips of columns in another order, then strips of rows; what is left over stays."""
    for axis, order in ((1, cols), (0, rows)):
        side, count = image.shape[axis] // len(order), len(order)
        strips = [np.take(image, np.arange(s * side, (s + 1) * side), axis) for s in order]
        rest = np.take(image, np.arange(count * side, image.shape[axis]), axis)
        image = np.concatenate([*strips, rest], axis)
    return image


@pytest.mark.parametrize("factor", [2, 3])
def test_patch_shuffle_permutes_strips(factor):
    x, orders = images(48), set()
    found, view = seen(2, x, Augment(shuffle=factor))
    for b, (rows, cols) in enumerate(np.asarray(view.strips)):
        orders.add((*rows, *cols))
        np.testing.assert_allclose(found[b], numpy_shuffled(x[b], rows, cols), atol=1e-6)
    assert len(orders) > (3 if factor == 2 else 15)


def test_the_shuffle_comes_before_the_crop():
    x, options = images(), Augment(shuffle=2, area=(0.3, 0.6), flip=True)
    found, view = seen(3, x, options, (5, 7))
    for b in range(B):
        whole = jnp.asarray(numpy_shuffled(x[b], *np.asarray(view.strips[b])))
        one = jax.tree.map(lambda a, b=b: a[b : b + 1] if a.ndim and a.shape[0] == B else a, view)
        one = one._replace(strips=jnp.zeros((1, 2, 0), jnp.int32), ops=view.ops[:, b : b + 1])
        np.testing.assert_allclose(found[b], augment.apply_view(whole[None], one, size=(5, 7))[0], atol=1e-5)


def test_dsa_in_a_view_is_the_kernel_on_recorded_numbers():
    x, names = jnp.asarray(images()), ("crop", "scale", "rotate")
    options = Augment(dsa=names, dsa_always=("flip", "color"), cutmix=1.0, mix_batch=True)
    found, view = seen(5, x, options)
    assert view.ops.shape == (3, B) and len(np.unique(view.ops)) == 1
    expected = dsa.color(dsa.flip(x, view.numbers[1]), view.numbers[2])
    expected = np.asarray(dsa.OPS[names[int(view.ops[0, 0])]](expected, view.numbers[0]))
    plain = view._replace(mix_box=jnp.zeros((B, 4), jnp.int32))
    np.testing.assert_allclose(augment.apply_view(x, plain, augment=options), expected, atol=1e-5)
    assert np.abs(np.asarray(found) - expected).max() > 0.1
    assert len({int(seen(i, x, options)[1].ops[0, 0]) for i in range(12)}) == 3


def test_a_view_of_layers_needs_the_augment_that_names_them():
    x = jnp.asarray(images())
    _, view = seen(5, x, Augment(dsa=("flip",)))
    with pytest.raises(ValueError, match="the view holds 1 layers of ops, augment names 0"):
        augment.apply_view(x, view)


@pytest.mark.parametrize("options", [Augment(dsa=("flip",), dc=("crop",)), Augment(cutmix=1.0, mixup=1.0)])
def test_kinds_that_exclude_each_other(options):
    with pytest.raises(ValueError, match="exclude each other"):
        seen(0, images(), options)


def test_the_older_fields_are_drawn_as_before_whatever_comes_after():
    _, before = seen(9, images(), EARLIER)
    _, after = seen(9, images(), EARLIER._replace(shuffle=2, dsa=("flip",)))
    for name in augment.View._fields[:9]:
        if name != "key":
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_fields_that_are_off_are_not_said():
    assert repr(Augment(pad=2)) == (
        "Augment(pad=2, flip=False, area=None, ratio=(0.75, 1.3333333333333333), roll=0, cutmix=0.0)"
    )
    assert list(Augment(shuffle=2).said()) == ["pad", "flip", "area", "ratio", "roll", "cutmix", "shuffle"]
