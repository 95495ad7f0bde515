"""The picture of one or several meta-training runs, from the columns of their metrics.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lopt.estimators.pairs import THIRDS
from lopt.meta_training.panels import COLUMNS, UNNAMED, Line, Panel, draw

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure

History = Mapping[str, np.ndarray]  # arrays `[rows]` by name, NaN where a row has no such number

SMOOTHING = 0.05  # of a run's outer steps, for the running means
MOST_FAMILIES = 9  # that get a panel each
MOST_TRACES = 2  # runs for which the numbers of each outer step are drawn behind their running mean
LOSS = "meta-loss (1: trivial predictor)"
SCORE = "score (1: Adam; lower is better)"
NOISE = "|g|² / variance (1: noise alone)"


def plot_runs(histories: Mapping[str, History], below: Sequence[str] = ()) -> "Figure":
    """Meta-loss, validation scores, thirds of the trajectories, signal to noise, relative updates, and families.

    Lines are running means over 5 % of the run. What no run has numbers of is left out, as are more than
    `MOST_FAMILIES` families. With one run, the parts of theta and of the validation score are lines of their own.

    Args:
      histories: the columns of each run's metrics.jsonl, by the name to be shown.
      below: lines of text below the panels.
    """
    name = next(iter(histories)) if len(histories) == 1 else None
    return draw(list(panels_of(histories)), "outer step", title=name, below=below)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place, of fewer at the start; NaN counts as absent."""
    seen = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(seen, values, 0))])
    counts = np.concatenate([[0], np.cumsum(seen)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    number = counts[ends] - counts[starts]
    return np.where(number > 0, (sums[ends] - sums[starts]) / np.maximum(number, 1), np.nan)


def panels_of(histories: Mapping[str, History]) -> Iterator[list[Panel]]:
    """What `plot_runs` draws, row by row. A run without any numbers keeps its colour and has no line."""
    validation = _validation(histories)
    top = Panel("meta-loss, running mean", LOSS, _lines(histories, "meta_loss"), COLUMNS - 2 * bool(validation))
    yield [top, *validation]
    for titles in (
        {name: name.removeprefix("meta_loss_").replace("_", " ") + " of the trajectory" for name in THIRDS},
        _family_titles(histories),
    ):
        alike = THIRDS[0] in titles
        panels = [Panel(title, LOSS, _lines(histories, name), alike=alike) for name, title in titles.items()]
        panels = [panel for panel in panels if panel.lines]
        yield from (panels[i : i + COLUMNS // 2] for i in range(0, len(panels), COLUMNS // 2))
        if alike and (steering := _steering(histories)):
            yield steering


def _validation(histories: Mapping[str, History]) -> list[Panel]:
    lines = _lines(histories, "valid_score", smooth=False)
    if len(histories) > 1 or not lines:
        panel = Panel("validation score", SCORE, lines, reference=1.0)
        return [panel] if lines else []
    (history,) = histories.values()
    parts = [name for name in ("valid_train", "valid_valid", "valid_ema_score") if name in history]
    tasks = [name for name in history if name.startswith("valid/")]
    lines = [line._replace(label="valid_score") for line in lines]
    for i, name in enumerate(parts, 1):
        lines += [line._replace(label=name, place=i, width=1.3, marked=False) for line in _of(history, name)]
    for i, name in enumerate(tasks):
        label = "one task each" if i == 0 else UNNAMED
        lines += [line._replace(label=label, place=None, marked=False) for line in _of(history, name)]
    return [Panel("validation", SCORE, lines, reference=1.0, legend=True)]


def _of(history: History, name: str) -> list[Line]:
    return _lines({name: history}, name, smooth=False)


def _steering(histories: Mapping[str, History]) -> list[Panel]:
    """Signal to noise, and update over theta; each where there are numbers of it."""
    panels = []
    ratios = []
    for i, (name, history) in enumerate(histories.items()):
        if "grad_variance" in history:
            window = _window(history)
            signal = running_mean(history["grad_norm"] ** 2, window)  # a ratio of means: single ratios are too wild
            noise = running_mean(history["grad_variance"], window)
            ratio = np.divide(signal, noise, out=np.full_like(signal, np.nan), where=noise > 0)
            ratios += _finite(name, history["step"], ratio, i)
    if ratios:
        panels.append(Panel("signal to noise of the meta-gradient", NOISE, ratios, 3, reference=1.0))
    title, prefix = "size of the update, by part of theta", "update_over_theta/"
    if len(histories) == 1:
        (history,) = histories.values()
        parts = [name for name in history if name.startswith(prefix)]
        lines = [
            line._replace(label=part.removeprefix(prefix), place=i, width=1.3, trace=None)
            for i, part in enumerate(parts)
            for line in _lines({part: history}, part)
        ]
    else:
        title = "size of the update, median of the parts of theta"
        medians = {}
        for name, history in histories.items():
            parts = [values for part, values in history.items() if part.startswith(prefix)]
            medians[name] = {**history, title: np.median(parts, axis=0)} if parts else {}
        lines = _lines(medians, title)
    if lines:
        panels.append(Panel(title, "|update| / |theta|", lines, 3, legend=len(histories) == 1))
    return [panel._replace(columns=COLUMNS // len(panels)) for panel in panels]


def _family_titles(histories: Mapping[str, History]) -> dict[str, str]:
    """Columns and titles of the families of all runs; none where there is one family, or more than get a panel."""
    names = dict.fromkeys(name for h in histories.values() for name in h if name.startswith("meta_loss/"))
    if not 1 < len(names) <= MOST_FAMILIES:
        return {}
    return {name: name.removeprefix("meta_loss/") for name in names}


def _lines(histories: Mapping[str, History], name: str, *, smooth: bool = True) -> list[Line]:
    """One line for each run that has numbers of this name."""
    lines = []
    for i, (label, history) in enumerate(histories.items()):
        if name not in history:
            continue
        values = history[name]
        if not smooth:
            lines += [line._replace(marked=True) for line in _finite(label, history["step"], values, i)]
            continue
        trace = values if len(histories) <= MOST_TRACES else None
        lines += _finite(label, history["step"], running_mean(values, _window(history)), i, trace)
    return lines


def _finite(
    label: str, steps: np.ndarray, values: np.ndarray, place: int, trace: np.ndarray | None = None
) -> list[Line]:
    seen = np.isfinite(values)
    if not seen.any():
        return []
    return [Line(label, steps[seen], values[seen], place, trace=None if trace is None else trace[seen])]


def _window(history: History) -> int:
    return round(SMOOTHING * len(history["step"])) + 1
