"""An evaluation along an axis: the same optimizers on variants of a task, for longer, or used in other ways."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lopt.evaluation.contestants import Contestant
from lopt.evaluation.plan import duration, make_plan
from lopt.evaluation.protocol import MIN_HORIZON, Evaluation
from lopt.evaluation.runs import forget_programs
from lopt.evaluation.scores import score_task
from lopt.evaluation.uses import USES, Use, used
from lopt.names import check_known
from lopt.pool import sweep_axes, task_variants
from lopt.types import TaskFamily

HORIZONS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # multiples of the horizon of the evaluation


class Point(NamedTuple):
    """Where a sweep stops: the protocol, the task, and the way in which all optimizers are used there."""

    evaluation: Evaluation
    family: TaskFamily
    use: Use = Use()


def axes() -> tuple[str, ...]:
    """The axes along which a task can be swept."""
    return ("horizon", "use", *sweep_axes())


def points(axis: str, evaluation: Evaluation, family: TaskFamily, data_dir: str | None = None) -> dict[str, Point]:
    """Where the sweep of a task along an axis stops, by labels. Raises InputError for an unknown axis."""
    check_known("axis of a sweep", axis, axes())
    if axis == "horizon":
        return horizon_points(evaluation, family)
    if axis == "use":
        return {label: Point(evaluation, family, use) for label, use in USES.items()}
    found = task_variants(family, axis, data_dir)
    return {label: Point(evaluation, variant) for label, variant in found.items()}


def horizon_points(evaluation: Evaluation, family: TaskFamily) -> dict[str, Point]:
    """The task over shorter and longer trainings, by the number of steps."""
    lengths = sorted({max(round(factor * evaluation.horizon), MIN_HORIZON) for factor in HORIZONS})
    return {f"{length:,}": Point(dataclasses.replace(evaluation, horizon=length), family) for length in lengths}


def run_sweep(
    axis: str, task: str, points: Mapping[str, Point], contestants: Sequence[Contestant], say: Callable[[str], None]
) -> dict[str, Any]:
    """Scores at every point of the axis.

    Baselines are tuned anew at each point, and a score refers to Adam at that point: 1 is Adam tuned for it, and used
    in the same way. A run that diverged scores 0; a score that is not defined is None.

    Args:
      axis: the name of the axis.
      task: the name of the task.
      points: evaluations and tasks, by their labels along the axis.
      contestants: who takes part.
      say: is told of every point.

    Returns:
      `axis`, `task`, `values`, the labels, and `rows`, a list of mean scores by the name of the optimizer.
    """
    rows: dict[str, list[float | None]] = {contestant.name: [] for contestant in contestants}
    for label, (evaluation, family, use) in points.items():
        began = time.monotonic()
        taking_part = [x if use == Use() else used(x, use) for x in contestants]
        plan = make_plan(evaluation, taking_part, {family: evaluation.layout.load(family)})
        (result,) = plan.run(lambda line: None).values()
        forget_programs()
        say(f"  {task}, {axis} {label}: {duration(time.monotonic() - began)}")
        for name, row in score_task(result).rows.items():
            rows[name].append(row.score)
    return {"axis": axis, "task": task, "values": list(points), "rows": rows}
