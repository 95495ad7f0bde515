"""Options that evolution strategies share: schedules of sigma, signed differences, growing horizons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, GPES, NRES, PES, FullES, PESAnalytic, PESTelescoping, TruncatedES
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
    np.testing.assert_allclose(PES(**SCHEDULE).sigma_at(jnp.arange(5)), SIGMAS, rtol=1e-12)
    assert PES(sigma=0.3).sigma_at(jnp.asarray(7)) == 0.3


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
    problem, theta = toys.linear_quadratic(jax.random.key(2)), jnp.asarray([0.3, -0.7])
    estimator = one_pair(kind, horizon=Horizon(3, 3), **SCHEDULE, **settings)
    run = toys.windows_under(estimator, problem, theta, jax.random.key(3), monkeypatch)
    fresh = sorted(set(drawn_in))

    def mean_estimate(unit_noise):
        noises = jnp.stack([SIGMAS[step] * unit_noise[fresh.index(step)] for step in drawn_in])
        return run(noises).mean(0)

    mean = toys.gauss_hermite_mean(mean_estimate, (len(fresh), 2), 1.0)
    np.testing.assert_allclose(mean, toys.exact_gradient(problem, theta, 3, jax.random.key(3)), rtol=1e-10)


def test_telescoping_and_truncated_es_under_a_schedule(monkeypatch):
    theta = 1.3
    for kind, final, exact in ((PESTelescoping, True, 3 * theta**2), (TruncatedES, False, 1 + theta + theta**2)):
        estimator = one_pair(kind, horizon=Horizon(3, 3), **SCHEDULE)
        run = toys.windows_under(estimator, toys.chain(final=final), jnp.asarray(theta), jax.random.key(1), monkeypatch)
        total = toys.gauss_hermite_mean(lambda z, run=run: run(jnp.asarray(SIGMAS[:3, None]) * z).sum(), (3, 1), 1.0)
        np.testing.assert_allclose(total, exact, rtol=1e-12)


def test_full_es_draws_with_the_sigma_of_its_step():
    """On (theta - 3)^2 per step the estimate is exactly eps^2 / sigma^2 times the slope: chi-squared, of mean 1."""

    def estimates(step, **settings):
        estimator = FullES(num_pairs=1000, horizon=Horizon(1, 1), layout=VMAPPED, **settings)
        problem = toys.linear()._replace(step=lambda theta, state, key: (state, (theta - 3) ** 2))
        state = jnp.full(1000, step, jnp.int32)
        answer, state = estimator.estimate(problem, jnp.asarray(1.0), state, jax.random.key(0))
        assert state[0] == step + 1
        return answer.grad

    scheduled = [estimates(step, **SCHEDULE) for step in (0, 2, 9)]
    constant = [estimates(0, sigma=sigma) for sigma in (0.5, SIGMAS[2], 0.1)]
    np.testing.assert_allclose(scheduled, constant, rtol=1e-9)


def test_burn_in_is_before_the_first_step():
    estimator = PES(num_pairs=4, truncation=1, horizon=Horizon(8, 8), **SCHEDULE)
    state = estimator.init(toys.linear(), jnp.asarray(0.4), jax.random.key(0))
    assert len(set(np.asarray(state.clock.position))) > 1
    assert state.clock.step.tolist() == [0, 0, 0, 0]
    _, state = estimator.estimate(toys.linear(), jnp.asarray(0.4), state, jax.random.key(1))
    assert state.clock.step.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["pes", "nres", "gpes", "truncated_es", "full_es"])
def test_signed_differences(name):
    """One pair's estimate keeps its direction, has the length of its credit over sigma^2, and forgets the loss."""
    windowed = {} if name == "full_es" else {"truncation": 2, "staggered": False}
    if name == "gpes":
        windowed["noise_period"] = 4
    problem, theta = toys.linear_quadratic(jax.random.key(2)), jnp.asarray([0.3, -0.7])
    scaled = problem._replace(
        step=lambda theta, state, key: (lambda s, loss: (s, 100 * loss))(*problem.step(theta, state, key))
    )

    def first(problem, **settings):
        estimator = ESTIMATORS[name](num_pairs=1, sigma=0.1, horizon=Horizon(4, 4), **windowed, **settings)
        state = estimator.init(problem, theta, jax.random.key(0))
        return np.asarray(estimator.estimate(problem, theta, state, jax.random.key(5))[0].grad)

    plain, signed = first(problem), first(problem, signed=True)
    np.testing.assert_allclose(signed / np.linalg.norm(signed), plain / np.linalg.norm(plain), rtol=1e-10)
    # In the first window of a trajectory the credit is the noise alone: half the difference over sigma^2 times it.
    np.testing.assert_allclose(first(scaled, signed=True), signed, rtol=1e-12)
    assert 1 < np.linalg.norm(signed) * 0.1 < 4  # |eps| / sigma, of two standard normals; a fixed key


@pytest.mark.parametrize("law", ["log", "uniform"])
@pytest.mark.parametrize("step", [0, 30, 100, 400])
def test_growing_horizons_are_the_law_cut_off(law, step):
    horizon, size = Horizon(20, 200, law, growth=100), 200_000
    keys = jax.random.split(jax.random.key(0), size)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: horizon.sample(key, 10, jnp.asarray(step))))(keys))

    quantile = np.random.default_rng(0).uniform(size=size) * min(1, step / 100)
    free = 20 * 10**quantile if law == "log" else 20 + 180 * quantile
    expected = 10 * np.floor(free / 10 + 0.5)
    for length in range(20, 201, 10):
        # The cut falls inside of one length, whose share is then less exact than the others.
        assert abs((drawn == length).mean() - (expected == length).mean()) < 5 * np.sqrt(0.25 / size)
    np.testing.assert_allclose(horizon.mean(10, jnp.asarray(step)), expected.mean(), rtol=0.01)


def test_trajectories_grow_with_the_estimates():
    estimator = PES(num_pairs=64, truncation=1, horizon=Horizon(2, 40, growth=60), layout=VMAPPED)
    problem, theta = toys.linear(), jnp.asarray(0.1)
    state = estimator.init(problem, theta, jax.random.key(0))
    assert set(np.asarray(state.clock.horizon)) == {2}
    step = jax.jit(lambda state, key: estimator.estimate(problem, theta, state, key)[1])
    longest = []
    for i in range(120):
        state = step(state, jax.random.key(i))
        longest.append(int(state.clock.horizon.max()))
    assert longest[4] < 4 < longest[60] < 41
    assert longest[119] > 30


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PES, {"sigma_last": 0.1}, "both sigma_last and sigma_steps"),
        (PES, {"sigma_steps": 3}, "both sigma_last and sigma_steps"),
        (FullES, {"sigma_last": 0.0, "sigma_steps": 3}, "above 0"),
        (PESAnalytic, {"signed": True}, "not signed"),
    ],
)
def test_refusals(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)


def test_a_fixed_horizon_cannot_grow():
    with pytest.raises(InputError, match="growth"):
        Horizon(100, 100, growth=5)
    assert Horizon.parse("20:200:grow=5") == Horizon(20, 200, growth=5)
    assert str(Horizon.parse("20:200:uniform:grow=5")) == "20:200:uniform:grow=5"
