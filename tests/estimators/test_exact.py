"""The expectation of every estimator, by quadrature over all of its noise, against exact gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import GPES, NRES, PES, FullES, PESAnalytic, PESTelescoping, TruncatedES
from lopt.horizons import Horizon
from lopt.types import InnerProblem
from tests.estimators import toys

pytestmark = pytest.mark.usefixtures("x64")
THETA, SIGMA, VMAPPED = 1.3, 0.5, PairLayout(sequential=False)


def one_pair(kind, *, truncation, horizon, **settings):
    return kind(
        **settings,
        num_pairs=1,
        sigma=SIGMA,
        truncation=truncation,
        horizon=Horizon(horizon, horizon),
        staggered=False,
        layout=VMAPPED,
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


def reusing_noise(run, num_windows):
    """`noise [1, P] -> estimates` of a trajectory that has the same noise in every window."""
    return lambda noise: run(jnp.tile(noise, (num_windows, 1)))


def test_nres_smooths_the_trajectory_as_a_whole(monkeypatch):
    for final, exact in ((True, 3 * THETA**2 + 3 * SIGMA**2), (False, 1 + 2 * THETA + 3 * THETA**2 + 3 * SIGMA**2)):
        estimator = one_pair(NRES, truncation=1, horizon=3)
        run = toys.windows_under(estimator, toys.chain(final=final), jnp.asarray(THETA), jax.random.key(1), monkeypatch)
        mean = toys.gauss_hermite_mean(lambda noise, run=run: reusing_noise(run, 3)(noise).sum(), (1, 1), SIGMA)
        np.testing.assert_allclose(mean, exact, rtol=1e-12)


def test_pes_analytic_smooths_all_but_the_own_window(monkeypatch):
    # Cubic in the copies of theta, but linear in each: the own window's smoothing changes nothing.
    total = sum_over_windows(PESAnalytic, toys.chain(final=False), monkeypatch)
    np.testing.assert_allclose(total, 1 + 2 * THETA + 3 * THETA**2, rtol=1e-12)


def test_telescoping_has_the_mean_of_pes_and_less_variance(monkeypatch):
    moments = {}
    for kind in (PES, PESTelescoping):
        run = toys.windows_under(
            one_pair(kind, truncation=1, horizon=3), toys.chain(final=True), jnp.asarray(THETA), jax.random.key(1),
            monkeypatch,
        )  # fmt: skip
        powers = toys.gauss_hermite_mean(lambda noise, run=run: run(noise).sum() ** jnp.arange(3), (3, 1), SIGMA, 6)
        moments[kind] = powers[1], powers[2] - powers[1] ** 2
    np.testing.assert_allclose([m[0] for m in moments.values()], 3 * THETA**2, rtol=1e-12)
    np.testing.assert_allclose(moments[PES][1], 57.0, rtol=0.01)
    np.testing.assert_allclose(moments[PESTelescoping][1], 35.3, rtol=0.01)


def test_truncated_es_sees_its_own_window_alone(monkeypatch):
    total = sum_over_windows(TruncatedES, toys.chain(final=False), monkeypatch)
    np.testing.assert_allclose(total, 1 + THETA + THETA**2, rtol=1e-12)


def test_full_es_smooths_the_trajectory_as_a_whole(monkeypatch):
    estimator = FullES(num_pairs=1, sigma=SIGMA, horizon=Horizon(3, 3), layout=VMAPPED)
    problem = toys.chain(final=True)

    def estimate(noise):
        monkeypatch.setattr("lopt.estimators.evolution.draw_noise", lambda *_: noise)
        return (
            3
            * estimator._trajectory(problem, jnp.asarray(THETA), jnp.zeros((), jnp.int32), jax.random.key(0))[0].grad[0]
        )

    mean = toys.gauss_hermite_mean(estimate, (1,), SIGMA)
    np.testing.assert_allclose(mean, 3 * THETA**2 + 3 * SIGMA**2, rtol=1e-12)


@pytest.mark.parametrize("kind", [PES, NRES, PESAnalytic])
def test_unbiased_for_quadratics(kind, monkeypatch):
    """Three windows of two steps, init depends on theta; swapping the halves changes nothing."""
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    estimator = one_pair(kind, truncation=2, horizon=6)
    run = toys.windows_under(estimator, problem, theta, jax.random.key(3), monkeypatch)
    check_halves_can_be_swapped(run)
    run, num_noises = (reusing_noise(run, 3), 1) if kind is NRES else (run, 3)
    mean = toys.gauss_hermite_mean(lambda noise: run(noise).mean(0), (num_noises, 2), SIGMA)
    np.testing.assert_allclose(mean, toys.exact_gradient(theta, 6, jax.random.key(3)), rtol=1e-10)


def check_halves_can_be_swapped(run):
    noise = jnp.asarray(np.random.default_rng(4).standard_normal((3, 2)))
    np.testing.assert_allclose(run(noise), run(-noise), rtol=1e-10)


def test_truncated_es_is_biased_for_the_same_quadratic(monkeypatch):
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    run = toys.windows_under(
        one_pair(TruncatedES, truncation=2, horizon=4), problem, theta, jax.random.key(3), monkeypatch
    )
    check_halves_can_be_swapped(run)
    mean = toys.gauss_hermite_mean(lambda noise: run(noise).mean(0), (2, 2), SIGMA)
    exact = toys.exact_gradient(theta, 4, jax.random.key(3))
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


def linear_losses(weights):
    """L_w = sum over tau <= w of weights[w, tau] . theta_tau, K = 1: the state is what the windows so far have said."""

    def init(theta, key, horizon):
        del key, horizon
        return jnp.zeros(weights.shape[:2], theta.dtype), jnp.zeros((), jnp.int32)

    def step(theta, state, key):
        del key
        said, w = state
        said = said.at[:, w].set(weights[:, w] @ theta)  # what window w adds to each later loss
        return (said, w + 1), said[w] @ (jnp.arange(len(weights)) <= w)

    return InnerProblem(init, step)


def lower_triangular(num_windows, size):
    weights = np.random.default_rng(0).standard_normal((num_windows, num_windows, size))
    return weights * np.tri(num_windows)[:, :, None]


def trace_of_covariance(values_and_squares):
    mean, square = values_and_squares[:-1], values_and_squares[-1]
    return square - mean @ mean


@pytest.mark.parametrize("kind", [PES, NRES])
def test_variance_of_linear_losses_is_the_closed_form(kind, monkeypatch):
    """A window's estimate and a trajectory's sum, one pair: by quadrature (4th moments) against the formulas."""
    num_windows, size = 3, 2
    g = lower_triangular(num_windows, size)
    theta = jnp.zeros(size)
    run = toys.windows_under(
        one_pair(kind, truncation=1, horizon=num_windows), linear_losses(jnp.asarray(g)), theta, jax.random.key(1),
        monkeypatch,
    )  # fmt: skip
    num_noises = num_windows
    if kind is NRES:
        run, num_noises = reusing_noise(run, num_windows), 1

    def first_and_second(noise):
        estimates = run(noise)
        rows = jnp.concatenate([estimates, estimates.sum(0, keepdims=True)])
        return jnp.concatenate([rows, jnp.sum(rows**2, axis=1, keepdims=True)], axis=1)

    moments = toys.gauss_hermite_mean(first_and_second, (num_noises, size), SIGMA, 3)
    *windows, total = [trace_of_covariance(row) for row in moments]
    whole = g.sum(1)  # G_w
    if kind is NRES:
        expected = [(size + 1) * whole[w] @ whole[w] for w in range(num_windows)]
        expected_total = (size + 1) * whole.sum(0) @ whole.sum(0)
    else:
        expected = [size * (w + 1) * np.sum(g[w] ** 2) + whole[w] @ whole[w] for w in range(num_windows)]
        expected_total = 0.0
        for w in range(num_windows):
            for u in range(num_windows):
                m = min(w, u) + 1
                expected_total += size * m * np.sum(g[w, :m] * g[u, :m]) + g[u, :m].sum(0) @ g[w, :m].sum(0)
    np.testing.assert_allclose(windows, expected, rtol=1e-10)
    np.testing.assert_allclose(total, expected_total, rtol=1e-10)


def test_pes_analytic_has_no_variance_where_windows_are_on_their_own(monkeypatch):
    """Losses linear in their own window's theta: the analytic part is all there is (check 16)."""
    g = lower_triangular(3, 2) * np.eye(3)[:, :, None]
    run = toys.windows_under(
        one_pair(PESAnalytic, truncation=1, horizon=3), linear_losses(jnp.asarray(g)), jnp.zeros(2),
        jax.random.key(1), monkeypatch,
    )  # fmt: skip
    estimates = run(jnp.asarray(np.random.default_rng(5).standard_normal((3, 2))))
    np.testing.assert_allclose(estimates, np.einsum("wwp->wp", g), rtol=1e-10, atol=1e-12)


@functools.cache
def first_estimates(kind, **settings):
    """The estimates of two pairs in windows of two steps of trajectories of four and six steps, `[5, P]`; fixed keys.

    The trajectories start staggered, so that what happens before the first estimate counts too.
    """
    estimator = kind(**settings, num_pairs=2, sigma=SIGMA, truncation=2, horizon=Horizon(4, 6), layout=VMAPPED)
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])

    def one(state, key):
        answer, state = estimator.estimate(problem, theta, state, key)
        return state, answer.grad

    keys = jax.random.split(jax.random.key(7), 5)
    return jax.jit(lambda keys: jax.lax.scan(one, estimator.init(problem, theta, keys[0]), keys)[1])(keys)


@pytest.mark.parametrize(("noise_period", "other"), [(2, PES), (6, NRES)])
def test_gpes_has_pes_and_nres_as_ends(noise_period, other):
    gpes = first_estimates(GPES, noise_period=noise_period)
    np.testing.assert_allclose(gpes, first_estimates(other), rtol=1e-12)


def test_nres_windows_add_up_to_full_es(monkeypatch):
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    noise = jnp.asarray([[0.2, -0.4]])
    run = toys.windows_under(one_pair(NRES, truncation=2, horizon=6), problem, theta, jax.random.key(3), monkeypatch)
    windows = reusing_noise(run, 3)(noise)
    whole = toys.windows_under(one_pair(NRES, truncation=6, horizon=6), problem, theta, jax.random.key(3), monkeypatch)
    np.testing.assert_allclose(windows.mean(0), whole(noise)[0], rtol=1e-12)


def test_telescoping_evaluates_a_trajectory_with_one_key():
    """Noise that depends on the key alone cancels between the windows of a trajectory, and not between trajectories."""
    base = toys.dialled(toys.Dials(), final_loss=True)
    problem = base._replace(evaluate=lambda theta, state, key: state["s"] + 10 * toys.cheap_noise(key))
    estimator = one_pair(PESTelescoping, truncation=2, horizon=6)
    theta = jnp.asarray(THETA)

    def one(state, key):
        _, state = estimator.estimate(problem, theta, state, key)
        return state, state.before.mean()  # p_w, over the halves

    keys = jax.random.split(jax.random.key(7), 9)
    reached = jax.jit(lambda keys: jax.lax.scan(one, estimator.init(problem, theta, keys[0]), keys)[1])(keys)
    losses = np.diff(np.asarray(reached).reshape(3, 3), axis=1, prepend=0) / 2
    first, later = losses[:, 0], losses[:, 1:]
    np.testing.assert_allclose(later, THETA, rtol=1e-10)  # two steps of theta each, over K = 2
    noise = 2 * (first - THETA) / 10
    assert (noise > 0.01).all()
    assert len(set(noise.round(6))) == 3
