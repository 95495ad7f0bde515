"""The picture of training and validation losses over steps: a pair of panels per task."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lopt.evaluation.measures import VALID_POINTS, final_loss, moving_average, valid_steps
from lopt.evaluation.results import Curves, Entry, TaskResult
from lopt.evaluation.style import DPI, styles
from lopt.figures import plain_text

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHING = 0.9  # decay of the moving average that is drawn
NAMED = ("learned", "adam", "adam_default", "untrained")  # entries that are always drawn, with bands
MOST_OTHERS = 5  # further optimizers that are drawn; more could not be told apart
GRID = {"color": "#c4c4c4", "linewidth": 0.7, "linestyle": "-", "zorder": 1}
OTHER_RATE = {"linewidth": 1.0, "linestyle": (0, (1, 1.5))}  # Adam at its rate by mean loss, where it is another


class _Line(NamedTuple):
    label: str
    runs: Curves
    style: dict[str, Any]
    band: bool


def draw(results: Mapping[str, TaskResult]) -> "Figure":
    """Two panels per task, training and validation loss: median over the seeds, with their range as a band.

    In the panel of the training loss, Adam's other rates are grey.

    Args:
      results: by the task's name.
    """
    from matplotlib.figure import Figure

    columns = 1 if len(results) < 4 else 2
    lines = -(-len(results) // columns)
    most = min(max(len(result.entries) for result in results.values()), 4 + MOST_OTHERS)
    height = max(3.6, 0.38 * most + 0.8)  # of a panel: its legend needs the room
    figure = Figure(figsize=(12.2 * columns, height * lines + 0.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, 2 * columns, squeeze=False).reshape(-1, 2)
    for (left, right), (task, result) in zip(panels, results.items(), strict=False):
        _draw_task(left, right, task, result)
    for axes in panels[len(results) :].ravel():
        axes.set_visible(False)
    seeds = max(len(result.seeds) for result in results.values())
    spread = f"lines: median of {seeds} seeds; bands: their range; " if seeds > 1 else "one seed; "
    figure.supxlabel(
        f"{spread}training losses smoothed by a moving average (decay {SMOOTHING:g}); validation losses measured at "
        f"{VALID_POINTS} moments of a training, as they are",
        fontsize=8,
        color="#555555",
    )
    return figure


def _lines(result: TaskResult) -> Iterator[_Line]:
    """The named lines of a panel, each with its optimizer's own style."""
    own = styles(result.entries)
    entries = dict(result.entries)
    learned, adam, default, untrained = (entries.pop(name) for name in NAMED)
    yield _Line(learned.label, learned.chosen["final_loss"], {**own["learned"].line, "zorder": 6}, True)
    by_final, by_mean = adam.best["final_loss"], adam.best["mean_loss"]
    words = "final" if by_final != by_mean else "mean and final"
    style = {**own["adam"].line, "zorder": 5}
    yield _Line(f"{_at_rate(adam, 'final_loss')}\n(best by {words} loss)", adam.chosen["final_loss"], style, True)
    if by_final != by_mean:
        label = f"{_at_rate(adam, 'mean_loss')}\n(best by mean loss)"
        yield _Line(label, adam.chosen["mean_loss"], {**style, **OTHER_RATE}, True)
    style = {**own["adam_default"].line, "zorder": 4}
    yield _Line(f"{default.label} (default)", default.chosen["final_loss"], style, True)
    yield _Line(untrained.label, untrained.chosen["final_loss"], {**own["untrained"].line, "zorder": 3}, True)
    others = sorted(entries, key=lambda name: final_loss(entries[name].chosen["final_loss"].loss).mean())
    for name in others[:MOST_OTHERS]:
        runs = entries[name].chosen["final_loss"]
        yield _Line(_at_rate(entries[name], "final_loss"), runs, {**own[name].line, "zorder": 2}, False)


def _at_rate(entry: Entry, measure: str) -> str:
    index = entry.best[measure]
    settings = f", {entry.settings[index]}" if entry.settings[index] else ""
    return f"{entry.label}, lr {entry.rates[index]:.2g}{settings}" if entry.tuned else entry.label


def _draw_task(left: "Axes", right: "Axes", task: str, result: TaskResult) -> None:
    lines = list(_lines(result))
    adam = result.entries["adam"]
    rest = [index for index in range(len(adam.rates)) if index not in adam.best.values()]
    grey = np.median(moving_average(adam.tuning.loss[rest], SMOOTHING), axis=1)

    training = [moving_average(line.runs.loss, SMOOTHING) for line in lines]
    top = _draw_lines(left, np.arange(result.horizon), lines, training)
    for i, loss in enumerate(grey):
        span = f"{adam.rates[0]:.2g} to {adam.rates[-1]:.2g}"
        number = f"{len(rest)} other rates,\n" if len(rest) > 1 else "another rate,\n"
        label = f"Adam, {number}{span} (tuning seeds)" if i == 0 else None
        left.plot(np.arange(result.horizon), np.minimum(loss, top), label=label, **GRID)
    _draw_lines(right, valid_steps(result.horizon), lines, [line.runs.valid_losses for line in lines])

    left.set_title(f"{plain_text(task)}  ({result.num_params:,} parameters)", fontsize=11, loc="left")
    for axes, title in ((left, "training loss"), (right, "validation loss")):
        axes.locator_params(axis="x", integer=True)
        axes.set(xlim=(0, result.horizon), xlabel="step", ylabel=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
    others = len(result.entries) - len(NAMED)
    title = f"of {others} others, the {MOST_OTHERS} best;\nall are in report.html" if others > MOST_OTHERS else None
    right.legend(
        *left.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        labelspacing=0.8,
        handlelength=3.2,
        title=title,
        title_fontsize=8,
        alignment="left",
    )


def _draw_lines(axes: "Axes", steps: np.ndarray, lines: Sequence[_Line], losses: Sequence[np.ndarray]) -> float:
    """Draws the medians over the seeds and their ranges.

    Args:
      axes: where.
      steps: `[P]`.
      lines: how each optimizer is drawn.
      losses: those of each optimizer, `[S, P]`.

    Returns:
      The height at which curves are cut off: a run that has diverged leaves through the top of the panel.
    """
    low, high = _limits([np.median(loss, axis=0) for loss in losses])
    for (label, _, style, band), loss in zip(lines, losses, strict=True):
        drawn = np.minimum(np.where(np.isnan(loss), np.inf, loss), 10 * abs(high))
        axes.plot(steps, np.median(drawn, axis=0), label=plain_text(label), **style)
        if len(loss) > 1 and band:
            shade = {"color": style["color"], "alpha": 0.16, "linewidth": 0, "zorder": style["zorder"] - 0.5}
            axes.fill_between(steps, drawn.min(0), drawn.max(0), **shade)
    if low > 0:
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    return 10 * abs(high)


def _limits(medians: list[np.ndarray]) -> tuple[float, float]:
    """The range of the named curves, without what rises above three times the loss at the start."""
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in medians])
    if not finite.size:
        return 0.0, 1.0
    start = max(abs(curve[np.isfinite(curve)][0]) for curve in medians if np.isfinite(curve).any())
    low, high = float(finite.min()), float(min(finite.max(), 3 * start))
    if low > 0:
        return low / 2, high * 1.3  # a logarithmic axis; below, room for the bands
    margin = 0.1 * (high - low) or 1.0
    return low - margin, high + margin
