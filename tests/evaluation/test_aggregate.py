"""Scores put together, against enumeration of all resamples and numbers worked out by hand."""

import itertools

import numpy as np
import pytest

from lopt.evaluation.aggregate import (
    MAX_SCORE,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
    profile,
    run_scores,
)


def by_hand(scores):
    """Interquartile mean: sorted, a quarter off at both ends."""
    runs = sorted(itertools.chain.from_iterable(scores))
    cut = len(runs) // 4
    return np.mean(runs[cut : len(runs) - cut])


def enumerated(tables, statistic):
    """Percentiles of a statistic over all resamples of all tasks, each as likely as the next."""
    resamples = [list(itertools.product(x, repeat=len(x))) for x in tables]
    values = [statistic(chosen) for chosen in itertools.product(*resamples)]
    return np.percentile(values, [2.5, 97.5])


def test_scores_of_runs():
    losses = np.array([0.5, 2.0, 1.0, np.inf, np.nan, 0.0, 1e-9])
    np.testing.assert_allclose(run_scores(losses, 1.0), [2.0, 0.5, 1.0, 0.0, 0.0, MAX_SCORE, MAX_SCORE])
    # Where the reference diverges, all that is finite is as good as can be.
    np.testing.assert_allclose(run_scores(np.array([3.0, np.inf]), np.inf), [MAX_SCORE, 0.0])


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = [np.array([0.0, 1.0, 2.0, 100.0]), np.array([1.0, 1.5, 0.5, -7.0])]
    assert interquartile_mean(scores) == pytest.approx((0.5 + 1 + 1 + 1.5) / 4)
    assert interquartile_mean([np.array([3.0])]) == 3.0


def test_interval_is_that_of_all_stratified_resamples():
    scores = [np.array([0.2, 1.0, 1.7]), np.array([2.0, 2.5, 4.1])]
    found = iqm_interval(scores)
    assert found.estimate == pytest.approx(by_hand(scores))
    # The percentiles of 2,000 draws of a discrete distribution with 100 values, some 0.05 apart there.
    np.testing.assert_allclose(found[1:], enumerated(scores, by_hand), atol=0.1)
    pooled = enumerated([np.concatenate(scores)], lambda chosen: by_hand(chosen))
    assert pooled[1] - pooled[0] > 1.2 * (found.high - found.low)  # strata make it narrower
    assert iqm_interval(scores) == found


def test_improvement_counts_pairs_and_halves_ties():
    ours, theirs = [np.array([1.0, 3.0]), np.array([5.0, 5.0])], [np.array([2.0, 3.0]), np.array([4.0, 5.0])]
    found = probability_of_improvement(ours, theirs)
    assert found.estimate == pytest.approx(np.mean([(0 + 0 + 1 + 0.5) / 4, (1 + 0.5 + 1 + 0.5) / 4]))

    def share(chosen):
        pairs = [[(x > y) + 0.5 * (x == y) for x in a for y in b] for a, b in zip(chosen[:2], chosen[2:], strict=True)]
        return np.mean(pairs)

    np.testing.assert_allclose(found[1:], enumerated([*ours, *theirs], share), atol=0.07)
    assert probability_of_improvement(ours, ours).estimate == 0.5
    assert probability_of_improvement(ours, [x + 10 for x in ours]) == (0, 0, 0)


def test_one_run_a_task_has_no_interval():
    assert np.isnan(iqm_interval([np.array([1.0]), np.array([2.0])])[1:]).all()


def test_profile_is_the_share_of_runs_above():
    scores = [np.array([0.0, 0.5, 1.0, 2.0]), np.array([1.0, 1.0])]
    np.testing.assert_allclose(profile(scores, np.array([-1.0, 0.5, 1.0, 3.0])), [1, (0.5 + 1) / 2, 0.25 / 2, 0])
