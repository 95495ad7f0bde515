"""Lengths of trajectories: the table against the log-uniform law, and draws against the table."""

import jax
import numpy as np
import pytest

from lopt.horizons import LAWS, Horizon
from lopt.names import InputError


@pytest.mark.parametrize("law", LAWS)
def test_table_is_the_rounded_law(law):
    lengths, probabilities = Horizon(200, 2000, law).table(50)
    draw = np.random.default_rng(0).uniform
    draws = draw(200, 2000, 400_000) if law == "uniform" else np.exp(draw(np.log(200), np.log(2000), 400_000))
    rounded = 50 * np.floor(draws / 50 + 0.5)
    counts = np.array([(rounded == n).mean() for n in lengths])
    assert lengths.tolist() == list(range(200, 2001, 50))
    assert abs(counts.sum() - 1) < 1e-12
    np.testing.assert_allclose(probabilities, counts, atol=4 * np.sqrt(0.1 / 400_000))


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
