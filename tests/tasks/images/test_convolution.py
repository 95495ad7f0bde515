"""Convolution as a product against XLA's convolution, on every kind of border."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.images.convolution import Conv


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_the_convolution(size, stride):
    layer = Conv(4, size, stride)
    key = jax.random.key(size)
    for shape in ((2, 7, 6, 3), (1, 1, 2, 1)):
        x = jax.random.normal(key, shape)
        kernel = jax.random.normal(key, (size, size, shape[-1], 4))
        params = {"kernel": kernel, "bias": jnp.arange(4.0)}
        dimensions = ("NHWC", "HWIO", "NHWC")
        wanted = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions)
        got = jnp.asarray(layer.apply({"params": params}, x))
        np.testing.assert_allclose(got, np.asarray(wanted) + np.arange(4), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer._by_convolution(x, kernel), layer._by_product(x, kernel), rtol=1e-5, atol=1e-5)
