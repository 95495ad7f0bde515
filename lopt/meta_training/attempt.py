"""The loop around the jitted outer steps: dispatches, rows, validations and checkpoints, up to an outer step."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lopt import processes
from lopt.meta_training.checkpoint import KEEP, Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.exports import Exports
from lopt.meta_training.feed import Feed
from lopt.meta_training.health import Health, StuckError, is_well
from lopt.meta_training.histograms import Histograms
from lopt.meta_training.metrics import MetricsLog, read_rows
from lopt.meta_training.outer import MetaTraining, OuterState
from lopt.meta_training.progress import Progress
from lopt.meta_training.recovery import Record
from lopt.meta_training.shared import SharedCheckpoints, open_checkpoints
from lopt.meta_training.steps import BLOCK_STEPS, outer_steps
from lopt.meta_training.stopwatch import Stopwatch
from lopt.meta_training.validation import SCORE, Best, Schedule, Validation, Validator
from lopt.meta_training.workdir import EXPORT, METRICS
from lopt.tracking import Tracker
from lopt.types import Theta

BLOCK_SECONDS = 1.0  # a dispatch cannot be interrupted, so this is how long a signal may wait


class Invocation(NamedTuple):
    """What one call does with a run; unlike the config, nothing of it changes the result.

    Attributes:
      workdir: folder of config.json, metrics.jsonl, checkpoints/ and export/.
      checkpoint_every: outer steps between checkpoints.
      stop_after: stop after this many outer steps of this call; None to go to the end.
      wandb: disabled, offline or online.
      command: as typed, for the card.
      keep_checkpoints: how many of the latest checkpoints are kept; 0 for all.
    """

    workdir: Path
    checkpoint_every: int = 100
    stop_after: int | None = None
    wandb: str = "disabled"
    command: tuple[str, ...] = ()
    keep_checkpoints: int = KEEP


class Outcome(NamedTuple):
    """How far a call got.

    Attributes:
      step: outer steps done in all.
      finished: whether these are all that the config asks for.
      signal: number of the signal that stopped the run; None if none did.
      export: folder of the trained optimizer.
    """

    step: int
    finished: bool
    signal: int | None
    export: Path


class Attempt(NamedTuple):
    """One way from the latest checkpoint on; a run that has to go back to an earlier one makes another."""

    training: MetaTraining
    config: MetaTrainConfig
    run: Invocation
    validator: Validator | None
    feed: Feed
    template: OuterState
    start: Theta | None
    record: Record
    signals: list[int]
    tracker: Tracker
    progress: Progress
    watch: Stopwatch

    def until(self, target: int) -> Outcome:
        """Trains up to an outer step. Raises StuckError where that cannot be done."""
        config, run, feed, signals, watch = self.config, self.run, self.feed, self.signals, self.watch
        exports = Exports(run.workdir, self.training.optimizer, config, run.command, self.record)
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(open_checkpoints(run.workdir, run.keep_checkpoints, self.training.layout))
            with watch.timed("starting"):
                step, state = self._first(checkpoints)
            rows_log, earlier = self._open_rows(stack, step)
            every = config.valid_every or self.record.valid_every
            schedule = Schedule(every, config.outer_steps, self.record.keep_interval)
            validation = Validation(self.validator, schedule, earlier)
            if step < target:
                with watch.timed("validating"):
                    validation.prepare(state, self._stopped)
            standing, health = validation.standing, Health()
            histograms = Histograms(config.outer_steps, step, state.theta) if self.tracker.active else None
            checkpoints.keep(standing.best and standing.best.step)

            def save(step: int, state: OuterState, best: Best | None = None) -> None:
                with watch.timed("saving"):
                    checkpoints.save(step, state, then=exports.writer(step, state, best))

            # A checkpoint is complete before its exports are.
            best = standing.best if standing.best and standing.best.step == step else None
            if step and processes.first_does(lambda: exports.are_behind(step, best)):
                save(step, state, best)
            saved, block = step, 1
            while step < target and not self._stopped():
                next_checkpoint = (step // run.checkpoint_every + 1) * run.checkpoint_every
                stops = (target, next_checkpoint, validation.next_step(step), step + (feed.steps_left(step) or block))
                count = min(step + block, *(stop for stop in stops if stop is not None)) - step
                started = time.monotonic()
                scale = np.asarray(self.record.rate_scale, np.float32)
                with watch.timed("data"):
                    data = feed.at(step)
                with watch.timed("training"):
                    state, metrics = outer_steps(self.training, state, data, count, scale)
                    rows: list[dict[str, Any]] = [row | self.record.row() for row in _rows(metrics, step, count)]
                seconds = processes.largest(time.monotonic() - started)
                block = _next_block(block, count, seconds)
                validation.note_steps(count, seconds)
                step += count
                if is_well(rows[-1]):
                    with watch.timed("validating"):
                        rows[-1] |= validation.row(step, state)
                rows[-1] |= watch.lap(rows)
                if rows_log is not None:
                    rows_log.write(rows)
                spread = {} if histograms is None else histograms.row(step, state.theta)
                for row in rows:
                    self.tracker.log(row | spread if row is rows[-1] else row, step=row["step"])
                improved = standing.observe(rows[-1])
                self.progress.update(step, meta_loss=rows[-1]["meta_loss"], valid=standing.shown)
                health.observe(rows)
                if standing.fallen_off and standing.best:
                    raise StuckError(standing.fallen_off, step, recoverable=True, good=standing.best.step)
                if improved:
                    checkpoints.keep(step)
                if not health.ill and (improved or (step == next_checkpoint and not standing.falls)):
                    save(step, state, standing.best if improved else None)
                    saved = step
            if step == config.outer_steps:
                health.end()
            if saved < step or not processes.first_does(lambda: (run.workdir / EXPORT).exists()):
                save(step, state)
            checkpoints.wait()
        signal = int(processes.largest(signals[0] if signals else 0))
        return Outcome(step, step >= config.outer_steps, signal or None, run.workdir / EXPORT)

    def _stopped(self) -> bool:
        """Whether a signal has asked any process of the run to stop."""
        return processes.largest(len(self.signals)) > 0

    def _open_rows(self, stack: contextlib.ExitStack, step: int) -> tuple[MetricsLog | None, list[dict[str, Any]]]:
        """The log, in the first process alone, and the rows of the validations up to `step`."""
        path, logs = self.run.workdir / METRICS, []

        def open_log() -> list[dict[str, Any]]:
            logs.append(stack.enter_context(MetricsLog(path, step)))
            return list(read_rows(path, SCORE))

        earlier = processes.first_does(open_log)
        return (logs[0] if logs else None), earlier

    def _first(self, checkpoints: Checkpoints | SharedCheckpoints) -> tuple[int, OuterState]:
        """The latest checkpoint, or the state before the first outer step."""
        if checkpoints.latest_step() is None:
            logging.info("compiling; the first outer step also brings the trajectories to their starting points")
            return 0, jax.block_until_ready(self.training.init(self.config.seed, self.feed.at(0), self.start))
        step, state = checkpoints.restore(self.template)
        logging.info("going on from step %d", step)
        return step, state


def _next_block(block: int, count: int, seconds: float) -> int:
    """Outer steps for the next dispatch, so that it takes about `BLOCK_SECONDS`; grows by at most 4 at a time."""
    affordable = int(BLOCK_SECONDS * count / max(seconds, 1e-6))
    return max(1, min(affordable, 4 * block, BLOCK_STEPS))


def _rows(metrics: Any, step: int, count: int) -> list[dict[str, Any]]:
    """One row per outer step; `step` counts the outer steps done, so the first row is 1."""
    host = {name: np.asarray(values)[:count] for name, values in jax.device_get(metrics).items()}
    return [{"step": step + i + 1, **{name: float(values[i]) for name, values in host.items()}} for i in range(count)]
