"""The score of a theta: how its losses compare with those of the reference, in numpy."""

from collections.abc import Mapping
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


class TaskScore(NamedTuple):
    """Ratios of a rule's losses to those of the reference, below 1 where the rule is better.

    Attributes:
      train: of the final training losses, geometric mean over the seeds.
      valid: of the final validation losses, the same.
    """

    train: float
    valid: float


def best_of_grid(losses: Losses) -> Losses:
    """The reference's losses at its best learning rate, chosen for training and for validation separately.

    The best is that of the lowest geometric mean over the seeds: `[G, S]` -> `[S]`.
    """

    def best(values: np.ndarray) -> np.ndarray:
        return values[np.argmin(_logs(values).mean(-1))]

    return Losses(best(losses.train), best(losses.valid))


def task_score(losses: Losses, reference: Losses) -> TaskScore:
    """exp mean_s log clip(loss_s / reference_s, 1 / 10, 10), for the two kinds of loss.

    Run s of the rule and of the reference have the same task, initial parameters and batches. A run that diverged has
    the ratio 10, whatever the reference did.

    Args:
      losses: of the rule, `[S]`.
      reference: of the reference at its best rates, `[S]`.
    """
    return TaskScore(*(_mean_ratio(*pair) for pair in zip(losses, reference, strict=True)))


def score_row(scores: Mapping[str, TaskScore]) -> dict[str, float]:
    """The numbers of one theta, by their names in metrics.jsonl; lower is better.

    `valid_train` and `valid_valid` are the geometric means of the ratios over the tasks, `valid_score` is the square
    root of their product, and `valid/TASK` is that of the task's two ratios.
    """
    train, valid = (float(np.exp(np.mean(np.log(column)))) for column in zip(*scores.values(), strict=True))
    tasks = {f"valid/{name}": float(np.sqrt(score.train * score.valid)) for name, score in scores.items()}
    return {"valid_score": float(np.sqrt(train * valid)), "valid_train": train, "valid_valid": valid, **tasks}


def _mean_ratio(losses: np.ndarray, reference: np.ndarray) -> float:
    assert losses.shape == reference.shape, (losses.shape, reference.shape)
    bound = np.log(MAX_RATIO)
    with np.errstate(invalid="ignore"):  # both infinite
        logs = np.clip(_logs(losses) - _logs(reference), -bound, bound)
    return float(np.exp(np.mean(np.where(np.isfinite(losses), logs, bound))))


def _logs(losses: np.ndarray) -> np.ndarray:
    """Logarithms; infinite where the loss is not finite."""
    finite = np.isfinite(losses)
    return np.where(finite, np.log(np.maximum(np.where(finite, losses, 1.0), TINY, dtype=np.float64)), np.inf)
