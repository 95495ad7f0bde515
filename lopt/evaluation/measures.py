"""Measures of runs, in numpy. A run that diverged is never left out: its measures are infinite."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

FINAL_SHARE = 0.05  # share of the steps, at the end, whose mean is the final loss
SPEED_UP_DECAY = 0.95  # decay of the moving average of curves that are compared
VALID_POINTS = 20  # equally spaced moments of a training at which the validation loss is measured; the last is its end
LEVEL = 1e-4  # relative difference up to which two curves are at the same level
LONG = 4  # horizons that Adam has to catch up in; also the speed-up that counts if it never does


class Runs(Protocol):
    """What the measures read of runs: training losses `[..., T]`, and losses at `VALID_POINTS` moments of them."""

    @property
    def loss(self) -> Any: ...

    @property
    def valid_losses(self) -> Any: ...


def diverged(loss: np.ndarray) -> np.ndarray:
    """Whether any loss of the run is not finite: `[..., T]` -> bool `[...]`."""
    _check_rank(loss, 1, "losses [..., T]")
    return np.logical_not(np.isfinite(loss).all(-1))


def mean_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over all steps; infinite for a diverged run: `[..., T]` -> `[...]`."""
    _check_rank(loss, 1, "losses [..., T]")
    mean = np.where(np.isfinite(loss), loss, 0).mean(-1, dtype=np.float64)
    return np.where(diverged(loss), np.inf, mean)


def final_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over the last 5 % of the steps, at least one; infinite for a diverged run: `[..., T]` -> `[...]`."""
    _check_rank(loss, 1, "losses [..., T]")
    last = max(1, int(FINAL_SHARE * loss.shape[-1]))
    return np.where(diverged(loss), np.inf, mean_loss(loss[..., -last:]))


def valid_steps(num_steps: int) -> np.ndarray:
    """The numbers of steps after which the validation loss is measured, `[VALID_POINTS]`."""
    return num_steps * np.arange(1, VALID_POINTS + 1) // VALID_POINTS


def valid_curve(runs: Runs) -> np.ndarray:
    """Validation losses; infinite all along for a diverged run, and where one is not finite: `[..., VALID_POINTS]`."""
    losses = np.asarray(runs.valid_losses, np.float64)
    return np.where(np.isfinite(losses) & ~diverged(runs.loss)[..., None], losses, np.inf)


# What a baseline is tuned for, each on its own; functions of runs, `[...]` values.
MEASURES: dict[str, Callable[[Runs], np.ndarray]] = {
    "mean_loss": lambda runs: mean_loss(runs.loss),
    "final_loss": lambda runs: final_loss(runs.loss),
    "valid_loss": lambda runs: valid_curve(runs)[..., -1],
}


def moving_average(loss: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average over the steps, bias-corrected as Adam's, m_t / (1 - decay^t): `[..., T]` -> the same.

    It is infinite from the first loss on that is not finite.
    """
    _check_rank(loss, 1, "losses [..., T]")
    average = np.empty(loss.shape, np.float64)
    m = np.zeros(loss.shape[:-1])
    for t, x in enumerate(np.moveaxis(np.where(np.isfinite(loss), loss, np.inf), -1, 0)):
        m = decay * m + (1 - decay) * x
        average[..., t] = m / (1 - decay ** (t + 1))
    return average


def best_trial(tuning: Runs, measure: str) -> int:
    """Index of the trial with the lowest mean over the seeds of a measure; losses are `[G, S, T]`."""
    _check_shape(tuning.loss, (None, None, None), "losses [G, S, T]")
    return int(np.argmin(MEASURES[measure](tuning).mean(1)))


def median_curve(loss: np.ndarray) -> np.ndarray:
    """Median over the seeds of the moving average: `[..., S, T]` -> `[..., T]`."""
    _check_rank(loss, 2, "losses [..., S, T]")
    return np.median(moving_average(loss, SPEED_UP_DECAY), axis=-2)


def envelope(tuning_loss: np.ndarray, long_loss: np.ndarray) -> np.ndarray:
    """At each step the lowest of the median curves over all rates, which no single run of Adam need reach.

    Args:
      tuning_loss: losses of the reference at each rate, `[G, S, T]`.
      long_loss: its losses at its best rate, `[S, LONG * T]`, which alone make the curve after T steps.

    Returns:
      The curve, `[LONG * T]`.
    """
    _check_shape(tuning_loss, (None, None, None), "losses [G, S, T]")
    _check_shape(long_loss, (None, LONG * tuning_loss.shape[-1]), "losses [S, LONG * T]")
    curve, steps = median_curve(long_loss), tuning_loss.shape[-1]
    curve[:steps] = np.minimum(curve[:steps], median_curve(tuning_loss).min(0))
    return curve


def speed_up(loss: np.ndarray, reference: np.ndarray) -> float:
    """The number of steps that the reference needs to get to where the runs are after T steps, divided by T.

    Where the runs are is their median curve at step T. The reference, smoothed alike, gets there at the first step at
    which it is at most that. Above 1, the runs are faster. The speed-up is `LONG` if the reference never gets there,
    and 0 if any run has diverged. It is 1 where both curves are at the same level at step T, to one part in 10^4: on a
    plateau, noise alone would have taken the reference there before. So every optimizer has the speed-up 1 over itself.

    Args:
      loss: losses of the runs, `[S, T]`.
      reference: `median_curve` or `envelope`, `[LONG * T]`.
    """
    _check_shape(loss, (None, None), "losses [S, T]")
    _check_shape(reference, (LONG * loss.shape[-1],), "the reference [LONG * T]")
    if diverged(loss).any():
        return 0.0
    steps, target = loss.shape[-1], median_curve(loss)[-1]
    if abs(reference[steps - 1] - target) <= LEVEL * abs(target):
        return 1.0
    reached = np.flatnonzero(reference <= target)
    return float((reached[0] + 1) / steps) if reached.size else float(LONG)


def _check_rank(array: np.ndarray, rank: int, what: str) -> None:
    assert np.ndim(array) >= rank, f"{what}: {np.shape(array)}"


def _check_shape(array: np.ndarray, shape: tuple[int | None, ...], what: str) -> None:
    found = np.shape(array)
    fits = len(found) == len(shape) and all(n is None or n == m for n, m in zip(shape, found, strict=True))
    assert fits, f"{what}: {found}"
