"""The picture of an evaluation: one panel a task, training loss over steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lopt.evaluation.measures import final_loss, moving_average
from lopt.evaluation.results import TaskResult

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHING = 0.9  # decay of the moving average that is drawn
DPI = 150

# Colours of Okabe and Ito, which differ in lightness and for the colour-blind; styles differ too, for print in grey.
LEARNED = {"color": "#d55e00", "linewidth": 2.6, "linestyle": "-", "zorder": 6}
UNTRAINED = {"color": "#a8438a", "linewidth": 2.0, "linestyle": ":", "zorder": 3}
DEFAULT = {"color": "#0072b2", "linewidth": 1.6, "linestyle": "--", "zorder": 4}
BEST = (
    {"color": "#000000", "linewidth": 1.6, "linestyle": "-", "zorder": 5},
    {"color": "#007a5a", "linewidth": 1.6, "linestyle": "-.", "zorder": 5},
)
GRID = {"color": "#c4c4c4", "linewidth": 0.7, "linestyle": "-", "zorder": 1}
# Of further optimizers, in turns; more than so many could not be told apart.
MOST_OTHERS = 5
DASHES = ((0, (5, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)))
OTHERS = ("#56a0d3", "#8c6d00", "#6a51a3", "#636363", "#b2182b")


def draw(results: Mapping[str, TaskResult]) -> "Figure":
    """One panel for each task: median over the seeds, and their range as a band; Adam's other rates in grey."""
    from matplotlib.figure import Figure

    columns = 1 if len(results) < 4 else 2
    lines = -(-len(results) // columns)
    most = min(max(len(result.entries) for result in results.values()), 4 + MOST_OTHERS)
    height = max(3.6, 0.38 * most + 0.8)  # of a panel, that its legend has room
    figure = Figure(figsize=(8.2 * columns, height * lines + 0.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (task, result) in zip(panels, results.items(), strict=False):
        _draw_task(axes, task, result)
    for axes in panels[len(results) :]:
        axes.set_visible(False)
    seeds = max(len(result.seeds) for result in results.values())
    spread = f"lines: median of {seeds} seeds; bands: their range; " if seeds > 1 else ""
    figure.supxlabel(
        f"{spread}each run smoothed by a moving average (decay {SMOOTHING:g})", fontsize=8, color="#555555"
    )
    return figure


def _draw_task(axes: "Axes", task: str, result: TaskResult) -> None:
    entries = dict(result.entries)
    adam, learned = entries.pop("adam"), entries.pop("learned")
    default, untrained = entries.pop("adam_default"), entries.pop("untrained")
    named = [(learned.label, learned.chosen["final_loss"].loss, LEARNED)]
    best: dict[int, list[str]] = {}
    for measure, index in adam.best.items():
        best.setdefault(index, []).append(measure)
    for (index, measures), style in zip(best.items(), BEST, strict=False):
        words = " and ".join(measure.removesuffix("_loss") for measure in measures)
        label = f"{adam.label}, lr {adam.rates[index]:.2g}\n(best by {words} loss)"
        named.append((label, adam.chosen[measures[0]].loss, style))
    named.append((f"{default.label} (default)", default.chosen["final_loss"].loss, DEFAULT))
    named.append((untrained.label, untrained.chosen["final_loss"].loss, UNTRAINED))
    others = sorted(entries.values(), key=lambda entry: final_loss(entry.chosen["final_loss"].loss).mean())
    for i, entry in enumerate(others[:MOST_OTHERS]):
        rate = f", lr {entry.rates[entry.best['final_loss']]:.2g}" if entry.tuned else ""
        style = {"color": OTHERS[i % len(OTHERS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.5, "zorder": 2}
        named.append((f"{entry.label}{rate}", entry.chosen["final_loss"].loss, style))

    smooth = [(label, moving_average(loss, SMOOTHING), style) for label, loss, style in named]
    rest = [index for index in range(len(adam.rates)) if index not in best]
    grey = np.median(moving_average(adam.tuning.loss[rest], SMOOTHING), axis=1)
    low, high = _limits([np.median(loss, axis=0) for _, loss, _ in smooth])
    steps = np.arange(result.horizon)

    for label, loss, style in smooth:
        loss = np.minimum(loss, 10 * abs(high))  # a run that has diverged leaves through the top of the panel
        axes.plot(steps, np.median(loss, axis=0), label=label, **style)
        if len(loss) > 1 and style["zorder"] > 2:
            band = {"color": style["color"], "alpha": 0.16, "linewidth": 0, "zorder": style["zorder"] - 0.5}
            axes.fill_between(steps, loss.min(0), loss.max(0), **band)
    for i, loss in enumerate(grey):
        span = f"{adam.rates[0]:.2g} to {adam.rates[-1]:.2g}"
        label = f"Adam, {len(rest)} other rates,\n{span} (tuning seeds)" if i == 0 else None
        axes.plot(steps, np.minimum(loss, 10 * abs(high)), label=label, **GRID)

    if low > 0:
        axes.set_yscale("log")
    axes.set(xlim=(0, len(steps)), ylim=(low, high), xlabel="step", ylabel="training loss")
    axes.set_title(f"{task}  ({result.num_params:,} parameters)", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    hidden = len(others) - MOST_OTHERS
    title = f"of {len(others)} others, the {MOST_OTHERS} best;\nall are in report.html" if hidden > 0 else None
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        labelspacing=0.8,
        title=title,
        title_fontsize=8,
        alignment="left",
    )


def _limits(medians: list[np.ndarray]) -> tuple[float, float]:
    """What the named curves need, of those that go up no more than to three times the loss at the start."""
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in medians])
    if not finite.size:
        return 0.0, 1.0
    start = max(abs(curve[0]) for curve in medians if np.isfinite(curve[0]))
    low, high = float(finite.min()), float(min(finite.max(), 3 * start))
    if low > 0:
        return low / 2, high * 1.3  # a logarithmic axis; below, room for the bands
    margin = 0.1 * (high - low) or 1.0
    return low - margin, high + margin
