"""Pictures of scores: over all tasks, with intervals and performance profiles; and along sweeps."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt.evaluation.style import DPI, FAINT, labels_of, styles
from lopt.figures import plain_text

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 7  # lines among the profiles
LIMIT = 4.0  # where the colours of a sweep end: four times better or worse


def draw_aggregate(content: Mapping[str, Any]) -> "Figure":
    """Interquartile means, worst tasks and probabilities of improvement, with intervals, and performance profiles.

    Args:
      content: what `summary.summarize` returns, with `aggregate`, `profiles` and `optimizers`.
    """
    from matplotlib.figure import Figure

    rows, labels = content["aggregate"], labels_of(content["optimizers"])
    height = 1.6 + 0.32 * len(rows)
    figure = Figure(figsize=(11, height + 3.2), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[height, 3.2])
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharey=left)
    order = sorted(rows, key=lambda row: _number(row["iqm"]))
    title = "score: tuned Adam's final loss / its own\n(dot: interquartile mean; bar: 95 %"
    _intervals(left, order, "iqm", labels, 1.0, f"{title}; |: worst task)" if _has_worst(order) else f"{title})")
    _intervals(right, order, "improvement", labels, 0.5, f"P({labels['learned']} is better)")
    left.set_xlim(left=-0.02 * left.get_xlim()[1])
    right.set_xlim(-0.02, 1.02)
    right.tick_params(axis="y", labelleft=False)
    if not any(math.isfinite(_number(row["improvement"])) for row in rows):
        right.set_visible(False)
    shown = list(dict.fromkeys(["learned", "adam", *(row["optimizer"] for row in reversed(order))]))[:MOST_LINES]
    _profiles(figure.add_subplot(grid[1, :]), content["profiles"], labels, shown)
    if caution := content.get("caution"):
        figure.supxlabel(caution, fontsize=8, color="#555555")
    return figure


def draw_sweep(sweep: Mapping[str, Any], optimizers: Mapping[str, Mapping[str, str]]) -> "Figure":
    """A heat map: optimizers by values along the axis, coloured by score; 1 is tuned Adam, white.

    Args:
      sweep: `axis`, `task`, `values`, and `rows`, scores by optimizer.
      optimizers: of the content, with their labels.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names, values = list(sweep["rows"]), sweep["values"]
    scores = np.array([[_number(x) for x in sweep["rows"][name]] for name in names])
    size = (3.4 + 1.0 * len(values), 1.5 + 0.42 * len(names))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    # A diverged run scores 0, which has no logarithm: it has the colour of the worst.
    colours = np.clip(scores, 1 / LIMIT, LIMIT)
    picture = axes.imshow(colours, cmap="PuOr", norm=LogNorm(1 / LIMIT, LIMIT), aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        dark = abs(math.log(colours[row, column])) > 0.6 * math.log(LIMIT) if math.isfinite(score) else False
        text = "diverged" if score == 0 else "-" if math.isnan(score) else f"{score:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_yticks(range(len(names)), [labels_of(optimizers)[name] for name in names])
    axes.set_xlabel(sweep["axis"].replace("_", " "))
    axes.set_title(plain_text(sweep["task"]), fontsize=11, loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, ticks=[1 / LIMIT, 1, LIMIT], shrink=0.9)
    bar.ax.set_yticklabels([f"{LIMIT:g} times worse", "tuned Adam", f"{LIMIT:g} times better"])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _intervals(
    axes: "Axes", rows: Sequence[Mapping[str, Any]], measure: str, labels: Mapping[str, str], line: float, title: str
) -> None:
    axes.axvline(line, color=FAINT, linewidth=1, zorder=0)
    own = styles(labels)
    for i, row in enumerate(rows):
        value, low, high = (_number(row.get(key)) for key in (measure, f"{measure}_low", f"{measure}_high"))
        colour = own[row["optimizer"]].line["color"]
        if math.isfinite(low):
            axes.plot([low, high], [i, i], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot([value], [i], "o", color=colour, markersize=5)
        if measure == "iqm":
            axes.plot([_number(row.get("worst"))], [i], "|", color=colour, markersize=9, markeredgewidth=1.6)
    axes.set_yticks(range(len(rows)), [labels.get(row["optimizer"], row["optimizer"]) for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(title)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _profiles(
    axes: "Axes", profiles: Mapping[str, Sequence[float]], labels: Mapping[str, str], shown: Sequence[str]
) -> None:
    own = styles(labels)
    for name in shown:
        zorder = 5 if name == "learned" else 3
        axes.plot(profiles["threshold"], profiles[name], label=labels[name], zorder=zorder, **own[name].line)
    axes.axvline(1, color=FAINT, linewidth=1, zorder=0)
    axes.set(xlabel="threshold of the score", ylabel="share of runs above", ylim=(0, 1.02), xscale="log")
    axes.set_xlim(min(profiles["threshold"]), max(profiles["threshold"]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, handlelength=3.2)


def _has_worst(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(math.isfinite(_number(row.get("worst"))) for row in rows)


def _number(value: Any) -> float:
    """A plain value as a number: "inf" is infinite, and None, a value that does not exist, is NaN."""
    return math.nan if value is None else float(value)
