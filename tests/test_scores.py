"""Synthetic curves whose scores are known exactly."""

import numpy as np
import pytest

from lopt import scores
from lopt.scores import Curves, TaskCurves

T = 100


def runs(loss):
    """Curves with the given losses; what is measured after training does not matter here."""
    loss = np.asarray(loss, np.float32)
    return Curves(loss, loss[..., -1], np.full(loss.shape[:-1], np.nan))


def constant(*values):
    """One run for each value: `[S, T]`."""
    return runs(np.repeat(np.array(values)[:, None], T, axis=1))


def curves(**changes):
    """Two seeds; rates 0.01, 0.1, 1, of which 0.1 is best."""
    grid = runs(np.stack([constant(*pair).loss for pair in [(4, 4), (1, 2), (3, 3)]]))
    base = TaskCurves(
        num_params=7,
        learning_rates=np.array([0.01, 0.1, 1]),
        seeds=np.arange(2),
        tuning_seeds=np.arange(2, 4),
        learned=constant(1, 2),
        untrained=constant(12, 12),
        adam_default=constant(6, 6),
        adam_grid=grid,
        adam_tuning=grid,
        adam_long=runs(np.tile(grid.loss[1], scores.LONG)),
    )
    return base._replace(**changes)


def test_measures_of_runs():
    loss = np.stack([np.arange(T), np.ones(T), np.ones(T), np.ones(T)]).astype(np.float32)
    loss[2, 3], loss[3, 3] = np.nan, -np.inf
    assert scores.diverged(loss).tolist() == [False, False, True, True]
    assert scores.mean_loss(loss).tolist() == [49.5, 1, np.inf, np.inf]
    assert scores.final_loss(loss).tolist() == [97, 1, np.inf, np.inf]  # 95..99; a NaN long before the end counts
    assert scores.final_loss(loss[:, :15]).tolist() == [14, 1, np.inf, np.inf]  # at least one step
    assert scores.final_loss(np.arange(780.0)) == 760  # 39 steps


def test_moving_average_is_adams():
    average = scores.moving_average(np.array([[4.0, 2, 2], [1, np.nan, 1]]), 0.5)
    np.testing.assert_allclose(average, [[4, 8 / 3, 16 / 7], [1, np.inf, np.inf]])


def test_best_rate_is_tuned_for_each_measure():
    fast, deep = np.ones(T), np.linspace(4, 0, T)
    tuning = np.stack([np.stack([curve, curve]) for curve in (fast, deep)])
    assert scores.best_rate(tuning, "mean_loss") == 0
    assert scores.best_rate(tuning, "final_loss") == 1
    tuning[1, 0, 2] = np.nan  # one diverged seed rules a rate out
    assert scores.best_rate(tuning, "final_loss") == 0


def test_speed_up_of_a_known_crossing():
    """A step from 2 to 0 after 150 steps: the average of n further steps is 2 * 0.95^n, up to the bias correction."""
    long = np.where(np.arange(scores.LONG * T) < 150, 2.0, 0.0)[None]
    m, crossing = 0.0, None
    for t, x in enumerate(long[0], start=1):
        m = 0.95 * m + 0.05 * x
        if m / (1 - 0.95**t) <= 0.5:
            crossing = t
            break
    assert crossing == 178  # 150 + ceil(ln 4 / -ln 0.95), the correction being below 1e-3
    assert scores.speed_up(constant(0.5, 0.5, 0.5).loss, long) == 1.78
    assert scores.speed_up(constant(0.5, 0.1, 0.9).loss, long) == 1.78  # the median seed
    assert scores.speed_up(constant(2.5).loss, long) == 1 / T  # below at once


def test_speed_up_plateau_and_divergence():
    plateau = np.ones((3, scores.LONG * T))
    assert scores.speed_up(constant(0.9).loss, plateau) == scores.LONG
    assert scores.speed_up(constant(1.0).loss, plateau) <= 0.02
    learned = constant(0.5, 0.5, 0.5).loss.copy()
    learned[2, 0] = np.inf
    assert scores.speed_up(learned, plateau) == 0
    falling = np.tile(np.linspace(1, 0, scores.LONG * T), (3, 1))
    # With a lag of 19 steps: (i - 19) / 399 >= 0.5 first at index 219, step 220.
    assert scores.speed_up(constant(0.5).loss, falling) == 2.2
    falling[0, 10:] = np.nan  # the median of three lives on, that of two diverged ones does not
    assert scores.speed_up(constant(0.5).loss, falling) == 2.2
    falling[1, 10:] = np.nan
    assert scores.speed_up(constant(0.5).loss, falling) == scores.LONG


def test_what_was_reached_stays_reached():
    bump = np.full((1, scores.LONG * T), 3.0)
    bump[0, :200] = 0.2
    assert scores.speed_up(constant(0.3).loss, bump) == 1 / T


def test_ratios():
    result = scores.score_task(curves())
    assert result.ratios == {
        "adam_default": 0.25,
        "untrained": 0.125,
        "best_adam_by_mean_loss": 1,
        "best_adam_by_final_loss": 1,
    }
    assert result.best == {"mean_loss": 1, "final_loss": 1}
    assert not result.warnings
    assert scores.summary(curves(), result)["passed"] == {
        "adam_default": True,
        "untrained": True,
        "best_adam_by_mean_loss": True,
    }


def test_diverged_runs_are_infinite_never_dropped():
    broken = constant(1, np.nan)
    result = scores.score_task(curves(learned=broken, untrained=broken))
    assert set(result.ratios.values()) == {np.inf}  # infinity over infinity is no success
    assert result.speed_up == 0
    assert [w.split(" on ")[0] for w in result.warnings] == ["learned optimizer diverged", "untrained rule diverged"]
    assert scores.score_task(curves(untrained=broken)).ratios["untrained"] == 0


def test_warnings_about_the_grid():
    tuning = curves().adam_tuning
    edge = scores.score_task(curves(adam_tuning=runs(tuning.loss[[1, 0, 2]])))
    assert sum("edge of the grid" in w for w in edge.warnings) == 2
    hopeless = scores.score_task(curves(adam_tuning=runs(tuning.loss * np.nan)))
    assert sum("every learning rate" in w for w in hopeless.warnings) == 2


def test_the_order_of_seeds_does_not_matter():
    rng = np.random.default_rng(0)
    shapes = {"learned": (5, T), "untrained": (5, T), "adam_default": (5, T), "adam_long": (5, 4 * T)}
    shapes |= {"adam_grid": (3, 5, T), "adam_tuning": (3, 5, T)}
    random = {name: runs(rng.uniform(size=shape)) for name, shape in shapes.items()}
    order = np.array([3, 0, 4, 1, 2])
    shuffled = {name: runs(group.loss[..., order, :]) for name, group in random.items()}
    first, second = scores.score_task(curves(**random)), scores.score_task(curves(**shuffled))
    assert first.ratios == pytest.approx(second.ratios, rel=1e-12)
    assert first._replace(ratios={}) == second._replace(ratios={})


def test_table_says_it_all():
    text = scores.table("bowl", curves(), scores.score_task(curves()))
    assert "bowl: 7 parameters, 100 steps, mean of 2 seeds" in text
    assert "Adam at 0.1 (best by mean loss)" in text
    assert text.count("yes (wanted: at most") == 3
    unreached = curves(adam_long=runs(np.full((2, 400), 9)))
    assert ">= 4" in scores.table("bowl", unreached, scores.score_task(unreached))
    bad = curves(learned=constant(np.nan, 1))
    assert scores.table("bowl", bad, scores.score_task(bad)).count("NO (wanted: at most") == 3
