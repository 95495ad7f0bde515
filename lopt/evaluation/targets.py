"""Time to a target: AlgoPerf's self-tuning score, with the validation loss that tuned AdamW reaches as the target.

On each task the target is the median over the seeds of AdamW's validation loss after T steps. A run is there at the
first of its `VALID_POINTS` moments with a loss of at most that, and an optimizer at the median of its runs. Divided by
the time of the fastest optimizer on the task, that is its performance ratio r. The performance profile is the share of
tasks with r <= tau, and the score the mean of the profile over tau from 1 to 4:

    mean over tasks of max(0, 4 - r) / (4 - 1)

George Dahl et al., "Benchmarking neural network training algorithms", 2023 (arXiv 2306.07179).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.evaluation.measures import LONG, valid_curve
from lopt.evaluation.results import Curves, TaskResult

TARGET = "adamw"
MOST = float(LONG)  # times the fastest, beyond which a task counts as not done
CLOCKS = ("steps", "seconds")


def steps_to(curves: Curves, steps: np.ndarray, target: float) -> float:
    """Median over the runs of the first of `steps` at which a run is at the target; infinite where half are not.

    Args:
      curves: the runs, `[S, ...]`.
      steps: after how many steps the validation loss was measured, `[VALID_POINTS]`.
      target: a validation loss.
    """
    reached = valid_curve(curves) <= target
    first = np.where(reached.any(-1), steps[reached.argmax(-1)].astype(float), np.inf)
    # Of an even number the later of the two in the middle: a mean with infinity would be infinite anyway.
    return float(np.sort(first)[len(first) // 2])


def score(ratios: np.ndarray) -> float:
    """Mean of the performance profile from 1 to `MOST`, of performance ratios `[num_tasks]`."""
    return float(np.mean(np.maximum(0.0, MOST - np.minimum(ratios, MOST)) / (MOST - 1)))


def to_targets(
    results: Mapping[str, TaskResult], step_times: Mapping[str, Mapping[str, float]], steps: np.ndarray
) -> dict[str, Any]:
    """Performance ratios and scores of all optimizers; {} where AdamW does not take part.

    Args:
      results: by task.
      step_times: by task and optimizer, the time of a step over Adam's.
      steps: after how many steps the validation loss was measured.

    Returns:
      `rows`, for each optimizer its scores in steps and in seconds, the number of tasks on which it got to the target,
      and their number; `ratios`, for each of them and for steps and seconds, a ratio per task, infinite for never.
    """
    if any(TARGET not in result.entries for result in results.values()):
        return {}
    names = list(next(iter(results.values())).entries)
    times: dict[str, list[list[float]]] = {clock: [] for clock in CLOCKS}  # [num_tasks, num_optimizers]
    for task, result in results.items():
        runs = {name: result.entries[name].chosen["valid_loss"] for name in names}
        target = float(np.median(valid_curve(runs[TARGET])[:, -1]))
        needed = [steps_to(runs[name], steps, target) if math.isfinite(target) else math.inf for name in names]
        times["steps"].append(needed)
        times["seconds"].append([x * step_times[task][name] for x, name in zip(needed, names, strict=True)])
    ratios = {clock: _over_fastest(np.array(rows)) for clock, rows in times.items()}
    rows = [
        {
            "optimizer": name,
            **{clock: score(ratios[clock][:, i]) for clock in CLOCKS},
            "reached": int(np.isfinite(ratios["steps"][:, i]).sum()),
            "num_tasks": len(results),
        }
        for i, name in enumerate(names)
    ]
    found = {name: {clock: ratios[clock][:, i].tolist() for clock in CLOCKS} for i, name in enumerate(names)}
    return {"rows": rows, "ratios": found}


def _over_fastest(times: np.ndarray) -> np.ndarray:
    """Times over the lowest of each row; infinite where it is."""
    fastest = times.min(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(times), times / fastest, np.inf)
