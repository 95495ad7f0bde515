"""Options that evolution strategies share: schedules of sigma, growing horizons (for shaping, see test_shaping)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import (
    ESTIMATORS,
    GPES,
    NRES,
    PES,
    FullES,
    PESAnalytic,
    PESTelescoping,
    TruncatedES,
    evolution,
    windows,
)
from lopt.horizons import Horizon
from lopt.names import InputError
from tests.estimators import toys

pytestmark = pytest.mark.usefixtures("x64")
SCHEDULE = {"sigma": 0.5, "sigma_last": 0.1, "sigma_steps": 3}
SIGMAS = 0.5 * (0.1 / 0.5) ** (np.array([0, 1, 2, 3, 3]) / 3)  # geometric, and constant from the third estimate on
VMAPPED = PairLayout(sequential=False)


def one_pair(kind, **settings):
    return kind(**{"num_pairs": 1, "truncation": 1, "staggered": False, "layout": VMAPPED} | settings)


def test_sigma_falls_geometrically():
    np.testing.assert_allclose(evolution.sigma_at(PES(**SCHEDULE), jnp.arange(5)), SIGMAS, rtol=1e-12)
    assert evolution.sigma_at(PES(sigma=0.3), jnp.asarray(7)) == 0.3


@pytest.mark.parametrize(
    ("kind", "drawn_in", "settings"),
    [
        (PES, (0, 1, 2), {}),
        (PESAnalytic, (0, 1, 2), {}),
        (NRES, (0, 0, 0), {}),
        (GPES, (0, 0, 2), {"noise_period": 2}),
    ],
)
def test_a_sigma_that_changes_within_a_trajectory_leaves_the_gradient_exact(kind, drawn_in, settings, monkeypatch):
    """Each window's noise has the sigma of the estimate that drew it, and the losses are quadratic."""
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    estimator = one_pair(kind, horizon=Horizon(3, 3), **SCHEDULE, **settings)
    run = toys.windows_under(estimator, problem, theta, jax.random.key(3), monkeypatch)
    fresh = sorted(set(drawn_in))

    def mean_estimate(unit_noise):
        noises = jnp.stack([SIGMAS[step] * unit_noise[fresh.index(step)] for step in drawn_in])
        return run(noises).mean(0)

    mean = toys.gauss_hermite_mean(mean_estimate, (len(fresh), 2), 1.0)
    np.testing.assert_allclose(mean, toys.exact_gradient(theta, 3, jax.random.key(3)), rtol=1e-10)


def test_telescoping_and_truncated_es_under_a_schedule(monkeypatch):
    theta = 1.3
    for kind, final, exact in ((PESTelescoping, True, 3 * theta**2), (TruncatedES, False, 1 + theta + theta**2)):
        estimator = one_pair(kind, horizon=Horizon(3, 3), **SCHEDULE)
        run = toys.windows_under(estimator, toys.chain(final=final), jnp.asarray(theta), jax.random.key(1), monkeypatch)
        total = toys.gauss_hermite_mean(lambda z, run=run: run(jnp.asarray(SIGMAS[:3, None]) * z).sum(), (3, 1), 1.0)
        np.testing.assert_allclose(total, exact, rtol=1e-12)


def test_full_es_draws_with_the_sigma_of_its_step():
    """On theta^3 per step the estimate is 3 theta^2 a + sigma^2 b, with a and b means of powers of the same normals."""
    problem = toys.linear()._replace(step=lambda theta, state, key: (state, theta**3))

    def estimates(*steps, **settings):
        estimator = FullES(num_pairs=1000, horizon=Horizon(1, 1), layout=VMAPPED, **settings)

        def one(step):
            state = jnp.broadcast_to(step, 1000)
            answer, state = estimator.estimate(problem, jnp.asarray(1.0), state, jax.random.key(0))
            return answer.grad, state[0]

        grads, after = jax.jit(lambda steps: jax.lax.map(one, steps))(jnp.asarray(steps, jnp.int32))
        np.testing.assert_array_equal(after, np.add(steps, 1))
        return grads

    (large,), (small,) = estimates(0, sigma=0.5), estimates(0, sigma=0.1)
    b = (large - small) / (0.5**2 - 0.1**2)
    expected = small + b * (SIGMAS[[0, 2, 4]] ** 2 - 0.1**2)
    np.testing.assert_allclose(estimates(0, 2, 9, **SCHEDULE), expected, rtol=1e-9)
    assert b > 1  # the mean of fourth powers of normals is 3: sigma did matter


def test_the_way_to_the_first_estimate_is_run_once_and_counts_as_no_step():
    estimator = PES(num_pairs=4, truncation=1, horizon=Horizon(8, 8), **SCHEDULE)

    @jax.jit
    def run(theta, key):
        states = [estimator.init(toys.linear(), theta, key)]
        for _ in range(2):
            states.append(estimator.estimate(toys.linear(), theta, states[-1], key)[1])
        return [state.clock._replace(key=()) for state in states]

    start, first, second = jax.tree.map(np.asarray, run(jnp.asarray(0.4), jax.random.key(0)))
    assert len(set(start.behind)) > 1
    assert set(start.position) == {0}
    np.testing.assert_array_equal(first.position, (start.behind + 1) % 8)
    np.testing.assert_array_equal(second.position, (start.behind + 2) % 8)
    assert set(first.behind) == set(second.behind) == {0}
    assert [set(clock.step) for clock in (start, first, second)] == [{0}, {1}, {2}]


@functools.cache
def lengths_at(horizon, size):
    """`step -> lengths` drawn by `horizon` at that step, `[size]`."""
    keys = jax.random.split(jax.random.key(0), size)
    return jax.jit(lambda step: jax.vmap(lambda key: horizon.sample(key, 10, step))(keys))


@pytest.mark.parametrize("law", toys.in_groups("law", ["log", "uniform"]))
@pytest.mark.parametrize("step", [0, 30, 100, 400])
def test_growing_horizons_are_the_law_cut_off(law, step):
    horizon, size = Horizon(20, 200, law, growth=100), 200_000
    drawn = np.asarray(lengths_at(horizon, size)(jnp.asarray(step)))

    quantile = np.random.default_rng(0).uniform(size=size) * min(1, step / 100)
    free = 20 * 10**quantile if law == "log" else 20 + 180 * quantile
    expected = 10 * np.floor(free / 10 + 0.5)
    for length in range(20, 201, 10):
        # The cut falls inside of one length, whose share is then less exact than the others.
        assert abs((drawn == length).mean() - (expected == length).mean()) < 5 * np.sqrt(0.25 / size)
    np.testing.assert_allclose(horizon.mean(10, jnp.asarray(step)), expected.mean(), rtol=0.01)


def test_trajectories_grow_with_the_estimates():
    estimator = PES(num_pairs=64, truncation=1, horizon=Horizon(2, 40, growth=60), layout=VMAPPED)

    @jax.jit
    def run(theta, keys):
        def one(state, key):
            state = estimator.estimate(toys.linear(), theta, state, key)[1]
            return state, state.clock.horizon.max()

        state = estimator.init(toys.linear(), theta, keys[0])
        return state.clock.horizon, jax.lax.scan(one, state, keys)[1]

    first, longest = run(jnp.asarray(0.1), jax.random.split(jax.random.key(0), 120))
    assert set(np.asarray(first)) == {2}
    assert longest[4] < 4 < longest[60] < 41
    assert longest[119] > 30


def mean_length(horizon, multiple_of, quantile):
    """E[T] under the log-uniform law cut off at a quantile, by a sum over a million quantiles."""
    u = quantile * (np.arange(1_000_000) + 0.5) / 1_000_000
    free = horizon.min_length * (horizon.max_length / horizon.min_length) ** u
    return (multiple_of * np.floor(free / multiple_of + 0.5)).mean()


WHOLE = [name for name, kind in ESTIMATORS.items() if not issubclass(kind, windows.WindowedEstimator)]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_trajectories_are_divided_by_the_mean_length_of_their_step(name):
    """The linear toy's losses add up to theta T (T - 1) / 2; `position` is T, as there is one pair."""
    horizon, theta = Horizon(6, 60, growth=10), jnp.asarray(0.7)
    estimator = toys.make(name, horizon=horizon, num_pairs=1)

    @jax.jit
    def run(step, key):
        state = estimator.init(toys.linear(), theta, key)
        return estimator.estimate(toys.linear(), theta, state, key, step=step)[0]

    for step in (3, 6, 10, 15):
        answer = run(jnp.asarray(step), jax.random.key(step))
        length = answer.info["position"]
        assert 6 <= length <= np.floor(6 * 10 ** min(1, step / 10) + 0.5)
        by_hand = 0.7 * length * (length - 1) / 2 / mean_length(horizon, 1, min(1, step / 10))
        np.testing.assert_allclose(answer.loss, by_hand, rtol=1e-4)


def test_the_next_trajectory_has_the_law_of_its_first_step():
    """That of a trajectory which starts with estimate n is cut off at n / growth."""
    horizon = Horizon(2, 40, growth=8)
    keys = jax.random.split(jax.random.key(0), 20_000)

    @jax.jit
    def drawn(step):
        clock = windows.Clock(jnp.asarray(0, jnp.int32), jnp.asarray(2, jnp.int32), step, jnp.int32(0), keys[0])
        return jax.vmap(lambda key: toys.make("pes", horizon=horizon).tick(clock, key))(keys)

    for step in range(3, 8):
        after = drawn(jnp.asarray(step, jnp.int32))
        assert set(np.asarray(after.step)) == {step + 1}
        assert set(np.asarray(after.position)) == {0}
        lengths = np.asarray(after.horizon)
        error = lengths.std() / np.sqrt(len(lengths))
        assert abs(lengths.mean() - mean_length(horizon, 2, (step + 1) / 8)) < 4 * error


def test_a_fixed_horizon_cannot_grow():
    with pytest.raises(InputError, match="growth"):
        Horizon(100, 100, growth=5)
    assert Horizon.parse("20:200:grow=5") == Horizon(20, 200, growth=5)
    assert str(Horizon.parse("20:200:uniform:grow=5")) == "20:200:uniform:grow=5"
