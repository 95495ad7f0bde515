"""The numbers of a run that a table shows, each of them of the last outer steps."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lopt.meta_training.metrics import final_meta_loss
from lopt.meta_training.validation import EMA_SCORE, SCORE, Standing
from lopt.monitor.runs import Seen
from lopt.monitor.speed import seconds_per_step

FEWEST = 10  # outer steps that a mean is over, at least; else over the last 5 %


class Numbers(NamedTuple):
    """What is known of a run. NaN where there is no number.

    Attributes:
      step: outer steps done.
      total: outer steps asked for.
      seconds: of an outer step, all that it brings along included.
      left: seconds to the end of a run that is going on, at this speed.
      loss: meta-loss, mean of the last 5 % of the outer steps.
      first: the same of the first 5 %.
      score: of the newest validation, the lower one of theta and its average.
      best: of the best validation.
      best_step: the outer step of the best validation.
      signal: |g|^2 over its variance, as a ratio of means over the last steps; 1 is noise alone.
      capped: share of inner steps at the cap, mean of the last steps.
      left_out: share of pairs that were not finite, mean of the last steps.
    """

    step: float
    total: float
    seconds: float
    left: float
    loss: float
    first: float
    score: float
    best: float
    best_step: float
    signal: float
    capped: float
    left_out: float


def numbers_of(run: Seen) -> Numbers:
    """The numbers of a run."""
    history = run.history
    total = math.nan if run.total is None else float(run.total)
    seconds = seconds_per_step(history)
    standing = standing_of(history)
    score, best = standing.shown or (math.nan, math.nan)
    return Numbers(
        step=float(run.step),
        total=total,
        seconds=seconds,
        left=(total - run.step) * seconds if run.state == "running" else math.nan,
        loss=final_meta_loss(history),
        first=final_meta_loss({name: values[::-1] for name, values in history.items()}),
        score=score,
        best=best,
        best_step=math.nan if standing.best is None else float(standing.best.step),
        signal=_signal(history),
        capped=lately(history, "capped"),
        left_out=lately(history, "left_out"),
    )


def lately(history: Mapping[str, np.ndarray], name: str) -> float:
    """Mean of a column over the last outer steps; NaN where they have no number of it."""
    values = history.get(name, np.empty(0))
    last = values[-max(FEWEST, len(values) // 20) :]
    return float(np.nanmean(last)) if np.isfinite(last).any() else math.nan


def standing_of(history: Mapping[str, np.ndarray]) -> Standing:
    """What the validations of a run say."""
    standing = Standing()
    for i in np.flatnonzero(np.isfinite(history.get(SCORE, np.empty(0)))):
        row = {name: history[name][i] for name in ("step", SCORE, EMA_SCORE) if name in history}
        standing.observe({name: value for name, value in row.items() if np.isfinite(value)})
    return standing


def _signal(history: Mapping[str, np.ndarray]) -> float:
    if "grad_variance" not in history or "grad_norm" not in history:
        return math.nan
    both = np.isfinite(history["grad_variance"]) & np.isfinite(history["grad_norm"])
    counted = {"square": history["grad_norm"][both] ** 2, "variance": history["grad_variance"][both]}
    variance = lately(counted, "variance")
    return lately(counted, "square") / variance if variance > 0 else math.nan
