"""The expectation of every estimator, by quadrature over all of its noise, against exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import PES, FullES, TruncatedES
from lopt.horizons import Horizon
from tests.estimators import toys

pytestmark = pytest.mark.usefixtures("x64")
THETA, SIGMA = 1.3, 0.5


def one_pair(kind, *, truncation, horizon, sigma=SIGMA):
    return kind(
        num_pairs=1,
        sigma=sigma,
        truncation=truncation,
        horizon=Horizon(horizon, horizon),
        staggered=False,
        layout=PairLayout(sequential=False),
    )


def sum_over_windows(kind, problem, monkeypatch):
    """E[sum of the three estimates] of the scalar chain with K = 1, T = 3; K = 1 makes window means step losses."""
    estimator = one_pair(kind, truncation=1, horizon=3)
    run = toys.windows_under(estimator, problem, jnp.asarray(THETA), jax.random.key(1), monkeypatch)
    return toys.gauss_hermite_mean(lambda noise: run(noise).sum(), (3, 1), SIGMA)


def test_pes_smooths_every_window_on_its_own(monkeypatch):
    # With independent noise in each factor, E[prod (theta + eps_t)] = theta^3: no trace of sigma.
    final = sum_over_windows(PES, toys.chain(final=True), monkeypatch)
    np.testing.assert_allclose(final, 3 * THETA**2, rtol=1e-12)
    total = sum_over_windows(PES, toys.chain(final=False), monkeypatch)
    np.testing.assert_allclose(total, 1 + 2 * THETA + 3 * THETA**2, rtol=1e-12)


def test_truncated_es_sees_its_own_window_alone(monkeypatch):
    total = sum_over_windows(TruncatedES, toys.chain(final=False), monkeypatch)
    np.testing.assert_allclose(total, 1 + THETA + THETA**2, rtol=1e-12)


def test_full_es_smooths_the_trajectory_as_a_whole(monkeypatch):
    estimator = FullES(num_pairs=1, sigma=SIGMA, horizon=Horizon(3, 3), layout=PairLayout(sequential=False))
    problem = toys.chain(final=True)

    def estimate(noise):
        monkeypatch.setattr("lopt.estimators.pairs.draw_noise", lambda *_: noise)
        return 3 * estimator._trajectory(problem, jnp.asarray(THETA), jax.random.key(0)).grad[0]

    mean = toys.gauss_hermite_mean(estimate, (1,), SIGMA)
    np.testing.assert_allclose(mean, 3 * THETA**2 + 3 * SIGMA**2, rtol=1e-12)


@pytest.mark.parametrize(("truncation", "horizon"), [(1, 3), (2, 4), (4, 4)])
def test_pes_is_unbiased_for_quadratics(truncation, horizon, monkeypatch):
    problem, theta = toys.linear_quadratic(jax.random.key(2)), jnp.asarray([0.3, -0.7])
    estimator = one_pair(PES, truncation=truncation, horizon=horizon)
    run = toys.windows_under(estimator, problem, theta, jax.random.key(3), monkeypatch)
    num_windows = horizon // truncation
    mean = toys.gauss_hermite_mean(lambda noise: run(noise).mean(0), (num_windows, 2), SIGMA)
    np.testing.assert_allclose(mean, toys.exact_gradient(problem, theta, horizon, jax.random.key(3)), rtol=1e-10)


def test_truncated_es_is_biased_for_the_same_quadratic(monkeypatch):
    problem, theta = toys.linear_quadratic(jax.random.key(2)), jnp.asarray([0.3, -0.7])
    run = toys.windows_under(
        one_pair(TruncatedES, truncation=2, horizon=4), problem, theta, jax.random.key(3), monkeypatch
    )
    mean = toys.gauss_hermite_mean(lambda noise: run(noise).mean(0), (2, 2), SIGMA)
    exact = toys.exact_gradient(problem, theta, 4, jax.random.key(3))
    assert jnp.linalg.norm(mean - exact) > 0.02 * jnp.linalg.norm(exact)


def test_a_trajectory_starts_with_the_credit_of_its_own_noise(monkeypatch):
    """No loss in the last window of the first trajectory: the next estimate is plain ES of its own noise."""
    problem, theta = toys.linear(), jnp.asarray(0.4)
    run = toys.windows_under(one_pair(PES, truncation=2, horizon=4), problem, theta, jax.random.key(3), monkeypatch)
    noises = jnp.asarray([[0.2], [-0.5], [0.7], [0.1]])
    first, second, third, fourth = run(noises)[:, 0]
    # Losses of a trajectory with copies a, b of theta: 0, a | 2a, 2a + b; means a / 2 and 2a + b / 2.
    for estimate, credit, slope_times_noise in (
        (first, 0.2, 0.2 / 2),
        (second, 0.2 - 0.5, 2 * 0.2 - 0.5 / 2),
        (third, 0.7, 0.7 / 2),
        (fourth, 0.7 + 0.1, 2 * 0.7 + 0.1 / 2),
    ):
        np.testing.assert_allclose(estimate, credit * slope_times_noise / SIGMA**2, rtol=1e-12)
