"""kernels/winograd.py against the plain sum, and where the convolution takes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels import conv, winograd


def arrays(dtype, x_shape, w_shape):
    draw = np.random.default_rng(0)
    return draw.standard_normal(x_shape).astype(dtype), draw.standard_normal(w_shape).astype(dtype)


def plain_sum(x, w):
    """The convolution by its definition, in float64."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return sum(
        np.einsum("nijc,co->nijo", x[:, p : p + height, q : q + width], w[p, q], dtype=np.float64)
        for p in range(3)
        for q in range(3)
    )


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 6, 10, 3), (3, 16, 8, 5)], ids=str)
def test_is_the_convolution(shape):
    x, w = arrays(np.float32, shape, (3, 3, shape[3], 7))
    found = winograd.filtered(jnp.asarray(x), winograd.taps(jnp.asarray(w)))
    expected = plain_sum(x, w)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_flipped_is_by_the_turned_kernel_with_inputs_and_outputs_exchanged():
    x, w = arrays(np.float32, (2, 6, 8, 5), (3, 3, 4, 5))
    found = winograd.filtered(jnp.asarray(x), winograd.taps(jnp.asarray(w), flipped=True), flipped=True)
    expected = plain_sum(x, w[::-1, ::-1].swapaxes(2, 3))
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_whole_numbers_give_whole_numbers():
    """Where no sum is rounded, nothing is lost: halves of whole numbers are exact."""
    draw = np.random.default_rng(1)
    x, w = draw.integers(-8, 9, (2, 6, 6, 4)), draw.integers(-8, 9, (3, 3, 4, 3))
    found = winograd.filtered(jnp.asarray(x, jnp.float32), winograd.taps(jnp.asarray(w, jnp.float32)))
    np.testing.assert_array_equal(found, plain_sum(x, w))


def test_rounding_is_of_the_order_of_the_direct_sum():
    x, w = arrays(np.float32, (4, 18, 18, 128), (3, 3, 128, 128))
    exact = plain_sum(x, w)

    def error(how):
        y = conv.conv(jnp.asarray(x), jnp.asarray(w), padding="VALID", how=how)
        return np.sqrt(np.mean((np.asarray(y, np.float64) - exact) ** 2) / np.mean(exact**2))

    assert winograd.faster(jnp.asarray(x), jnp.asarray(w), (1, 1), (16, 16))
    assert error("fast") < 2 * error("library") < 2e-6


@pytest.mark.parametrize(
    "x, w, strides, dtype",
    [
        ((4, 16, 16, 64), (3, 3, 64, 128), (1, 1), jnp.float32),  # few channels
        ((4, 16, 16, 128), (5, 5, 128, 128), (1, 1), jnp.float32),
        ((4, 16, 16, 128), (3, 3, 128, 128), (2, 2), jnp.float32),
        ((4, 15, 16, 128), (3, 3, 128, 128), (1, 1), jnp.float32),  # an odd number of rows
        ((4, 16, 16, 128), (3, 3, 128, 128), (1, 1), jnp.bfloat16),
        ((1, 16, 16, 128), (3, 3, 128, 128), (1, 1), jnp.float32),  # few positions
    ],
)
def test_other_convolutions_stay_as_they_are(x, w, strides, dtype):
    out = (x[1] // strides[0], x[2] // strides[1])
    assert not winograd.faster(jnp.zeros(x, dtype), jnp.zeros(w, dtype), strides, out)


def test_the_convolution_takes_it():
    """The product of the compiled program is a matrix product, not a convolution."""
    x, w = jnp.zeros((4, 16, 16, 128)), jnp.zeros((3, 3, 128, 128))
    text = jax.jit(lambda x, w: conv.conv(x, w, how="fast")).lower(x, w).as_text()
    assert text.count("stablehlo.dot_general") == 16 and "stablehlo.convolution" not in text
