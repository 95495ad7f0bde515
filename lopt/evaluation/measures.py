"""What is read off training losses: numpy only. A run that diverged is never left out: it costs infinity."""

import numpy as np

FINAL_SHARE = 0.05  # of the steps, for the final loss
SPEED_UP_DECAY = 0.95  # of the moving average of curves that are compared
LEVEL = 1e-4  # relative difference at which two curves are at the same level
LONG = 4  # Adam is given this many times the horizon to catch up: the speed-up that is counted if it never does


def diverged(loss: np.ndarray) -> np.ndarray:
    """Whether any loss of the run is not finite: `[..., T]` -> bool `[...]`."""
    return np.logical_not(np.isfinite(loss).all(-1))


def mean_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over all steps; infinite for a diverged run: `[..., T]` -> `[...]`."""
    mean = np.where(np.isfinite(loss), loss, 0).mean(-1, dtype=np.float64)
    return np.where(diverged(loss), np.inf, mean)


def final_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over the last 5 % of the steps, at least one; infinite for a diverged run: `[..., T]` -> `[...]`."""
    last = max(1, int(FINAL_SHARE * loss.shape[-1]))
    return np.where(diverged(loss), np.inf, mean_loss(loss[..., -last:]))


MEASURES = {"mean_loss": mean_loss, "final_loss": final_loss}


def moving_average(loss: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average over the steps, bias-corrected as Adam's: m_t / (1 - decay^t).

    It is infinite from the first loss on that is not finite.
    """
    average = np.empty(loss.shape, np.float64)
    m = np.zeros(loss.shape[:-1])
    for t, x in enumerate(np.moveaxis(np.where(np.isfinite(loss), loss, np.inf), -1, 0)):
        m = decay * m + (1 - decay) * x
        average[..., t] = m / (1 - decay ** (t + 1))
    return average


def best_rate(tuning_loss: np.ndarray, measure: str) -> int:
    """Index of the learning rate with the lowest mean over the seeds of a measure; losses are `[G, S, T]`."""
    return int(np.argmin(MEASURES[measure](tuning_loss).mean(1)))


def median_curve(loss: np.ndarray) -> np.ndarray:
    """Median over the seeds of the moving average: `[..., S, T]` -> `[..., T]`."""
    return np.median(moving_average(loss, SPEED_UP_DECAY), axis=-2)


def envelope(tuning_loss: np.ndarray, long_loss: np.ndarray) -> np.ndarray:
    """What no single run of Adam reaches: at each step the lowest of the median curves over all rates.

    Args:
      tuning_loss: of the reference at each rate, `[G, S, T]`.
      long_loss: at its best rate, `[S, LONG * T]`; after T steps it is alone.

    Returns:
      The curve, `[LONG * T]`.
    """
    curve, steps = median_curve(long_loss), tuning_loss.shape[-1]
    curve[:steps] = np.minimum(curve[:steps], median_curve(tuning_loss).min(0))
    return curve


def speed_up(loss: np.ndarray, reference: np.ndarray) -> float:
    """The steps that the reference needs to get to where the runs are after T steps, divided by T.

    Where the runs are is their median curve at step T; the first step counts at which the reference, smoothed alike, is
    at most that. Above 1, the runs are faster. `LONG` if the reference never gets there; 0 if any run has diverged.
    Where both are at the same level at step T, to one part in 10^4, it is 1: on a plateau, noise alone would have taken
    the reference there before. So an optimizer has the speed-up 1 over itself.

    Args:
      loss: `[S, T]`.
      reference: `median_curve` or `envelope`, `[LONG * T]`.
    """
    if diverged(loss).any():
        return 0.0
    steps, target = loss.shape[-1], median_curve(loss)[-1]
    if abs(reference[steps - 1] - target) <= LEVEL * abs(target):
        return 1.0
    reached = np.flatnonzero(reference <= target)
    return float((reached[0] + 1) / steps) if reached.size else float(LONG)
