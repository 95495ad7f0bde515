"""The measures of all runs on one task, as rows, ratios, scores and warnings, in numpy.

A run has three measures: its mean loss, over all steps, its final loss, over the last 5 % of the steps, and its
validation loss at the end. A comparison uses the mean of a measure over the evaluation seeds. Baselines are tuned on
other seeds, once per measure. So a comparison of mean losses faces the trial with the lowest mean loss, and comparisons
of final losses and speed-ups face the trial with the lowest final loss: each comparison faces the strongest baseline
for its measure.

A baseline with a schedule is judged by its final loss alone, because its rate stays high until shortly before the end.
"""

import math
from typing import NamedTuple

import numpy as np

from lopt.evaluation.aggregate import run_scores
from lopt.evaluation.deciding import PROTOCOLS, ratios_of
from lopt.evaluation.measures import (
    LONG,
    MEASURES,
    diverged,
    envelope,
    final_loss,
    median_curve,
    speed_up,
    valid_curve,
    valid_steps,
)
from lopt.evaluation.ratios import Ratios
from lopt.evaluation.results import Entry, TaskResult

DEFAULT_RATE = 1e-3  # learning rate of the Adam that nobody has tuned


class Comparison(NamedTuple):
    """A quotient: a measure of the learned optimizer, divided by that of another entry.

    Attributes:
      measure: one of `MEASURES`.
      entry: the name of the other entry.
      other: what people call it.
    """

    measure: str
    entry: str
    other: str


COMPARISONS = {
    "adam_default": Comparison("mean_loss", "adam_default", f"Adam at {DEFAULT_RATE:g}"),
    "untrained": Comparison("mean_loss", "untrained", "itself untrained"),
    "best_adam_by_mean_loss": Comparison("mean_loss", "adam", "best Adam"),
    "best_adam_by_final_loss": Comparison("final_loss", "adam", "best Adam"),
}


class Row(NamedTuple):
    """One optimizer on one task, as means over the evaluation seeds; None for a value that does not exist.

    Attributes:
      rate_by_mean_loss: learning rate that was best by mean loss.
      rate_by_final_loss: learning rate that was best by final loss.
      rate_by_valid_loss: learning rate that was best by validation loss.
      settings: what else was best by final loss, in words.
      mean_loss: mean loss at its own rate; infinite if a run has diverged.
      final_loss: final loss at its own rate; infinite if a run has diverged.
      valid_loss: loss after the training at the rate of the final loss; infinite if a run has diverged.
      valid_accuracy: accuracy after the training at the same rate.
      lowest_valid_loss: the lowest that the mean over the seeds gets to during the training, at the same rate.
      lowest_valid_step: after how many steps it gets there.
      tuned_valid_loss: loss after the training at the rate of the validation loss; infinite if a run has diverged.
      train_ratio: final training loss over that of tuned Adam with a cosine schedule: see `deciding`.
      valid_ratio: validation loss over that of the best tuned Adam.
      speed_up: speed-up over the best single run of Adam: see `measures.speed_up`.
      speed_up_envelope: speed-up over Adam at whichever rate is lowest at each step: see `measures.envelope`.
      speed_up_is_lower_bound: whether Adam never got there.
      diverged: number of runs that diverged, at the rate of the final loss.
      num_runs: number of runs at that rate.
      flops_per_step: floating-point operations per training step.
      step_time: time of a training step over that of Adam in the same turn, median of the turns.
      step_time_low: the lowest of the turns.
      step_time_high: the highest of them.
      milliseconds_per_step: `step_time` times the milliseconds that Adam took in its own turns.
      score: mean of the scores of the runs.
    """

    rate_by_mean_loss: float | None
    rate_by_final_loss: float | None
    rate_by_valid_loss: float | None
    settings: str
    mean_loss: float | None
    final_loss: float
    valid_loss: float
    valid_accuracy: float | None
    lowest_valid_loss: float
    lowest_valid_step: int | None
    tuned_valid_loss: float
    train_ratio: float | None
    valid_ratio: float | None
    speed_up: float | None
    speed_up_envelope: float | None
    speed_up_is_lower_bound: bool
    diverged: int
    num_runs: int
    flops_per_step: float
    step_time: float
    step_time_low: float
    step_time_high: float
    milliseconds_per_step: float
    score: float | None


class TaskScores(NamedTuple):
    """What is said about one task.

    Attributes:
      ratios: the quotient of each of `COMPARISONS`; below 1 the learned optimizer is better.
      speed_up: the speed-up of the learned optimizer.
      rows: one row per entry, by its name.
      deciding: for each of `PROTOCOLS`, the ratios to tuned Adam by the name of the entry; {} where there are none.
      run_scores: the scores of the runs of each entry, by its name, `[S]`; empty where scores are not defined.
      warnings: what a reader of the numbers has to know.
    """

    ratios: dict[str, float]
    speed_up: float
    rows: dict[str, Row]
    deciding: dict[str, dict[str, Ratios]]
    run_scores: dict[str, np.ndarray]
    warnings: list[str]


def score_task(result: TaskResult) -> TaskScores:
    """All that is said about one task. Raises ValueError where an entry has arrays of other shapes than documented."""
    result.check()
    adam = result.entries["adam"]
    assert adam.long is not None
    references = median_curve(adam.long.loss), envelope(adam.tuning.loss, adam.long.loss)
    scores = _run_scores(result.entries)
    deciding = {protocol: ratios_of(result, protocol) for protocol in PROTOCOLS}
    adam_seconds = float(np.median(adam.step_seconds[:, 0]))
    rows = {
        name: _row(entry, references, scores[name], deciding["tuned"].get(name), adam_seconds)
        for name, entry in result.entries.items()
    }
    ratios = {}
    for name, row in COMPARISONS.items():
        ours, theirs = (_mean(result.entries[entry], row.measure) for entry in ("learned", row.entry))
        ratios[name] = ours / theirs if np.isfinite(ours) and theirs else np.inf  # infinity / infinity is no success
    learned = rows["learned"].speed_up
    assert learned is not None
    return TaskScores(ratios, learned, rows, deciding, scores, [*result.warnings, *_warnings(result)])


def _mean(entry: Entry, measure: str) -> float:
    return float(MEASURES[measure](entry.chosen[measure]).mean())


def _run_scores(entries: dict[str, Entry]) -> dict[str, np.ndarray]:
    """The scores of all runs. There are none where a loss is not above 0: a quotient of losses says nothing there."""
    losses = {name: final_loss(entry.chosen["final_loss"].loss) for name, entry in entries.items()}
    reference = float(np.median(losses["adam"]))  # a mean follows the worst run: no run of Adam's would score about 1
    if reference <= 0 or any((loss <= 0).any() for loss in losses.values()):
        return dict.fromkeys(losses, np.empty(0))
    return {name: run_scores(loss, reference) for name, loss in losses.items()}


def _row(
    entry: Entry,
    references: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray,
    ratios: Ratios | None,
    adam_seconds: float,
) -> Row:
    runs = entry.chosen["final_loss"]
    lost = diverged(runs.loss)
    scheduled = entry.kind == "scheduled"
    rates = {measure: _or_none(float(entry.rates[index])) for measure, index in entry.best.items()}
    valid = valid_curve(runs).mean(0, dtype=float)
    turns = entry.step_seconds[:, 0] / entry.step_seconds[:, 1]
    lowest = int(np.argmin(valid))
    speeds = [None if scheduled else speed_up(runs.loss, reference) for reference in references]
    return Row(
        rate_by_mean_loss=None if scheduled else rates["mean_loss"],
        rate_by_final_loss=rates["final_loss"],
        rate_by_valid_loss=rates["valid_loss"],
        settings=str(entry.settings[entry.best["final_loss"]]),
        mean_loss=None if scheduled else _mean(entry, "mean_loss"),
        final_loss=_mean(entry, "final_loss"),
        valid_loss=float(valid[-1]),
        valid_accuracy=_or_none(float(runs.valid_accuracy.mean(dtype=float))),
        lowest_valid_loss=float(valid[lowest]),
        lowest_valid_step=int(valid_steps(runs.loss.shape[-1])[lowest]) if np.isfinite(valid[lowest]) else None,
        tuned_valid_loss=_mean(entry, "valid_loss"),
        train_ratio=ratios and ratios.train,
        valid_ratio=ratios and ratios.valid,
        speed_up=speeds[0],
        speed_up_envelope=speeds[1],
        speed_up_is_lower_bound=speeds[0] is not None and speeds[0] >= LONG,
        diverged=int(lost.sum()),
        num_runs=len(lost),
        flops_per_step=entry.flops_per_step,
        step_time=float(np.median(turns)),
        step_time_low=float(turns.min()),
        step_time_high=float(turns.max()),
        milliseconds_per_step=1000 * float(np.median(turns)) * adam_seconds,
        score=float(scores.mean()) if len(scores) else None,
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _warnings(result: TaskResult) -> list[str]:
    warnings = []
    for entry in result.entries.values():
        read = [x for x in MEASURES if entry.tuned and not (x == "mean_loss" and entry.kind == "scheduled")]
        for index in dict.fromkeys(entry.best[measure] for measure in read):
            measures = [measure for measure in read if entry.best[measure] == index]
            words = " and ".join(measure.replace("_", " ") for measure in measures)
            if not all(np.isfinite(MEASURES[measure](entry.tuning)[index].mean()) for measure in measures):
                warnings.append(f"{entry.label} diverges at every learning rate: there is no best one by {words}")
            elif entry.rates[index] in (entry.rates.min(), entry.rates.max()):
                at = f"{entry.rates[index]:.2g}"
                warnings.append(f"the best rate of {entry.label} by {words}, {at}, is at the edge of the grid")
        # By rate, so that a rate that is best by both measures is told once.
        for index, measure in {index: measure for measure, index in entry.best.items()}.items():
            if count := int(diverged(entry.chosen[measure].loss).sum()):
                at = f" at {entry.rates[index]:.2g}" if entry.tuned else ""
                seeds = f"{count} of {len(result.seeds)} seeds"
                warnings.append(f"{entry.label}{at} diverged on {seeds}: its losses count as infinite")
    return warnings
