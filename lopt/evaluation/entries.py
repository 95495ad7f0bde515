"""What an evaluation is made of: the runs of one optimizer on one task; and the same as named arrays, for npz files."""

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lopt.evaluation.measures import MEASURES, best_rate
from lopt.names import InputError

KINDS = ("learned", "untuned", "constant", "scheduled")
PLAIN = ("label", "kind", "rates", "flops_per_step", "seconds_per_step")


class Curves(NamedTuple):
    """Runs of one optimizer; `...` is the seeds, or learning rates and seeds.

    Attributes:
      loss: training loss at every step, before the update, in the task's unit, `[..., num_steps]`.
      valid_loss: after the training, on the split that was asked for, `[...]`.
      valid_accuracy: the same; NaN for a task that has none, `[...]`.
    """

    loss: Any  # numpy arrays; within `lopt.evaluation.runs`, JAX arrays
    valid_loss: Any
    valid_accuracy: Any


class Entry(NamedTuple):
    """One optimizer on one task: G rates, S seeds, T steps.

    Attributes:
      label: for people.
      kind: of `KINDS`.
      rates: the learning rates, rising, `[G]`; NaN for a learned rule, which has none.
      tuning: at each rate on the tuning seeds, losses `[G, S, T]`; `[0, S, T]` for what is not tuned.
      chosen: for each of `MEASURES`, the rate that is best by it, on the evaluation seeds, losses `[S, T]`.
      long: at the rate of the lowest final loss, `[S, LONG * T]`; of the reference only.
      flops_per_step: of one step of the training, by XLA's count before it optimizes the program.
      seconds_per_step: measured while the runs were made, compilation left out, on one device, runs one at a time.
    """

    label: str
    kind: str
    rates: np.ndarray
    tuning: Curves
    chosen: dict[str, Curves]
    long: Curves | None
    flops_per_step: float
    seconds_per_step: float

    @property
    def tuned(self) -> bool:
        """Whether there was a choice of rates."""
        return len(self.tuning.loss) > 0

    @property
    def best(self) -> dict[str, int]:
        """Index of the rate that is best by each of `MEASURES` on the tuning seeds; 0 for what is not tuned."""
        return {measure: best_rate(self.tuning.loss, measure) if self.tuned else 0 for measure in MEASURES}


class TaskResult(NamedTuple):
    """All runs on one task.

    Attributes:
      num_params: number of inner parameters.
      horizon: T.
      seeds, tuning_seeds: of the runs, `[S]`.
      warnings: what was known before the runs.
      entries: by name: `learned`, `untrained` (the same rule with its initial theta), `adam_default` (Adam at
        `DEFAULT_RATE`), `adam`, which is the reference; then other baselines and other learned optimizers.
    """

    num_params: int
    horizon: int
    seeds: np.ndarray
    tuning_seeds: np.ndarray
    warnings: tuple[str, ...]
    entries: dict[str, Entry]


def entry_arrays(entry: Entry) -> dict[str, np.ndarray]:
    """`FIELD`, `tuning.ARRAY`, `chosen.MEASURE.ARRAY`, `long.ARRAY`; `chosen` once if both rates are one."""
    arrays = {name: np.asarray(getattr(entry, name)) for name in PLAIN} | _curves_arrays("tuning", entry.tuning)
    same = len(set(entry.best.values())) == 1
    for measure, curves in entry.chosen.items():
        if not same or measure == "final_loss":
            arrays |= _curves_arrays(f"chosen.{measure}", curves)
    return arrays | (_curves_arrays("long", entry.long) if entry.long else {})


def entry_of(arrays: Mapping[str, np.ndarray]) -> Entry:
    """The inverse of `entry_arrays`. Raises KeyError or ValueError if something is missing or of another shape."""
    plain: dict[str, Any] = {name: arrays[name] if name == "rates" else arrays[name].item() for name in PLAIN}
    final = _curves_of(arrays, "chosen.final_loss")
    chosen = {
        measure: _curves_of(arrays, f"chosen.{measure}") if f"chosen.{measure}.loss" in arrays else final
        for measure in MEASURES
    }
    entry = Entry(
        tuning=_curves_of(arrays, "tuning"),
        chosen=chosen,
        long=_curves_of(arrays, "long") if "long.loss" in arrays else None,
        **plain,
    )
    if entry.tuning.loss.shape[1:] != final.loss.shape or len(entry.tuning.loss) not in (0, len(entry.rates)):
        raise ValueError(f"losses of the shapes {entry.tuning.loss.shape} and {final.loss.shape}")
    return entry


def pack(arrays: Mapping[str, Any]) -> bytes:
    """An npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises InputError if it is damaged."""
    try:
        # Opened here, as numpy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            return dict(members)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error}") from error


def _curves_arrays(name: str, curves: Curves) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": np.asarray(array) for part, array in curves._asdict().items()}


def _curves_of(arrays: Mapping[str, np.ndarray], name: str) -> Curves:
    return Curves(*(arrays[f"{name}.{part}"] for part in Curves._fields))
