"""The score of a theta over all tasks, from its ratios on each, and the best of the reference's grid."""

from collections.abc import Mapping

import numpy as np

from lopt.evaluation.ratios import Losses, Ratios, geometric_mean, log_losses

LEAST_RATIO = 0.5  # that counts: one task at 0.1 would outweigh several at which theta loses


def best_of_grid(losses: Losses) -> Losses:
    """The reference's losses at its best learning rate, chosen for training and for validation separately.

    The best is that of the lowest geometric mean over the seeds: `[G, S]` -> `[S]`.
    """

    def best(values: np.ndarray) -> np.ndarray:
        return values[np.argmin(log_losses(values).mean(-1))]

    return Losses(best(losses.train), best(losses.valid))


def score_row(scores: Mapping[str, Ratios]) -> dict[str, float]:
    """The numbers of one theta, by their names in metrics.jsonl; lower is better.

    `valid_train` and `valid_valid` are the geometric means of the ratios over the tasks, of which none counts as less
    than `LEAST_RATIO`. `valid_score` is the square root of their product. `valid/TASK` is that of the task's two
    ratios, as they are.
    """
    counted = np.maximum(list(scores.values()), LEAST_RATIO)
    train, valid = map(geometric_mean, counted.T)
    both = Ratios(train, valid).both
    return {"valid_score": both, "valid_train": train, "valid_valid": valid} | {
        f"valid/{name}": score.both for name, score in scores.items()
    }
