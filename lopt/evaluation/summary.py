"""An evaluation as plain values and words: the content of summary.json, which the page and pictures are drawn from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lopt.evaluation.aggregate import (
    FEWEST_RUNS,
    caution,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
    profile,
)
from lopt.evaluation.deciding import PROTOCOLS, over_tasks, sentence
from lopt.evaluation.measures import LONG, moving_average, valid_steps
from lopt.evaluation.results import Entry, TaskResult
from lopt.evaluation.scores import TaskScores
from lopt.evaluation.targets import to_targets
from lopt.evaluation.trials import over_trials

Results = Mapping[str, TaskResult]  # by the task's name
Scores = Mapping[str, TaskScores]

SMOOTHING = 0.9  # decay of the moving average of a curve that is shown
POINTS = 200  # most points of such a curve
THRESHOLDS = np.geomspace(0.01, 10, 121)  # scores at which the performance profiles are given


def summarize(
    results: Results, scores: Scores, about: Mapping[str, Any], sweeps: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Everything that a report says, as numbers, texts, None for a value that does not exist, and "inf".

    Args:
      results: the runs, by the task's name.
      scores: the scores, by the task's name.
      about: what is known apart from the runs: `title`, `optimizer`, `command`, ...
      sweeps: what `sweeps.run_sweep` returned.
    """
    aggregate = _aggregate(scores)
    deciding = {
        protocol: over_tasks({name: task.deciding[protocol] for name, task in scores.items()}) for protocol in PROTOCOLS
    }
    return plain(
        {
            **about,
            "headline": headline(results, scores, aggregate, deciding),
            "caution": caution(len(next(iter(results.values())).seeds)),
            "optimizers": _optimizers(results),
            "tasks": [_task(name, results[name], scores[name]) for name in results],
            "deciding": deciding,
            "aggregate": aggregate,
            "profiles": _profiles(scores),
            "trials": over_trials(results),
            "targets": _targets(results, scores),
            "sweeps": list(sweeps),
            "failures": _failures(results, scores),
        }
    )


def plain(value: Any) -> Any:
    """The value as JSON can hold it: infinity becomes "inf", NaN, which stands for no value, None."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, str):  # a file's name may hold bytes that are no text
        return value.encode(errors="replace").decode()
    return value


def _task(name: str, result: TaskResult, scores: TaskScores) -> dict[str, Any]:
    return {
        "name": name,
        "num_params": result.num_params,
        "warnings": scores.warnings,
        "ratios": scores.ratios,
        "rows": [{"optimizer": optimizer, **row._asdict()} for optimizer, row in scores.rows.items()],
        "curves": {optimizer: _curve(entry) for optimizer, entry in result.entries.items()},
    }


def _curve(entry: Entry) -> dict[str, Any]:
    """Smoothed training losses, and under `valid` validation losses, of the rate with the lowest final loss."""
    runs = entry.chosen["final_loss"]
    steps = runs.loss.shape[-1]
    shown = np.unique(np.linspace(0, steps - 1, min(POINTS, steps)).round().astype(int))
    smoothed = moving_average(runs.loss, SMOOTHING)[..., shown]
    return {**_spread(shown + 1, smoothed), "valid": _spread(valid_steps(steps), runs.valid_losses)}


def _spread(steps: np.ndarray, loss: np.ndarray) -> dict[str, list[Any]]:
    """Median and range over the seeds, `[S, P]` -> `[P]` each; NaN where one is not finite."""
    parts = {"median": np.median(loss, axis=0), "low": loss.min(0), "high": loss.max(0)}
    curves = {part: np.where(np.isfinite(curve), curve, np.nan) for part, curve in parts.items()}
    return {"step": steps.tolist()} | {
        part: [float(f"{x:.5g}") for x in curve.tolist()] for part, curve in curves.items()
    }


def _optimizers(results: Results) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for result in results.values():
        for name, entry in result.entries.items():
            tuning = "none"
            if entry.tuned:
                seeds = f"{len(result.tuning_seeds)} tuning seeds"
                several = len(np.unique(entry.settings)) > 1
                what = f"{len(entry.rates)} trials, " * several + f"{len(np.unique(entry.rates))} learning rates"
                tuning = f"{what} from {entry.rates.min():.2g} to {entry.rates.max():.2g} on {seeds}, once per measure"
            found[name] = {"label": entry.label, "kind": entry.kind, "tuning": tuning}
    return found


def _aggregate(scores: Scores) -> list[dict[str, Any]]:
    """One row per optimizer, over the tasks on which scores are defined."""
    tables = _score_tables(scores)
    if not tables:
        return []
    defined = [name for name, task in scores.items() if len(task.run_scores["learned"])]
    rows = []
    for name, ours in tables.items():
        iqm = iqm_interval(ours)
        enough = min(map(len, ours)) >= FEWEST_RUNS
        better = probability_of_improvement(tables["learned"], ours) if enough and name != "learned" else None
        worst = int(np.argmin([x.mean() for x in ours]))
        speeds = {
            measure: [value for task in scores.values() if (value := getattr(task.rows[name], measure)) is not None]
            for measure in ("speed_up", "speed_up_envelope")
        }
        rows.append(
            {
                "optimizer": name,
                "iqm": iqm.estimate,
                "iqm_low": iqm.low,
                "iqm_high": iqm.high,
                "worst": float(ours[worst].mean()) if len(ours) > 1 else None,
                "worst_task": defined[worst] if len(ours) > 1 else None,
                "improvement": better and better.estimate,
                "improvement_low": better and better.low,
                "improvement_high": better and better.high,
                **{f"{key}_iqm": interquartile_mean([np.array(x)]) if x else None for key, x in speeds.items()},
                "diverged": sum(task.rows[name].diverged for task in scores.values()),
                "num_runs": sum(task.rows[name].num_runs for task in scores.values()),
            }
        )
    return rows


def _score_tables(scores: Scores) -> dict[str, list[np.ndarray]]:
    """The scores of the runs of each optimizer, one array per task."""
    defined = [task for task in scores.values() if len(task.run_scores["learned"])]
    return {name: [task.run_scores[name] for task in defined] for name in defined[0].run_scores} if defined else {}


def _profiles(scores: Scores) -> dict[str, list[float]]:
    found = {name: profile(table, THRESHOLDS).tolist() for name, table in _score_tables(scores).items()}
    return {"threshold": THRESHOLDS.tolist(), **found}


def _targets(results: Results, scores: Scores) -> dict[str, Any]:
    step_times = {task: {name: row.step_time for name, row in found.rows.items()} for task, found in scores.items()}
    return to_targets(results, step_times, valid_steps(next(iter(results.values())).horizon))


def _failures(results: Results, scores: Scores) -> list[str]:
    """Where the learned optimizer is worse than tuned Adam, diverged, or is used for what it was not trained for."""
    found = []
    for name, task in scores.items():
        learned, adam = task.rows["learned"], task.rows["adam"]
        label = results[name].entries["learned"].label
        if learned.diverged:
            found.append(f"{name}: {label} diverged on {learned.diverged} of {learned.num_runs} seeds")
        elif learned.final_loss > adam.final_loss:
            times = f", {learned.final_loss / adam.final_loss:.3g} times" if adam.final_loss > 0 else ""
            found.append(
                f"{name}: {label} has the final loss {learned.final_loss:.3g}{times} that of tuned Adam, "
                f"{adam.final_loss:.3g}"
            )
        found += [f"{name}: {warning}" for warning in results[name].warnings]
    return found


def headline(
    results: Results,
    scores: Scores,
    aggregate: Sequence[Mapping[str, Any]],
    deciding: Mapping[str, list[dict[str, Any]]],
) -> str:
    """The evaluation in a few sentences: on how many tasks it is better, by how much, where worst, how surely."""
    first = next(iter(results.values()))
    label = first.entries["learned"].label
    better = sum(task.rows["learned"].final_loss < task.rows["adam"].final_loss for task in scores.values())
    if len(results) > 1:
        text = f"has a lower final loss than tuned Adam on {better} of {len(results)} tasks"
    else:
        text = f"has {'a lower' if better else 'no lower'} final loss than tuned Adam"
    text = f"After {first.horizon:,} steps {label} {text}"
    against = "".join(f" {words}" for protocol, rows in deciding.items() if (words := sentence(rows, protocol)))
    if not aggregate:
        return f"{text}.{against}"
    ours = aggregate[0]
    low, high = ours["iqm_low"], ours["iqm_high"]
    interval = "" if math.isnan(low) else f" (95 % interval {low:.2f} to {high:.2f})"
    text += f": score {ours['iqm']:.2f}{interval}, where tuned Adam has 1.{against}"
    if ours["worst"] is not None:
        text += f" By score, its worst task is {ours['worst_task']}, with {ours['worst']:.2g}."
    bound = "at least " if ours["speed_up_iqm"] >= LONG else ""
    text += (
        f" Speed-up over the best single Adam {bound}{ours['speed_up_iqm']:.2f}, over its envelope "
        f"{ours['speed_up_envelope_iqm']:.2f}."
    )
    warning = caution(len(first.seeds))
    return f"{text} {warning}" if warning else text
