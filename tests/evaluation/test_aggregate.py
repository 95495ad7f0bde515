"""Scores put together, against enumeration of all resamples and numbers worked out by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from lopt.evaluation.aggregate import (
    caution,
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
    np.testing.assert_allclose(run_scores(losses, 1.0), [2.0, 0.5, 1.0, 0.0, 0.0, 10.0, 10.0])
    # Where the reference diverges, every finite loss is as good as can be.
    np.testing.assert_allclose(run_scores(np.array([3.0, np.inf]), np.inf), [10.0, 0.0])


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = [np.array([0.0, 1.0, 2.0, 100.0]), np.array([1.0, 1.5, 0.5, -7.0])]
    assert interquartile_mean(scores) == pytest.approx((0.5 + 1 + 1 + 1.5) / 4)
    assert interquartile_mean([np.array([3.0])]) == 3.0


def test_interval_is_that_of_all_stratified_resamples():
    """One run in four is far off: only the same trim as the estimate's leaves it out of most resamples."""
    scores = [np.array([0.2, 1.0, 1.7, 30.0]), np.array([2.0, 2.5, 4.1, -20.0])]
    found = iqm_interval(scores)
    assert found.estimate == pytest.approx(by_hand(scores))
    resamples = [np.array(list(itertools.product(x, repeat=4))) for x in scores]  # 256 for each task
    both = np.sort(np.concatenate([np.repeat(resamples[0], 256, 0), np.tile(resamples[1], (256, 1))], axis=1))
    wanted = np.percentile(both[:, 2:6].mean(1), [2.5, 97.5])
    # The share of all resamples below each end is 2.5 %, to three standard errors of 2,000 draws.
    below = [(both[:, 2:6].mean(1) <= end).mean() for end in found[1:]]
    np.testing.assert_allclose(below, [0.025, 0.975], atol=3 * (0.025 * 0.975 / 2000) ** 0.5)
    assert found.low == pytest.approx(wanted[0], rel=0.05, abs=0.05)
    pooled = by_hand([np.concatenate(scores)])
    assert found.low < pooled < found.high
    assert iqm_interval(scores) == found


def test_strata_make_intervals_narrower():
    scores = [np.array([0.2, 1.0, 1.7]), np.array([2.0, 2.5, 4.1])]
    found = iqm_interval(scores)
    pooled = enumerated([np.concatenate(scores)], lambda chosen: by_hand(chosen))
    assert pooled[1] - pooled[0] > 1.2 * (found.high - found.low)


def test_improvement_counts_pairs_and_halves_ties():
    ours = [np.array([1.0, 3.0, 3.0]), np.array([5.0, 5.0, 5.0])]
    theirs = [np.array([2.0, 3.0, 2.0]), np.array([4.0, 5.0, 4.0])]
    found = probability_of_improvement(ours, theirs)
    # 1 beats none of three; each 3 beats both 2s and ties with 3. Each 5 beats both 4s and ties with 5.
    assert found.estimate == pytest.approx(np.mean([(0 + 2.5 + 2.5) / 9, (2.5 + 2.5 + 2.5) / 9]))

    rng = np.random.default_rng(1)
    drawn = np.zeros(20_000)
    for x, y in zip(ours, theirs, strict=True):
        a, b = (z[rng.integers(3, size=(len(drawn), 3))] for z in (x, y))
        pairs = [(a[:, i] > b[:, j]) + 0.5 * (a[:, i] == b[:, j]) for i in range(3) for j in range(3)]
        drawn += np.mean(pairs, axis=0) / 2
    # 2.5 % of all resamples lie below the interval, and as many above, to three standard errors of 2,000 draws.
    for end, share in zip(found[1:], (0.025, 0.975), strict=True):
        assert (drawn < end - 1e-9).mean() - 0.011 <= share <= (drawn <= end + 1e-9).mean() + 0.011
    assert probability_of_improvement(ours, ours).estimate == 0.5
    assert probability_of_improvement(ours, [x + 10 for x in ours]) == (0, 0, 0)


def test_intervals_are_of_two_thousand_resamples(monkeypatch):
    asked = {}

    class Found:
        confidence_interval = (0.0, 1.0)

    monkeypatch.setattr(scipy.stats, "bootstrap", lambda *a, **settings: asked.update(settings) or Found)
    iqm_interval([np.arange(3.0)])
    assert (asked["n_resamples"], asked["method"]) == (2000, "percentile")


def test_few_runs_have_no_interval_and_come_with_a_caution():
    for number in (1, 2):
        assert np.isnan(iqm_interval([np.arange(float(number)), np.arange(5.0)])[1:]).all()
    assert np.isfinite(iqm_interval([np.arange(3.0), np.arange(5.0)])[1:]).all()
    assert caution(1) == "1 seed: too few for intervals and probabilities."
    assert caution(2) == "2 seeds: too few for intervals and probabilities."
    assert caution(3) == "3 seeds: intervals and probabilities mean little below 5 seeds."
    assert caution(4) == "4 seeds: intervals and probabilities mean little below 5 seeds."
    assert caution(5) is None


def test_profile_is_the_share_of_runs_above():
    scores = [np.array([0.0, 0.5, 1.0, 2.0]), np.array([1.0, 1.0])]
    np.testing.assert_allclose(profile(scores, np.array([-1.0, 0.5, 1.0, 3.0])), [1, (0.5 + 1) / 2, 0.25 / 2, 0])
