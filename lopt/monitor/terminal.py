"""The dashboard in a terminal: a table of the runs, curves, and what is to be done."""

import math
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from lopt.meta_training.plots import panels_of
from lopt.monitor.dots import colour, draw
from lopt.monitor.notices import Notice, notices_of
from lopt.monitor.numbers import Numbers, numbers_of
from lopt.monitor.runs import Seen
from lopt.monitor.speed import written_time

STATES = {"running": "green4", "finished": "dodger_blue2", "starting": "cyan", "stopped": "yellow4"}  # others: red
HEIGHT, LOWEST = 12, 7  # lines of a picture
NARROW = 76  # cells, below which pictures stand one above another
MOST_ROWS = 20  # runs in the table
LONGEST_NAME = 40  # cells


def written(x: float) -> str:
    """Three digits; a dash where there is no number."""
    return f"{x:.3g}" if math.isfinite(x) else "-"


def share(x: float) -> str:
    """A share in percent."""
    return f"{100 * x:.3g} %" if math.isfinite(x) else "-"


# Title and text of each column; those of which no run has a number are left out.
COLUMNS: dict[str, Callable[[Numbers], str]] = {
    "s/step": lambda x: written(x.seconds),
    "left": lambda x: written_time(x.left) if x.left > 0 else "-",
    "meta-loss": lambda x: written(x.loss),
    "at first": lambda x: written(x.first),
    "validation": lambda x: written(x.score),
    "best": lambda x: written(x.best),
    "at step": lambda x: f"{x.best_step:,.0f}" if math.isfinite(x.best_step) else "-",
    "signal": lambda x: written(x.signal),
    "capped": lambda x: share(x.capped),
    "left out": lambda x: share(x.left_out),
}
# In this order they are left out where a terminal is too narrow for all.
DISPENSABLE = ("left out", "at first", "capped", "at step", "s/step", "signal", "left", "best", "validation")


class Dashboard:
    """What is on the screen: as many pictures as there is room for."""

    def __init__(self, runs: Sequence[Seen], *, whole: bool = False):
        self._runs = runs
        self._whole = whole  # whether it may be higher than the screen
        self._numbers = [numbers_of(run) for run in runs]
        self._notices = [notices_of(run, x) for run, x in zip(runs, self._numbers, strict=True)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        above, below = self._fitting(console, options), self._told()
        used = sum(len(console.render_lines(part, options)) for part in (above, below))
        free = HEIGHT * 2 if self._whole else (options.height or console.height) - used - 1
        yield Group(above, *self._pictures(options.max_width, free), below)

    def _fitting(self, console: Console, options: ConsoleOptions) -> RenderableType:
        """The table, with as many columns as the terminal has room for."""
        texts = {name: [write(x) for x in self._numbers] for name, write in COLUMNS.items()}
        texts = {name: column for name, column in texts.items() if set(column) != {"-"}}
        for name in ("", *DISPENSABLE):
            texts.pop(name, None)
            table = self._table(texts)
            if console.measure(table, options=options.update(max_width=1000)).maximum <= options.max_width:
                break
        more = len(self._runs) - MOST_ROWS
        return Group(table, *([Text(f"and {more} more", style="grey58")] if more > 0 else []))

    def _table(self, texts: Mapping[str, Sequence[str]]) -> Table:
        several = len(self._runs) > 1
        table = Table(box=None, pad_edge=False, header_style="grey58")
        if several:
            table.add_column("", justify="right", no_wrap=True)
        table.add_column("run", no_wrap=True, overflow="ellipsis", min_width=8, max_width=LONGEST_NAME)
        table.add_column("state", no_wrap=True)
        for name in ("step", *texts):
            table.add_column(name, justify="right", no_wrap=True)
        for i, run in enumerate(self._runs[:MOST_ROWS]):
            state = Text(run.state, style=STATES.get(run.state, "bold red"))
            step = f"{run.step:,}" + (f" / {run.total:,}" if run.total is not None else "")
            number = [Text(f"{i + 1} \N{BOX DRAWINGS HEAVY HORIZONTAL}", style=colour(i))] if several else []
            table.add_row(*number, Text(run.name), state, step, *(column[i] for column in texts.values()))
        return table

    def _pictures(self, width: int, free: int) -> list[RenderableType]:
        """Rows of pictures, as many as fit into so many lines."""
        if not any(run.step for run in self._runs):
            return []
        last = max(float(run.step) for run in self._runs)
        panels = [panel for row in panels_of({run.name: run.history for run in self._runs}) for panel in row]
        beside = 1 if width < NARROW else 2
        rows = max(0, min(-(-len(panels) // beside), (free + 2) // HEIGHT if free >= HEIGHT else int(free >= LOWEST)))
        if not rows:
            return []
        height = min(HEIGHT + 6, free // rows)
        numbered = len(self._runs) > 1
        drawn = draw(panels[: rows * beside], width // beside - 2, height - 1, last, numbered=numbered)
        pictures = []
        for i in range(0, len(drawn), beside):
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_row(*drawn[i : i + beside])
            pictures += [Text(""), grid]
        return pictures

    def _told(self) -> RenderableType:
        lines: list[RenderableType] = []
        for run, notices in zip(self._runs, self._notices, strict=True):
            lines += [self._line(run, notice) for notice in notices]
        return Group(Text(""), *(lines or [Text("Nothing to warn of.", style="grey58")]))

    def _line(self, run: Seen, notice: Notice) -> Text:
        mark = Text("!! " if notice.grave else "!  ", style="bold red" if notice.grave else "bold yellow4")
        who = Text(f"{run.name}: " if len(self._runs) > 1 else "", style="bold")
        return Text.assemble(mark, who, f"{notice.text}. ", (f"To do: {notice.advice}.", "grey58"))


def changes_no_more(runs: Sequence[Seen]) -> bool:
    """Whether all runs are over, so that there is nothing to wait for."""
    return all(run.state in ("finished", "stopped", "unreadable") for run in runs)
