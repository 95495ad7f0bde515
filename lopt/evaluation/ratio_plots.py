"""The picture of the ratios that decide: every task by itself, and the geometric means over all."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lopt.evaluation.deciding import VALID_REFERENCES
from lopt.evaluation.ratios import MAX_RATIO
from lopt.evaluation.style import DPI, FAINT, PARTS, labels_of, styles
from lopt.figures import plain_text

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_OPTIMIZERS = 6  # more could not be told apart
MARKERS = "osD^vP"  # one each, to be told apart in grey
SPREAD = 0.55  # of the optimizers of a task, so that none hides another
MEANS = "all tasks, geometric mean"


def draw_ratios(content: Mapping[str, Any]) -> "Figure":
    """Where trainings end, over where tuned Adam ends: a row per task, a panel for training and one for validation.

    Adam itself, which is the line at 1, is left out.

    Args:
      content: what `summary.summarize` returns, with the ratios of the tuned protocol.
    """
    from matplotlib.figure import Figure

    means = {row["optimizer"]: row for row in content["deciding"]["tuned"]}
    shown, labels = _shown(content["optimizers"], means), labels_of(content["optimizers"])
    tasks = [(plain_text(task["name"]), _by_name(task["rows"])) for task in content["tasks"]]
    tasks = [(name, rows) for name, rows in tasks if _both(rows["learned"]) is not None]
    tasks.sort(key=lambda task: -(_both(task[1]["learned"]) or 0))
    names = [name for name, _ in tasks] + ([MEANS] if len(tasks) > 1 else [])
    figure = Figure(figsize=(11, 1.7 + 0.42 * len(names)), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (part, title) in zip(panels, PARTS.items(), strict=True):
        _frame(axes, names, title, mean_row=len(tasks) if len(tasks) > 1 else None)
        for i, name in enumerate(shown):
            ratios = [rows.get(name, {}).get(f"{part}_ratio") for _, rows in tasks]
            ratios += [means[name][part]] if len(tasks) > 1 else []
            numbers = [math.nan if x is None else float(x) for x in ratios]
            rows_at = [row + SPREAD * (0.5 - (i + 0.5) / len(shown)) for row in range(len(names))]
            axes.plot(numbers, rows_at, MARKERS[i], label=labels[name], **_look(name, content["optimizers"]))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), frameon=False, fontsize=9
    )
    return figure


def _shown(optimizers: Mapping[str, Mapping[str, str]], means: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was learned, then the best of the baselines; and Adam as nobody has tuned it."""
    learned = [name for name in means if optimizers[name]["kind"] == "learned"]
    others = [name for name in means if name not in (*learned, *VALID_REFERENCES, "untrained", "adam_default")]
    others.sort(key=lambda name: means[name]["both"])
    last = ["adam_default"] if "adam_default" in means else []
    return [*[*learned, *others][: MOST_OPTIMIZERS - len(last)], *last]


def _frame(axes: "Axes", names: Sequence[str], title: str, mean_row: int | None) -> None:
    axes.axvline(1, color=FAINT, linewidth=1.4, zorder=0)
    if mean_row is not None:
        axes.axhspan(mean_row - 0.5, mean_row + 0.5, color="#f1f1f1", zorder=-1)
    axes.set(xscale="log", xlim=(0.9 / MAX_RATIO, 1.1 * MAX_RATIO), ylim=(-0.6, len(names) - 0.4))
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("times that of tuned Adam (left is better)")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _look(name: str, optimizers: Mapping[str, Any]) -> dict[str, Any]:
    own = name == "learned"
    colour = styles(optimizers)[name].line["color"]
    return {
        "color": colour,
        "markersize": 8 if own else 5.5,
        "markerfacecolor": colour if own else "white",
        "markeredgewidth": 1.4,
        "zorder": 5 if own else 3,
        "clip_on": False,
    }


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["optimizer"]: row for row in rows}


def _both(row: Mapping[str, Any]) -> float | None:
    """Product of both ratios; None where there are none."""
    train, valid = row.get("train_ratio"), row.get("valid_ratio")
    return None if train is None or valid is None else float(train) * float(valid)
