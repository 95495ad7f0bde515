"""The trained optimizers that a run leaves behind, and what their cards say."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.outer import OuterState
from lopt.meta_training.recovery import Record
from lopt.meta_training.validation import Best
from lopt.meta_training.workdir import EXPORT, EXPORT_BEST, EXPORT_EMA
from lopt.trained.card import read_card
from lopt.trained.export import save_export
from lopt.trained.folders import CARD_FILE
from lopt.types import LearnedOptimizer, Theta


class Exports:
    """Writes `export/`, `export-ema/` where there is an average, and `export-best/` where a validation was the best.

    Args:
      workdir: the run's folder.
      optimizer: the rule.
      config: the settings of the run.
      command: as typed, for the card.
      record: what the run has decided by itself.
    """

    def __init__(
        self,
        workdir: Path,
        optimizer: LearnedOptimizer,
        config: MetaTrainConfig,
        command: tuple[str, ...],
        record: Record,
    ):
        self._workdir, self._optimizer, self._config = workdir, optimizer, config
        self._command, self._record = command, record

    def writer(self, step: int, state: OuterState, best: Best | None = None) -> Callable[[], None]:
        """What writes the exports of a state, which may be changed before it is called.

        Args:
          step: outer steps done.
          state: the state of the run.
          best: the best validation, if this state had it.
        """
        theta, average = jax.device_get((state.theta, state.theta_ema))
        card = self._card(step)

        def write() -> None:
            self._write(EXPORT, theta, card)
            if average is not None:
                self._write(EXPORT_EMA, average, card | {"theta": "average"})
            if best is not None:
                kind = "average" if best.averaged else "newest"
                validation = {"step": best.step, "score": best.score, "theta": kind, "tasks": self._config.valid_tasks}
                self._write(EXPORT_BEST, average if best.averaged else theta, card | {"validation": validation})

        return write

    def are_behind(self, step: int, best: Best | None = None) -> bool:
        """Whether exports are missing or older than the checkpoint of a step: so a kill between the two leaves them.

        Args:
          step: outer steps done.
          best: the best validation, if the state of this step had it.
        """
        names = [EXPORT, *([EXPORT_EMA] if self._config.theta_ema else []), *([EXPORT_BEST] if best else [])]
        return any(_step_of(self._workdir / name) < step for name in names)

    def _write(self, name: str, theta: Theta, card: dict[str, Any]) -> None:
        save_export(self._workdir / name, self._optimizer, theta, card=card)

    def _card(self, step: int) -> dict[str, Any]:
        horizon, settings = self._config.trajectory_lengths(), self._config.as_json()
        card = {
            "tasks": self._config.tasks,
            "horizon": [horizon.min_length, horizon.max_length],
            "meta_loss": self._config.meta_loss,
            "estimator": settings["estimator"],
            "outer_steps": step,
            "seed": self._config.seed,
            "command": shlex.join(self._command),
            "config": settings,
        }
        return card | ({"recoveries": list(self._record.recoveries)} if self._record.recoveries else {})


def _step_of(export: Path) -> int:
    """Outer steps done before an export; -1 if there is none that can be read."""
    try:
        return int(read_card((export / CARD_FILE).read_bytes())["outer_steps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return -1
