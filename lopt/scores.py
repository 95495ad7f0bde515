"""What is read off the curves of an evaluation: numpy only. No run is left out: one that diverged costs infinity.

The measures of one run: its mean loss, over all steps, and its final loss, over the last 5 % of the steps. A comparison
uses their mean over the evaluation seeds. Adam's learning rate is tuned on other seeds, and for each measure on its
own: comparisons of mean loss face the rate with the lowest mean loss; the comparison of final loss and the speed-up
face the rate with the lowest final loss. So each comparison faces the strongest Adam for that measure.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

FINAL_SHARE = 0.05  # of the steps, for the final loss
SPEED_UP_DECAY = 0.95  # of the moving average of Adam's curve
LONG = 4  # Adam is given this many times the horizon to catch up: the speed-up that is counted if it never does
DEFAULT_RATE = 1e-3  # Adam's, where nobody tunes it


class Curves(NamedTuple):
    """Runs of one optimizer; `...` is the seeds, or learning rates and seeds.

    Attributes:
      loss: training loss at every step, before the update, in the task's unit, `[..., num_steps]`.
      valid_loss: after the training, on the split `valid`, `[...]`.
      valid_accuracy: the same; NaN for a task that has none, `[...]`.
    """

    loss: Any  # numpy arrays; within `lopt.evaluate`, JAX arrays
    valid_loss: Any
    valid_accuracy: Any


class TaskCurves(NamedTuple):
    """All runs on one task: G learning rates, S evaluation seeds and S tuning seeds, T steps.

    Attributes:
      num_params: number of inner parameters.
      learning_rates: of Adam, rising, `[G]`.
      seeds, tuning_seeds: of the runs; `adam_tuning` has the latter, all others the former, `[S]`.
      learned, untrained: the rule with its trained and with its initial theta, losses `[S, T]`.
      adam_default: Adam at `DEFAULT_RATE`, `[S, T]`.
      adam_grid, adam_tuning: Adam at each rate, `[G, S, T]`.
      adam_long: Adam at the rate of the lowest final loss, `[S, LONG * T]`.
    """

    num_params: int
    learning_rates: np.ndarray
    seeds: np.ndarray
    tuning_seeds: np.ndarray
    learned: Curves
    untrained: Curves
    adam_default: Curves
    adam_grid: Curves
    adam_tuning: Curves
    adam_long: Curves

    def at_rate(self, index: int) -> Curves:
        """Adam at one rate of the grid, evaluation seeds."""
        return Curves(*(array[index] for array in self.adam_grid))


class Comparison(NamedTuple):
    """Ours over theirs, of a measure. `wanted`: what passes, at most; `aim`: what is hoped for."""

    measure: str
    other: str
    wanted: float | None = None
    aim: float | None = None


COMPARISONS = {
    "adam_default": Comparison("mean_loss", f"Adam at {DEFAULT_RATE:g}", 0.5),
    "untrained": Comparison("mean_loss", "untrained rule", 0.5),
    "best_adam_by_mean_loss": Comparison("mean_loss", "best Adam", 3.0, aim=1.5),
    "best_adam_by_final_loss": Comparison("final_loss", "best Adam"),
}


class TaskScores(NamedTuple):
    """What is said about one task.

    Attributes:
      ratios: for each of `COMPARISONS`; below 1 the learned optimizer is better.
      speed_up: see `speed_up`.
      best: index of the learning rate that is best by each of `MEASURES`.
      warnings: what a reader of the numbers has to know.
    """

    ratios: dict[str, float]
    speed_up: float
    best: dict[str, int]
    warnings: list[str]


def diverged(loss: np.ndarray) -> np.ndarray:
    """Whether any loss of the run is not finite: `[..., T]` -> bool `[...]`."""
    return np.logical_not(np.isfinite(loss).all(-1))


def mean_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over all steps; infinite for a diverged run: `[..., T]` -> `[...]`."""
    mean = np.where(np.isfinite(loss), loss, 0).mean(-1, dtype=np.float64)
    return np.where(diverged(loss), np.inf, mean)


def final_loss(loss: np.ndarray) -> np.ndarray:
    """Mean over the last 5 % of the steps, at least one; infinite for a diverged run: `[..., T]` -> `[...]`."""
    last = max(1, int(FINAL_SHARE * loss.shape[-1]))
    return np.where(diverged(loss), np.inf, mean_loss(loss[..., -last:]))


MEASURES = {"mean_loss": mean_loss, "final_loss": final_loss}


def moving_average(loss: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average over the steps, bias-corrected as Adam's: m_t / (1 - decay^t).

    It is infinite from the first loss on that is not finite.
    """
    average = np.empty(loss.shape, np.float64)
    m = np.zeros(loss.shape[:-1])
    for t, x in enumerate(np.moveaxis(np.where(np.isfinite(loss), loss, np.inf), -1, 0)):
        m = decay * m + (1 - decay) * x
        average[..., t] = m / (1 - decay ** (t + 1))
    return average


def best_rate(tuning_loss: np.ndarray, measure: str) -> int:
    """Index of the learning rate with the lowest mean over the seeds of a measure; losses are `[G, S, T]`."""
    return int(np.argmin(MEASURES[measure](tuning_loss).mean(1)))


def speed_up(learned_loss: np.ndarray, adam_loss: np.ndarray) -> float:
    """The steps that Adam needs to get to where the learned optimizer is after T steps, divided by T.

    The target is the median over seeds of the learned optimizer's final loss. Adam's curve is the running minimum of
    the median over seeds of its moving average. The first step counts at which it is at most the target: above 1, the
    learned optimizer is faster. 4 if Adam never gets there; 0 if any run of the learned optimizer has diverged.

    Both lag behind the losses that they average: Adam's curve by 19 steps, the final loss by T / 40. On a straight
    curve Adam against itself therefore has 1 + 19.5 / T - 1 / 40: 1.014 for T = 500, 1 for T = 780.

    Args:
      learned_loss: `[S, T]`.
      adam_loss: `[S, LONG * T]`.
    """
    if diverged(learned_loss).any():
        return 0.0
    target = np.median(final_loss(learned_loss))
    curve = np.minimum.accumulate(np.median(moving_average(adam_loss, SPEED_UP_DECAY), axis=0))
    reached = np.flatnonzero(curve <= target)
    return float((reached[0] + 1) / learned_loss.shape[-1]) if reached.size else float(LONG)


def score_task(curves: TaskCurves) -> TaskScores:
    """All that is said about one task."""
    best = {measure: best_rate(curves.adam_tuning.loss, measure) for measure in MEASURES}
    others = {
        "adam_default": curves.adam_default,
        "untrained": curves.untrained,
        **{f"best_adam_by_{measure}": curves.at_rate(index) for measure, index in best.items()},
    }
    ratios = {}
    for name, other in others.items():
        measure = MEASURES[COMPARISONS[name].measure]
        ours, theirs = (float(measure(runs.loss).mean()) for runs in (curves.learned, other))
        ratios[name] = ours / theirs if np.isfinite(ours) and theirs else np.inf  # infinity / infinity is no success
    return TaskScores(ratios, speed_up(curves.learned.loss, curves.adam_long.loss), best, _warnings(curves, best))


def _warnings(curves: TaskCurves, best: dict[str, int]) -> list[str]:
    rates, warnings = curves.learning_rates, []
    for measure, index in best.items():
        words = measure.replace("_", " ")
        if not np.isfinite(MEASURES[measure](curves.adam_tuning.loss[index]).mean()):
            warnings.append(f"Adam diverges at every learning rate: there is no best one by {words}")
        elif index in (0, len(rates) - 1):
            warnings.append(f"the best rate of Adam by {words}, {rates[index]:.2g}, is at the edge of the grid")
    # By name, so that one rate that is best by both measures is told once.
    for name, runs in dict(_contestants(curves, best)).items():
        if count := int(diverged(runs.loss).sum()):
            warnings.append(f"{name} diverged on {count} of {len(curves.seeds)} seeds: its losses count as infinite")
    return warnings


def _contestants(curves: TaskCurves, best: dict[str, int]) -> Iterator[tuple[str, Curves]]:
    yield "learned optimizer", curves.learned
    yield "untrained rule", curves.untrained
    yield f"Adam at {DEFAULT_RATE:g}", curves.adam_default
    for index in best.values():
        yield f"Adam at {curves.learning_rates[index]:.2g}", curves.at_rate(index)


def summary(curves: TaskCurves, scores: TaskScores) -> dict[str, Any]:
    """The scores as plain values, `inf` included, and the means over seeds that they come from."""
    return {
        "num_params": curves.num_params,
        "ratios": scores.ratios,
        "passed": {name: scores.ratios[name] <= row.wanted for name, row in COMPARISONS.items() if row.wanted},
        "speed_up": scores.speed_up,
        "speed_up_is_lower_bound": scores.speed_up >= LONG,
        "adam_rate_by": {measure: float(curves.learning_rates[i]) for measure, i in scores.best.items()},
        "optimizers": {name: _means(runs) for name, runs in _contestants(curves, scores.best)},
        "warnings": scores.warnings,
    }


def _means(runs: Curves) -> dict[str, float]:
    means = {measure: float(function(runs.loss).mean()) for measure, function in MEASURES.items()}
    after = {"valid_loss": runs.valid_loss, "valid_accuracy": runs.valid_accuracy}
    return means | {name: float(x.mean()) for name, x in after.items()} | {"diverged": int(diverged(runs.loss).sum())}


def table(task: str, curves: TaskCurves, scores: TaskScores) -> str:
    """The scores of one task for a person to read."""
    seeds, steps = curves.learned.loss.shape
    lines = [f"{task}: {curves.num_params:,} parameters, {steps} steps, mean of {seeds} seeds"]
    lines.append(f"  {'':34}{'mean loss':>12}{'final loss':>12}{'valid loss':>12}{'accuracy':>10}{'diverged':>10}")
    labels = ["", "", ""] + [f" (best by {measure.replace('_', ' ')})" for measure in scores.best]
    for (name, runs), label in zip(_contestants(curves, scores.best), labels, strict=True):
        means = _means(runs)
        accuracy = f"{means['valid_accuracy']:.1%}" if np.isfinite(means["valid_accuracy"]) else "-"
        losses = "".join(f"{means[column]:12.4g}" for column in ("mean_loss", "final_loss", "valid_loss"))
        lines.append(f"  {name + label:34}{losses}{accuracy:>10}{means['diverged']:>10}")
    for name, row in COMPARISONS.items():
        ratio, verdict, what = scores.ratios[name], "", f"learned / {row.other}, {row.measure.replace('_', ' ')}"
        if row.wanted is not None:
            aim = f", aim {row.aim:g}" if row.aim else ""
            verdict = f"  {'yes' if ratio <= row.wanted else 'NO'} (wanted: at most {row.wanted:g}{aim})"
        lines.append(f"  {what:46}{ratio:8.3g}{verdict}")
    speed = f"{'>= ' if scores.speed_up >= LONG else ''}{scores.speed_up:.3g}"
    lines.append(f"  {'speed-up over best Adam (by final loss)':46}{speed:>8}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in scores.warnings)])
