"""Whether a run still learns: a meta-loss that says nothing must not look like a good one."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

PATIENCE = 50  # outer steps in a row without a usable estimate, after which a run is stopped


class StuckError(RuntimeError):
    """The run has stopped learning. The message says since when, why, and what to change.

    Attributes:
      step: the outer step at which that was seen.
      recoverable: whether an earlier theta and a lower outer rate may help.
      good: the last outer step whose theta is known to be good; None for that of the latest checkpoint.
    """

    def __init__(self, message: str, step: int, *, recoverable: bool = False, good: int | None = None):
        super().__init__(message)
        self.step, self.recoverable, self.good = step, recoverable, good


class Health:
    """Watches the rows of a run. An outer step is ill if no pair gave a usable estimate or all of them are at the cap.

    The first ill step of a row of them is told at once, and after `PATIENCE` of them the run is stopped. While a run is
    ill it should not replace its checkpoints: those of before are what a person wants to keep.
    """

    def __init__(self) -> None:
        self._since: int | None = None
        self._step, self._reason = 0, ""

    @property
    def ill(self) -> bool:
        """Whether the last outer step was ill."""
        return self._since is not None

    def observe(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the rows of outer steps, in order. Raises StuckError after `PATIENCE` ill ones."""
        for row in rows:
            self._step = int(row["step"])
            if not math.isfinite(row["update_norm"]):
                raise StuckError(
                    f"theta is not finite after outer step {row['step']}: start another run with a smaller "
                    "outer_learning_rate, or with clipping",
                    self._step,
                    recoverable=True,
                )
            reason = ailment(row)
            if reason is None:
                if self._since is not None:
                    logging.warning("outer step %d: the run has recovered", row["step"])
                self._since = None
                continue
            if self._since is None:
                self._since, self._reason = int(row["step"]), reason
                logging.warning("outer step %d: %s", self._since, reason)
            if row["step"] - self._since + 1 >= PATIENCE:
                self.end()

    def end(self) -> None:
        """Raises StuckError if the run is ill."""
        if self._since is not None:
            raise StuckError(f"since outer step {self._since}, {self._reason}", self._step)


def is_well(row: Mapping[str, Any]) -> bool:
    """Whether an outer step has left a theta that is worth a look."""
    return math.isfinite(row["update_norm"]) and ailment(row) is None


def ailment(row: Mapping[str, Any]) -> str | None:
    """What is wrong with an outer step, and what to do; None if nothing is."""
    if row.get("left_out", 0) >= 1 or not math.isfinite(row["grad_norm"]):
        return (
            "no pair gave a finite estimate, so theta does not move: take a larger sigma if it is tiny, else a smaller "
            "outer_learning_rate, a smaller sigma or shorter horizons"
        )
    if row.get("capped", 0) >= 1:
        return (
            "every inner step is at the cap of the loss, so theta gets no signal: take a smaller outer_learning_rate "
            "or sigma, shorter horizons, or another theta to start from"
        )
    if row["grad_norm"] == 0:
        return "the meta-gradient is exactly zero: take a larger sigma, or another meta_loss"
    return None
