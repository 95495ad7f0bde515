"""Pictures of an evaluation over all of its tasks: who is better, by how much, how surely; and of sweeps."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
ACCENT, PLAIN, FAINT = "#d55e00", "#333333", "#c4c4c4"
DASHES = ("-", "--", "-.", ":", (0, (1, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MOST_LINES = 7  # of the profiles
LIMIT = 4.0  # of the colours of a sweep: four times better or worse


def draw_aggregate(content: Mapping[str, Any]) -> "Figure":
    """Interquartile means and probabilities of improvement with their intervals, and performance profiles.

    Args:
      content: what `summary.summarize` returns, with `aggregate`, `profiles` and `optimizers`.
    """
    from matplotlib.figure import Figure

    rows, labels = content["aggregate"], _labels(content)
    height = 1.6 + 0.32 * len(rows)
    figure = Figure(figsize=(11, height + 3.2), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[height, 3.2])
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharey=left)
    order = sorted(rows, key=lambda row: _number(row["iqm"]))
    _intervals(left, order, "iqm", labels, 1.0, "score, interquartile mean\n(tuned Adam's final loss / its own)")
    title = "P(learned optimizer is better)"
    _intervals(right, order, "improvement", labels, 0.5, title)
    right.set_xlim(-0.02, 1.02)
    right.tick_params(axis="y", labelleft=False)
    shown = list(dict.fromkeys(["learned", "adam", *(row["optimizer"] for row in reversed(order))]))[:MOST_LINES]
    _profiles(figure.add_subplot(grid[1, :]), content["profiles"], {name: labels[name] for name in shown})
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
    axes.set_yticks(range(len(names)), [optimizers[name]["label"] for name in names])
    axes.set_xlabel(sweep["axis"].replace("_", " "))
    axes.set_title(sweep["task"], fontsize=11, loc="left")
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
    for i, row in enumerate(rows):
        value, low, high = (_number(row.get(key)) for key in (measure, f"{measure}_low", f"{measure}_high"))
        colour = ACCENT if row["optimizer"] == "learned" else PLAIN
        if math.isfinite(low):
            axes.plot([low, high], [i, i], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot([value], [i], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [labels.get(row["optimizer"], row["optimizer"]) for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(title)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _profiles(axes: "Axes", profiles: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> None:
    for i, (name, label) in enumerate(labels.items()):
        learned = name == "learned"
        style = {
            "linewidth": 2.6 if learned else 1.5,
            "color": ACCENT if learned else None,
            "zorder": 5 if learned else 3,
        }
        axes.plot(
            profiles["threshold"],
            profiles[name],
            label=label,
            linestyle=DASHES[i % len(DASHES)],
            **style,
        )
    axes.axvline(1, color=FAINT, linewidth=1, zorder=0)
    axes.set(xlabel="threshold of the score", ylabel="share of runs above", ylim=(0, 1.02), xscale="log")
    axes.set_xlim(min(profiles["threshold"]), max(profiles["threshold"]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)


def _labels(content: Mapping[str, Any]) -> dict[str, str]:
    return {name: row["label"] for name, row in content["optimizers"].items()}


def _number(value: Any) -> float:
    """What stands in the plain values: numbers, "inf", or None for what there is not."""
    return math.nan if value is None else float(value)
