"""The ratios that decide, over all tasks: a table for each protocol."""

from collections.abc import Mapping
from html import escape
from typing import Any

from lopt.evaluation.page.rows import Content, Styles, optimizer_table, table_row
from lopt.page.cells import Column, best_value, column_head, data_cell, measure_cell, number, significant

PARTS = {"train": "Training loss", "valid": "Validation loss"}
WORDS = {
    "tuned": (
        "Each baseline at its best settings on each task",
        "Adam with a cosine schedule; of the validation loss, over the better of that and Adam at a constant rate",
    ),
    "untuned": ("Each baseline at one setting for all tasks", "Adam with a cosine schedule at one rate for all tasks"),
}


def deciding_tables(content: Content, styles: Styles) -> str:
    """A table per protocol; "" where there are no ratios."""
    return "".join(_table(name, rows, content, styles) for name, rows in content.get("deciding", {}).items() if rows)


def _table(protocol: str, rows: list[Mapping[str, Any]], content: Content, styles: Styles) -> str:
    columns = {part: Column(part, title, "low", significant) for part, title in PARTS.items()}
    several = max(row["num_tasks"] for row in rows) > 1
    heads = []
    for column in columns.values():
        heads += [column_head(column.title, "low")]
        if several:
            heads += [column_head("median", "low"), column_head("worst task", "low"), column_head("below 1", "high")]
    best = {part: best_value(column, rows) for part, column in columns.items()}
    lines = [
        table_row(
            row["optimizer"], content, styles, [x for c in columns.values() for x in _cells(row, c, best, several)]
        )
        for row in rows
    ]
    compared, reference = WORDS[protocol]
    table = optimizer_table(f"The ratios that decide, {protocol}", heads, ["".join(lines)])
    return f"<h3>{compared}</h3><p>Loss at the end over that of {reference}.</p>{table}"


def _cells(row: Mapping[str, Any], column: Column, best: Mapping[str, float | None], several: bool) -> list[str]:
    part = column.key
    cells = [measure_cell(column, row, best[part])]
    if several:
        median = number(row.get(f"{part}_median"))
        cells.append(data_cell(median, "" if median is None else significant(median)))
        worst = number(row.get(f"{part}_worst"))
        task = f' <span class="unit task">{escape(str(row.get(f"{part}_worst_task")))}</span>'
        cells.append(data_cell(worst, "" if worst is None else f"{significant(worst)}{task}"))
        below = f'{row[f"{part}_below"]} <span class="unit">of {row["num_tasks"]}</span>'
        cells.append(data_cell(float(row[f"{part}_below"]), below))
    return cells
