"""Lengths of trajectories: the table against the log-uniform law, and draws against the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.horizons import LAWS, Horizon
from lopt.names import InputError


def rounded_lengths(horizon: Horizon, multiple_of: int, quantile: float = 1.0) -> np.ndarray:
    """Lengths at a million equally spaced quantiles of the law, cut off at `quantile`, rounded to multiples."""
    u = quantile * (np.arange(1_000_000) + 0.5) / 1_000_000
    first, last = horizon.min_length, horizon.max_length
    free = first * (last / first) ** u if horizon.law == "log" else first + (last - first) * u
    return multiple_of * np.floor(free / multiple_of + 0.5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("shortest", "longest"), [(200, 2000), (230, 1980), (221, 2020), (201, 260)])
def test_table_is_the_rounded_law(law, shortest, longest):
    """Both ends are rounded to the nearest multiple, up or down."""
    horizon = Horizon(shortest, longest, law)
    lengths, probabilities = horizon.table(50)
    expected, counts = np.unique(rounded_lengths(horizon, 50), return_counts=True)
    np.testing.assert_array_equal(lengths, expected)
    np.testing.assert_allclose(probabilities, counts / 1e6, atol=3e-6)
    np.testing.assert_allclose(horizon.mean(50), rounded_lengths(horizon, 50).mean(), rtol=1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("step", [20, 50, 99, 100, 101])
def test_mean_while_growing(law, step):
    """After `step` of 100 estimates the law is cut off at its quantile step / 100; neither a step before nor after."""
    horizon = Horizon(2, 40, law, growth=100)
    expected = rounded_lengths(horizon, 2, min(1, step / 100)).mean()
    np.testing.assert_allclose(horizon.mean(2, jnp.asarray(step)), expected, rtol=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_growth_begins_with_the_shortest_length(law):
    horizon = Horizon(2, 40, law, growth=1000)
    for step in (0, 1):
        np.testing.assert_allclose(horizon.mean(2, jnp.asarray(step)), 2, rtol=1e-6)


def test_mean_of_fine_rounding_is_the_continuous_mean():
    np.testing.assert_allclose(Horizon(200, 2000).mean(), (2000 - 200) / np.log(10), rtol=1e-3)
    assert Horizon(1000, 1000).mean(50) == 1000


def test_draws_follow_the_table():
    horizon, keys = Horizon(2, 12), jax.random.split(jax.random.key(0), 100_000)
    lengths, probabilities = horizon.table(2)
    for draw, expected in (
        (horizon.sample, probabilities),
        (horizon.sample_running, probabilities * lengths / (probabilities @ lengths)),
    ):
        drawn = np.asarray(jax.jit(jax.vmap(lambda key, draw=draw: draw(key, 2)))(keys))
        shares = np.array([(drawn == n).mean() for n in lengths])
        np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / 100_000))


def test_short_range_is_rounded_up_to_one_window():
    assert Horizon(10, 12).table(50)[0].tolist() == [50]


@pytest.mark.parametrize("text", ["200:2000", "1000", "200:2000:uniform"])
def test_parse_round_trip(text):
    assert str(Horizon.parse(text)) == text


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "2000:200", "0", "-5:3", "1.5", "1:2:unifrom"])
def test_parse_refuses(text):
    with pytest.raises(InputError, match="horizon"):
        Horizon.parse(text)
