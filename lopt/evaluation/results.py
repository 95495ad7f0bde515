"""What an evaluation finds: the runs of one optimizer on one task, and of all; and the same as arrays by name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lopt.evaluation.measures import LONG, MEASURES, VALID_POINTS

KINDS = ("learned", "untuned", "constant", "scheduled")
PLAIN = ("label", "kind", "flops_per_step")
ARRAYS = ("rates", "settings", "step_seconds")


class Curves(NamedTuple):
    """Runs of one optimizer; `...` stands for the seeds, or for learning rates and seeds.

    Attributes:
      loss: training loss at every step, before the update, in the task's unit, `[..., num_steps]`.
      valid_losses: losses on the split that was asked for, after `measures.valid_steps` steps; NaN where they were not
        measured, `[..., VALID_POINTS]`.
      valid_accuracy: accuracy after the training, on the same split; NaN for a task that has none, `[...]`.
    """

    loss: Any  # numpy arrays; within `lopt.evaluation.runs`, JAX arrays
    valid_losses: Any
    valid_accuracy: Any

    @property
    def valid_loss(self) -> Any:
        """Loss after the training, on the split that was asked for, `[...]`."""
        return self.valid_losses[..., -1]


class Entry(NamedTuple):
    """One optimizer on one task, with G trials of its settings, S seeds and T steps.

    Attributes:
      label: the name that people read.
      kind: one of `KINDS`.
      rates: the learning rate of each trial, `[G]`; NaN for a learned rule, which has none.
      settings: what else differs between the trials, in words, `[G]`; "" where only the rate does.
      tuning: the runs of each trial on the tuning seeds, losses `[G, S, T]`; `[0, S, T]` for what is not tuned.
      best: for each of `MEASURES`, the index of the trial that was best by it on the tuning seeds; 0 for what is not
        tuned.
      chosen: for each of `MEASURES`, the runs of that trial on the evaluation seeds, losses `[S, T]`.
      long: the runs of the trial with the lowest final loss over `LONG` horizons, `[S, LONG * T]`; the reference alone
        has them.
      flops_per_step: floating-point operations of one training step, by XLA's count before it optimizes the program.
      step_seconds: time of one step of one run on one device, all devices being busy, without compilation: of this
        optimizer, and of Adam, which took turns with it, `[TURNS, 2]`.
    """

    label: str
    kind: str
    rates: np.ndarray
    settings: np.ndarray
    tuning: Curves
    best: dict[str, int]
    chosen: dict[str, Curves]
    long: Curves | None
    flops_per_step: float
    step_seconds: np.ndarray

    @property
    def tuned(self) -> bool:
        """Whether there was a choice of trials."""
        return len(self.tuning.loss) > 0

    def check(self) -> None:
        """Raises ValueError unless all arrays have the shapes that are documented above."""
        num_seeds, num_steps = self.chosen["final_loss"].loss.shape
        wanted = {"tuning": (len(self.rates) if self.tuned else 0, num_seeds, num_steps)}
        wanted |= dict.fromkeys(MEASURES, (num_seeds, num_steps)) | {"long": (num_seeds, LONG * num_steps)}
        for name, curves in {"tuning": self.tuning, "long": self.long, **self.chosen}.items():
            shapes = [] if curves is None else [np.shape(array) for array in curves]
            runs = wanted[name][:-1]
            if shapes and shapes != [wanted[name], (*runs, VALID_POINTS), runs]:
                raise ValueError(f"{self.label}: {name} has the shapes {shapes}, and losses must be {wanted[name]}")
        if self.best.keys() != MEASURES.keys() or not all(0 <= i < len(self.rates) for i in self.best.values()):
            raise ValueError(f"{self.label}: {self.best} are no indices of {len(self.rates)} trials")
        shapes = np.shape(self.settings), np.shape(self.step_seconds)[1:]
        if shapes != ((len(self.rates),), (2,)) or not len(self.step_seconds):
            raise ValueError(f"{self.label}: settings and step times have the shapes {shapes}")


class TaskResult(NamedTuple):
    """All runs on one task.

    Attributes:
      num_params: number of inner parameters.
      horizon: T, the steps of a training.
      seeds: the evaluation seeds, `[S]`.
      tuning_seeds: the tuning seeds, `[S]`.
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

    def check(self) -> None:
        """Raises ValueError unless every entry has this horizon and these seeds, and arrays of documented shapes."""
        for entry in self.entries.values():
            entry.check()
            shape = entry.chosen["final_loss"].loss.shape
            if shape != (len(self.seeds), self.horizon):
                raise ValueError(f"{entry.label}: losses {shape} of {len(self.seeds)} seeds and {self.horizon} steps")


def entry_arrays(entry: Entry) -> dict[str, np.ndarray]:
    """The arrays of an entry: `FIELD`, `best.MEASURE`, `tuning.ARRAY`, `chosen.TRIAL.ARRAY`, `long.ARRAY`.

    A trial that is best by several measures is there once, under its index.
    """
    arrays = {name: np.asarray(getattr(entry, name)) for name in (*PLAIN, *ARRAYS)}
    arrays |= _curves_arrays("tuning", entry.tuning)
    arrays |= {f"best.{measure}": np.asarray(index) for measure, index in entry.best.items()}
    for measure, curves in entry.chosen.items():
        arrays |= _curves_arrays(f"chosen.{entry.best[measure]}", curves)
    return arrays | (_curves_arrays("long", entry.long) if entry.long else {})


def entry_of(arrays: Mapping[str, np.ndarray]) -> Entry:
    """The inverse of `entry_arrays`. Raises KeyError or ValueError if something is missing or of another shape."""
    plain: dict[str, Any] = {name: arrays[name].item() for name in PLAIN} | {name: arrays[name] for name in ARRAYS}
    best = {measure: int(arrays[f"best.{measure}"]) for measure in MEASURES}
    trials = {index: _curves_of(arrays, f"chosen.{index}") for index in best.values()}
    entry = Entry(
        tuning=_curves_of(arrays, "tuning"),
        best=best,
        chosen={measure: trials[index] for measure, index in best.items()},
        long=_curves_of(arrays, "long") if "long.loss" in arrays else None,
        **plain,
    )
    entry.check()
    return entry


def _curves_arrays(name: str, curves: Curves) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": np.asarray(array) for part, array in curves._asdict().items()}


def _curves_of(arrays: Mapping[str, np.ndarray], name: str) -> Curves:
    return Curves(*(arrays[f"{name}.{part}"] for part in Curves._fields))
