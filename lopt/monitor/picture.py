"""The picture: the curves, and below them the table of the runs and what is to be done, as the terminal has them."""

import io
from collections.abc import Sequence

from rich.console import Console

from lopt.figures import to_png
from lopt.meta_training.plots import plot_runs
from lopt.monitor.runs import Seen
from lopt.monitor.terminal import Dashboard
from lopt.names import InputError

LETTERS = 155  # in a line of the picture


def picture(runs: Sequence[Seen]) -> bytes:
    """A PNG file. Raises InputError if no run has made an outer step."""
    if not any(run.step for run in runs):
        problem = next((f": {run.problem}" for run in runs if run.problem), "")
        raise InputError(f"{', '.join(run.name for run in runs)}: no outer step to draw yet{problem}")
    console = Console(file=io.StringIO(), width=LETTERS, height=1, color_system=None)
    console.print(Dashboard(runs))  # so low that it has no pictures
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    return to_png(
        plot_runs({run.name: run.history for run in runs}, [line.rstrip() for line in text.rstrip().split("\n")])
    )
