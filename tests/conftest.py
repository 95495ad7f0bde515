"""What holds for every test: rank promotion raises, there are two CPU devices; warnings are errors (pyproject)."""

import os

import jax
import pytest

from tests.tiers import mark_thorough

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
# The tests compile much and run little: the quickest way to compile, for what the tests start as well, and every
# program is kept where JAX_COMPILATION_CACHE_DIR says (make test), however quickly it was made. A jaxlib that no longer
# knows a flag says so and stops: drop it then.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not ask for
def pytest_collection_modifyitems(items):
    mark_thorough(items)


@pytest.fixture
def x64():
    """float64 within one test, for tolerances that float32 cannot meet."""
    with jax.enable_x64(True):
        yield


def pytest_make_parametrize_id(val, argname):
    """Bytes are named by their number: some hold the time, and both workers must collect the same names."""
    return argname if isinstance(val, bytes) else None
