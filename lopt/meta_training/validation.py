"""When a run validates, what its validations have said, and which theta is the best one."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from lopt import processes
from lopt.meta_training.outer import OuterState
from lopt.types import Theta

SCORE, EMA_SCORE = "valid_score", "valid_ema_score"
MAX_SHARE = 0.1  # of a run's time, that validations take where nobody says how often they come
FEWEST_STEPS, FEWEST_SECONDS = 64, 0.5  # outer steps, or their seconds, from which the time of one is known
FALL, FALLS = 2.0, 2  # a score above FALL times the best, in FALLS validations in a row, has fallen off


class Validator(Protocol):
    """What a run asks for scores; `lopt.validation` has one."""

    def prepare(self, thetas: Sequence[Theta], stopped: Callable[[], bool]) -> None:
        """Does what is to be done once; `stopped` tells whether to leave the rest."""
        ...

    def score(self, thetas: Sequence[Theta]) -> list[dict[str, float]]:
        """Rows of numbers, one for each theta, with a `valid_score` of which lower is better."""
        ...


class Best(NamedTuple):
    """The best theta so far.

    Attributes:
      step: outer steps done before it.
      score: its score.
      averaged: whether it is the moving average of theta, and not theta itself.
    """

    step: int
    score: float
    averaged: bool


class Standing:
    """What the validations have said so far, from rows of metrics.jsonl, in order.

    The score of a validation is the lower one of theta and of its average. It has fallen off after `FALLS` validations
    in a row above `FALL` times the best: the trainings are the same each time, so that is no noise.

    Attributes:
      best: the best theta; None before the first validation.
      falls: validations in a row, up to the newest, that were too high.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self.best: Best | None = None
        self.falls, self._latest = 0, math.inf
        for row in rows:
            self.observe(row)

    def observe(self, row: Mapping[str, Any]) -> bool:
        """Takes in a row that has a score, and leaves any other. Whether it is the best one so far."""
        if SCORE not in row:
            return False
        own, average = float(row[SCORE]), float(row.get(EMA_SCORE, math.inf))
        score = self._latest = min(own, average)
        self.falls = self.falls + 1 if self.best is not None and score > FALL * self.best.score else 0
        if self.best is not None and self.best.score <= score:
            return False
        self.best = Best(int(row["step"]), score, average < own)
        return True

    @property
    def shown(self) -> tuple[float, float] | None:
        """The newest and the best score."""
        return None if self.best is None else (self._latest, self.best.score)

    @property
    def fallen_off(self) -> str | None:
        """How far the score has fallen off; None if it has not."""
        if self.best is None or self.falls < FALLS:
            return None
        return (
            f"the validation score is {self._latest:.4g}, and was {self.best.score:.4g} after outer step "
            f"{self.best.step}: take a smaller outer_learning_rate"
        )


class Schedule:
    """The outer steps after which a run validates: each multiple of N, and the last one.

    Where N is not given, it is found from the times of an outer step and of a validation, so that validations take
    `MAX_SHARE` of the run. Until then, no validation is due but the last.

    Args:
      every: N; None to find it.
      last: outer steps of the whole run.
      keep: is told N when it is found, so that a run that goes on keeps to it.
    """

    def __init__(self, every: int | None, last: int, keep: Callable[[int], object]):
        self._every, self._last, self._keep = every, last, keep
        self._seconds_each: float | None = None  # of a validation
        self._steps, self._seconds = 0, -math.inf  # the first dispatch compiles

    @property
    def needs_timing(self) -> bool:
        """Whether the time of a validation has to be known."""
        return self._every is None

    def next_step(self, step: int) -> int:
        """The first step after `step` at which a validation is due."""
        return self._last if self._every is None else min(self._last, (step // self._every + 1) * self._every)

    def is_due(self, step: int) -> bool:
        """Whether a validation is due now that `step` outer steps are done."""
        return step == self._last or (self._every is not None and step % self._every == 0)

    def note_validation(self, seconds: float) -> None:
        """Takes in the time of a validation, without compilation."""
        self._seconds_each = seconds

    def note_steps(self, count: int, seconds: float) -> None:
        """Takes in the time of a dispatch of outer steps."""
        if self._every is not None or self._seconds_each is None:
            return
        first = self._seconds == -math.inf
        self._steps, self._seconds = (0, 0.0) if first else (self._steps + count, self._seconds + seconds)
        if self._steps >= FEWEST_STEPS or (self._steps and self._seconds >= FEWEST_SECONDS):
            each = max(self._seconds / self._steps, 1e-6)
            self._every = max(1, math.ceil(self._seconds_each / each * (1 - MAX_SHARE) / MAX_SHARE))
            logging.info(
                "validation: %.2g s each, so every %d outer steps of %.2g s", self._seconds_each, self._every, each
            )
            self._keep(self._every)


class Validation:
    """The validations of a run: asks the validator when the schedule says so.

    Args:
      validator: gives the scores; None for a run without validation.
      schedule: says when.
      rows: of metrics.jsonl, up to where the run goes on.
    """

    def __init__(self, validator: Validator | None, schedule: Schedule, rows: Iterable[Mapping[str, Any]]):
        self._validator, self._schedule, self.standing = validator, schedule, Standing(rows)

    def prepare(self, state: OuterState, stopped: Callable[[], bool]) -> None:
        """Makes everything ready, and measures the time of a validation where the schedule needs it."""
        if self._validator is None:
            return
        self._validator.prepare(_thetas(state), stopped)
        if self._schedule.needs_timing and not stopped():
            began = time.monotonic()
            score = self._validator.score(_thetas(state))[0][SCORE]
            self._schedule.note_validation(processes.largest(time.monotonic() - began))
            logging.info("validation: score %.4g after outer step %d; below 1 is better than Adam", score, state.step)

    def next_step(self, step: int) -> int | None:
        """The first step after `step` at which a validation is due; None for a run without."""
        return None if self._validator is None else self._schedule.next_step(step)

    def row(self, step: int, state: OuterState) -> dict[str, float]:
        """What to add to the row of this step: nothing where no validation is due."""
        if self._validator is None or not self._schedule.is_due(step):
            return {}
        own, *average = self._validator.score(_thetas(state))
        return own | ({EMA_SCORE: average[0][SCORE]} if average else {})

    def note_steps(self, count: int, seconds: float) -> None:
        """Takes in the time of a dispatch of outer steps."""
        self._schedule.note_steps(count, seconds)


def _thetas(state: OuterState) -> list[Theta]:
    """Theta, and its average where there is one, in numpy."""
    return jax.device_get([state.theta, *([] if state.theta_ema is None else [state.theta_ema])])
