"""Evolution strategies with many pairs: their means and variances, divergence, counts, layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, PES, FullES
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.testing.estimators import check_even, check_scales, exact_linear
from lopt.types import InnerProblem
from tests.estimators import toys

VMAPPED = PairLayout(sequential=False)
NUM_PAIRS = 30_000
# Gradient methods have a file of their own; pes_telescoping takes final losses only; test_exact shows that gpes equals
# pes and nres number by number, and test_with_gradients that guided_es is truncated_es with other noise.
ELSEWHERE = ("pes_telescoping", "gpes", "guided_es")
GENERAL = [name for name, kind in ESTIMATORS.items() if hasattr(kind, "sigma") and name not in ELSEWHERE]
BIASED = ["truncated_es", "inverse_variance"]
WINDOWED = [name for name in GENERAL if name != "full_es"]
UNBIASED = [name for name in GENERAL if name not in BIASED]


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


HORIZON = Horizon(2, 12)  # windows of two steps: trajectories of one window, and of six


@functools.cache
def dialled(name):
    """`(theta, **dials) -> answers`: three estimates of a scalar problem by many pairs; one program an estimator."""
    estimator = toys.make(name, horizon=HORIZON, num_pairs=NUM_PAIRS, sigma=0.1, layout=VMAPPED)
    return toys.three_estimates(estimator, cap=1.0, final_loss=name == "pes_telescoping")


def first(answers):
    """The first estimate, the standard error of its gradient, and what it logs."""
    answer = jax.tree.map(lambda x: x[0], answers)
    return float(answer.grad), float(np.sqrt(answer.info["grad_variance"])), answer.info


def check_unbiased(answers, exact):
    mean, error, _ = first(answers)
    assert abs(mean - exact) < 4 * error
    assert error < 0.03 * exact  # else the line above would say nothing


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_on_the_linear_toy(name):
    check_unbiased(dialled(name)(0.7), exact_linear(HORIZON, 1 if name == "full_es" else 2))


@pytest.mark.parametrize(("truncation", "horizon"), [(1, Horizon(1, 5)), (5, Horizon(20, 20))])
@pytest.mark.parametrize("name", toys.slow_but_for([name for name in UNBIASED if name != "full_es"], "nres"))
def test_unbiased_with_other_windows(name, truncation, horizon):
    estimator = toys.make(name, truncation=truncation, horizon=horizon, num_pairs=50_000, sigma=0.1, layout=VMAPPED)
    check_unbiased(toys.three_estimates(estimator)(0.7), exact_linear(horizon, truncation))


@pytest.mark.parametrize("name", BIASED)
def test_bias_on_the_linear_toy(name):
    mean, error, _ = first(dialled(name)(0.7))
    assert abs(mean - 0.5) < 4 * error + 1e-6  # what is seen of a window on its own: (K - 1) / 2
    assert abs(mean - exact_linear(HORIZON, 2)) > 20 * error


@pytest.mark.usefixtures("x64")
def test_pes_of_one_window_is_full_es():
    """K = T, same keys; init depends on theta."""
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    pes, _ = estimate(PES(num_pairs=6, sigma=0.1, horizon=Horizon(4, 4), truncation=4, staggered=False), problem, theta)
    full, _ = estimate(FullES(num_pairs=6, sigma=0.1, horizon=Horizon(4, 4)), problem, theta)
    np.testing.assert_allclose(pes, full, rtol=1e-12)


@pytest.mark.parametrize("name", toys.slow_but_for([*GENERAL, "gpes", "guided_es"], "full_es"))
def test_layouts_agree(name):
    """One device or two, one after another or vmapped; theta lies on all of them, as in a run."""
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    results = [
        estimate(
            toys.make(name, num_pairs=6, sigma=0.1, layout=layout),
            problem,
            jax.device_put(theta, layout.replicated),
            num_estimates=3,
        )[0]
        for layout in (PairLayout(1), PairLayout(2), PairLayout(2, sequential=False))
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5)


@pytest.mark.parametrize("name", GENERAL)
def test_constants_cancel_and_scales_scale(name):
    check_scales(dialled(name))


@pytest.mark.parametrize("name", GENERAL)
def test_an_even_loss_has_no_gradient(name):
    check_even(dialled(name))


SIZE = 3  # of theta


@functools.cache
def lockstep(name):
    """`(slope, amplitude) -> (gradients, variances of a pair's estimate)`, `[4]`, of the windows of a trajectory.

    The losses are the linear toy's plus noise of this amplitude, drawn by each particle on its own.
    """
    num_pairs, theta = 20_000, jnp.full(SIZE, 0.7)
    estimator = toys.make(name, truncation=1, num_pairs=num_pairs, sigma=0.1, staggered=False, layout=VMAPPED)

    @jax.jit
    def run(slope, amplitude):
        def step(theta, state, key):
            own = jax.lax.bitcast_convert_type(theta.sum(), jnp.uint32)  # the halves of a pair share the key
            return state + slope * theta[0], state + amplitude * jax.random.normal(jax.random.fold_in(key, own))

        problem = InnerProblem(lambda theta, key, horizon: jnp.zeros(()), step)

        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, (answer.grad, answer.info["grad_variance"] * (num_pairs - 1))

        keys = jax.random.split(jax.random.key(1), 4)
        return jax.lax.scan(one, estimator.init(problem, theta, jax.random.key(0)), keys)[1]

    return lambda slope, amplitude: run(jnp.float32(slope), jnp.float32(amplitude))


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_lockstep_windows_of_a_trajectory_average_to_the_gradient(name):
    """Without stagger each window alone is off; the mean over a trajectory is not. The last loss counts in full."""
    gradients, variances = lockstep(name)(1, 0)
    # Credits grow along a trajectory, so the last window is the noisiest: its error bounds that of the mean.
    error = float(jnp.sqrt(variances[-1] / 20_000))
    np.testing.assert_allclose(gradients.mean(0), [1.5, 0, 0], atol=4 * error / 2)
    assert error < 0.05 * 1.5


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_noise_floor(name):
    """Losses that are noise of variance v on their own: a pair's estimate in window w has variance P w v / (2 sigma^2),
    without the w for NRES (check 18)."""
    windows = np.arange(1, 5) if name == "pes" else np.ones(4)
    # A variance of products of normals: the relative standard error at 20,000 pairs is below 1.5 %.
    np.testing.assert_allclose(lockstep(name)(0, 2)[1], SIZE * windows * 2**2 / (2 * 0.1**2), rtol=0.06)


@pytest.mark.parametrize("name", GENERAL)
def test_an_exploding_particle_does_not_reach_theta(name):
    """A pair with a particle that is not finite is left out, and the rest is averaged."""
    answers = dialled(name)(0.7, bound=0.75)  # half a sigma away
    assert np.isfinite(answers.grad).all()
    assert np.isfinite(answers.loss).all()
    assert (answers.info["left_out"] > 0.3).all()
    assert (answers.info["left_out"] < 0.99).all()


@pytest.mark.parametrize("name", WINDOWED)
def test_info_counts(name):
    answers = dialled(name)(10, shift=-44)
    info = answers.info
    lengths, probabilities = HORIZON.table(2)
    of_windows = probabilities / (probabilities @ lengths / 2)  # how often a window is one of each trajectory's
    position, square = (sum(p * (np.arange(0, t, 2) ** k).sum() for t, p in zip(lengths, of_windows, strict=True))
                        for k in (1, 2))  # fmt: skip
    std = np.sqrt(square - position**2)
    started, capped = of_windows.sum(), of_windows @ np.maximum(lengths - 5, 0) / 2  # 5 steps of 10 pass 44 + 1
    for field, expected, spread in (
        ("started", started, np.sqrt(started * (1 - started))),
        ("capped", capped, np.sqrt(capped * (1 - capped))),
        ("position", position, std),
        ("position_std", std, std),
    ):
        np.testing.assert_allclose(info[field], expected, atol=4 * spread / np.sqrt(NUM_PAIRS))
    np.testing.assert_allclose(answers.info["grad_norm"], np.abs(answers.grad), rtol=1e-5)


def test_truncated_es_refuses_a_final_loss():
    with pytest.raises(InputError, match="final-loss"):
        toys.make("truncated_es").init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))
    toys.make("truncated_es", truncation=4).init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))


def test_telescoping_refuses_other_losses():
    with pytest.raises(InputError, match="final-loss objective"):
        toys.make("pes_telescoping").init(toys.linear(), jnp.asarray(0.7), jax.random.key(0))
    with pytest.raises(InputError, match="evaluated on the way"):
        toys.make("pes_telescoping").init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))


@pytest.mark.parametrize("name", [*UNBIASED, "pes_telescoping"])
def test_a_final_loss_is_followed(name):
    """Final loss s_T = T theta, so J = E[s_T] / T has gradient 1."""
    mean, error, _ = first(dialled(name)(0.7, final=1, noise=1))
    assert abs(mean - 1) < 4 * error < 0.2
