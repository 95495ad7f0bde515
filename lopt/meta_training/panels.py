"""Panels of lines over steps: how they are laid out, drawn and named."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lopt.figures import line_style, plain_text

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 3.0  # ratio of the largest to the smallest value above which an axis is logarithmic
COLUMNS, WIDTH, HEIGHT, TOP_HEIGHT, LINE_HEIGHT = 6, 11.0, 2.3, 3.1, 0.15  # of the grid; inches
LETTERS_PER_COLUMN, LETTERS_PER_LEGEND = 20, 60
UNNAMED = "_"  # a label that matplotlib leaves out of a legend


class Line(NamedTuple):
    """A curve.

    Attributes:
      label: its name.
      steps: outer steps, `[n]`.
      values: finite numbers, `[n]`.
      place: of its colour and its dash (`lopt/figures.py`); None for a thin grey line behind the others.
      width: in points.
      marked: whether each value has a mark: they are few.
      trace: the values before smoothing, `[n]`, if they are drawn.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    place: int | None
    width: float = 1.6
    marked: bool = False
    trace: np.ndarray | None = None

    def style(self) -> dict[str, Any]:
        """The arguments of a line of matplotlib."""
        if self.place is None:
            return {"color": "#b8b8b8", "linewidth": 0.8, "zorder": 1}
        return line_style(self.place, self.place, width=self.width)


class Panel(NamedTuple):
    """Lines over the outer steps.

    Attributes:
      title: above it.
      ylabel: what is on its axis, with the unit.
      lines: the curves.
      columns: how wide it is, of `COLUMNS`.
      reference: where there is a horizontal line to compare with, which `ylabel` names.
      legend: whether the lines are named below it.
      alike: whether its y-axis has the range of all such panels in its row, to be compared.
    """

    title: str
    ylabel: str
    lines: Sequence[Line]
    columns: int = 2
    reference: float | None = None
    legend: bool = False
    alike: bool = False


def draw(rows: Sequence[Sequence[Panel]], xlabel: str, *, title: str | None, below: Sequence[str] = ()) -> "Figure":
    """The panels in rows, of which the first is higher.

    Args:
      rows: panels from left to right, from top to bottom; those of one row with one ylabel share it.
      xlabel: what all panels have on their x-axis.
      title: above the picture; None for a legend there, of the lines of all panels that have none.
      below: lines of text below the panels.
    """
    from matplotlib.figure import Figure

    heights = [TOP_HEIGHT, *[HEIGHT] * (len(rows) - 1)]
    parts = [sum(heights) + 0.4, 0.2 + LINE_HEIGHT * len(below)][: 1 + bool(below)]
    whole = Figure(figsize=(WIDTH, sum(parts)), dpi=120, layout="constrained")
    figure, text = whole, None
    if below:
        figure, text = whole.subfigures(2, 1, squeeze=False, height_ratios=parts).ravel()
    grid = figure.add_gridspec(len(rows), COLUMNS, height_ratios=heights)
    for i, row in enumerate(rows):
        column, alike = 0, [panel for panel in row if panel.alike]
        for panel in row:
            axes = figure.add_subplot(grid[i, column : column + panel.columns])
            column += panel.columns
            _draw(axes, panel, first=panel is row[0] or panel.ylabel != row[0].ylabel)
            _scale(axes, scale_of(alike if panel.alike else [panel]))
    figure.supxlabel(xlabel, fontsize=9)
    if text is not None:
        text.text(0.01, 1, plain_text("\n".join(below)), family="monospace", fontsize=8, va="top")
    if title is None:
        handles, names = figure.axes[0].get_legend_handles_labels()  # which all runs are in
        columns = max(1, min(len(names), 150 // (8 + max(map(len, names)))))
        figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    else:
        figure.suptitle(plain_text(_shortened(title, 120)), x=0.01, ha="left", fontsize=11)
    return whole


def _draw(axes: "Axes", panel: Panel, *, first: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in panel.lines:
        label = line.label if line.label == UNNAMED else plain_text(_shortened(line.label, LETTERS_PER_LEGEND))
        marks = {"marker": "o", "markersize": 3} if line.marked or len(line.values) == 1 else {}
        style = line.style()
        axes.plot(line.steps, line.values, label=label, **style, **marks)
        if line.trace is not None:
            axes.plot(line.steps, line.trace, color=style["color"], alpha=0.22, linewidth=0.6, zorder=1)
    if panel.reference is not None:
        axes.axhline(panel.reference, color="#8f8f8f", linewidth=0.9, zorder=1)
    axes.set_title(plain_text(_shortened(panel.title, LETTERS_PER_COLUMN * panel.columns)), loc="left", fontsize=9.5)
    if first:
        axes.set_ylabel(panel.ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if panel.legend and len(panel.lines) > 1:
        names = [line.label for line in panel.lines if line.label != UNNAMED]
        columns = max(1, min(len(names), 22 * panel.columns // (6 + max(map(len, names)))))
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.1), ncols=columns, frameon=False, fontsize=8, handlelength=2.6
        )


class Scale(NamedTuple):
    """A y-axis: its ends, and whether it is logarithmic."""

    low: float
    high: float
    log: bool


def scale_of(panels: Sequence[Panel]) -> Scale:
    """The axis that the panels share: it holds their lines, and 10 % around their middle and around the references.

    So that what hardly changes looks like it; and what single steps do beyond their running mean is cut off.
    """
    values = np.concatenate([line.values for panel in panels for line in panel.lines] or [[0.0, 1.0]])
    low, high = float(values.min()), float(values.max())
    middles = [(low + high) / 2, *(panel.reference for panel in panels if panel.reference is not None)]
    low, high = min(low, *(x - abs(x) / 10 for x in middles)), max(high, *(x + abs(x) / 10 for x in middles))
    if low > 0 and high > LOG_FROM * low:
        margin = (high / low) ** 0.06
        return Scale(low / margin, high * margin, True)
    margin = 0.06 * (high - low) or 1.0
    return Scale(low - margin, high + margin, False)


def _scale(axes: "Axes", scale: Scale) -> None:
    if scale.log:
        from matplotlib.ticker import LogLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if scale.high < 100 * scale.low else (1,), numticks=8))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_ylim(scale.low, scale.high)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
