"""Scores of many runs on many tasks, put together: interquartile means with intervals, profiles, who is better.

A table of scores is a sequence with one array `[S]` for each task: the scores of its runs. Intervals come from the
stratified bootstrap: runs are drawn again with replacement within each task, so they say how the numbers would vary
with other seeds, and nothing of how they would with other tasks.

Rishabh Agarwal, Max Schwarzer, Pablo Samuel Castro, Aaron Courville, Marc G. Bellemare, "Deep reinforcement learning at
the edge of the statistical precipice", NeurIPS 2021 (arXiv 2108.13264).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MAX_SCORE = 10.0  # a loss of nearly zero on one task would outweigh all others
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95 % bootstrap interval, NaN where a task has but one run to draw from."""

    estimate: float
    low: float
    high: float


def run_scores(losses: np.ndarray, reference: float) -> np.ndarray:
    """reference / loss of every run, at most `MAX_SCORE`; 0 for a loss that is not finite: `[S]` -> `[S]`.

    Args:
      losses: of the runs, above 0 where finite.
      reference: loss that scores 1; where it is infinite, a finite loss scores `MAX_SCORE`.
    """
    losses = np.asarray(losses, np.float64)
    finite = np.isfinite(losses)
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.minimum(reference / np.where(finite, losses, 1.0), MAX_SCORE)
    return np.where(finite, ratio, 0.0)


def interquartile_mean(scores: Sequence[np.ndarray]) -> float:
    """Mean of the runs of all tasks without the lowest and the highest quarter of them, each rounded down."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(scores), 0.25))


def iqm_interval(scores: Sequence[np.ndarray], *, seed: int = 0) -> Interval:
    """The interquartile mean of a table of scores, with its interval."""
    from scipy.stats import trim_mean

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    return _interval(scores, statistic, interquartile_mean(scores), seed)


def probability_of_improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], *, seed: int = 0) -> Interval:
    """P(a run of ours scores higher than one of theirs), ties half, mean over tasks; 0.5 for equals.

    Args:
      ours, theirs: tables of scores over the same tasks.
    """

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        samples = tuple(np.moveaxis(x, axis, -1) for x in samples)
        pairs = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        return np.mean([_share_above(x, y) for x, y in pairs], axis=0)

    return _interval([*ours, *theirs], statistic, float(statistic(*ours, *theirs, axis=-1)), seed)


def profile(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold, mean over tasks: `[len(thresholds)]`.

    Elizabeth D. Dolan, Jorge J. Moré, "Benchmarking optimization software with performance profiles", 2002.
    """
    return np.mean([(x[:, None] > thresholds[None, :]).mean(0) for x in scores], axis=0)


def _share_above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(x > y) + P(x = y) / 2 over all pairs of the last axes."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def _interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], estimate: float, seed: int
) -> Interval:
    from scipy.stats import bootstrap

    if min(len(x) for x in samples) < 2:
        return Interval(estimate, math.nan, math.nan)
    # Samples that are not paired are drawn again each on its own: this is the stratified bootstrap.
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
