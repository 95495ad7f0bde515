"""The tables of the page: results, cost of a step, tuning, sweeps."""

import math
import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

from lopt.evaluation.page.rows import Content, Styles, is_lower_bound, optimizer_table, table_row
from lopt.page.cells import (
    Column,
    best_value,
    column_head,
    data_cell,
    measure_cell,
    number,
    percent,
    present,
    quantity,
    significant,
    with_prefix,
)

HEAT_LIMIT = 4.0  # where the colours of a sweep end: four times better or worse


RESULTS = (
    Column("mean_loss", "Mean loss", "low", significant),
    Column("final_loss", "Final loss", "low", significant),
    Column("valid_loss", "Loss ({split})", "low", significant),
    Column("lowest_valid_loss", "Lowest loss ({split})", "low", significant, ("at {}", "lowest_valid_step")),
    Column("valid_accuracy", "Accuracy ({split})", "high", percent),
    Column("train_ratio", "Training loss / Adam\N{NON-BREAKING HYPHEN}cosine", "low", significant),
    Column("valid_ratio", "Loss ({split}) / best Adam", "low", significant),
    Column("score", "Score", "high", significant),
    Column("speed_up", "Speed\N{NON-BREAKING HYPHEN}up", "high", significant),
    Column("speed_up_envelope", "Speed\N{NON-BREAKING HYPHEN}up (envelope)", "high", significant),
    Column("diverged", "Diverged", None, quantity, ("of {}", "num_runs")),
    Column("flops_per_step", "FLOPs per step", None, with_prefix),
)


COSTS = {"flops_per_step": "FLOPs per step / Adam's", "step_time": "Time per step / Adam's"}


def results_table(content: Content, styles: Styles) -> str:
    """All optimizers on all tasks: one group of rows per task; columns without any value are left out."""
    tasks = [task for task in content.get("tasks", []) if task.get("rows")]
    columns = present(RESULTS, [row for task in tasks for row in task["rows"]])
    if not tasks:
        return ""
    split = str(content.get("setting", {}).get("split", "validation"))
    groups = []
    for task in tasks:
        best = {column: best_value(column, task["rows"]) for column in columns}
        rows = [
            table_row(row["optimizer"], content, styles, [_result(column, row, best[column]) for column in columns])
            for row in task["rows"]
        ]
        params = task.get("num_params")
        unit = "" if params is None else f"<span>{quantity(params)} parameters</span>"
        title = f'<th scope="rowgroup" colspan="{len(columns) + 1}">{escape(task["name"])}{unit}</th>'
        groups.append(f'<tr class="group">{title}</tr>{"".join(rows)}')
    heads = [column_head(escape(column.title.format(split=split)), column.better) for column in columns]
    return optimizer_table("Results by task", heads, groups)


def _result(column: Column, row: Mapping[str, Any], best: float | None) -> str:
    lower_bound = column.key.startswith("speed_up") and is_lower_bound(column.key, row)
    return measure_cell(column, row, best, lower_bound=lower_bound)


def cost_table(content: Content, styles: Styles) -> tuple[str, tuple[float, float] | None]:
    """FLOPs and time of a step relative to Adam's; and the learned optimizer's lowest and highest FLOPs over tasks."""
    ratios: dict[str, dict[str, list[tuple[float, ...]]]] = {}  # middle, low, high: on each task
    for task in content.get("tasks", []):
        rows = {row["optimizer"]: row for row in task.get("rows", [])}
        for name, row in rows.items():
            found = ratios.setdefault(name, {})
            flops, adam = number(row.get("flops_per_step")), number(rows.get("adam", {}).get("flops_per_step"))
            if flops is not None and adam:
                found.setdefault("flops_per_step", []).append((flops / adam,))
            times = [number(row.get(f"step_time{end}")) for end in ("", "_low", "_high")]
            if all(x is not None for x in times):
                found.setdefault("step_time", []).append(tuple(x for x in times if x is not None))
    if not any(ratios.values()):
        return "", None
    lines = [table_row(name, content, styles, [_ratio(x.get(key)) for key in COSTS]) for name, x in ratios.items()]
    table = optimizer_table("Cost of a step", [column_head(title, "low") for title in COSTS.values()], ["".join(lines)])
    flops = [x for (x,) in ratios.get("learned", {}).get("flops_per_step", [])]
    return table, (min(flops), max(flops)) if flops else None


def _ratio(values: list[tuple[float, ...]] | None) -> str:
    """The median over tasks of the first numbers, and the range of all of them."""
    if not values:
        return data_cell(None, "")
    middle, flat = statistics.median(first for first, *_ in values), [x for task in values for x in task]
    low, high = significant(min(flat)), significant(max(flat))
    spread = f' <span class="unit">[{low}, {high}]</span>' if low != high else ""
    return data_cell(middle, f"{significant(middle)}{spread}")


def tuning_table(content: Content, styles: Styles) -> str:
    """How each optimizer was tuned, and the rates that were chosen on each task."""
    optimizers, tasks = content.get("optimizers", {}), content.get("tasks", [])
    if not any(row.get("tuning") for row in optimizers.values()):
        return ""
    chosen = [{row["optimizer"]: row for row in task.get("rows", [])} for task in tasks]
    rows = []
    for name, about in optimizers.items():
        cells = [f'<td class="text">{escape(about[key] or "")}</td>' for key in ("kind", "tuning") if key in about]
        for table in chosen:
            row = table.get(name, {})
            rates = [number(row.get(f"rate_by_{measure}_loss")) for measure in ("mean", "final")]
            texts = dict.fromkeys(f"{rate:.2g}" for rate in rates if rate is not None)
            cells.append(data_cell(rates[1], " / ".join(texts)))
        rows.append(table_row(name, content, styles, cells))
    titles = ["Kind", "Tuned over"]
    heads = [f'<th scope="col" class="text">{title}</th>' for title in titles]
    heads += [column_head(f"Rate on {escape(task['name'])}", "low") for task in tasks]
    note = '<p class="note">Two rates: the best by mean loss / the best by final loss, where they differ.</p>'
    return optimizer_table("What was tuned", heads, ["".join(rows)]) + note


def sweep_table(sweep: Mapping[str, Any], optimizers: Mapping[str, Any]) -> str:
    """A heat map: optimizers by values along the axis. Scores above tuned Adam's are bold, for print in grey."""
    lines = []
    for name, scores in sweep["rows"].items():
        cells = "".join(_heat(number(score)) for score in scores)
        lines.append(f'<tr><th scope="row">{escape(optimizers.get(name, {}).get("label", name))}</th>{cells}</tr>')
    axis = escape(sweep["axis"].replace("_", " "))
    heads = "".join(f'<th scope="col">{escape(str(value))}</th>' for value in sweep["values"])
    return f"""<div><h3>{axis[:1].upper()}{axis[1:]} <span class="unit">{escape(sweep["task"])}</span></h3>
<div class="scroll"><table class="heat"><thead><tr><th scope="col">{axis}</th>{heads}</tr></thead>
<tbody>{"".join(lines)}</tbody></table></div></div>"""


def _heat(score: float | None) -> str:
    if score is None:
        return '<td class="none">&ndash;</td>'
    colour = abs(math.log(min(max(score, 1 / HEAT_LIMIT), HEAT_LIMIT), HEAT_LIMIT))
    side = "better" if score > 1 else "worse"
    return f'<td class="{side}" style="--heat:{colour:.2f}">{"diverged" if score == 0 else f"{score:.2f}"}</td>'
