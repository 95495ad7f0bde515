"""What budgets buy: loss over the number of tuning trials, and the time to a target."""

from html import escape

from lopt.evaluation.page.rows import Content, Styles, learned_label, optimizer_table, picture, table_row
from lopt.evaluation.style import PARTS
from lopt.evaluation.trials import COUNTS
from lopt.page.cells import Column, best_value, column_head, data_cell, measure_cell, quantity, significant

TARGETS = (
    Column("steps", "Score, steps", "high", significant),
    Column("seconds", "Score, seconds", "high", significant),
    Column("reached", "Reached", "high", quantity, ("of {}", "num_tasks")),
)


def trials_section(content: Content, styles: Styles) -> str:
    """Words, picture and tables of the tuning trials; "" where there are none."""
    tables = _trials_tables(content, styles)
    if not tables:
        return ""
    needs = " ".join(f"<b>{PARTS[part]}</b>: {_needs(x, content)}." for part, x in content["trials"].items())
    return f"""<p>How good a baseline is after k trials: the expected best of k drawn at random from its grid,
exactly, as a ratio to tuned Adam, geometric mean over the tasks. {learned_label(content)} has nothing to tune.</p>
<p>Trials that a baseline needs to reach it: {needs}</p>
{picture("trials.png", "Loss over that of tuned Adam, by number of tuning trials", content)}{tables}
<p class="note">Trials are chosen and measured on the tuning seeds alike, which favours the baselines;
{learned_label(content)} is measured on the evaluation seeds. So on a task that varies between seeds the last point of a
line is not the ratio in the tables above.</p>"""


def _needs(part: Content, content: Content) -> str:
    """The baselines that get to the learned ratio, with the trials that they need, and how many do not get there."""
    labels = {name: escape(row["label"]) for name, row in content.get("optimizers", {}).items()}
    needed = sorted((k, labels.get(name, name)) for name, k in part["needed"].items() if k is not None)
    missing = len(part["needed"]) - len(needed)
    texts = [f"{label} {k}" for k, label in needed]
    texts += [f"{missing} of {len(part['needed'])} baselines more than they have"] if missing else []
    return ", ".join(texts)


def targets_section(content: Content, styles: Styles) -> str:
    """Words, picture and table of the times to a target; "" where there are none."""
    table = _targets_table(content, styles)
    if not table:
        return ""
    return f"""<p>The target on each task is the validation loss that AdamW, tuned for it, has at the end. The score
is AlgoPerf's for self-tuning rules: the mean height of the profile, which is the share of tasks on which an
optimizer is at the target within so many times the fastest's time, from 1 to 4 times. 1 is the fastest everywhere.
Validation losses are measured every 5&nbsp;% of a training, so that is the resolution; seconds are steps times the time
of a step over Adam's.</p>
{picture("targets.png", "Share of tasks at the target, over time", content)}{table}"""


def _trials_tables(content: Content, styles: Styles) -> str:
    """A table for training and one for validation: the ratio after some numbers of trials, and how many are needed."""
    return "".join(
        f"<h3>{PARTS[key][:1].upper()}{PARTS[key][1:]}</h3>{_trials_table(part, content, styles)}"
        for key, part in content.get("trials", {}).items()
    )


def _trials_table(part: Content, content: Content, styles: Styles) -> str:
    counts = [k for k in COUNTS if any(len(curve) >= k for curve in part["curves"].values())]
    rows = [
        {"optimizer": name} | {str(k): curve[k - 1] for k in counts if k <= len(curve)}
        for name, curve in part["curves"].items()
    ]
    rows.insert(0, {"optimizer": "learned"} | {str(k): part["learned"] for k in counts})
    columns = [Column(str(k), f"{k} trial{'s' * (k > 1)}", "low", significant) for k in counts]
    best = [best_value(column, rows) for column in columns]
    lines = []
    for row in rows:
        cells = [measure_cell(column, row, lowest) for column, lowest in zip(columns, best, strict=True)]
        lines.append(table_row(row["optimizer"], content, styles, [*cells, _needed_cell(row["optimizer"], part)]))
    heads = [column_head(column.title, "low") for column in columns] + [column_head("Needs", "low")]
    return optimizer_table("Tuning trials", heads, ["".join(lines)])


def _needed_cell(name: str, part: Content) -> str:
    if name == "learned":
        return data_cell(None, "")
    needed, most = part["needed"][name], len(part["curves"][name])
    return data_cell(float("inf"), f"more than {most}") if needed is None else data_cell(float(needed), str(needed))


def _targets_table(content: Content, styles: Styles) -> str:
    """The self-tuning scores of all optimizers; "" where there are none."""
    rows = content.get("targets", {}).get("rows", [])
    if not rows:
        return ""
    best = [best_value(column, rows) for column in TARGETS]
    lines = [
        table_row(
            row["optimizer"], content, styles, [measure_cell(c, row, x) for c, x in zip(TARGETS, best, strict=True)]
        )
        for row in rows
    ]
    heads = [column_head(column.title, column.better) for column in TARGETS]
    return optimizer_table("Time to the target", heads, ["".join(lines)])
