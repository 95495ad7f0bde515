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
