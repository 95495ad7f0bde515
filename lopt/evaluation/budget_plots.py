"""Pictures of budgets: loss over the number of tuning trials, and performance profiles of the time to a target."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lopt.evaluation.style import DPI, FAINT, PARTS, labels_of, styles
from lopt.evaluation.targets import CLOCKS, MOST, TARGET
from lopt.evaluation.trials import COUNTS

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES, MOST_PROFILES = 8, 5  # baselines; more could not be told apart, and profiles cross often
TARGETS = {"steps": "in steps", "seconds": "in seconds"}
ALWAYS = ("adam", "adam_cosine", "adamw")  # baselines whose trials are always drawn


def draw_trials(trials: Mapping[str, Any], optimizers: Mapping[str, Mapping[str, str]]) -> "Figure":
    """Expected ratio to tuned Adam after the best of k random trials: a panel for training, and one for validation.

    Args:
      trials: what `trials.over_trials` returned.
      optimizers: by name, their labels.
    """
    figure, panels = _panels()
    labels = labels_of(optimizers)
    last = {name: sum(math.log(part["curves"][name][-1]) for part in trials.values()) for name in _names(trials)}
    shown = _shown(sorted(last, key=lambda name: last[name]), ALWAYS, MOST_LINES)
    most = max(len(curve) for part in trials.values() for curve in part["curves"].values())
    for axes, (key, part) in zip(panels, trials.items(), strict=True):
        own = styles(labels)
        flat = {**own["learned"].line, "zorder": 5}
        axes.axhline(part["learned"], label=f"{labels['learned']} (nothing to tune)", **flat)
        for name in shown:
            curve = part["curves"][name]
            mark = {"marker": "o", "markersize": 4} if len(curve) == 1 else {}
            axes.plot(range(1, len(curve) + 1), curve, label=labels[name], **own[name].line, **mark)
        axes.axhline(1, color=FAINT, linewidth=1, zorder=0)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="number of tuning trials\n(baselines on the seeds that they are tuned on)",
            title=PARTS[key],
        )
        axes.set_xlim(0.95, most * 1.05)
        axes.set_xticks(sorted({*(k for k in COUNTS if k < 0.8 * most), most}))
        axes.xaxis.set_major_formatter("{x:g}")
        _plain_ratios(axes)
    panels[0].set_ylabel("loss / that of tuned Adam")
    _finish(panels)
    return figure


def draw_targets(targets: Mapping[str, Any], optimizers: Mapping[str, Mapping[str, str]]) -> "Figure":
    """Share of tasks on which an optimizer is at the target within tau times the fastest: in steps and in seconds.

    Args:
      targets: what `targets.to_targets` returned.
      optimizers: by name, their labels.
    """
    figure, panels = _panels()
    labels = labels_of(optimizers)
    scores = {row["optimizer"]: row for row in targets["rows"]}
    ranked = sorted((x for x in scores if x != "learned"), key=lambda x: -scores[x]["steps"])
    shown = ["learned", *_shown(ranked, (TARGET,), MOST_PROFILES)]
    own, num_tasks = styles(labels), targets["rows"][0]["num_tasks"]
    for axes, clock in zip(panels, CLOCKS, strict=True):
        for i, name in enumerate(shown):
            ratios = np.sort([math.inf if x is None else float(x) for x in targets["ratios"][name][clock]])
            inside = ratios[ratios <= MOST]
            x = np.concatenate([[1.0], inside, [MOST]])
            y = np.concatenate([[0.0], np.arange(1, len(inside) + 1), [len(inside)]]) / num_tasks
            style = {**own[name].line, "zorder": 5 if name == "learned" else 3, "where": "post"}
            label = f"{labels[name]}: {scores[name]['steps']:.2f}, {scores[name]['seconds']:.2f}"
            axes.step(x, y + 0.004 * (i - len(shown) / 2), label=label, **style)  # apart, where lines coincide
        axes.set(xlim=(0.98, MOST), ylim=(-0.03, 1.05), title=TARGETS[clock])
        axes.set_xlabel("time to the target / that of the fastest")
    panels[0].set_ylabel("share of tasks")
    _finish(panels, "score in steps, in seconds")
    return figure


def _panels() -> tuple["Figure", Sequence["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=DPI, layout="constrained")
    return figure, figure.subplots(1, 2)


def _finish(panels: Sequence["Axes"], title: str | None = None) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(axes.get_title(), fontsize=11, loc="left")
        axes.set_title("")
    look = {"frameon": False, "fontsize": 9, "handlelength": 3.2, "title_fontsize": 9, "alignment": "left"}
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title=title, **look)


def _plain_ratios(axes: "Axes") -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _shown(ranked: Sequence[str], needed: Sequence[str], most: int) -> list[str]:
    """The best of them, and those that are needed."""
    always = [name for name in ranked if name in needed]
    others = [name for name in ranked if name not in needed][: most - len(always)]
    return [name for name in ranked if name in (*always, *others)]


def _names(trials: Mapping[str, Any]) -> list[str]:
    return list(next(iter(trials.values()))["curves"])
