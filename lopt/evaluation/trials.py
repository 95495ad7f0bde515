"""How good a baseline is after k trials of its settings: the expected best of k drawn at random from its grid.

Of G trials with the ratios r_1 <= ... <= r_G, the best of k drawn without replacement is r_i with the probability
C(G - i, k - 1) / C(G, k). So the expectation over all subsets is exact, and nothing is drawn. Ratios are those of
`deciding`, on the tuning seeds, where every trial has runs; the choice is made on the same runs, which favours the
baselines. A learned rule has nothing to tune: its ratio, on the evaluation seeds, is the same for every k.

Jesse Dodge, Suchin Gururangan, Dallas Card, Roy Schwartz, Noah Smith, "Show your work: improved reporting of
experimental results", 2019 (arXiv 1909.03004), which draws with replacement.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.evaluation.deciding import TRAIN_REFERENCE, VALID_REFERENCES, ratios_of
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import Ratios, geometric_mean, log_ratios
from lopt.evaluation.results import Entry, TaskResult

COUNTS = (1, 2, 4, 8, 15)  # numbers of trials that the tables show
_PARTS = {"train": ("final_loss", (TRAIN_REFERENCE,)), "valid": ("valid_loss", VALID_REFERENCES)}


def expected_best(values: np.ndarray) -> np.ndarray:
    """Expected minimum of k of the values, drawn without replacement, for k = 1, ..., G: `[G]` -> `[G]`."""
    ranked, number = np.sort(values), len(values)
    weights = [
        [math.comb(number - i, k - 1) / math.comb(number, k) for i in range(1, number + 1)]
        for k in range(1, number + 1)
    ]
    return np.array(weights) @ ranked


def over_trials(results: Mapping[str, TaskResult]) -> dict[str, Any]:
    """For each of `Ratios`, the learned ratio, and curves over the number of trials; {} where there are no ratios.

    Args:
      results: by task; those without ratios are left out.

    Returns:
      For `train` and `valid`: `learned`, the geometric mean over the tasks; `curves`, for each tuned baseline a list of
      the geometric means after 1, 2, ... trials; `needed`, the least number of trials with which it is at most the
      learned ratio, None if that is more than there are.
    """
    tasks = [(result, ratios["learned"]) for result in results.values() if (ratios := ratios_of(result))]
    if not tasks:
        return {}
    names = [name for name, entry in tasks[0][0].entries.items() if entry.tuned]
    found = {}
    for part, (measure, references) in _PARTS.items():
        learned = geometric_mean(getattr(ratios, part) for _, ratios in tasks)
        curves = {
            name: np.exp(
                np.mean([_curve(result.entries, name, measure, references) for result, _ in tasks], axis=0)
            ).tolist()
            for name in names
        }
        needed = {
            name: next((k for k, value in enumerate(curve, start=1) if value <= learned), None)
            for name, curve in curves.items()
        }
        found[part] = {"learned": learned, "curves": curves, "needed": needed}
    assert found.keys() == set(Ratios._fields)
    return found


def _curve(entries: Mapping[str, Entry], name: str, measure: str, references: tuple[str, ...]) -> np.ndarray:
    """Expected log ratios after 1, ..., G trials, to the best trial of the references on the tuning seeds."""
    best = min(
        (MEASURES[measure](entries[other].tuning)[entries[other].best[measure]] for other in references),
        key=lambda losses: losses.mean(),
    )
    ratios = np.median(log_ratios(MEASURES[measure](entries[name].tuning), best), axis=-1)
    return expected_best(ratios)
