"""The order of patches, and of the pixels in them."""

import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.patches import check_patches, patches_shape, to_patches


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_by_loops(channels):
    images = np.random.default_rng(0).normal(size=(2, 6, 6, channels)).astype(np.float32)
    expected = [
        [images[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1) for i in range(3) for j in range(3)]
        for b in range(2)
    ]
    patches = to_patches(jnp.asarray(images.reshape(2, -1)), 6, channels, 2)
    assert patches.shape[1:] == patches_shape(6, channels, 2)
    np.testing.assert_array_equal(patches, expected)


@pytest.mark.parametrize("patch_size", [0, 3, 2.0])
def test_patches_tile_the_image(patch_size):
    with pytest.raises(InputError, match=f"patch_size must be a whole number that divides size=8, not {patch_size}"):
        check_patches(8, patch_size)
