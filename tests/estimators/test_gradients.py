"""Methods that differentiate: against plain reverse mode, over all of their randomness, and with many trajectories."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import forward, pairs, uoro
from lopt.estimators.bptt import BPTT
from lopt.estimators.forward import Forward
from lopt.estimators.rtrl import RTRL
from lopt.estimators.tbptt import TBPTT
from lopt.estimators.uoro import UORO
from lopt.horizons import Horizon
from lopt.inner import inner_training
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.types import InnerProblem
from tests.estimators import toys
from tests.toy_family import Quadratic

METHODS: dict[str, Any] = {"bptt": BPTT, "forward": Forward, "rtrl": RTRL, "tbptt": TBPTT, "uoro": UORO}
WITH_WINDOWS = sorted(METHODS.keys() - {"bptt"})
UNBIASED = sorted(METHODS.keys() - {"tbptt"})
VMAPPED = PairLayout(sequential=False)
THETA = jnp.asarray([0.3, -0.4], jnp.float32)


def make(name, *, truncation=2, horizon=Horizon(4, 4), staggered=True, **settings):
    if name != "bptt":
        settings |= {"truncation": truncation, "staggered": staggered}
    return METHODS[name](horizon=horizon, **settings)


def estimate(estimator, problem, theta, *, seed=0, num_estimates=1):
    """The mean of the first estimates at a fixed theta, and the last answer."""

    @jax.jit
    def run(theta):
        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer

        keys = jax.random.split(jax.random.key(1000 + seed), num_estimates)
        _, answers = jax.lax.scan(one, estimator.init(problem, theta, jax.random.key(seed)), keys)
        return jax.tree.map(lambda x: x.mean(0), answers.grad), jax.tree.map(lambda x: x[-1], answers)

    return run(theta)


def network() -> InnerProblem:
    """s' = tanh(A s + B theta + noise) of size 3, s_0 = tanh(C theta + noise); a key, an integer and a flag move along.

    The loss reads theta, the state before and the state after.
    """
    a, b, c = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 3), (3, 2), (3, 2)]))

    def noise(key):  # quick to compile
        return jnp.broadcast_to((jax.random.key_data(key) / 2.0**32).sum(), (3,))

    def init(theta, key, horizon):
        start = jnp.tanh(c @ theta + noise(key))
        count, flag = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return {"count": count, "flag": flag, "horizon": horizon, "key": key, "s": start}

    def step(theta, state, key):
        own = jax.random.fold_in(state["key"], state["count"])
        s = jnp.tanh(a @ state["s"] + b @ theta + noise(key) - noise(own))
        moved = {"count": state["count"] + 1, "flag": ~state["flag"], "horizon": state["horizon"], "key": own, "s": s}
        return moved, s @ s + state["s"][0] * theta[0] + jnp.where(state["flag"], theta[1] ** 2, 0)

    return InnerProblem(init, step)


def plain_gradient(problem, theta, keys, truncation, *, detached=False):
    """d / dtheta of a trajectory's mean loss by jax.grad of a plain loop; window w has keys[w], as in `windows`."""
    windows = [pairs.window_keys(pairs.pair_keys(key, 1)[0]) for key in keys]
    num_steps = truncation * len(windows)

    def mean_loss(theta):
        state = problem.init(theta, windows[0].init, jnp.asarray(num_steps, jnp.int32))
        total = 0.0
        for w, i in itertools.product(range(len(windows)), range(truncation)):
            if detached and w and not i:
                state = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if x.dtype == theta.dtype else x, state)
            state, loss = problem.step(theta, state, jax.random.fold_in(windows[w].steps, i))
            total += loss
        return total / num_steps

    return jax.jit(jax.grad(mean_loss))(theta)


def windows(estimator, problem, theta, keys):
    """The gradients of one trajectory's windows, `[num_windows, P]`."""

    @jax.jit
    def run(theta):
        def window(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer.grad

        return jax.lax.scan(window, estimator.init(problem, theta, jax.random.key(0)), keys)[1]

    return run(theta)


def one(name, *, truncation=3, horizon=3, **settings):
    return make(
        name, num_pairs=1, truncation=truncation, horizon=Horizon(horizon, horizon), staggered=False, **settings
    )


def theta64():
    return jnp.asarray([0.3, -0.4])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["bptt", "rtrl", "tbptt"])
def test_one_window_is_the_exact_gradient(name):
    problem, keys = network(), jax.random.split(jax.random.key(7), 1)
    (grad,) = windows(one(name), problem, theta64(), keys)
    np.testing.assert_allclose(grad, plain_gradient(problem, theta64(), keys, 3), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_whole_trajectory_of_rtrl_is_exact_and_so_is_the_next():
    problem, keys = network(), jax.random.split(jax.random.key(7), 6)
    grads = windows(one("rtrl", truncation=2, horizon=6), problem, theta64(), keys)
    for part in (slice(0, 3), slice(3, 6)):
        exact = plain_gradient(problem, theta64(), keys[part], 2)
        np.testing.assert_allclose(grads[part].mean(0), exact, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_tbptt_counts_the_first_state_of_a_later_window_as_given():
    problem, keys = network(), jax.random.split(jax.random.key(7), 3)
    mean = windows(one("tbptt", truncation=2, horizon=6), problem, theta64(), keys).mean(0)
    np.testing.assert_allclose(mean, plain_gradient(problem, theta64(), keys, 2, detached=True), rtol=1e-12)
    exact = plain_gradient(problem, theta64(), keys, 2)
    assert jnp.linalg.norm(mean - exact) > 0.01 * jnp.linalg.norm(exact)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("directions", ["basis", "signs"])
def test_forward_over_all_directions_is_the_gradient(directions, monkeypatch):
    """The sum over a basis (nothing is random there), and the mean over all sign vectors."""
    problem, keys = network(), jax.random.split(jax.random.key(7), 2)

    def trajectory(v):
        monkeypatch.setattr(forward, "draw_tangent", lambda *_: v)
        return windows(one("forward", truncation=2, horizon=4), problem, theta64(), keys).mean(0)

    exact = plain_gradient(problem, theta64(), keys, 2)
    if directions == "basis":
        total = jax.lax.map(trajectory, jnp.eye(2)).sum(0)
    else:
        total = jax.lax.map(trajectory, jnp.asarray([*itertools.product([-1.0, 1.0], repeat=2)])).mean(0)
    np.testing.assert_allclose(total, exact, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "rho = 1"])
def test_uoro_over_all_signs_is_the_gradient(balanced, monkeypatch):
    """2^9 signs: 3 for the initial state and for each step but the last, whose signs reach no loss."""
    problem, keys = network(), jax.random.split(jax.random.key(7), 3)
    estimator = one("uoro", truncation=1, horizon=3)
    if not balanced:
        monkeypatch.setattr(uoro, "balance", lambda *_: jnp.ones(()))

    def trajectory(signs):
        state, grads = estimator.init(problem, theta64(), jax.random.key(0)), []
        for w in range(3):
            # Of a window of one step: `begin`, which only the first window runs, and `advance`.
            drawn = [signs[0], signs[w + 1] if w < 2 else jnp.zeros(3)]
            monkeypatch.setattr(uoro, "draw_signs", lambda *_, drawn=drawn: drawn.pop(0))
            answer, state = estimator.estimate(problem, theta64(), state, keys[w])
            grads.append(answer.grad)
        return jnp.stack(grads).mean(0)

    every = jnp.asarray([*itertools.product([-1.0, 1.0], repeat=9)]).reshape(-1, 3, 3)
    estimates = jax.lax.map(trajectory, every)
    exact = plain_gradient(problem, theta64(), keys, 1)
    np.testing.assert_allclose(estimates.mean(0), exact, rtol=1e-12)
    assert jnp.linalg.norm(estimates.std(0)) > 0.01 * jnp.linalg.norm(exact)  # the signs did matter


@pytest.mark.usefixtures("x64")
def test_inner_training():
    optimizer = LearnableAdam(learning_rate=0.05)
    problem = inner_training(optimizer, Quadratic(), {}, meta_loss="final")
    theta = jax.tree.map(lambda x: x.astype(jnp.float64), optimizer.init_theta(jax.random.key(0)))
    answers = [estimate(one(name), problem, theta)[1] for name in ("bptt", "rtrl")]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), answers[1].grad, answers[0].grad)
    np.testing.assert_allclose(answers[1].loss, answers[0].loss, rtol=1e-10)
    assert answers[0].info["grad_norm"] > 0


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_with_random_horizons(name):
    """The linear toy: d / dtheta of E[sum_t t theta] / E[T], with trajectories met at a random moment."""
    horizon = Horizon(2, 12)
    estimator = make(name, horizon=horizon, num_pairs=20_000, layout=VMAPPED)
    grad, answer = estimate(estimator, toys.linear(), jnp.asarray(0.7))
    lengths, probabilities = horizon.table(1 if name == "bptt" else 2)
    lengths = lengths.astype(float)
    exact = probabilities @ (lengths * (lengths - 1) / 2) / (probabilities @ lengths)
    error = float(jnp.sqrt(answer.info["grad_variance"]))
    assert abs(float(grad) - exact) < 4 * error
    assert error < 0.03 * exact


@pytest.mark.parametrize("tangent", forward.TANGENTS)
def test_variance_of_forward(tangent):
    """(P + 1) |G|^2 for normal directions, (P - 1) |G|^2 for signs."""
    problem = InnerProblem(lambda theta, key, horizon: theta, lambda theta, state, key: (state, theta.sum()))
    estimator = make("forward", tangent=tangent, num_pairs=20_000, layout=VMAPPED)
    _, answer = estimate(estimator, problem, jnp.ones(5))
    wanted = (6 if tangent == "normal" else 4) * 5
    np.testing.assert_allclose(answer.info["grad_variance"] * 20_000, wanted, rtol=0.05)


@pytest.mark.parametrize("name", ["rtrl", "forward"])
def test_tangents_are_right_in_the_middle_of_trajectories(name):
    """The toy's state is theta times the position, so d state / d theta is the position."""
    estimator = make(name, truncation=2, horizon=Horizon(4, 12), num_pairs=64)
    state = jax.jit(lambda key: estimator.init(toys.linear(), jnp.asarray(0.7), key))(jax.random.key(3))
    tangent = state.carried[:, 0, 0] if name == "rtrl" else state.carried.of_state[:, 0] * state.carried.of_theta[:, 0]
    assert len(set(np.asarray(state.clock.position))) > 3
    np.testing.assert_array_equal(tangent, state.clock.position)


@pytest.mark.parametrize("name", UNBIASED)
def test_a_final_loss_is_followed(name):
    """s_T = T theta at T = 4, so J = E[s_T] / T has gradient 1."""

    def step(theta, state, key):
        del key
        s, t, horizon = state
        s, t = s + theta, t + 1
        return (s, t, horizon), jnp.where(t == horizon, s, 0)

    problem = InnerProblem(lambda theta, key, horizon: (0 * theta, jnp.zeros((), jnp.int32), horizon), step,
                           final_loss=True)  # fmt: skip
    estimator = make(name, staggered=False, num_pairs=4000, layout=VMAPPED)
    mean, answer = estimate(estimator, problem, jnp.asarray(0.7), num_estimates=2)
    error = float(jnp.sqrt(answer.info["grad_variance"])) / 2  # the other window has no loss
    assert abs(float(mean) - 1) < 4 * error + 1e-5
    assert error < 0.05


@pytest.mark.parametrize("layout", [PairLayout(), VMAPPED], ids=["sequential", "vmapped"])
def test_steps_after_the_end_of_a_trajectory_do_not_count(layout):
    """One step too many would take the root of 0, whose derivative is infinite, and then of -1."""

    def init(theta, key, horizon):
        del key
        return theta * horizon

    def step(theta, state, key):
        del key
        return state - theta, jnp.sqrt(state)

    grad, answer = estimate(
        make("bptt", horizon=Horizon(1, 6), num_pairs=200, layout=layout), InnerProblem(init, step), jnp.asarray(0.7)
    )
    assert jnp.isfinite(grad)
    assert answer.info["left_out"] == 0
    assert answer.info["position_std"] > 1


@pytest.mark.parametrize("name", toys.slow_but_for(METHODS, "tbptt"))
def test_layouts_agree(name):
    """One device, one after another, or two, vmapped."""
    layouts = (PairLayout(1), PairLayout(2, sequential=False))
    estimators = [make(name, num_pairs=6, horizon=Horizon(2, 6), staggered=False, layout=layout) for layout in layouts]
    one, two = (estimate(estimator, network(), THETA, num_estimates=3)[0] for estimator in estimators)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_an_exploding_trajectory_does_not_reach_theta(name):
    """It is left out, for its loss or for its gradient alone, and the rest is averaged."""

    def init(theta, key, horizon):
        del horizon
        return theta, jax.random.bernoulli(key, 0.2, (2,))

    def step(theta, state, key):
        del key
        bad_loss, bad_gradient = state[1]
        loss = theta + jnp.sqrt(jnp.where(bad_gradient, 0 * theta, 1))  # at 0 the slope is infinite, times 0
        return state, jnp.where(bad_loss, jnp.nan, loss)

    estimator = make(name, num_pairs=64, staggered=False)
    _, answer = estimate(estimator, InnerProblem(init, step), jnp.asarray(0.7), num_estimates=3)
    assert 0.2 < answer.info["left_out"] < 0.6
    np.testing.assert_allclose(answer.loss, 1.7, rtol=1e-5)
    np.testing.assert_allclose(answer.grad, 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["tbptt", "forward"])
def test_info_counts(name):
    estimator = make(name, truncation=5, horizon=Horizon(20, 20), num_pairs=4000, layout=VMAPPED)
    _, answer = estimate(estimator, toys.linear(cap=1.0), jnp.asarray(0.1))
    # theta = 0.1: the state passes the cap at step 10 of 20. (The toy reports it, and does not bound its loss.)
    assert abs(answer.info["capped"] - 0.475) < 0.05
    assert abs(answer.info["started"] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert abs(answer.info["position"] - 7.5) < 4 * 5.6 / np.sqrt(4000)
    assert abs(answer.info["position_std"] - np.sqrt(31.25)) < 0.3
    assert abs(answer.loss - 0.95) < 4 * 0.6 / np.sqrt(4000)
    np.testing.assert_allclose(answer.info["grad_norm"], jnp.abs(answer.grad), rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_one_trace(name):
    """Through windows that start, continue and end trajectories; theta is where an outer step would have it."""
    problem, estimator, traces = network(), make(name, num_pairs=2), []

    def step(theta, state, key):
        traces.append(None)
        answer, state = estimator.estimate(problem, theta, state, key)
        return theta - 0.1 * answer.grad, state

    theta = jax.device_put(THETA, estimator.layout.replicated)
    state = jax.jit(lambda theta, key: estimator.init(problem, theta, key))(theta, jax.random.key(0))
    jitted = jax.jit(step)
    for i in range(3):
        theta, state = jitted(theta, state, jax.random.key(i))
    assert len(traces) == 1


@pytest.mark.parametrize("name", METHODS)
def test_refuses_what_has_no_derivative(name):
    with pytest.raises(InputError, match=f"^{name} follows derivatives.*pes"):
        make(name).init(toys.linear(differentiable=False), jnp.asarray(0.7), jax.random.key(0))


def test_tbptt_refuses_a_final_loss():
    with pytest.raises(InputError, match="final-loss"):
        make("tbptt").init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))
    make("tbptt", truncation=4, staggered=False).init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))


def test_rtrl_refuses_a_jacobian_that_is_too_large():
    problem = toys.linear()
    with pytest.raises(InputError, match=r"20000 x 20000 numbers or 1\.5 GiB for each of 16 .* 1 GiB is the most"):
        make("rtrl").init(problem, jnp.zeros(20_000), jax.random.key(0))


@pytest.mark.parametrize("name", METHODS)
def test_settings_out_of_range(name):
    with pytest.raises(InputError, match="num_pairs"):
        make(name, num_pairs=0)


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_windows_must_fit_the_horizon(name):
    with pytest.raises(InputError, match=r"take 3 or 6 instead of 4"):
        make(name, truncation=3)


def test_unknown_tangent():
    with pytest.raises(InputError, match=r"unknown tangent 'norml'.*'normal'"):
        make("forward", tangent="norml")


@pytest.mark.parametrize("name", METHODS)
def test_equal_settings_are_equal(name):
    assert make(name) == make(name)
    assert hash(make(name)) == hash(make(name))
    assert make(name, num_pairs=3) != make(name, num_pairs=4)
