"""Restarts from hard states: which are stored and run again, against numpy; what their estimates are; off, nothing."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, NRES, PES, restarts
from lopt.estimators.pairs import WindowKeys, pair_keys, window_keys
from lopt.horizons import Horizon
from lopt.names import InputError, Spec, build
from lopt.testing.estimators import check_answers, check_exploding, check_scales
from lopt.types import InnerProblem
from tests.estimators import toys

RESTARTING = [name for name, kind in ESTIMATORS.items() if "restarts" in {x.name for x in dataclasses.fields(kind)}]
VMAPPED = PairLayout(sequential=False)
LENGTH, SIGMA = 8, 0.1
LATE, LATEST = lambda share: 5 * share**4, lambda share: share > 0.3  # weights; the second is 0 at first
SCRIPTS = np.random.default_rng(3).uniform(0.2, 1.0, (16, LENGTH))


def test_evolution_strategies_whose_windows_have_a_loss_restart():
    assert sorted(RESTARTING) == sorted(
        ["pes", "nres", "gpes", "truncated_es", "pes_analytic", "guided_es", "inverse_variance"]
    )


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(RESTARTING)))
def test_the_others_do_not_have_the_setting(name):
    with pytest.raises(InputError, match=rf"unknown setting of estimator '{name}': 'restarts'"):
        build("estimator", Spec(name, {"restarts": 0.5}), ESTIMATORS)


def scripted(*, weight=None) -> InnerProblem:
    """s' = s + theta; the loss of step t is SCRIPTS[n, t] + u / 2 + 0 s, times `weight(t / T)`.

    The start draws n, and each step u, uniform.
    """

    def init(theta, key, horizon):
        n = jax.random.randint(key, (), 0, len(SCRIPTS), jnp.int32)
        return {"n": n, "t": jnp.zeros((), jnp.int32), "T": horizon, "s": 0 * theta}

    def weigh(state):
        assert weight is not None
        return 1.0 * weight(state["t"] / state["T"].astype(float))

    def step(theta, state, key):
        loss = jnp.asarray(SCRIPTS)[state["n"], state["t"]] + jax.random.uniform(key) / 2 + 0 * state["s"].sum()
        after = {**state, "t": state["t"] + 1, "s": state["s"] + theta}
        return after, loss if weight is None else loss * weigh(after)

    return InnerProblem(init, step, weight=None if weight is None else weigh)


def replay(lengths, numbers, noises, draws, probability, rise, tells):
    """By the CUSUM itself: script, window and whether it restarted, of each window of one pair; windows of one step.

    Args:
      lengths: `w -> length` of a trajectory that starts in window w.
      numbers: `w -> n` of its script.
      noises: u of each window.
      draws: of each window, uniform.
      probability: of a restart.
      rise: threshold.
      tells: `t / T -> whether` the loss of a step can be told from what it is weighted to.
    """
    found: list[tuple[int, int, bool]] = []
    stored: Any = None
    run: Any = None  # a trajectory: length, script, position, c, loss before
    for w, (noise, draw) in enumerate(zip(noises, draws, strict=True)):
        restarted = run is None and stored is not None and draw < probability
        if restarted:
            run, stored = stored, None
        elif run is None:
            run = (lengths(w), numbers(w), 0, 0.0, None)
        length, n, position, c, before = run
        found.append((n, position, restarted))
        if tells((position + 1) / length):
            loss = SCRIPTS[n, position] + noise / 2
            c = 0.0 if before is None else max(0.0, c + loss - before)
            before = loss
        if c > rise:
            stored, c = run, 0.0
        run = None if position + 1 == length else (length, n, position + 1, c, before)
    return found


def scripted_run(probability, rise, weight=None, name="pes", num_windows=60, num_pairs=3):
    """Windows of one step: what each pair ran, and the share of pairs that restarted; and the keys."""
    estimator = toys.make(
        name, horizon=Horizon(3, LENGTH), truncation=1, num_pairs=num_pairs, staggered=False, layout=VMAPPED,
        restarts=probability, restart_rise=rise,
    )  # fmt: skip
    problem, theta = scripted(weight=weight), jnp.asarray([0.3])
    keys = jax.random.split(jax.random.key(5), num_windows)

    def one(state, key):
        answer, state = estimator.estimate(problem, theta, state, key)
        inner = jax.tree.leaves(state.running.state, is_leaf=restarts._is_counted)[0].state
        index = (slice(None), 0) if inner["n"].ndim == 2 else slice(None)  # of the first half
        return state, (inner["n"][index], inner["t"][index] - 1, answer.info["restarted"])

    start = estimator.init(problem, theta, jax.random.key(1))
    return start.clock.horizon, jax.jit(lambda start: jax.lax.scan(one, start, keys)[1])(start), keys


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "probability", "weight"),
    [
        pytest.param(name, 0.6, None, marks=[] if name in ("pes", "truncated_es") else pytest.mark.slow)
        for name in RESTARTING
    ]
    + [("pes", 1.0, None), ("nres", 0.6, LATE), ("pes", 0.6, LATEST)],
)
def test_what_is_stored_and_run_again_is_that_of_the_cusum(name, probability, weight):
    """All pairs are replayed, window by window, with the run's own lengths of fresh trajectories and draws."""
    num_pairs, rise = 3, 0.3
    first, (scripts, positions, shares), keys = scripted_run(probability, rise, weight, name)
    scripts, positions, shares = (np.asarray(x) for x in (scripts, positions, shares))
    restarted = np.zeros(len(keys))
    for pair in range(num_pairs):
        own = [pair_keys(key, num_pairs)[pair] for key in keys]
        draws = [float(jax.random.uniform(jax.random.fold_in(key, len(WindowKeys._fields)))) for key in own]

        def length(w, own=own, pair=pair):
            if w == 0:
                return int(first[pair])
            return int(Horizon(3, LENGTH).sample(window_keys(own[w - 1]).horizon, 1))

        def number(w, own=own):
            return int(jax.random.randint(window_keys(own[w]).init, (), 0, len(SCRIPTS), jnp.int32))

        noises = [float(jax.random.uniform(jax.random.fold_in(window_keys(key).steps, 0))) for key in own]
        tells = (lambda share: share > 0.3) if weight is LATEST else lambda share: True
        expected = replay(length, number, noises, draws, probability, rise, tells)
        np.testing.assert_array_equal(scripts[:, pair], [n for n, _, _ in expected])
        np.testing.assert_array_equal(positions[:, pair], [position for _, position, _ in expected])
        restarted += [again for _, _, again in expected]
    np.testing.assert_allclose(shares, restarted / num_pairs, atol=1e-12)
    assert 0.1 < shares.mean() < 0.9  # else the lines above would say little


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [PES, NRES])
def test_the_estimate_of_a_restarted_window_has_what_was_gathered_before(kind):
    """Losses s + bump[t] with s' = s + theta, in numpy: of the noises of the stored trajectory, and then of its own.

    Windows of one step, T = 3, a bump in the second: it is stored, run and ended; the fourth window is it again.
    """
    bump = np.array([0.0, 5.0, 5.0])
    estimator = kind(
        num_pairs=1, sigma=SIGMA, truncation=1, horizon=Horizon(3, 3), staggered=False, layout=VMAPPED, restarts=1.0
    )
    theta = np.array([0.3, -0.2])

    def step(theta, state, key):
        del key
        s, t = state
        return (s + theta, t + 1), (s + theta).sum() ** 2 + jnp.asarray(bump)[t]

    problem = InnerProblem(lambda theta, key, horizon: (jnp.zeros_like(theta), jnp.zeros((), jnp.int32)), step)
    state, keys = estimator.init(problem, jnp.asarray(theta), jax.random.key(0)), jax.random.split(jax.random.key(1), 7)
    grads, noises, again = [], [], []
    estimate = jax.jit(lambda state, key: estimator.estimate(problem, jnp.asarray(theta), state, key))
    for key in keys:
        answer, state = estimate(state, key)
        grads.append(np.asarray(answer.grad))
        again.append(float(answer.info["restarted"]))
        noise_key = window_keys(pair_keys(key, 1)[0]).noise
        noises.append(SIGMA * np.asarray(jax.random.normal(noise_key, (2,), float)))
    # The windows by their place in a trajectory: a bump is hard each time that it is met, and the place then empty.
    assert again == [0, 0, 0, 1, 0, 1, 0]
    paths = {3: [0, 3], 4: [0, 3, 4], 5: [0, 5], 6: [0, 5, 6]}  # the windows whose noises made the state
    for w, path in paths.items():
        used = [noises[i if kind is PES else 0] for i in path]
        halves = [np.sum([theta + sign * noise for noise in used]) ** 2 + bump[len(path) - 1] for sign in (1, -1)]
        credit = sum(used) if kind is PES else noises[0]
        np.testing.assert_allclose(grads[w], credit / SIGMA**2 * (halves[0] - halves[1]) / 2, rtol=1e-9)


@pytest.mark.parametrize("name", ["pes", "nres", "gpes"])
def test_where_the_choice_does_not_depend_on_theta_a_restarted_window_is_unbiased(name):
    """s' = s + theta, loss s + bump: the gradient of a window at position n is n, by the steps before it."""
    num_pairs, bump = 20_000, jnp.asarray([0.0, 0.0, 9.0, 9.0])
    estimator = toys.make(
        name, num_pairs=num_pairs, sigma=SIGMA, truncation=1, noise_period=2, horizon=Horizon(4, 4), staggered=False,
        layout=VMAPPED, restarts=1.0, restart_rise=3.0,
    )  # fmt: skip

    def step(theta, state, key):
        del key
        s, t = state
        return (s + theta, t + 1), s + bump[t]

    problem = InnerProblem(lambda theta, key, horizon: (jnp.zeros(()), jnp.zeros((), jnp.int32)), step)

    def one(state, key):
        answer, state = estimator.estimate(problem, jnp.asarray(0.7), state, key)
        info = answer.info
        return state, (answer.grad, jnp.sqrt(info["grad_variance"]), info["restarted"], info["position"])

    keys = jax.random.split(jax.random.key(1), 8)
    start = estimator.init(problem, jnp.asarray(0.7), jax.random.key(0))
    grads, errors, restarted, positions = jax.jit(lambda: jax.lax.scan(one, start, keys)[1])()
    np.testing.assert_array_equal(restarted, [0, 0, 0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(positions, [0, 1, 2, 3, 2, 3, 2, 3])
    assert (errors[2:] < 0.05).all()
    assert (np.abs(grads - positions) < 4 * errors + 1e-6).all()


@pytest.mark.parametrize("name", toys.slow_but_for(RESTARTING, "pes", "truncated_es"))
def test_off_it_is_what_it_was(name):
    """No state beside the method's own, and the estimates of restarts that never find a hard state."""
    problem, theta = toys.linear_quadratic(), jnp.asarray([0.3, -0.7])
    problem = problem._replace(cap=2.0, weight=lambda state: jnp.abs(state[0]))

    def estimates(**settings):
        estimator = toys.make(name, num_pairs=2, sigma=SIGMA, horizon=Horizon(4, 8), layout=VMAPPED, **settings)

        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer

        start = estimator.init(problem, theta, jax.random.key(0))
        return start, *jax.jit(lambda keys: jax.lax.scan(one, start, keys))(jax.random.split(jax.random.key(1), 6))

    start, _, plain = estimates()
    again, after, never = estimates(restarts=1.0, restart_rise=1e9)
    assert type(start) is not restarts.RestartingState
    assert "restarted" not in plain.info
    assert len(jax.tree.leaves(again)) > 2 * len(jax.tree.leaves(start))
    assert (np.asarray(after.stored.state.clock.position) == 0).all()
    assert 0 < plain.info["capped"].mean() < 1
    for name, wanted in {**plain.info, "grad": plain.grad, "loss": plain.loss}.items():
        np.testing.assert_allclose(({**never.info, "grad": never.grad, "loss": never.loss})[name], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", toys.slow_but_for(RESTARTING, "nres"))
def test_the_contract_holds_with_restarts(name):
    estimator = toys.make(
        name, horizon=Horizon(2, 12), num_pairs=64, sigma=SIGMA, layout=VMAPPED, restarts=0.8, restart_rise=1e-3
    )
    answers = toys.three_estimates(estimator, cap=1.0)
    check_answers(answers(0.7))
    check_scales(answers)
    check_exploding(answers)


def test_a_pair_that_is_not_finite_is_not_stored():
    """The losses are NaN from the third step on, after a rise in the second."""
    losses = jnp.asarray([1.0, 2.0, jnp.nan, jnp.nan, 1.0, 5.0])

    def step(theta, state, key):
        return state + 1, losses[state] + 0 * theta.sum()

    problem = InnerProblem(lambda theta, key, horizon: jnp.zeros((), jnp.int32), step)
    estimator = PES(
        num_pairs=2,
        truncation=1,
        horizon=Horizon(6, 6),
        staggered=False,
        restarts=1.0,
        layout=VMAPPED,
        restart_rise=0.5,
    )
    state, stored = estimator.init(problem, jnp.zeros(2), jax.random.key(0)), []
    estimate = jax.jit(lambda state, key: estimator.estimate(problem, jnp.zeros(2), state, key))
    for key in jax.random.split(jax.random.key(1), 6):
        _, state = estimate(state, key)
        stored.append((int(state.stored.state.clock.position[0]), float(state.running.lowest[0])))
    # After the NaN: the fifth window is the lowest again, and the sixth above it.
    assert stored == [(0, 1.0), (1, 2.0), (1, 2.0), (1, 2.0), (1, 1.0), (5, 5.0)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": -0.1}, "restarts, a probability, must be between 0 and 1"),
        ({"restarts": 1.5}, "restarts, a probability, must be between 0 and 1"),
        ({"restarts": math.nan}, "restarts, a probability"),
        ({"restart_rise": -1.0}, "restart_rise, in units of the loss, must be at least 0"),
        ({"restart_rise": math.inf}, "restart_rise"),
    ],
)
@pytest.mark.parametrize("name", RESTARTING)
def test_settings_out_of_range(name, settings, message):
    with pytest.raises(InputError, match=message):
        toys.make(name, **settings)


def test_a_final_loss_has_no_hard_windows():
    with pytest.raises(InputError, match="only the last one has a loss: leave them at 0, or take another meta_loss"):
        PES(restarts=0.5).init(toys.linear(final_loss=True), jnp.asarray(0.7), jax.random.key(0))
