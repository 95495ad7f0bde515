"""The picture of an evaluation: one panel a task, training loss over steps."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lopt.scores import DEFAULT_RATE, TaskCurves, TaskScores, moving_average

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
OTHERS = {"color": "#c4c4c4", "linewidth": 0.7, "linestyle": "-", "zorder": 1}


def draw(curves: Mapping[str, TaskCurves], scores: Mapping[str, TaskScores]) -> "Figure":
    """One panel for each task: median over the seeds, and their range as a band; Adam's other rates in grey."""
    from matplotlib.figure import Figure

    columns = 1 if len(curves) < 4 else 2
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(8.2 * columns, 3.6 * lines + 0.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (task, task_curves) in zip(panels, curves.items(), strict=False):
        _draw_task(axes, task, task_curves, scores[task])
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    seeds = max(len(task_curves.seeds) for task_curves in curves.values())
    spread = f"lines: median of {seeds} seeds; bands: their range; " if seeds > 1 else ""
    figure.supxlabel(
        f"{spread}each run smoothed by a moving average (decay {SMOOTHING:g})", fontsize=8, color="#555555"
    )
    return figure


def to_png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw_task(axes: "Axes", task: str, curves: TaskCurves, scores: TaskScores) -> None:
    rates = curves.learning_rates
    best: dict[int, list[str]] = {}
    for measure, index in scores.best.items():
        best.setdefault(index, []).append(measure.removesuffix("_loss"))
    named = [("learned optimizer", curves.learned.loss, LEARNED)]
    for (index, words), style in zip(best.items(), BEST, strict=False):
        label = f"Adam, lr {rates[index]:.2g}\n(best by {' and '.join(words)} loss)"
        named.append((label, curves.at_rate(index).loss, style))
    named.append((f"Adam, lr {DEFAULT_RATE:g} (default)", curves.adam_default.loss, DEFAULT))
    named.append(("same rule, untrained", curves.untrained.loss, UNTRAINED))

    smooth = [(label, moving_average(loss, SMOOTHING), style) for label, loss, style in named]
    rest = [index for index in range(len(rates)) if index not in best]
    grey = np.median(moving_average(curves.adam_grid.loss[rest], SMOOTHING), axis=1)
    low, high = _limits([np.median(loss, axis=0) for _, loss, _ in smooth])
    steps = np.arange(curves.learned.loss.shape[-1])

    for label, loss, style in smooth:
        loss = np.minimum(loss, 10 * abs(high))  # a run that has diverged leaves through the top of the panel
        axes.plot(steps, np.median(loss, axis=0), label=label, **style)
        if len(loss) > 1:
            band = {"color": style["color"], "alpha": 0.16, "linewidth": 0, "zorder": style["zorder"] - 0.5}
            axes.fill_between(steps, loss.min(0), loss.max(0), **band)
    for i, loss in enumerate(grey):
        label = f"Adam, {len(rest)} other rates,\n{rates[0]:.2g} to {rates[-1]:.2g}" if i == 0 else None
        axes.plot(steps, np.minimum(loss, 10 * abs(high)), label=label, **OTHERS)

    if low > 0:
        axes.set_yscale("log")
    axes.set(xlim=(0, len(steps)), ylim=(low, high), xlabel="step", ylabel="training loss")
    axes.set_title(f"{task}  ({curves.num_params:,} parameters)", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.8)


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
