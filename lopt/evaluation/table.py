"""The scores of one task, and the ratios that decide over all tasks, as tables of text for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lopt.evaluation.measures import LONG
from lopt.evaluation.results import TaskResult
from lopt.evaluation.scores import COMPARISONS, TaskScores


def table(task: str, result: TaskResult, scores: TaskScores) -> str:
    """The scores of one task, as text.

    Args:
      task: its name.
      result: its runs.
      scores: their scores.
    """
    lines = [f"{task}: {result.num_params:,} parameters, {result.horizon} steps, mean of {len(result.seeds)} seeds"]
    columns = (
        "rate",
        "mean loss",
        "final loss",
        "valid loss",
        "lowest (at)",
        "accuracy",
        "speed-up",
        "diverged",
        "step/Adam's",
        "score",
        "train ratio",
        "valid ratio",
    )
    widths = (18, 11, 11, 11, 18, 9, 10, 9, 17, 8, 12, 12)
    width = max(len(entry.label) for entry in result.entries.values()) + 2
    lines.append("  " + " " * width + "".join(f"{name:>{w}}" for name, w in zip(columns, widths, strict=True)))
    for name, row in scores.rows.items():
        rates = (row.rate_by_mean_loss, row.rate_by_final_loss)
        values = (
            " / ".join(f"{rate:.2g}" for rate in dict.fromkeys(rates) if rate is not None) or "-",
            *(_number(x, ".4g") for x in (row.mean_loss, row.final_loss, row.valid_loss)),
            f"{_number(row.lowest_valid_loss, '.4g')} ({_number(row.lowest_valid_step, ',')})",
            _number(row.valid_accuracy, ".1%"),
            (">= " if row.speed_up_is_lower_bound else "") + _number(row.speed_up, ".3g"),
            f"{row.diverged}/{row.num_runs}",
            f"{row.step_time_low:.2g} to {row.step_time_high:.2g}",
            *(_number(x, ".3g") for x in (row.score, row.train_ratio, row.valid_ratio)),
        )
        text = "".join(f"{value:>{w}}" for value, w in zip(values, widths, strict=True))
        lines.append(f"  {result.entries[name].label:{width}}{text}")
    label = result.entries["learned"].label
    for name, row in COMPARISONS.items():
        what = f"{label} / {row.other}, {row.measure.replace('_', ' ')}"
        lines.append(f"  {what:46} {_number(scores.ratios[name], '.3g'):>8}")
    learned = scores.rows["learned"]
    for against, value in (("single run", learned.speed_up), ("envelope", learned.speed_up_envelope)):
        bound = ">= " if value is not None and value >= LONG else ""
        lines.append(f"  {f'speed-up over best Adam, {against}':46} {bound + _number(value, '.3g'):>8}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in scores.warnings)])


def deciding_table(
    deciding: Mapping[str, Sequence[Mapping[str, Any]]], optimizers: Mapping[str, Mapping[str, str]]
) -> str:
    """The ratios that decide, over all tasks, as text; "" where there are none.

    Args:
      deciding: for each protocol, the rows of `deciding.over_tasks`.
      optimizers: by name, their labels.
    """
    lines = []
    for protocol, rows in deciding.items():
        if not rows:
            continue
        number = rows[0]["num_tasks"]
        lines.append(f"loss at the end / {protocol} Adam's, geometric mean over {number} task{'s' * (number > 1)}")
        width = max(len(optimizers[row["optimizer"]]["label"]) for row in rows) + 2
        heads = (f"{part} {what}" for part in ("train", "valid") for what in ("ratio", "median", "worst", "below 1"))
        lines.append("  " + " " * width + "".join(f"{head:>15}" for head in heads))
        for row in rows:
            values = [
                text
                for part in ("train", "valid")
                for text in (
                    *(f"{row[key]:.3g}" for key in (part, f"{part}_median", f"{part}_worst")),
                    f"{row[f'{part}_below']}",
                )
            ]
            label = optimizers[row["optimizer"]]["label"]
            lines.append(f"  {label:{width}}" + "".join(f"{value:>15}" for value in values))
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
