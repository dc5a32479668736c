"""Whitening against its definition: covariance of the result, the two published regularisations, the inverse."""

import numpy as np
import pytest

from ddjax import zca
from ddjax.errors import ConfigError, DataError

RNG = np.random.Generator(np.random.Philox(3))
MIX = RNG.standard_normal((12, 12))
IMAGES = (RNG.standard_normal((400, 12)) @ MIX + RNG.standard_normal(12)).astype(np.float32).reshape(400, 2, 2, 3)


def _covariance(images, ddof):
    return np.cov(images.reshape(len(images), -1).astype(np.float64).T, ddof=ddof)


def test_eps_is_the_inverse_root_of_the_unbiased_covariance_plus_eps():
    made = zca.fit(IMAGES, transform="eps", eps=0.1)
    wanted = _covariance(IMAGES, 1) + 0.1 * np.eye(12)
    np.testing.assert_allclose(made.matrix.astype(float) @ made.matrix, np.linalg.inv(wanted), atol=1e-4)
    np.testing.assert_allclose(made.inverse.astype(float) @ made.inverse, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(made.mean, IMAGES.reshape(400, -1).mean(0), atol=1e-5)


def test_trace_adds_its_share_of_the_mean_eigenvalue_of_the_biased_covariance():
    made = zca.fit(IMAGES, transform="trace", eps=0.1)
    found = _covariance(IMAGES, 0)
    wanted = found + 0.1 * np.trace(found) / 12 * np.eye(12)
    np.testing.assert_allclose(made.matrix.astype(float) @ made.matrix, np.linalg.inv(wanted), atol=1e-4)
    assert np.abs(made.matrix - zca.fit(IMAGES, transform="eps", eps=0.1).matrix).max() > 0.05


def test_directions_that_few_images_leave_empty_keep_their_scale_under_trace():
    made = zca.fit(IMAGES[:5], transform="trace", eps=0.1)
    values = np.linalg.eigvalsh(made.matrix.astype(float))
    assert np.sum(np.abs(values - 1) < 1e-4) == 7
    np.testing.assert_allclose(zca.unapply(made, zca.apply(made, IMAGES[:5])), IMAGES[:5], atol=1e-3)


@pytest.mark.parametrize("transform", zca.TRANSFORMS)
def test_apply_whitens_and_unapply_undoes_it(transform):
    made = zca.fit(IMAGES, transform=transform, eps=1e-6)
    white = zca.apply(made, IMAGES)
    np.testing.assert_allclose(_covariance(white, 0), np.eye(12), atol=0.02)
    np.testing.assert_allclose(zca.unapply(made, white), IMAGES, atol=1e-3)
    assert white.dtype == np.float32
    assert zca.from_bytes(zca.to_bytes(made), transform=transform, eps=1e-6).matrix.tobytes() == made.matrix.tobytes()


def test_rows_are_taken_in_parts_without_a_difference(monkeypatch):
    whole = zca.fit(IMAGES, transform="eps", eps=0.1)
    monkeypatch.setattr(zca, "ROWS", 7)
    part = zca.fit(IMAGES, transform="eps", eps=0.1)
    np.testing.assert_allclose(part.matrix, whole.matrix, atol=1e-6)
    np.testing.assert_allclose(zca.apply(part, IMAGES), zca.apply(whole, IMAGES), atol=1e-4)


def test_what_cannot_be_whitened_is_named():
    with pytest.raises(ConfigError, match=r"zca transform = 'esp' is not known; allowed: eps, trace. Did"):
        zca.fit(IMAGES, transform="esp", eps=0.1)
    with pytest.raises(ConfigError, match=r"zca eps = 0.0 is out of range"):
        zca.fit(IMAGES, transform="eps", eps=0.0)
    for wrong in (IMAGES[:1], IMAGES.reshape(400, -1), np.zeros((2, 200, 200, 3), np.uint8)):
        with pytest.raises(DataError, match=r"allowed: \[N, H, W, D\] with N >= 2"):
            zca.fit(wrong, transform="eps", eps=0.1)
    with pytest.raises(DataError, match=r"nothing to whiten"):
        zca.fit(np.full((20, 2, 2, 3), 0.5, np.float32), transform="trace", eps=0.1)
    made = zca.fit(IMAGES, transform="eps", eps=0.1)
    with pytest.raises(DataError, match=r"H \* W \* D = 12"):
        zca.apply(made, np.zeros((1, 2, 2, 1), np.float32))
    assert "does not undo" in zca.problems(made._replace(inverse=made.matrix), (2, 2, 3))[0]
    assert "not finite" in zca.problems(made._replace(mean=made.mean * np.float32(np.nan)), (2, 2, 3))[0]
    assert "float64[12, 12]" in zca.problems(made._replace(matrix=made.matrix.astype(float)), (2, 2, 3))[0]
    assert "zca transform = 'x'" in zca.problems(made._replace(transform="x"), (2, 2, 3))[0]
    with pytest.raises(DataError, match=r"holds no inverse"):
        zca.from_bytes(zca.write_tensors({"mean": made.mean, "matrix": made.matrix}), transform="eps", eps=0.1)
    with pytest.raises(DataError, match=r"no safetensors file"):
        zca.from_bytes(b"junk", transform="eps", eps=0.1)
