"""How many times the loss of a reference: ratios run by run, clipped, medians over seeds, geometric means over tasks.

Run s of an optimizer and of the reference have the same task, initial parameters and batches. Below 1 the optimizer is
better. A validation during meta-training and an evaluation both score by these.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MAX_RATIO = 10.0  # and 1 / MAX_RATIO the least: a loss of nearly zero on one task would outweigh all others
TINY = 1e-30  # losses below it count as it, so that logarithms are finite


class Losses(NamedTuple):
    """The losses that trainings end with; infinite for one that diverged.

    Attributes:
      train: mean training loss of the last steps, `[..., S]`.
      valid: validation loss of the trained parameters, `[..., S]`.
    """

    train: np.ndarray
    valid: np.ndarray


class Ratios(NamedTuple):
    """Ratios of an optimizer's losses to those of the reference, of training and of validation: see `ratio`."""

    train: float
    valid: float

    @property
    def both(self) -> float:
        """Their geometric mean."""
        return geometric_mean(self)


def task_ratios(losses: Losses, reference: Losses) -> Ratios:
    """The ratios on one task, of losses `[S]` to those of the reference, `[S]`."""
    return Ratios(*(float(ratio(*pair)) for pair in zip(losses, reference, strict=True)))


def log_ratios(losses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """log clip(loss_s / reference_s, 1 / 10, 10) for every run: `[..., S]`, `[S]` -> `[..., S]`.

    A run that diverged has the ratio 10, whatever the reference did.
    """
    losses, reference = np.asarray(losses), np.asarray(reference)
    assert losses.shape[-1:] == reference.shape, (losses.shape, reference.shape)
    bound = np.log(MAX_RATIO)
    with np.errstate(invalid="ignore"):  # both infinite
        logs = np.clip(log_losses(losses) - log_losses(reference), -bound, bound)
    return np.where(np.isfinite(losses), logs, bound)


def ratio(losses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """exp median_s log clip(loss_s / reference_s, 1 / 10, 10): `[..., S]`, `[S]` -> `[...]`.

    Of an even number of seeds, the geometric mean of the two in the middle.
    """
    return np.exp(np.median(log_ratios(losses, reference), axis=-1))


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp mean log."""
    return float(np.exp(np.mean(np.log(np.fromiter(ratios, np.float64)))))


def log_losses(losses: np.ndarray) -> np.ndarray:
    """Logarithms; infinite where the loss is not finite."""
    finite = np.isfinite(losses)
    return np.where(finite, np.log(np.maximum(np.where(finite, losses, 1.0), TINY, dtype=np.float64)), np.inf)
