"""Histograms of theta and of its changes, part by part, now and then along a run."""

import numpy as np

from lopt.tracking import Histogram
from lopt.trees import by_name
from lopt.types import Theta

BINS = 64
MOST = 100  # in a run


class Histograms:
    """How the numbers of theta are spread, by its top-level keys as in `update_over_theta`.

    Args:
      total: outer steps of the whole run; there is a histogram for about every hundredth of them.
      step: outer steps done.
      theta: theta at that step.
    """

    def __init__(self, total: int, step: int, theta: Theta):
        self._every = max(1, total // MOST)
        self._step, self._parts = step, _parts(theta)

    def row(self, step: int, theta: Theta) -> dict[str, Histogram]:
        """`theta/PART`, and `update/PART`, the change since the histogram before; nothing where none is due.

        Args:
          step: outer steps done.
          theta: theta at that step.
        """
        if step // self._every == self._step // self._every:
            return {}
        before, self._step, self._parts = self._parts, step, _parts(theta)
        spread = {f"theta/{name}": _histogram(values) for name, values in self._parts.items()}
        with np.errstate(invalid="ignore"):  # infinite minus infinite
            moved = {f"update/{name}": _histogram(values - before[name]) for name, values in self._parts.items()}
        return spread | moved


def _parts(theta: Theta) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for name, values in by_name(theta).items():
        parts.setdefault(name.partition("/")[0] or "theta", []).append(np.asarray(values, np.float64).ravel())
    return {part: np.concatenate(pieces) for part, pieces in parts.items()}


def _histogram(values: np.ndarray) -> Histogram:
    """The histogram of those values that are finite. A run checks by itself whether its theta is."""
    return Histogram(*np.histogram(values[np.isfinite(values)], bins=BINS))
