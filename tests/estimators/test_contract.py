"""What every evolution strategy does, and what it does with many pairs, devices, divergence and restarts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, PES, FullES, TruncatedES
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem
from tests.estimators import toys

VMAPPED = PairLayout(sequential=False)
# Gradient methods have a file of their own; pes_telescoping takes final losses only.
GENERAL = [name for name, kind in ESTIMATORS.items() if hasattr(kind, "sigma") and name != "pes_telescoping"]
WINDOWED = [name for name in GENERAL if name != "full_es"]
UNBIASED = [name for name in GENERAL if name != "truncated_es"]


def make(name, *, truncation=2, horizon=Horizon(4, 4), **settings):
    if name != "full_es":
        settings["truncation"] = truncation
    return ESTIMATORS[name](horizon=horizon, **settings)


def estimate(estimator, problem, theta, *, seed=0, num_estimates=1):
    """The mean of the first estimates at a fixed theta, and the last one's info."""

    @jax.jit
    def run(theta):
        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer

        keys = jax.random.split(jax.random.key(1000 + seed), num_estimates)
        _, answers = jax.lax.scan(one, estimator.init(problem, theta, jax.random.key(seed)), keys)
        return answers.grad.mean(0), jax.tree.map(lambda x: x[-1], answers)

    return run(theta)


def exact_linear(horizon: Horizon, multiple_of: int) -> float:
    """d/dtheta of E[sum_t t theta] / E[T]."""
    lengths, probabilities = horizon.table(multiple_of)
    lengths = lengths.astype(float)
    return float(probabilities @ (lengths * (lengths - 1) / 2) / (probabilities @ lengths))


@pytest.mark.parametrize(
    ("truncation", "horizon"), [(2, Horizon(4, 4)), (5, Horizon(20, 20)), (2, Horizon(2, 12)), (1, Horizon(1, 5))]
)
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_on_the_linear_toy(name, truncation, horizon):
    estimator = make(name, truncation=truncation, horizon=horizon, num_pairs=50_000, sigma=0.1, layout=VMAPPED)
    mean, answer = estimate(estimator, toys.linear(), jnp.asarray(0.7))
    exact = exact_linear(horizon, 1 if name == "full_es" else truncation)
    error = float(jnp.sqrt(answer.info["grad_variance"]))
    assert abs(float(mean) - exact) < 4 * error
    assert error < 0.03 * exact  # else the line above would say nothing


def test_lockstep_windows_of_a_trajectory_average_to_the_gradient():
    """Without stagger each window alone is off; the mean over a trajectory is not. The last loss counts in full."""
    estimator = make("pes", truncation=5, horizon=Horizon(20, 20), num_pairs=50_000, sigma=0.1, staggered=False,
                     layout=VMAPPED)  # fmt: skip
    mean, answer = estimate(estimator, toys.linear(), jnp.asarray(0.7), num_estimates=4)
    # Credits grow along a trajectory, so the last window is the noisiest: its error bounds that of the mean.
    error = float(jnp.sqrt(answer.info["grad_variance"]))
    assert abs(float(mean) - 9.5) < 4 * error / 2
    assert error < 0.04 * 9.5


def test_truncated_es_is_biased_on_the_linear_toy():
    estimator = make("truncated_es", num_pairs=50_000, sigma=0.1, layout=VMAPPED)
    mean, answer = estimate(estimator, toys.linear(), jnp.asarray(0.7))
    error = float(jnp.sqrt(answer.info["grad_variance"]))
    assert abs(float(mean) - 0.5) < 4 * error  # what it sees: (K - 1) / 2
    assert abs(float(mean) - 1.5) > 20 * error


@pytest.mark.usefixtures("x64")
def test_pes_of_one_window_is_full_es():
    """K = T, same keys; init depends on theta."""
    problem, theta = toys.linear_quadratic(jax.random.key(5)), jnp.asarray([0.3, -0.7])
    pes, _ = estimate(PES(num_pairs=6, sigma=0.1, horizon=Horizon(4, 4), truncation=4), problem, theta)
    full, _ = estimate(FullES(num_pairs=6, sigma=0.1, horizon=Horizon(4, 4)), problem, theta)
    np.testing.assert_allclose(pes, full, rtol=1e-12)


@pytest.mark.parametrize("name", toys.slow_but_for(GENERAL, "pes", "full_es"))
def test_layouts_agree(name):
    """One device or two, one after another or vmapped; theta lies on all of them, as in a run."""
    problem, theta = toys.linear_quadratic(jax.random.key(5)), jnp.asarray([0.3, -0.7])
    results = [
        estimate(
            make(name, num_pairs=6, sigma=0.1, layout=layout),
            problem,
            jax.device_put(theta, layout.replicated),
            num_estimates=3,
        )[0]
        for layout in (PairLayout(1), PairLayout(2), PairLayout(2, sequential=False))
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5)


@pytest.mark.parametrize("name", toys.slow_but_for(GENERAL, "pes", "nres", "truncated_es"))
def test_constants_cancel_and_scales_scale(name):
    theta = jnp.asarray([0.3, -0.7])
    base = toys.linear_quadratic(jax.random.key(5))

    def changed(theta, state, key):
        state, loss = base.step(theta, state, key)
        return state, 3 * loss + 7

    estimator = make(name, num_pairs=6, sigma=0.1)
    plain, _ = estimate(estimator, base, theta, num_estimates=3)
    scaled, _ = estimate(estimator, base._replace(step=changed), theta, num_estimates=3)
    np.testing.assert_allclose(scaled, 3 * plain, rtol=1e-3)


@pytest.mark.parametrize("name", GENERAL)
def test_an_even_loss_has_no_gradient(name):
    def step(theta, state, key):
        del key
        return state + jnp.square(theta), jnp.cos(theta) + state

    problem = InnerProblem(lambda theta, key, horizon: jnp.zeros_like(theta), step)
    grad, _ = estimate(make(name, num_pairs=6, sigma=0.1), problem, jnp.asarray(0.0), num_estimates=3)
    assert grad == 0


@pytest.mark.parametrize(("name", "grows"), [("pes", True), ("nres", False)])
def test_noise_floor(name, grows):
    """Losses that are noise of variance v on their own: a pair's estimate in window w has variance P w v / (2 sigma^2),
    without the w for NRES (check 18)."""
    size, variance, sigma, num_pairs = 3, 4.0, 0.1, 20_000

    def step(theta, state, key):
        own = jax.lax.bitcast_convert_type(theta.sum(), jnp.uint32)  # the halves of a pair share the key
        return state, jnp.sqrt(variance) * jax.random.normal(jax.random.fold_in(key, own))

    problem = InnerProblem(lambda theta, key, horizon: jnp.zeros(()), step)
    horizon, theta = Horizon(4, 4), jnp.zeros(size)
    estimator = make(name, truncation=1, horizon=horizon, num_pairs=num_pairs, sigma=sigma, staggered=False,
                     layout=VMAPPED)  # fmt: skip

    @jax.jit
    def variances(theta):
        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer.info["grad_variance"] * (num_pairs - 1)

        keys = jax.random.split(jax.random.key(1), 4)
        return jax.lax.scan(one, estimator.init(problem, theta, jax.random.key(0)), keys)[1]

    windows = np.arange(1, 5) if grows else np.ones(4)
    # A variance of products of normals: the relative standard error at 20,000 pairs is below 1.5 %.
    np.testing.assert_allclose(variances(theta), size * windows * variance / (2 * sigma**2), rtol=0.06)


@pytest.mark.parametrize("name", GENERAL)
def test_an_exploding_particle_does_not_reach_theta(name):
    """Without a cap, a pair with a particle that is not finite is left out, and the rest is averaged."""
    base = toys.linear()

    def exploding(theta, state, key):
        state, loss = base.step(theta, state, key)
        return state, jnp.where(theta > 0.75, jnp.nan, loss)  # half a sigma away

    estimator = make(name, num_pairs=64, sigma=0.1)
    grad, answer = estimate(estimator, base._replace(step=exploding), jnp.asarray(0.7), num_estimates=4)
    assert jnp.isfinite(grad)
    assert jnp.isfinite(answer.loss)
    assert 0.3 < answer.info["left_out"] < 0.9


@pytest.mark.parametrize("name", WINDOWED)
def test_info_counts(name):
    estimator = make(name, truncation=5, horizon=Horizon(20, 20), num_pairs=4000, layout=VMAPPED)
    problem = toys.linear(cap=1.0)
    _, answer = estimate(estimator, problem, jnp.asarray(0.1))
    # theta = 0.1: the state passes the cap at step 10 of 20. (The toy reports it, and does not bound its loss.)
    assert abs(answer.info["capped"] - 0.475) < 0.05
    assert abs(answer.info["started"] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert abs(answer.info["position"] - 7.5) < 4 * 5.6 / np.sqrt(4000)
    assert abs(answer.info["position_std"] - np.sqrt(31.25)) < 0.3
    np.testing.assert_allclose(answer.info["grad_norm"], jnp.abs(answer.grad), rtol=1e-5)


def test_truncated_es_refuses_a_final_loss():
    with pytest.raises(InputError, match="final-loss"):
        make("truncated_es").init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))
    make("truncated_es", truncation=4).init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))


@pytest.mark.parametrize("name", ["pes", "nres", "gpes", "full_es", "pes_telescoping"])
def test_a_final_loss_is_followed(name):
    """Final loss s_T = T theta at T = 4, so J = E[s_T] / T has gradient 1."""
    problem = toys.chain(final=True)
    add = problem._replace(
        init=lambda theta, key, horizon: (0 * theta, jnp.zeros((), jnp.int32), horizon),
        step=lambda theta, state, key: (
            (state[0] + theta, state[1] + 1, state[2]),
            jnp.where(state[1] + 1 == state[2], state[0] + theta, 0),
        ),
    )
    mean, answer = estimate(make(name, num_pairs=50_000, sigma=0.1, layout=VMAPPED), add, jnp.asarray(0.7))
    error = float(jnp.sqrt(answer.info["grad_variance"]))
    assert abs(float(mean) - 1) < 4 * error < 0.2


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("bad", [{"num_pairs": 0}, {"sigma": 0.0}, {"sigma": -1.0}, {"sigma": float("nan")}])
def test_settings_out_of_range(name, bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        make(name, **bad)


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_must_fit_the_horizon(name):
    with pytest.raises(InputError, match=r"take 3 or 6 instead of 4"):
        make(name, truncation=3)
    with pytest.raises(InputError, match="longer than the shortest"):
        make(name, truncation=5)


def test_what_an_estimator_cannot_do_is_refused():
    with pytest.raises(InputError, match="final-loss objective"):
        make("pes_telescoping").init(toys.linear(), jnp.asarray(0.7), jax.random.key(0))
    with pytest.raises(InputError, match="not differentiable"):
        make("pes_analytic").init(toys.linear(differentiable=False), jnp.asarray(0.7), jax.random.key(0))
    with pytest.raises(InputError, match="multiple of the truncation"):
        make("gpes", noise_period=3)


def test_keys_and_integers_may_be_in_a_state():
    def init(theta, key, horizon):
        return theta, key, horizon

    def step(theta, state, key):
        s, own_key, horizon = state
        return (s + theta, jax.random.fold_in(own_key, 1), horizon), s + jax.random.normal(own_key)

    problem = InnerProblem(init, step)
    for name in GENERAL:
        grad, _ = estimate(make(name, num_pairs=4), problem, jnp.asarray(0.7), num_estimates=3)
        assert jnp.isfinite(grad)


def test_equal_settings_are_equal():
    """So that jit, which knows a run by its settings, does not compile it again."""
    assert make("pes") == make("pes")
    assert hash(make("pes")) == hash(make("pes"))
    assert make("pes", sigma=0.1) != make("pes", sigma=0.2)
    assert isinstance(make("truncated_es"), TruncatedES)
