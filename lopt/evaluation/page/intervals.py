"""Scores over all tasks, with intervals drawn inside the rows of the table, so that they sort along with them."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from lopt.evaluation.page.rows import Content, Styles, is_lower_bound, optimizer_table, table_row
from lopt.page.cells import (
    Column,
    best_value,
    column_head,
    data_cell,
    measure_cell,
    number,
    present,
    quantity,
    significant,
)

BAR = 150.0  # width of a drawing
MARGIN = 10.0  # that stays free on both sides of it

SUMMARY = (
    Column("speed_up_iqm", "Speed\N{NON-BREAKING HYPHEN}up, IQM", "high", significant),
    Column("speed_up_envelope_iqm", "Speed\N{NON-BREAKING HYPHEN}up (envelope), IQM", "high", significant),
    Column("diverged", "Diverged", None, quantity, ("of {}", "num_runs")),
)


def aggregate_table(content: Content, styles: Styles) -> str:
    """Scores over all tasks, the worst task, and the probability of improvement, with their intervals drawn."""
    rows = content["aggregate"]
    intervals = [
        _Interval("iqm", "Score, IQM", 1.0, _ceiling(rows, "iqm")),
        _Interval("improvement", "P(improvement)", 0.5, 1.0),
    ]
    intervals = [interval for interval in intervals if any(number(row.get(interval.key)) is not None for row in rows)]
    columns = present(SUMMARY, rows)
    worst = any(number(row.get("worst")) is not None for row in rows)
    best = best_value(Column("iqm", "", "high", significant), rows)
    lines = []
    for row in rows:
        cells = []
        for interval in intervals:
            value, low, high = (number(row.get(f"{interval.key}{end}")) for end in ("", "_low", "_high"))
            spread = "" if low is None or high is None else f' <span class="unit">[{low:.2f}, {high:.2f}]</span>'
            text = "" if value is None else f"{value:.2f}{spread}"
            cells += [
                data_cell(value, text, best=interval.key == "iqm" and value == best),
                f"<td>{interval.draw(row)}</td>",
            ]
            cells += [_worst_cell(row)] if worst and interval.key == "iqm" else []
        for column in columns:
            lower_bound = row["optimizer"] in _bounded(content, column.key.removesuffix("_iqm"))
            cells.append(measure_cell(column, row, best_value(column, rows), lower_bound=lower_bound))
        lines.append(table_row(row["optimizer"], content, styles, cells))
    heads, foot = [], []
    for interval in intervals:
        heads += [column_head(interval.title, "high"), "<td></td>"]
        foot += ["<td></td>", f"<td>{interval.axis()}</td>"]
        if worst and interval.key == "iqm":
            heads.append(column_head("Score on its worst task", "high"))
            foot.append("<td></td>")
    heads += [column_head(column.title, column.better) for column in columns]
    foot += ["<td></td>"] * len(columns)
    return optimizer_table("Scores over all tasks", heads, ["".join(lines)], f"<tr><td></td>{''.join(foot)}</tr>")


class _Interval(NamedTuple):
    """The drawing of an estimate and its interval on an axis from 0 to `ceiling`, with a line at `reference`."""

    key: str
    title: str
    reference: float
    ceiling: float

    def at(self, value: float) -> str:
        share = min(max(value / self.ceiling, 0.0), 1.0)
        return f"{MARGIN + (BAR - 2 * MARGIN) * share:.1f}"

    def draw(self, row: Mapping[str, Any]) -> str:
        value, low, high = (number(row.get(f"{self.key}{end}")) for end in ("", "_low", "_high"))
        line, parts = self.at(self.reference), []
        parts.append(f'<line class="reference" x1="{line}" x2="{line}" y1="0" y2="20"/>')
        if low is not None and high is not None:
            parts.append(f'<line class="range" x1="{self.at(low)}" x2="{self.at(high)}" y1="10" y2="10"/>')
        if value is None:
            return ""
        return self._svg("".join([*parts, f'<circle cx="{self.at(value)}" cy="10" r="3.5"/>']))

    def axis(self) -> str:
        ticks = sorted({0.0, self.reference, self.ceiling})
        return self._svg("".join(f'<text x="{self.at(tick)}" y="12">{tick:g}</text>' for tick in ticks))

    def _svg(self, parts: str) -> str:
        return f'<svg class="interval" viewBox="0 0 {BAR:g} 20" aria-hidden="true">{parts}</svg>'


def _worst_cell(row: Mapping[str, Any]) -> str:
    value = number(row.get("worst"))
    text = "" if value is None else f'{value:.2f} <span class="unit task">{escape(str(row["worst_task"]))}</span>'
    return data_cell(value, text)


def _bounded(content: Content, key: str) -> set[str]:
    """The optimizers with a lower bound for this measure on any task: their mean is a lower bound, too."""
    rows = [row for task in content.get("tasks", []) for row in task.get("rows", [])]
    return {row["optimizer"] for row in rows if key.startswith("speed_up") and is_lower_bound(key, row)}


def _ceiling(rows: Iterable[Mapping[str, Any]], key: str) -> float:
    """A round number above all estimates and intervals."""
    values = [number(row.get(name)) for row in rows for name in (key, f"{key}_high")]
    top = max([1.0, *(value for value in values if value is not None and math.isfinite(value))])
    step = 0.5 if top < 3 else 1.0
    return max(1.5, math.ceil(top / step) * step)
