"""The page: what is to be done, a table of the runs, curves that are read off, and the settings."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from lopt.figures import line_classes
from lopt.meta_training.plots import panels_of
from lopt.monitor.drawing import drawn
from lopt.monitor.notices import notices_of
from lopt.monitor.numbers import numbers_of
from lopt.monitor.runs import Seen
from lopt.monitor.speed import written_time
from lopt.page.cells import (
    Column,
    best_value,
    column_head,
    data_cell,
    labelled_row,
    measure_cell,
    percent,
    present,
    quantity,
    significant,
    sortable_table,
    word_cell,
)
from lopt.page.sheet import read, sheet

FOLDER = Path(__file__).parent
COLUMNS = (
    Column("step", "Outer steps", None, quantity, ("of {}", "total")),
    Column("seconds", "Seconds per step", None, significant),
    Column("left", "Time left", None, written_time),
    Column("loss", "Meta\N{NON-BREAKING HYPHEN}loss", "low", significant),
    Column("first", "Meta\N{NON-BREAKING HYPHEN}loss at first", None, significant),
    Column("score", "Validation", "low", significant),
    Column("best", "Best validation", "low", significant, ("at {}", "best_step")),
    Column("signal", "Signal to noise", None, significant),
    Column("capped", "At the cap", None, percent),
    Column("left_out", "Left out", None, percent),
)
EXPLAINED = """<details><summary>What the columns mean</summary><dl>
<dt>Seconds per step</dt><dd>Of an outer step over the last fifth of the run, with data, saving and validating.</dd>
<dt>Meta-loss</dt><dd>Mean over the last 5&nbsp;% of the outer steps, and over the first; 1 is the trivial
predictor.</dd>
<dt>Validation</dt><dd>The newest score and the best one, each the lower one of theta and its average; below 1, better
than tuned Adam.</dd>
<dt>Signal to noise</dt><dd>The square of the meta-gradient's norm over its variance; noise alone makes 1.</dd>
<dt>At the cap, left out</dt><dd>Share of inner steps whose loss is at its cap, and of pairs that are not finite.</dd>
</dl></details>"""


def render(runs: Sequence[Seen], *, every: float | None = None) -> str:
    """The page as HTML.

    Args:
      runs: what is shown.
      every: seconds after which the page asks its server for what is new; None for a page that stays as it is.
    """
    now = content(runs)
    sections = [(name, title, f'<div id="{name}-now">{now["parts"][name]}</div>') for name, title in SECTIONS.items()]
    header = f'<div id="header-now">{now["parts"]["header"]}</div><p class="facts" id="asked"></p>'
    data = {"every": every, **now}
    return sheet(_title(runs), header, sections, data, read(FOLDER / "watch.js"), connect=every is not None)


def content(runs: Sequence[Seen]) -> dict[str, Any]:
    """What changes on the page: `parts`, HTML by the name of their place, and what is drawn."""
    styles = {run.name: line_classes(i, i) for i, run in enumerate(runs)}
    parts = {
        "header": _header(runs),
        "warnings": _warnings(runs),
        "runs": _runs(runs, styles),
        "curves": _curves(runs),
        "settings": _settings(runs, styles),
    }
    rows = panels_of({run.name: run.history for run in runs}) if any(run.step for run in runs) else ()
    panels = [panel for row in rows for panel in drawn(row)]
    return {
        "parts": parts,
        "panels": panels,
        "runs": [{"label": name, "style": style} for name, style in styles.items()] if len(runs) > 1 else [],
    }


def _title(runs: Sequence[Seen]) -> str:
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _header(runs: Sequence[Seen]) -> str:
    if len(runs) == 1:
        run, numbers = runs[0], numbers_of(runs[0])
        words = [f"{run.state}, outer step {run.step:,}" + (f" of {run.total:,}" if run.total is not None else "")]
        words += [f"meta-loss {numbers.loss:.3g}"] if math.isfinite(numbers.loss) else []
        if math.isfinite(numbers.best):
            words.append(f"best validation {numbers.best:.3g} after step {numbers.best_step:,.0f}")
        headline = ("; ".join(words)).capitalize()
    else:
        states = [run.state for run in runs]
        headline = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    facts = [f"as of {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"]
    if len(runs) == 1:
        facts += [
            escape(f"{name}: {runs[0].config[name]}") for name in ("optimizer", "tasks") if name in runs[0].config
        ]
    return (
        f'<h1>{escape(_title(runs))}</h1>\n<p class="headline">{escape(headline)}.</p>'
        f'\n<p class="facts">{" · ".join(facts)}</p>'
    )


def _warnings(runs: Sequence[Seen]) -> str:
    items = []
    for run in runs:
        who = f"<b>{escape(run.name)}</b>: " if len(runs) > 1 else ""
        for notice in notices_of(run, numbers_of(run)):
            kind = ' class="grave"' if notice.grave else ""
            advice = re.sub(r"--\w+", r"<code>\g<0></code>", escape(notice.advice))
            items.append(f'<li{kind}>{who}{escape(notice.text)}. <span class="note">To do: {advice}.</span></li>')
    return f"<ul>{''.join(items)}</ul>" if items else "<p>None.</p>"


def _runs(runs: Sequence[Seen], styles: Mapping[str, str]) -> str:
    rows = [numbers_of(run)._asdict() for run in runs]
    columns = present(COLUMNS, rows)
    best = {column: best_value(column, rows) if len(runs) > 1 else None for column in columns}
    lines = []
    for run, row in zip(runs, rows, strict=True):
        cells = [word_cell(run.state), *(measure_cell(column, row, best[column]) for column in columns)]
        lines.append(labelled_row(escape(run.name), styles[run.name], cells))
    heads = [column_head("Run", None), column_head("State", None, words=True)]
    heads += [column_head(column.title, column.better) for column in columns]
    return sortable_table("Runs", heads, ["".join(lines)]) + EXPLAINED


def _curves(runs: Sequence[Seen]) -> str:
    if not any(run.step for run in runs):
        return "<p>No run has made an outer step yet.</p>"
    return """<p>Lines are running means over 5&nbsp;% of the outer steps, but those of validations; thin lines are of
single steps, or of single tasks. Point at a panel, touch it, or use the arrow keys for values.</p>
<noscript><p class="note">The curves need JavaScript. Their numbers are in metrics.jsonl.</p></noscript>"""


def _settings(runs: Sequence[Seen], styles: Mapping[str, str]) -> str:
    """All settings of one run; of several, those in which they differ."""
    names = sorted({name for run in runs for name in run.config})
    if len(runs) == 1:
        facts = {name: runs[0].config[name] for name in names}
        facts["workdir"] = str(runs[0].folder)
        rows = "".join(
            f"<dt>{escape(k)}</dt><dd><code>{escape(str(x)) or '&ndash;'}</code></dd>" for k, x in facts.items()
        )
        return f"<dl>{rows}</dl>"
    texts = {name: [json.dumps(run.config.get(name)) for run in runs] for name in names}
    names = [name for name, values in texts.items() if len(set(values)) > 1]
    if not names:
        return "<p>The settings of these runs are the same.</p>"
    words = {name for name in names if not all(_is_number(run.config.get(name)) for run in runs)}
    lines = []
    for run in runs:
        values: dict[str, Any] = {name: run.config.get(name) for name in names}
        cells = [
            word_cell(escape(str(x))) if name in words else data_cell(float(x), escape(str(x)))
            for name, x in values.items()
        ]
        lines.append(labelled_row(escape(run.name), styles[run.name], cells))
    heads = [column_head("Run", None), *(column_head(escape(name), None, words=name in words) for name in names)]
    return "<p>Those in which they differ.</p>" + sortable_table("Settings", heads, ["".join(lines)])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SECTIONS = {"warnings": "Warnings", "runs": "Numbers", "curves": "Curves", "settings": "Settings"}
