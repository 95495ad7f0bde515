"""Measures of synthetic curves that are known exactly."""

import numpy as np
import pytest

from lopt.evaluation import measures
from lopt.evaluation.measures import LONG, SPEED_UP_DECAY, best_trial, envelope, median_curve, speed_up
from lopt.evaluation.results import Curves

T = 100


def as_runs(loss, valid=None):
    """Curves whose validation losses are, unless they are given, the training losses at the same moments."""
    loss = np.asarray(loss)
    moments = loss[..., measures.valid_steps(loss.shape[-1]) - 1] if valid is None else np.asarray(valid)
    return Curves(loss, moments, np.zeros(loss.shape[:-1]))


def constant(*values):
    """One run for each value: `[S, T]`."""
    return np.repeat(np.array(values, np.float64)[:, None], T, axis=1)


def test_measures_of_runs():
    loss = np.stack([np.arange(T), np.ones(T), np.ones(T), np.ones(T)]).astype(np.float32)
    loss[2, 3], loss[3, 3] = np.nan, -np.inf
    assert measures.diverged(loss).tolist() == [False, False, True, True]
    assert measures.mean_loss(loss).tolist() == [49.5, 1, np.inf, np.inf]
    assert measures.final_loss(loss).tolist() == [97, 1, np.inf, np.inf]  # 95..99; a NaN long before the end counts
    assert measures.final_loss(loss[:, :15]).tolist() == [14, 1, np.inf, np.inf]  # at least one step
    assert measures.final_loss(np.arange(780.0)) == 760  # 39 steps


def test_moving_average_is_adams():
    average = measures.moving_average(np.array([[4.0, 2, 2], [1, np.nan, 1]]), 0.5)
    np.testing.assert_allclose(average, [[4, 8 / 3, 16 / 7], [1, np.inf, np.inf]])


def test_the_best_trial_is_another_one_for_each_measure():
    fast, deep, general = np.ones(T), np.linspace(4, 0, T), np.full(T, 2.0)
    loss = np.stack([np.stack([curve, curve]) for curve in (fast, deep, general)])
    valid = np.broadcast_to(np.array([3.0, 2.0, 1.0])[:, None, None], (3, 2, 20)).copy()
    tuning = as_runs(loss, valid)
    assert [best_trial(tuning, measure) for measure in measures.MEASURES] == [0, 1, 2]
    valid[2, 1, -1] = np.inf
    assert best_trial(tuning, "valid_loss") == 1
    loss[1, 0, 2] = np.nan  # one diverged seed rules a trial out, also where its validation loss is finite
    assert [best_trial(tuning, measure) for measure in measures.MEASURES] == [0, 0, 0]


def test_a_part_of_the_grid_is_never_better():
    loss = np.random.default_rng(0).uniform(size=(7, 3, T))
    for measure, function in measures.MEASURES.items():
        scores = function(as_runs(loss)).mean(1)
        for part in ([0], [1, 4], [2, 3, 6], range(6)):
            best = scores[best_trial(as_runs(loss), measure)]
            assert scores[[*part]][best_trial(as_runs(loss[[*part]]), measure)] >= best


def test_speed_up_of_a_known_crossing():
    """A step from 2 to 0 after 150 steps: the average of n further steps is 2 * 0.95^n, up to the bias correction."""
    long = np.where(np.arange(LONG * T) < 150, 2.0, 0.0)[None]
    m, crossing = 0.0, None
    for t, x in enumerate(long[0], start=1):
        m = SPEED_UP_DECAY * m + (1 - SPEED_UP_DECAY) * x
        if m / (1 - SPEED_UP_DECAY**t) <= 0.5:
            crossing = t
            break
    assert crossing == 178  # 150 + ceil(ln 4 / -ln 0.95), the correction being below 1e-3
    curve = median_curve(long)
    assert speed_up(constant(0.5, 0.5, 0.5), curve) == 1.78
    assert speed_up(constant(0.5, 0.1, 0.9), curve) == 1.78  # the median seed
    assert speed_up(constant(2.5), curve) == 1 / T  # below at once


def test_speed_up_of_straight_curves_is_the_quotient_of_their_slopes():
    """Both curves lag by the same average, so that a loss that falls twice as fast has the speed-up 2."""
    steps = np.arange(4 * T)
    reference = median_curve(np.tile(1000.0 - steps, (2, 1)))
    lag = reference[T - 1] - (1000.0 - (T - 1))
    assert lag == pytest.approx(19, rel=0.05)
    # Ours is 1000 - 2 t and its average 2 lags behind: 1000 - 2 (t - lag), reached by the reference at 2 t - lag.
    ours = speed_up((1000.0 - 2 * steps[:T])[None], reference)
    assert ours == pytest.approx((2 * T - lag) / T, abs=0.02)
    assert speed_up((1000.0 - steps[:T])[None], reference) == 1


@pytest.mark.parametrize("seed", range(3))
def test_an_optimizer_has_the_speed_up_one_over_itself(seed):
    """On a noisy plateau as well, on which the lowest level is seldom at step T; and whatever the order of seeds."""
    rng = np.random.default_rng(seed)
    long = np.exp(-np.arange(LONG * T) / 10)[None] + rng.uniform(1, 2, size=(5, LONG * T))
    assert speed_up(long[:, :T], median_curve(long)) == 1
    assert speed_up(long[[3, 0, 4, 1, 2], :T] * (1 + 1e-6), median_curve(long)) == 1


def test_speed_up_plateau_and_divergence():
    plateau = median_curve(np.ones((3, LONG * T)))
    assert speed_up(constant(0.9), plateau) == LONG
    assert speed_up(constant(1.0), plateau) == 1
    assert speed_up(constant(1.1), plateau) == 1 / T
    lost = constant(0.5, 0.5, 0.5)
    lost[2, 0] = np.inf
    assert speed_up(lost, plateau) == 0
    falling = np.tile(np.linspace(1, 0, LONG * T), (3, 1))
    # With a lag of 19 steps: (i - 19) / 399 >= 0.5 first at index 219, step 220.
    assert speed_up(constant(0.5), median_curve(falling)) == 2.2
    falling[0, 10:] = np.nan  # the median of three lives on, that of two diverged ones does not
    assert speed_up(constant(0.5), median_curve(falling)) == 2.2
    falling[1, 10:] = np.nan
    assert speed_up(constant(0.5), median_curve(falling)) == LONG


def test_the_same_level_is_one_part_in_ten_thousand():
    plateau = median_curve(np.ones((3, 4 * T)))
    assert speed_up(constant(1 - 5e-5), plateau) == speed_up(constant(1 + 5e-5), plateau) == 1
    assert speed_up(constant(1 - 2e-4), plateau) == 4
    assert speed_up(constant(1 + 2e-4), plateau) == 1 / T


def test_other_shapes_are_refused():
    losses = np.ones((3, T))
    for call in (
        lambda: best_trial(as_runs(losses), "mean_loss"),
        lambda: median_curve(losses[0]),
        lambda: envelope(losses, np.ones((3, 4 * T))),
        lambda: envelope(losses[None], losses),
        lambda: speed_up(losses, np.ones(T)),
        lambda: speed_up(losses[0], np.ones(4 * T)),
        lambda: measures.final_loss(np.ones(())),
    ):
        with pytest.raises(AssertionError, match=r"losses \[|the reference \["):
            call()


def test_what_was_reached_stays_reached():
    bump = np.full((1, LONG * T), 3.0)
    bump[0, :200] = 0.2
    assert speed_up(constant(0.3), median_curve(bump)) == 1 / T


def test_the_envelope_is_the_lowest_of_all_rates_within_the_horizon():
    """One rate is at 3 and falls to 1 late, one stays at 2: their envelope is 2, then 1; after T only the best runs."""
    long = np.where(np.arange(LONG * T) < 50, 3.0, 1.0)[None]
    slow = np.full((1, T), 2.0)
    lost = np.full((1, T), np.nan)
    curve = envelope(np.stack([slow, long[:, :T], lost]), long)
    np.testing.assert_allclose(curve[:50], 2)
    late = median_curve(long)
    np.testing.assert_allclose(curve[50:], np.where(np.arange(50, LONG * T) < T, np.minimum(2, late[50:]), late[50:]))
    # 2.5 is reached at once by the envelope, and by the single run when 3 -> 1 has gone a quarter of the way.
    assert speed_up(constant(2.5), curve) == 1 / T
    assert speed_up(constant(2.5), late) == (50 + 6) / T  # 1 - 0.95^6 > 1 / 4 (1 - 0.95^56)
