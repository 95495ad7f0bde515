"""Where the time of a run goes, by a clock that the test turns."""

import jax
import jax.monitoring
import jax.numpy as jnp
import pytest

from lopt.meta_training.stopwatch import KEYS, RATE, Stopwatch


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_parts_add_up_and_compiling_counts_once():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.timed("data"):
        clock.now += 3
    with watch.timed("training"):
        clock.now += 1
        watch._note("/jax/core/compile/jaxpr_trace_duration", 0.5)  # a function that the next one calls
        clock.now += 2
        watch._note("/jax/core/compile/jaxpr_trace_duration", 2.75)
        clock.now += 4
        watch._note("/jax/core/compile/backend_compile_duration", 4.0)
        watch._note("/jax/compilation_cache/cache_retrieval_time_sec", 3.0)
        clock.now += 10
    lap = watch.lap([{"inner_steps": 50.0}, {"inner_steps": 70.0}])
    assert set(lap) == set(KEYS)
    assert lap["seconds_compiling"] == 6.75
    assert lap["seconds_data"] == 3
    assert lap["seconds_training"] == 17 - 6.75
    assert lap[RATE] == pytest.approx(120 / 10.25)
    with watch.timed("saving"):
        clock.now += 1
    lap = watch.lap([{"meta_loss": 1.0}])  # an estimator that does not count its steps
    assert lap == {key: float(key == "seconds_saving") for key in KEYS if key != RATE}


@pytest.mark.parametrize(("told", "counted"), [(1e6, 2.0), (-1e6, 0.0)])
def test_a_clock_that_is_set_while_jax_compiles(told, counted):
    """JAX then tells a duration that cannot be: it is cut to the lap, and no part is negative."""
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 1
    with watch.timed("training"):
        clock.now += 1
        watch._note("/jax/core/compile/backend_compile_duration", told)
    lap = watch.lap([])
    assert (lap["seconds_compiling"], lap["seconds_training"]) == (counted, 1.0 if told < 0 else 0.0)


def test_a_compilation_is_seen_while_the_watch_is_on():
    with Stopwatch() as watch:
        with watch.timed("training"):
            jax.jit(lambda x: x * 3 + jnp.sin(x))(jnp.ones(7)).block_until_ready()
        lap = watch.lap([])
    assert lap["seconds_compiling"] > 0
    jax.jit(lambda x: x * 5 + jnp.sin(x))(jnp.ones(7)).block_until_ready()
    assert watch.lap([])["seconds_compiling"] == 0
