"""Scores of many runs on many tasks, put together: interquartile means with intervals, profiles, who is better.

A table of scores is a sequence with one array `[S]` per task: the scores of its runs. Intervals come from the
stratified bootstrap, which draws runs again, with replacement, within each task. So they say how the numbers would vary
with other seeds, and nothing about other tasks.

Rishabh Agarwal, Max Schwarzer, Pablo Samuel Castro, Aaron Courville, Marc G. Bellemare, "Deep reinforcement learning at
the edge of the statistical precipice", NeurIPS 2021 (arXiv 2108.13264).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MAX_SCORE = 10.0  # a loss of nearly zero on one task would outweigh all others
RESAMPLES = 2000
FEWEST_RUNS = 3  # runs per task from which intervals and probabilities are given
ENOUGH_RUNS = 5  # runs per task below which they come with a caution


class Interval(NamedTuple):
    """An estimate and its 95 % bootstrap interval, which is NaN where a task has fewer than `FEWEST_RUNS` runs."""

    estimate: float
    low: float
    high: float


def run_scores(losses: np.ndarray, reference: float) -> np.ndarray:
    """Score of every run, reference / loss, at most `MAX_SCORE`; 0 for a loss that is not finite: `[S]` -> `[S]`.

    Args:
      losses: one loss per run, above 0 where it is finite.
      reference: loss that scores 1; where it is infinite, every finite loss scores `MAX_SCORE`.
    """
    losses = np.asarray(losses, np.float64)
    assert losses.ndim == 1, losses.shape
    finite = np.isfinite(losses)
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.minimum(reference / np.where(finite, losses, 1.0), MAX_SCORE)
    return np.where(finite, ratio, 0.0)


def interquartile_mean(scores: Sequence[np.ndarray]) -> float:
    """Mean over the runs of all tasks, without the lowest and the highest quarter of them, each rounded down."""
    from scipy.stats import trim_mean

    _check_table(scores)
    return float(trim_mean(np.concatenate(scores), 0.25))


def iqm_interval(scores: Sequence[np.ndarray], *, seed: int = 0) -> Interval:
    """The interquartile mean of a table of scores, with its interval."""
    from scipy.stats import trim_mean

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    return _interval(scores, statistic, interquartile_mean(scores), seed)


def probability_of_improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], *, seed: int = 0) -> Interval:
    """P(a run of ours scores higher than one of theirs), mean over tasks. A tie counts half, so equals have 0.5.

    Args:
      ours: table of scores.
      theirs: table of scores over the same tasks.
    """
    _check_table(ours)
    _check_table(theirs)
    assert len(ours) == len(theirs), (len(ours), len(theirs))

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        samples = tuple(np.moveaxis(x, axis, -1) for x in samples)
        pairs = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        return np.mean([_share_above(x, y) for x, y in pairs], axis=0)

    return _interval([*ours, *theirs], statistic, float(statistic(*ours, *theirs, axis=-1)), seed)


def profile(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold, mean over tasks: `[num_thresholds]` -> `[num_thresholds]`.

    Elizabeth D. Dolan, Jorge J. Moré, "Benchmarking optimization software with performance profiles", 2002.
    """
    _check_table(scores)
    assert thresholds.ndim == 1, thresholds.shape
    return np.mean([(x[:, None] > thresholds[None, :]).mean(0) for x in scores], axis=0)


def caution(num_seeds: int) -> str | None:
    """What a reader has to know about intervals and probabilities from this number of seeds; None for enough."""
    if num_seeds < FEWEST_RUNS:
        return f"{num_seeds} seed{'s' if num_seeds > 1 else ''}: too few for intervals and probabilities."
    if num_seeds < ENOUGH_RUNS:
        return f"{num_seeds} seeds: intervals and probabilities mean little below {ENOUGH_RUNS} seeds."
    return None


def _check_table(scores: Sequence[np.ndarray]) -> None:
    assert len(scores) > 0, "a table of scores without tasks"
    assert all(np.ndim(x) == 1 and len(x) > 0 for x in scores), [np.shape(x) for x in scores]


def _share_above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(x > y) + P(x = y) / 2 over all pairs of the last axes."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def _interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], estimate: float, seed: int
) -> Interval:
    from scipy.stats import bootstrap

    if min(len(x) for x in samples) < FEWEST_RUNS:
        return Interval(estimate, math.nan, math.nan)
    # scipy draws unpaired samples independently of each other: that is the stratified bootstrap.
    found = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(estimate, float(low), float(high))
