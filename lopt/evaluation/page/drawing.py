"""What the scripts of the page draw: curves with their cost, profiles, and the style of each optimizer."""

import math
from typing import Any

from lopt.evaluation.page.rows import Content, Styles
from lopt.evaluation.style import styles
from lopt.page.cells import Cell, number

SHOWN = 7  # lines that a panel starts with; the others are a click away


def line_styles(content: Content) -> dict[str, str]:
    """How each optimizer is drawn: classes of `style.css`."""
    return {name: style.classes for name, style in styles(content.get("optimizers", {})).items()}


def drawn(content: Content, classes: Styles) -> dict[str, Any]:
    """What the scripts draw: labels and styles, curves and their cost, profiles."""
    tasks = []
    for task in content.get("tasks", []):
        rows = {row["optimizer"]: row for row in task.get("rows", [])}
        costs = {
            name: {
                "flops": _finite(rows.get(name, {}).get("flops_per_step")),
                "milliseconds": _finite(rows.get(name, {}).get("milliseconds_per_step")),
            }
            for name in task.get("curves", {})
        }
        curves = {name: _finite_in(curve) for name, curve in task.get("curves", {}).items()}
        tasks.append({"name": task["name"], "num_params": task.get("num_params"), "curves": curves, "costs": costs})
    optimizers = content.get("optimizers", {})
    return {
        "optimizers": {name: {"label": row["label"], "style": classes[name]} for name, row in optimizers.items()},
        "shown": _shown(content),
        "tasks": [task for task in tasks if task["curves"]],
        "profiles": {name: [_finite(x) for x in values] for name, values in content.get("profiles", {}).items()},
    }


def _shown(content: Content) -> list[str]:
    """The learned optimizer, tuned Adam, and of the others those with the highest scores."""
    scores = {row["optimizer"]: number(row.get("iqm")) for row in content.get("aggregate", [])}

    def rank(name: str) -> tuple[bool, bool, float]:
        score = scores.get(name)
        return name != "learned", name != "adam", -math.inf if score is None else -score

    return sorted(content.get("optimizers", {}), key=rank)[:SHOWN]


def _finite_in(curve: Content) -> dict[str, Any]:
    return {
        key: _finite_in(values) if isinstance(values, dict) else [_finite(x) for x in values]
        for key, values in curve.items()
    }


def _finite(value: Cell) -> float | None:
    """Seven digits, which is more than a screen shows, or None."""
    value = number(value)
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None
