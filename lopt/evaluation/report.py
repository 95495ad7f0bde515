"""The outcome of `lopt.evaluate`: it prints and draws itself, in a notebook too, and writes its files."""

import base64
import dataclasses
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt.evaluation.budget_plots import draw_targets, draw_trials
from lopt.evaluation.curve_plots import draw
from lopt.evaluation.folder import AGGREGATE, PICTURE, RATIOS, TARGETS, TRIALS, open_folder, write_results
from lopt.evaluation.ratio_plots import draw_ratios
from lopt.evaluation.results import TaskResult
from lopt.evaluation.score_plots import draw_aggregate, draw_sweep
from lopt.evaluation.scores import TaskScores
from lopt.evaluation.table import deciding_table, table
from lopt.extras import need
from lopt.figures import to_png

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """An evaluation and everything that is said about it.

    Attributes:
      results: all runs, by the task's name.
      scores: all measures, by the task's name.
      summary: the content of summary.json as plain values: `headline`, `tasks`, `aggregate`, `failures`, ...
      configuration: plain values of everything that decides the numbers.
    """

    results: Mapping[str, TaskResult]
    scores: Mapping[str, TaskScores]
    summary: Mapping[str, Any]
    configuration: Mapping[str, Any]

    def table(self) -> str:
        """The scores of every task, and the ratios that decide over all of them, as text."""
        parts = [table(name, result, self.scores[name]) for name, result in self.results.items()]
        parts.append(deciding_table(self.summary["deciding"], self.summary["optimizers"]))
        return "\n\n".join(part for part in parts if part)

    def plot(self) -> "Figure":
        """Training loss over steps: one panel per task."""
        need("a picture", "matplotlib")
        return draw(self.results)

    def write(self, folder: str | os.PathLike, *, overwrite: bool = False) -> list[str]:
        """Writes curves.npz, scores.csv, summary.json, pictures and report.html, each replaced in one step.

        Args:
          folder: is made if absent; it may hold an evaluation of the same configuration.
          overwrite: whether it may hold any other evaluation.

        Returns:
          The names of the files.

        Raises:
          InputError: the folder holds another evaluation, is in use by one, or cannot be used.
          OSError: a file could not be written; the others are there.
        """
        need("a report", "matplotlib")
        with open_folder(folder, self.configuration, overwrite=overwrite):
            return write_results(
                Path(folder), self.results, self.summary, configuration=self.configuration, pictures=self._pictures()
            )

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.summary['headline']}"

    def __repr__(self) -> str:
        return f"<Report: {self.summary['headline']} .table(), .plot() and .write(folder) show more.>"

    def _repr_html_(self) -> str:
        picture = base64.b64encode(to_png(self.plot())).decode()
        return (
            f"<p><b>{escape(self.summary['headline'])}</b></p>"
            f"<pre style='overflow-x: auto'>{escape(self.table())}</pre>"
            f"<img alt='Training loss over steps, one panel per task' src='data:image/png;base64,{picture}'>"
        )

    def _pictures(self) -> dict[str, bytes]:
        """The pictures by their file names."""
        pictures = {PICTURE: to_png(self.plot())}
        if self.summary["deciding"]["tuned"]:
            pictures[RATIOS] = to_png(draw_ratios(self.summary))
        if self.summary["aggregate"]:
            pictures[AGGREGATE] = to_png(draw_aggregate(self.summary))
        for name, key, draw_it in ((TRIALS, "trials", draw_trials), (TARGETS, "targets", draw_targets)):
            if self.summary[key]:
                pictures[name] = to_png(draw_it(self.summary[key], self.summary["optimizers"]))
        for i, sweep in enumerate(self.summary["sweeps"]):
            pictures[f"sweep_{i}_{sweep['axis']}.png"] = to_png(draw_sweep(sweep, self.summary["optimizers"]))
        return pictures
