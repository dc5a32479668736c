"""kernels/conv.py against the library's convolution, to every order, and what XLA makes of it."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from ddjax.kernels import conv as module
from ddjax.kernels.conv import conv, conv_general_dilated

FAST = "b01f_01io->b01f"

# batch, height, width, in, out, kernel, stride, padding
GEOMETRIES = [
    (3, 8, 8, 3, 5, 3, 1, "SAME"),
    (3, 8, 8, 20, 5, 3, 2, "SAME"),
    (5, 7, 9, 3, 5, 5, 2, "SAME"),
    (5, 7, 9, 20, 4, 5, 1, "SAME"),
    (2, 9, 9, 4, 5, 1, 2, "SAME"),
    (2, 7, 8, 20, 5, 3, 2, "VALID"),
]
CHOICES = [  # that select another way to compute: first order suffices
    (2, 6, 6, 20, 3, 1, 1, "VALID"),
    (2, 4, 4, 256, 3, 3, 1, "SAME"),  # shifted dots
    (2, 8, 8, 3, 256, 3, 2, "SAME"),
    (2, 33, 37, 20, 4, 3, 2, ((1, 0), (2, 1))),
    (2, 40, 36, 20, 4, 3, 1, "SAME"),  # blocks of rows, the last one short
    (11, 40, 16, 2, 4, 3, 1, "SAME"),  # few channels
    (2, 5, 5, 3, 4, 3, 2, ((3, 4), (0, 3))),  # padded past the kernel
    (67, 4, 4, 17, 4, 3, 1, "SAME"),  # a batch with no divisor near the chunk
    (2, 16, 16, 128, 128, 3, 1, "SAME"),  # tiles of 2x2 pixels, one chunk
    (64, 16, 16, 128, 130, 3, 1, ((0, 2), (2, 0))),  # two chunks of 8,192 positions, lopsided
    (67, 16, 16, 128, 128, 3, 1, "SAME"),  # two chunks and a rest
]


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def assert_close(found, expected, tolerance=1e-5):
    """Largest difference, in units of the largest entry of each expected leaf."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1e-6, float(jnp.abs(b).max()))
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=tolerance)


def first_order(function, x, w, dx, dw):
    """Value, both gradients and the directional derivative."""
    y, gradients = jax.vjp(function, x, w)
    return y, gradients(jnp.sin(y)), jax.jvp(function, (x, w), (dx, dw))[1]


def second_order(function, x, w, dx, dw):
    """Forward-over-reverse and reverse-over-reverse of a loss that is not linear in the output."""

    def loss(x, w):
        y = function(x, w)
        return jnp.sum(jnp.sin(y)) + 0.5 * jnp.sum(y * y) / y.size

    def slope(x, w):
        gx, gw = jax.grad(loss, (0, 1))(x, w)
        return jnp.sum(gx * dx) + jnp.sum(gw * dw)

    forward = jax.jvp(jax.grad(loss, (0, 1)), (x, w), (dx, dw))[1]
    return forward, jax.grad(slope, (0, 1))(x, w)


def compare(geometry, *orders):
    batch, height, width, inner, outer, k, s, padding = geometry
    x, dx = normal(0, batch, height, width, inner), normal(1, batch, height, width, inner)
    scale = (k * k * inner) ** -0.5
    w, dw = normal(2, k, k, inner, outer) * scale, normal(3, k, k, inner, outer) * scale

    def both(*arrays):
        functions = [partial(conv, strides=(s, s), padding=padding, how=how) for how in ("fast", "library")]
        return [[order(function, *arrays) for order in orders] for function in functions]

    assert_close(*jax.jit(both)(x, w, dx, dw))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_equals_library_to_second_order(geometry):
    compare(geometry, first_order, second_order)


def test_tiles_equal_the_library_to_second_order():
    compare((2, 16, 16, 128, 128, 3, 1, "SAME"), first_order, second_order)


@pytest.mark.parametrize("geometry", CHOICES, ids=str)
def test_every_way_to_compute_equals_the_library(geometry):
    compare(geometry, first_order)


def test_the_third_derivative_closes():
    x, w = normal(0, 2, 5, 5, 2), normal(1, 3, 3, 2, 2) * 0.2

    def third(how):
        def loss(t, w):
            return jnp.sum(conv(x * t, w, strides=(2, 2), how=how) ** 3)

        return jax.grad(jax.grad(jax.grad(loss)))(0.7, w), jax.hessian(loss, 1)(0.7, w)

    third = jax.jit(third, static_argnums=0)
    assert_close(third("fast"), third("library"))


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0), (1, 3)], ids=str)
def test_vmap_equals_a_loop(mapped):
    x = normal(0, 2, 3, 6, 6, 2) if mapped[0] is not None else normal(0, 3, 6, 6, 2)
    w = normal(1, 2, 3, 3, 2, 4) if mapped[1] is not None else normal(1, 3, 3, 2, 4)

    def gradients(x, w, how):
        f = partial(conv, strides=(2, 2), how=how)
        loss = lambda x, w: jnp.sum(jnp.sin(f(x, w)))  # noqa: E731
        return f(x, w), jax.grad(loss, (0, 1))(x, w)

    expected = [
        gradients(x if mapped[0] is None else x[i], w if mapped[1] is None else w[i], "library") for i in range(2)
    ]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    x = x if mapped[0] is None else jnp.moveaxis(x, 0, mapped[0])
    w = w if mapped[1] is None else jnp.moveaxis(w, 0, mapped[1])
    found = jax.jit(jax.vmap(partial(gradients, how="fast"), mapped))(x, w)
    assert_close(found, expected)


def network(params, x, how):
    """Three convolutions, one of stride 2 and one 1x1, and a linear read-out: logits [B, 3]."""
    x = jax.nn.relu(conv(x, params["a"], how=how))
    x = jax.nn.relu(conv(x, params["b"], strides=(2, 2), how=how))
    x = jax.nn.relu(conv(x, params["c"], how=how))
    return jnp.mean(x, (1, 2)) @ params["out"]


def network_params(seed, *lead):
    shapes = {"a": (3, 3, 3, 8), "b": (3, 3, 8, 24), "c": (1, 1, 24, 8), "out": (8, 3)}
    return {k: 0.3 * normal(seed + i, *lead, *s) for i, (k, s) in enumerate(shapes.items())}


def cross_entropy(params, x, how):
    return -jnp.mean(jax.nn.log_softmax(network(params, x, how))[:, 0])


def test_vmap_of_gradients_over_networks_and_over_examples():
    params, x = network_params(0, 3), normal(9, 4, 6, 6, 3)
    over_networks = jax.vmap(jax.grad(cross_entropy, (0, 1)), (0, None, None))
    over_examples = jax.vmap(jax.grad(cross_entropy), (None, 0, None))
    first = jax.tree.map(lambda a: a[0], params)

    def both(how):
        return over_networks(params, x, how), over_examples(first, x[:, None], how)

    both = jax.jit(both, static_argnums=0)
    assert_close(both("fast"), both("library"))


def scanned_training(how, params, images):
    """Four SGD steps by scan; the images move too, by a gradient and by a jvp of the gradient."""

    def step(carry, x):
        params, moved = carry
        grads, slope = jax.grad(cross_entropy, (0, 1))(params, x + moved, how)
        _, turn = jax.jvp(lambda p: jax.grad(cross_entropy, 1)(p, x + moved, how), (params,), (grads,))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return (params, moved - 0.1 * slope - 0.01 * turn), None

    return lax.scan(step, (params, jnp.zeros_like(images[0])), images)[0]


def convolutions(text):
    return set(re.findall(r"convolution\(.*dim_labels=([\w?]+->\w+)", text))


@pytest.mark.parametrize("pool", ["one", "scan", "vmap"])
def test_scanned_training_has_no_naive_convolution(pool):
    images = normal(5, 4, 2, 8, 8, 3)
    train = partial(scanned_training, "fast")
    if pool == "scan":
        train = lambda params, images: lax.map(  # noqa: E731
            lambda member: scanned_training("fast", member, images), params
        )
    if pool == "vmap":
        train = jax.vmap(train, (0, None))
    params = network_params(0) if pool == "one" else network_params(0, 2)
    assert convolutions(jax.jit(train).lower(params, images).compile().as_text()) == {FAST}


def test_the_counter_sees_the_library_s_naive_convolutions():
    lowered = jax.jit(partial(scanned_training, "library")).lower(network_params(0), normal(5, 4, 2, 8, 8, 3))
    assert convolutions(lowered.compile().as_text()) - {FAST}


def test_scanned_training_equals_the_library():
    arguments = network_params(0), normal(5, 4, 2, 8, 8, 3)
    run = jax.jit(scanned_training, static_argnums=0)
    assert_close(run("fast", *arguments), run("library", *arguments))


def test_under_shard_map_with_the_gradient_outside():
    mesh = jax.make_mesh((4,), ("pool",), axis_types=(jax.sharding.AxisType.Auto,))
    params, x = network_params(0, 4), normal(5, 2, 8, 8, 3)
    spec = jax.P("pool")

    @partial(jax.shard_map, mesh=mesh, in_specs=(spec, jax.P()), out_specs=jax.P(), check_vma=False)
    def sharded(params, x):
        one = jax.tree.map(lambda a: a[0], params)
        return lax.pmean(cross_entropy(one, x, "fast"), "pool")

    @jax.jit
    def mean(params, x):
        members = [jax.tree.map(lambda a: a[i], params) for i in range(4)]  # noqa: B023
        return sum(cross_entropy(member, x, "library") for member in members) / 4

    assert_close(jax.jit(jax.grad(sharded, (0, 1)))(params, x), jax.grad(mean, (0, 1))(params, x))


LIBRARY_ONLY = {
    "groups": dict(feature_group_count=2),
    "dilated kernel": dict(rhs_dilation=(2, 2)),
    "dilated input": dict(lhs_dilation=(2, 2)),
    "negative padding": dict(padding=((-1, 0), (0, 0))),
    "channels first": dict(dimension_numbers=("NCHW", "HWIO", "NCHW")),
    "another output dtype": dict(preferred_element_type=jnp.float64),
}


@pytest.mark.parametrize("case", LIBRARY_ONLY)
def test_what_is_not_covered_goes_to_the_library(case, monkeypatch):
    monkeypatch.setattr(module._C, "bind", lambda *_, **__: pytest.fail("the fast path was taken"))
    seen = []
    monkeypatch.setattr(module.lax, "conv_general_dilated", lambda *args, **kw: seen.append((args, kw)) or args[0])
    given = {"padding": "SAME", "dimension_numbers": module.LAYOUT, **LIBRARY_ONLY[case]}
    x, w = jnp.zeros((2, 6, 6, 4)), jnp.zeros((3, 3, 4, 4))
    padding = given.pop("padding")
    conv_general_dilated(x, w, (1, 1), padding, how="fast", **given)
    assert seen[0][0][2:] == ((1, 1), padding)
    assert given.items() <= seen[0][1].items()


def test_values_of_what_the_library_computes():
    x, w = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 2, 4)
    layout = dict(dimension_numbers=module.LAYOUT, feature_group_count=2)
    expected = lax.conv_general_dilated(x, w, (1, 1), "SAME", **layout)
    assert_close(conv(x, w, groups=2, how="fast"), expected)
    line = dict(dimension_numbers=("NWC", "WIO", "NWC"))
    row, taps = x[:, 0], jnp.zeros((3, 4, 2)).at[1].set(1.0)
    expected = lax.conv_general_dilated(row, taps, (1,), "SAME", **line)
    assert_close(conv_general_dilated(row, taps, (1,), "SAME", how="fast", **line), expected)


def test_auto_is_fast_on_the_cpu_and_a_wrong_name_is_refused():
    x, w = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 4, 2)
    assert "ddjax_conv" in str(jax.make_jaxpr(conv)(x, w))
    assert "ddjax_conv" not in str(jax.make_jaxpr(partial(conv, how="library"))(x, w))
    with pytest.raises(ValueError, match=r"how = 'quick' .*auto, fast, library"):
        conv(x, w, how="quick")


@pytest.mark.parametrize(
    ("images", "size", "channels", "kernel"),
    [(600, 4, (20, 2), 3), (10, 8, (32, 32), 3), (2, 16, (128, 128), 3), (3, 8, (16, 8), 3), (5, 8, (16, 32), 1)],
    ids=["chunks", "one-chunk", "wide", "few-channels", "1x1"],
)
@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype_and_sums_in_float32(images, size, channels, kernel, narrow):
    x, w = normal(0, images, size, size, channels[0]) * 0.1 + 1, normal(1, kernel, kernel, *channels)

    def gradients(x, w, how):
        return jax.grad(lambda x, w: jnp.sum(conv(x, w, how=how) * 2), (0, 1))(x, w)

    found = jax.jit(gradients, static_argnums=2)(x.astype(narrow), w.astype(narrow), "fast")
    assert {a.dtype for a in found} == {jnp.dtype(narrow)}
    exact = gradients(x, w, "library")
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2e-2, atol=2e-2 * float(jnp.abs(b).max()))


def test_as_the_convolution_of_a_flax_module():
    x = normal(0, 2, 6, 6, 4)
    layers = [
        nnx.Conv(4, 3, (3, 3), strides=2, rngs=nnx.Rngs(0), conv_general_dilated=function)
        for function in (partial(conv_general_dilated, how="fast"), lax.conv_general_dilated)
    ]
    assert_close(layers[0](x), layers[1](x))
