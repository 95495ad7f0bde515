"""Methods that differentiate, on a small network: against plain reverse mode, over all of their randomness."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.estimators import forward, gradients, pairs, uoro
from lopt.horizons import Horizon
from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.optimizers.learnable_adam import LearnableAdam
from tests.estimators import toys
from tests.estimators.differentiating import estimate, network
from tests.toy_family import Quadratic

MAX_STEPS = 6


@jax.jit
def _plain_gradient(theta, init_key, step_keys, detached, weights):
    def loss(theta):
        def body(state, step):
            key, detach, weight = step
            given = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if x.dtype == theta.dtype else x, state)
            state = jax.tree.map(lambda x, y: jnp.where(detach, y, x), state, given)
            state, loss = problem.step(theta, state, key)
            return state, weight * loss

        problem = network()
        state = problem.init(theta, init_key, jnp.asarray(MAX_STEPS, jnp.int32))
        return jax.lax.scan(body, state, (step_keys, detached, weights))[1].sum()

    return jax.grad(loss)(theta)


def plain_gradient(theta, keys, truncation, *, detached=False):
    """d / dtheta of the mean loss of `network` by jax.grad of a plain loop; window w has keys[w], as in `windows`."""
    windows = [pairs.window_keys(pairs.pair_keys(key, 1)[0]) for key in keys]
    num_steps = truncation * len(windows)
    step = np.minimum(np.arange(MAX_STEPS), num_steps - 1)  # what follows has no weight
    step_keys = jax.vmap(jax.random.fold_in)(
        jnp.stack([windows[i].steps for i in step // truncation]), jnp.asarray(step % truncation)
    )
    cut = (step > 0) & (step % truncation == 0) & detached
    return _plain_gradient(theta, windows[0].init, step_keys, cut, (np.arange(MAX_STEPS) < num_steps) / num_steps)


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
    return toys.make(
        name, num_pairs=1, truncation=truncation, horizon=Horizon(horizon, horizon), staggered=False, **settings
    )


def theta64():
    return jnp.asarray([0.3, -0.4])


@pytest.mark.usefixtures("x64")
def test_bptt_is_the_exact_gradient():
    keys = jax.random.split(jax.random.key(7), 1)
    (grad,) = windows(one("bptt", horizon=6), network(), theta64(), keys)
    np.testing.assert_allclose(grad, plain_gradient(theta64(), keys, 6), rtol=1e-12)


@pytest.mark.parametrize("name", ["bptt", "tbptt"])
@pytest.mark.usefixtures("x64")
def test_long_gradients_are_shortened(name):
    """Those of two trajectories, by bounds above both norms, between them, and below both."""
    keys = jax.random.split(jax.random.key(7), 2)

    def grads(max_norm):
        return windows(one(name, truncation=3, horizon=3, max_norm=max_norm), network(), theta64(), keys)

    exact = np.asarray(grads(None))
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    for bound in (2 * norms.max(), norms.mean(), norms.min() / 2):
        np.testing.assert_allclose(grads(bound), exact * np.minimum(1, bound / norms) ** 2, rtol=1e-12)


def test_a_gradient_whose_square_is_infinite_vanishes():
    np.testing.assert_allclose(
        gradients.shorten(jnp.asarray([3e4, -4e4]), 2.0), np.array([1.2, -1.6]) * 4e-5, rtol=1e-6
    )
    np.testing.assert_array_equal(gradients.shorten(jnp.asarray([3e30, -4e30]), 2.0), 0)
    np.testing.assert_array_equal(gradients.shorten(jnp.zeros(2), 2.0), 0)


@pytest.mark.usefixtures("x64")
def test_a_whole_trajectory_of_rtrl_is_exact_and_so_is_the_next():
    keys = jax.random.split(jax.random.key(7), 6)
    grads = windows(one("rtrl", truncation=2, horizon=6), network(), theta64(), keys)
    for part in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(grads[part].mean(0), plain_gradient(theta64(), keys[part], 2), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_tbptt_counts_the_first_state_of_a_later_window_as_given():
    keys = jax.random.split(jax.random.key(7), 3)
    mean = windows(one("tbptt", truncation=2, horizon=6), network(), theta64(), keys).mean(0)
    np.testing.assert_allclose(mean, plain_gradient(theta64(), keys, 2, detached=True), rtol=1e-12)
    exact = plain_gradient(theta64(), keys, 2)
    assert jnp.linalg.norm(mean - exact) > 0.01 * jnp.linalg.norm(exact)


@pytest.mark.usefixtures("x64")
def test_forward_over_all_directions_is_the_gradient(monkeypatch):
    """The sum over a basis (nothing is random there), and the mean over all sign vectors."""
    problem, keys = network(), jax.random.split(jax.random.key(7), 2)

    def trajectory(v):
        monkeypatch.setattr(forward, "draw_tangent", lambda *_: v)
        return windows(one("forward", truncation=2, horizon=4), problem, theta64(), keys).mean(0)

    basis, signs = jnp.eye(2), jnp.asarray([*itertools.product([-1.0, 1.0], repeat=2)])
    estimates = jax.lax.map(trajectory, jnp.concatenate([basis, signs]))
    exact = plain_gradient(theta64(), keys, 2)
    np.testing.assert_allclose(estimates[:2].sum(0), exact, rtol=1e-12)
    np.testing.assert_allclose(estimates[2:].mean(0), exact, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_uoro_over_all_signs_is_the_gradient(monkeypatch):
    """2^9 signs: 3 for the initial state and for each step but the last, whose signs reach no loss.

    Balanced, and with rho = 1.
    """
    problem, keys, own_balance = network(), jax.random.split(jax.random.key(7), 3), uoro.balance
    estimator = one("uoro", truncation=1, horizon=3)

    def trajectory(case):
        balanced, signs = case
        monkeypatch.setattr(uoro, "balance", lambda *sides: jnp.where(balanced, own_balance(*sides), 1))

        def window(state, w):
            # Of a window of one step: `begin`, which only the first window runs, and `advance`.
            drawn = [signs[0], jnp.where(w < 2, signs[jnp.minimum(w + 1, 2)], 0)]
            monkeypatch.setattr(uoro, "draw_signs", lambda *_: drawn.pop(0))
            answer, state = estimator.estimate(problem, theta64(), state, keys[w])
            return state, answer.grad

        start = estimator.init(problem, theta64(), jax.random.key(0))
        return jax.lax.scan(window, start, jnp.arange(3))[1].mean(0)

    every = jnp.asarray([*itertools.product([-1.0, 1.0], repeat=9)]).reshape(-1, 3, 3)
    run = jax.jit(lambda balanced: jax.lax.map(lambda signs: trajectory((balanced, signs)), every))
    exact = plain_gradient(theta64(), keys, 1)
    spreads = []
    for balanced in (True, False):
        estimates = run(jnp.asarray(balanced))
        np.testing.assert_allclose(estimates.mean(0), exact, rtol=1e-12)
        spreads.append(jnp.linalg.norm(estimates.std(0)))
    assert min(spreads) > 0.01 * jnp.linalg.norm(exact)  # the signs did matter
    assert spreads[0] != spreads[1]


@pytest.mark.usefixtures("x64")
def test_inner_training():
    optimizer = LearnableAdam(learning_rate=0.05)
    problem = inner_training(optimizer, Quadratic(), {}, objective=Objective("final"))
    theta = jax.tree.map(lambda x: x.astype(jnp.float64), optimizer.init_theta(jax.random.key(0)))
    answers = [estimate(one(name), problem, theta)[1] for name in ("bptt", "rtrl")]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), answers[1].grad, answers[0].grad)
    np.testing.assert_allclose(answers[1].loss, answers[0].loss, rtol=1e-10)
    assert answers[0].info["grad_norm"] > 0
