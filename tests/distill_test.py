"""The loop's last look: images that have left all bounds are no set."""

import numpy as np
import pytest

from ddjax.distill import check_images
from ddjax.errors import DivergenceError


@pytest.mark.parametrize("worst", [-1e12, 2e4, np.inf, np.nan])
def test_images_out_of_all_bounds_are_a_divergence(worst):
    images = np.zeros((2, 4, 4, 1), np.float32)
    check_images(images + np.float32(9e3), saved=3)
    images[1, 2, 0, 0] = worst
    with pytest.raises(DivergenceError, match=r"distill: the images reach .* last good checkpoint: step 3\. Lower"):
        check_images(images, saved=3)
