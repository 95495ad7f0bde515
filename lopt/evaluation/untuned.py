"""The untuned protocol: one setting of each baseline for all tasks, chosen on tasks that are not evaluated."""

from collections.abc import Iterable, Mapping

import numpy as np

from lopt.evaluation.baselines import Baseline
from lopt.evaluation.contestants import Contestant, one_setting
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import MAX_RATIO, log_losses
from lopt.evaluation.results import Entry, TaskResult

POOL = "pool_valid"


def choose(entries: Iterable[Entry]) -> int:
    """Index of the trial that is closest to the best on all tasks: the lowest geometric mean of its ratios.

    A ratio is a trial's loss over that of the task's best trial, medians over the tuning seeds, at most 10: of the
    final training loss and of the validation loss alike.

    Args:
      entries: one baseline on each task of the pool.
    """
    logs = []
    for entry in entries:
        if not entry.tuned:
            return 0
        for measure in ("final_loss", "valid_loss"):
            middle = np.median(log_losses(MEASURES[measure](entry.tuning)), axis=-1)
            lowest = middle.min() if np.isfinite(middle).any() else 0.0
            logs.append(np.minimum(middle - lowest, np.log(MAX_RATIO)))
    return int(np.argmin(np.mean(logs, axis=0)))


def untuned_contestants(baselines: Iterable[Baseline], results: Mapping[str, TaskResult]) -> list[Contestant]:
    """Each baseline at one setting for all tasks.

    Args:
      baselines: those that take part.
      results: their runs on the tasks of the pool.
    """
    return [
        one_setting(baseline, choose(result.entries[baseline.name] for result in results.values()))
        for baseline in baselines
    ]
