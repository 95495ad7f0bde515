"""What the guard takes for noise in the loss, and what for divergence, over thousands of made-up runs."""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.trained import watch as watching

guard: Any = lopt.guard  # optax's types for states and updates are too wide to look inside


@jax.jit
@jax.vmap
def handed_over(losses):
    """After each step of a run with these losses; nothing else tells the guard anything."""
    tx = guard(optax.sgd(0.01), optax.sgd(0.1))
    params = {"w": jnp.zeros(3)}

    def step(carry, value):
        params, state = carry
        _, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, value=value)
        return (params, state), state.handed_over

    return jax.lax.scan(step, (params, tx.init(params)), losses)[1]


def test_noise_at_an_optimum_does_not_hand_over():
    draws = np.random.default_rng(1).normal(size=(20, 2000))
    assert not np.any(handed_over(np.float32(1 + 0.5 * draws)))


def test_noise_around_the_first_loss_hands_over_in_one_run_of_a_hundred_at_most():
    """In the warm-up and after ten of them, of 2,000 runs. The last noise is log-normal with sigma 1."""
    draws = np.random.default_rng(2).normal(size=(2000, 210))
    for mean, noise, most in ((1, 0.1, 0), (-1, 0.5, 0), (1, 0.25, 20), (1, 0.5, 20), (0, 1, 20)):
        assert np.sum(handed_over(np.float32(mean + noise * draws))[:, -1]) <= most
    assert np.sum(handed_over(np.float32(np.exp(draws)))[:, -1]) <= 40


def test_a_plateau_however_erratic_is_left_once_no_loss_has_been_as_low_as_the_first():
    """Losses of 10 exp(s N(0, 1)) after a first one of 1: a run that is never as low as 1 ends at step 200."""
    draws = np.random.default_rng(3).normal(size=(500, 210))
    for s in (0.3, 0.5, 0.7):
        losses = 10 * np.exp(s * draws)
        losses[:, 0] = 1
        seen = np.asarray(handed_over(np.float32(losses)))
        never_as_low = statistics.NormalDist().cdf(np.log(10) / s) ** 200
        deviation = np.sqrt(never_as_low * (1 - never_as_low) / 500)
        assert seen[:, 200].mean() >= never_as_low - 3 * deviation
        if s > 0.3:  # for the others, it is the only sign
            assert seen[:, 199].mean() < 0.2


STEPS = np.arange(600)
FALL = 0.05 + 0.95 * np.exp(-STEPS / 60)
# Runs that train, slowly or late: handing over is a false alarm.
TRAINING = {
    "power law": (1 + STEPS / 50) ** -0.3,
    "exponential": 0.1 + 0.9 * np.exp(-STEPS / 300),
    "plateau, then fall": 0.1 + 0.9 / (1 + np.exp((STEPS - 300) / 20)),
}
# After 300 steps of progress the loss grows by a factor of e in 30 steps, or jumps.
DIVERGENCE = {
    "growth": np.where(STEPS < 300, FALL, 0.06 * np.exp((STEPS - 300) / 30)),
    "jump": np.where(STEPS < 300, FALL, 2.0),
}


def hand_over_steps(mean, spread, num_runs=500):
    """Steps at which runs of log-normal losses with mean `mean`, [steps], hand over; len(mean) if they never do."""
    draws = np.random.default_rng(4).normal(size=(num_runs, len(mean)))
    draws[:, 0] = spread / 2  # all start at the mean
    seen = np.asarray(handed_over(np.float32(mean * np.exp(spread * draws - spread**2 / 2))))
    return np.where(seen.any(1), seen.argmax(1), len(mean))


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_slow_progress_does_not_hand_over(spread):
    for curve in TRAINING.values():
        assert np.mean(hand_over_steps(curve, spread) < len(STEPS)) <= (0.0 if spread == 0.1 else 0.02)


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_divergence_after_progress_hands_over(spread):
    for (name, curve), latest in zip(DIVERGENCE.items(), (85, 6), strict=True):
        steps = hand_over_steps(curve, spread)
        assert np.mean((steps >= 300) & (steps < len(STEPS))) >= 0.98, name
        # The growth takes 65 steps to 0.5, half of the progress.
        assert np.median(steps) - 300 <= latest, name


def test_a_poor_loss_is_no_divergence():
    """The loss goes from 1.24 to that of guessing, and stays there."""
    assert np.all(hand_over_steps(np.where(STEPS < 5, 1.24, 1.0), 0.02) == len(STEPS))


def test_a_quiet_plateau_above_the_start_is_left_within_the_warm_up():
    for height in (3.0, 5.0, 10.0):
        steps = hand_over_steps(np.where(STEPS < 1, 1.0, height), 0.1)
        assert np.mean(steps <= 20) >= 0.98, height
        assert np.median(steps) <= 12, height


def test_averages_are_the_debiased_ones():
    losses = np.random.default_rng(0).normal(size=40).cumsum()
    watch, watches = guard(optax.sgd(1.0), optax.sgd(1.0)).init({}).watch, []
    observe = jax.jit(functools.partial(watching.observe, decay=0.9, warm_up=10))
    for step, loss in enumerate(losses):
        watch = observe(watch, jnp.asarray(loss, jnp.float32), jnp.asarray(step))
        watches.append(watch)
    weights = 0.9 ** np.arange(40)[::-1]
    np.testing.assert_allclose(watch.mean, weights @ losses / weights.sum(), rtol=1e-4)
    means = [float(w.mean) for w in watches]
    np.testing.assert_allclose(watch.first, min(means[9], losses[0]), rtol=1e-6)
    np.testing.assert_allclose(watch.best, min(losses[0], *means[9:]), rtol=1e-6)
    falls = 2 * np.maximum(-np.diff(losses, prepend=losses[0]), 0)
    np.testing.assert_allclose(watch.fall, weights @ falls / weights.sum(), rtol=1e-4)
    np.testing.assert_allclose(watch.lowest, min(losses[1:]), rtol=1e-6)
    np.testing.assert_allclose(watch.weight, 1 - 0.9**40, rtol=1e-5)
    same = observe(watch, jnp.asarray(jnp.nan), jnp.asarray(40))
    np.testing.assert_array_equal(np.asarray(same), np.asarray(watch))
