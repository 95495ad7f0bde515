"""What holds for every test: rank promotion raises, there are two CPU devices; warnings are errors (pyproject)."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # the tests compile much and run little


@pytest.fixture
def x64():
    """float64 within one test, for tolerances that float32 cannot meet."""
    with jax.enable_x64(True):
        yield


def pytest_make_parametrize_id(val, argname):
    """Bytes are named by their number: some hold the time, and both workers must collect the same names."""
    return argname if isinstance(val, bytes) else None
