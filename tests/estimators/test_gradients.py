"""Methods that differentiate: what they report and refuse, and their means over many trajectories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import forward
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem
from tests.estimators import toys
from tests.estimators.differentiating import METHODS, estimate, network

WITH_WINDOWS = [name for name in METHODS if name != "bptt"]
UNBIASED = [name for name in METHODS if name != "tbptt"]
VMAPPED = PairLayout(sequential=False)
HORIZON, NUM_PAIRS = Horizon(2, 12), 20_000
THETA = jnp.asarray([0.3, -0.4], jnp.float32)


@functools.cache
def dialled(name):
    """`(theta, **dials) -> answers`: three estimates of a scalar problem by many trajectories; one program a method."""
    return toys.three_estimates(toys.make(name, horizon=HORIZON, num_pairs=NUM_PAIRS, layout=VMAPPED), cap=1.0)


def standard_error(answers):
    return np.sqrt(answers.info["grad_variance"])


@pytest.mark.parametrize("name", toys.in_groups("gradients", UNBIASED))
def test_unbiased_with_random_horizons(name):
    """The linear toy: d / dtheta of E[sum_t t theta] / E[T], with trajectories met at a random moment."""
    answers = dialled(name)(0.7)
    lengths, probabilities = HORIZON.table(1 if name == "bptt" else 2)
    lengths = lengths.astype(float)
    exact = probabilities @ (lengths * (lengths - 1) / 2) / (probabilities @ lengths)
    error = standard_error(answers)
    assert (np.abs(answers.grad - exact) < 4 * error).all()
    assert (error < 0.03 * exact).all()


@pytest.mark.parametrize("tangent", forward.TANGENTS)
def test_variance_of_forward(tangent):
    """(P + 1) |G|^2 for normal directions, (P - 1) |G|^2 for signs."""
    problem = InnerProblem(lambda theta, key, horizon: theta, lambda theta, state, key: (state, theta.sum()))
    estimator = toys.make("forward", tangent=tangent, num_pairs=20_000, staggered=False, layout=VMAPPED)
    _, answer = estimate(estimator, problem, jnp.ones(5))
    wanted = (6 if tangent == "normal" else 4) * 5
    np.testing.assert_allclose(answer.info["grad_variance"] * 20_000, wanted, rtol=0.05)


@pytest.mark.parametrize("name", ["rtrl", "forward"])
def test_tangents_are_right_in_the_middle_of_trajectories(name):
    """The toy's state is theta times the position, so d state / d theta is the position."""
    estimator = toys.make(name, truncation=2, horizon=Horizon(4, 12), num_pairs=64)

    @jax.jit
    def after_one_estimate(key):
        problem, theta = toys.linear(), jnp.asarray(0.7)
        return estimator.estimate(problem, theta, estimator.init(problem, theta, key), key)[1]

    state = after_one_estimate(jax.random.key(3))
    tangent = state.carried[:, 0, 0] if name == "rtrl" else state.carried.of_state[:, 0] * state.carried.of_theta[:, 0]
    position = np.asarray(state.clock.position)
    within = position > 0  # of the others, a new trajectory starts next
    assert len(set(position[within])) > 3
    np.testing.assert_array_equal(np.asarray(tangent)[within], position[within])


@pytest.mark.parametrize("name", toys.in_groups("gradients", UNBIASED))
def test_a_final_loss_is_followed(name):
    """s_T = T theta, so J = E[s_T] / E[T] has gradient 1."""
    answers = dialled(name)(0.7, final=1)
    error = standard_error(answers)
    assert (np.abs(answers.grad - 1) < 4 * error).all()
    assert (error < 0.03).all()


def test_steps_after_the_end_of_a_trajectory_do_not_count():
    """One step too many would take the root of 0, whose derivative is infinite, and then of -1.

    Side by side, short trajectories go through the steps of the longest one, masked; one after another, they do not.
    """

    def init(theta, key, horizon):
        del key
        return theta * horizon

    def step(theta, state, key):
        del key
        return state - theta, jnp.sqrt(state)

    grad, answer = estimate(
        toys.make("bptt", horizon=Horizon(1, 6), num_pairs=200, layout=VMAPPED),
        InnerProblem(init, step),
        jnp.asarray(0.7),
    )
    assert jnp.isfinite(grad)
    assert answer.info["left_out"] == 0
    assert answer.info["position_std"] > 1


@pytest.mark.parametrize("name", toys.slow_but_for(METHODS, "tbptt"))
def test_layouts_agree(name):
    """One device, one after another, or two, vmapped."""
    layouts = (PairLayout(1), PairLayout(2, sequential=False))
    estimators = [
        toys.make(name, num_pairs=6, horizon=Horizon(2, 6), staggered=False, layout=layout) for layout in layouts
    ]
    one, two = (estimate(estimator, network(), THETA, num_estimates=3)[0] for estimator in estimators)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", toys.in_groups("gradients", METHODS))
def test_an_exploding_trajectory_does_not_reach_theta(name):
    """It is left out, for its loss or for its gradient alone, and the rest is averaged: a loss of theta each step."""
    answers = dialled(name)(0.7, slope=0, direct=1, bad=0.2)
    assert (answers.info["left_out"] > 0.2).all()
    assert (answers.info["left_out"] < 0.6).all()
    # The sum over a whole trajectory is random, as its length is; a window's mean is not.
    tolerance = 4 * standard_error(answers) if name == "bptt" else 1e-5
    assert (np.abs(answers.grad - 1) < tolerance).all()
    np.testing.assert_allclose(answers.loss, 0.7 * answers.grad, rtol=1e-5)


@pytest.mark.parametrize("name", toys.in_groups("gradients", WITH_WINDOWS))
def test_info_counts(name):
    answers = dialled(name)(10, shift=-44)  # the cap, 1, is reached in the sixth step: s = 50
    lengths, probabilities = HORIZON.table(2)
    of_windows = probabilities / (probabilities @ lengths / 2)  # how often a window is one of each trajectory's
    position, square = (sum(p * (np.arange(0, t, 2) ** k).sum() for t, p in zip(lengths, of_windows, strict=True))
                        for k in (1, 2))  # fmt: skip
    std = np.sqrt(square - position**2)
    started, capped = of_windows.sum(), of_windows @ np.maximum(lengths - 5, 0) / 2
    for value, expected, spread in (
        (answers.info["started"], started, np.sqrt(started * (1 - started))),
        (answers.info["capped"], capped, np.sqrt(capped * (1 - capped))),
        (answers.info["position"], position, std),
        (answers.info["position_std"], std, std),
        (answers.loss, 10 * (position + 0.5) - 44, 10 * std),
    ):
        np.testing.assert_allclose(value, expected, atol=4 * spread / np.sqrt(NUM_PAIRS))
    np.testing.assert_allclose(answers.info["grad_norm"], np.abs(answers.grad), rtol=1e-5)


@pytest.mark.parametrize("name", toys.slow_but_for(METHODS, "tbptt"))
def test_one_trace(name):
    """Through windows that start, continue and end trajectories; theta is where an outer step would have it."""
    problem, estimator, traces = network(), toys.make(name, num_pairs=2), []

    def step(theta, state, key):
        traces.append(None)
        answer, state = estimator.estimate(problem, theta, state, key)
        return theta - 0.1 * answer.grad, state

    theta = jax.device_put(THETA, estimator.layout.replicated)
    state = jax.jit(lambda theta, key: estimator.init(problem, theta, key))(theta, jax.random.key(0))
    state = jax.device_put(state, estimator.layout.split)
    jitted = jax.jit(step)
    for i in range(3):
        theta, state = jitted(theta, state, jax.random.key(i))
    assert len(traces) == 1


@pytest.mark.parametrize("name", [*METHODS, "pes_analytic"])
def test_refuses_what_has_no_derivative(name):
    with pytest.raises(InputError, match=f"^{name} follows derivatives.*pes"):
        toys.make(name).init(toys.linear(differentiable=False), jnp.asarray(0.7), jax.random.key(0))


def test_tbptt_refuses_a_final_loss():
    with pytest.raises(InputError, match="final-loss"):
        toys.make("tbptt").init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))
    toys.make("tbptt", truncation=4, staggered=False).init(
        toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0)
    )


def test_rtrl_refuses_a_jacobian_that_is_too_large():
    problem = toys.linear()._replace(step=lambda theta, state, key: (state + theta, state.sum()))
    with pytest.raises(InputError, match=r"20000 x 20000 numbers or 1\.5 GiB for each of 16 .* 1 GiB is the most"):
        toys.make("rtrl").init(problem, jnp.zeros(20_000), jax.random.key(0))
