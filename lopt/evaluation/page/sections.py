"""The page, section by section; a section is left out where the content has nothing for it.

The tables are written here, so that they can be read without JavaScript; the scripts sort them and draw the curves.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from lopt.evaluation.page.budgets import targets_section, trials_section
from lopt.evaluation.page.deciding import deciding_tables
from lopt.evaluation.page.drawing import drawn, line_styles
from lopt.evaluation.page.intervals import aggregate_table
from lopt.evaluation.page.rows import Content, Styles, learned_label, picture
from lopt.evaluation.page.tables import cost_table, results_table, sweep_table, tuning_table
from lopt.page.cells import Cell, quantity, significant
from lopt.page.sheet import fill, read, sheet

FOLDER = Path(__file__).parent


def render(content: Content, pictures: Mapping[str, bytes] | None = None) -> str:
    """The page as HTML. A section is left out where the content has nothing for it.

    Args:
      content: what `summary.summarize` returns, the content of summary.json.
      pictures: PNG files that the page shows, by file name.
    """
    content = {**content, "pictures": pictures or {}}
    styles = line_styles(content)
    sections = [(name, title, write(content, styles)) for name, (title, write) in SECTIONS.items()]
    title = content.get("title", "Evaluation")
    return sheet(title, _header(content), sections, drawn(content, styles), read(FOLDER / "curves.js"))


def _header(content: Content) -> str:
    setting, tasks = content.get("setting", {}), content.get("tasks", [])
    facts = [_count(len(tasks), "task")] if tasks else []
    facts += [f"{setting['horizon']:,} steps"] if "horizon" in setting else []
    facts += [_count(setting["num_seeds"], "seed")] if "num_seeds" in setting else []
    facts += [f"judged on the {escape(str(setting['split']))} split"] if "split" in setting else []
    headline = content.get("headline")
    return "\n".join(
        [
            f"<h1>{escape(content.get('title', 'Evaluation'))}</h1>",
            f'<p class="headline">{escape(headline)}</p>' if headline else "",
            f'<p class="facts">{" · ".join(facts)}</p>' if facts else "",
        ]
    )


def _deciding(content: Content, styles: Styles) -> str:
    tables = deciding_tables(content, styles)
    if not tables:
        return ""
    return f"""<p>Below 1 is better than tuned Adam. On each task, the median over the seeds of the ratio of a run to
the reference on the same seed, between 0.1 and 10; over the tasks, the geometric mean. A diverged run counts as 10.
A median far from the mean tells that a few tasks decide the mean.</p>
{picture("ratios.png", "Loss at the end of every task, over that of tuned Adam", content)}{tables}"""


def _overall(content: Content, styles: Styles) -> str:
    rows = content.get("aggregate")
    if not rows:
        return ""
    notes = [escape(content.get("caution") or "")]
    if any(row.get("iqm_low") is not None for row in rows):
        notes.append(
            "Bars: 95&nbsp;% intervals of a bootstrap over the runs within each task. They say how much other seeds "
            "would change a number, and nothing about other tasks."
        )
    note = "".join(f'\n<p class="note">{text}</p>' for text in notes if text)
    better = ""
    if any(row.get("improvement") is not None for row in rows):
        better = (
            f"\nP(improvement) is how often a run of {learned_label(content)} scores higher than a run of the other."
        )
    return f"""<p>The score of a run is the final loss of tuned constant Adam on its task, divided by the run's own:
1 is tuned Adam, above 1 is better, and a diverged run scores 0.
IQM is the mean of the middle half of the scores of all runs on all tasks: a task that fails can be among those left
out, so the worst task is named beside it.{better}</p>
{aggregate_table(content, styles)}{note}"""


def _profiles(content: Content, styles: Styles) -> str:
    if not set(content.get("profiles", ())) - {"threshold"}:
        return ""
    return """<p>How large a share of its runs an optimizer brings above a score, on average over tasks.
Higher is better; an optimizer whose line falls early fails on some runs.</p>
<div data-needs-script hidden><div class="legend" role="group" aria-label="Optimizers shown"></div></div>
<div id="profile-panel"></div>
<noscript><p class="note">The figure needs JavaScript. Its numbers are in summary.json.</p></noscript>"""


def _curves(content: Content, styles: Styles) -> str:
    tasks = content.get("tasks", [])
    if not any(task.get("curves") for task in tasks):
        return ""
    seeds = content.get("setting", {}).get("num_seeds")
    runs = f"of {_count(seeds, 'seed')}" if seeds else "of the seeds"
    switches = _switch("split", "Loss", ("training", "validation")) if _has_valid(tasks) else ""
    switches += _switch("x", "Over", ("steps", "seconds", "FLOPs")) + _switch("y", "Axis", ("log", "linear"))
    return f"""<p>Training loss, smoothed by a moving average, or loss on held-out data, measured every 5&nbsp;% of the
training; each optimizer at its rate of the lowest final loss.
Lines: median {runs}; bands: their range; a cross is where a median ends because runs diverged.
Point at a panel, touch it, or use the arrow keys for values.</p>
<div data-needs-script hidden><div class="bar">{switches}</div>
<div class="legend" role="group" aria-label="Optimizers shown"></div></div>
<div id="curve-panels" class="panels"></div>
<noscript><p class="note">The curves need JavaScript. Their numbers are in curves.npz.</p></noscript>"""


def _has_valid(tasks: Sequence[Content]) -> bool:
    return any(curve.get("valid") for task in tasks for curve in task.get("curves", {}).values())


def _switch(name: str, title: str, values: Sequence[str]) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" if value == values[0] else ""}>'
        f"<span>{value}</span></label>"
        for value in values
    )
    return f"<fieldset><legend>{title}</legend>{choices}</fieldset>"


def _results(content: Content, styles: Styles) -> str:
    table = results_table(content, styles)
    if not table:
        return ""
    split = escape(str(content.get("setting", {}).get("split", "validation")))
    return f"""{table}
<p class="note">Means over seeds; in bold the best of each task. A click on a column's name sorts each task's rows.</p>
{fill(FOLDER / "columns.html", split=split)}"""


def _failures(content: Content, styles: Styles) -> str:
    failures = content.get("failures")
    warnings = [f"{task['name']}: {text}" for task in content.get("tasks", []) for text in task.get("warnings", [])]
    warnings = [text for text in warnings if text not in (failures or [])]
    if failures is None and not warnings:
        return ""
    found = "".join(f"<li>{escape(text)}</li>" for text in failures or [])
    none = "<p>On none of these tasks is it worse than tuned Adam, has a run diverged, or is it beyond its horizon.</p>"
    body = f"<ul>{found}</ul>" if found else none if failures is not None else ""
    if warnings:
        notes = "".join(f"<li>{escape(text)}</li>" for text in warnings)
        body += f"<h3>Warnings</h3><ul>{notes}</ul>"
    return body


def _cost(content: Content, styles: Styles) -> str:
    table, flops = cost_table(content, styles)
    if not table:
        return ""
    sentence = ""
    if flops:
        sentence = f"""<p>One training step with {learned_label(content)} takes {_times(*flops)} the FLOPs of one with
Adam. The curves over FLOPs and over seconds take the cost of a step into account.</p>"""
    return f"""{sentence}{table}
<p class="note">Cost of a whole training step, gradient included: median over tasks, and the range in brackets. FLOPs
are counted by the compiler. For times, each optimizer takes turns with Adam, so that what else the machine does meets
both; the range is that of all turns on all tasks, and Adam's own row, Adam in turn with itself, shows the
noise.</p>"""


def _times(low: float, high: float) -> str:
    first, last = significant(low), significant(high)
    return f"{first} times" if first == last else f"{first} to {last} times"


def _sweeps(content: Content, styles: Styles) -> str:
    sweeps = content.get("sweeps")
    if not sweeps:
        return ""
    tables = "".join(sweep_table(sweep, content.get("optimizers", {})) for sweep in sweeps)
    return f"""<p>Scores where one thing about a task is changed. 1 is Adam tuned there;
bold on orange is better, plain on blue is worse.</p><div class="sweeps">{tables}</div>"""


def _tuning(content: Content, styles: Styles) -> str:
    return tuning_table(content, styles)


def _provenance(content: Content, styles: Styles) -> str:
    setting = content.get("setting", {})
    facts: dict[str, Cell] = {
        "Command": content.get("command"),
        "Optimizer": content.get("optimizer"),
        "Checkpoint": content.get("checkpoint"),
        "SHA-256 of theta": content.get("theta_sha256"),
        "Seed": setting.get("seed"),
        "Created": content.get("created"),
        "Hardware": content.get("hardware"),
        "Versions": ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items()),
    }
    rows = [f"<dt>{key}</dt><dd><code>{escape(str(x))}</code></dd>" for key, x in facts.items() if x not in (None, "")]
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


def _count(n: int, noun: str) -> str:
    return f"{quantity(n)} {noun}{'' if n == 1 else 's'}"


SECTIONS = {
    "deciding": ("The ratios that decide", _deciding),
    "overall": ("Over all tasks", _overall),
    "failures": ("Where it fails", _failures),
    "curves": ("Training curves", _curves),
    "results": ("Results by task", _results),
    "profiles": ("Performance profiles", _profiles),
    "trials": ("Tuning trials that it replaces", trials_section),
    "targets": ("Time to a target", targets_section),
    "cost": ("Cost of a step", _cost),
    "sweeps": ("Beyond the training distribution", _sweeps),
    "tuning": ("What was tuned, and how", _tuning),
    "provenance": ("Where the numbers come from", _provenance),
}
