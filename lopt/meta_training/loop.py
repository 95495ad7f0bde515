"""The meta-training loop around the jitted outer steps: logging, checkpoints, exports, signals, resuming."""

import contextlib
import functools
import logging
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.distributed import check_one_process
from lopt.meta_training.budget import check_affordable, num_bytes
from lopt.meta_training.checkpoint import KEEP, Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.feed import Feed
from lopt.meta_training.health import Health
from lopt.meta_training.metrics import MetricsLog
from lopt.meta_training.outer import DISPATCH_STEPS, MetaTraining, OuterState, outer_steps
from lopt.meta_training.progress import Progress
from lopt.meta_training.stopwatch import Stopwatch
from lopt.meta_training.workdir import EXPORT, METRICS, open_workdir
from lopt.optimizers import OPTIMIZERS
from lopt.tracking import open_tracker
from lopt.trained.export import check_exportable, save_export
from lopt.trained.pretrained import load_pretrained
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
    """

    workdir: Path
    checkpoint_every: int = 100
    stop_after: int | None = None
    wandb: str = "disabled"
    command: tuple[str, ...] = ()


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


def train(training: MetaTraining, config: MetaTrainConfig, run: Invocation) -> Outcome:
    """Runs `config` in `run.workdir`, from its latest checkpoint if there is one.

    Raises:
      InputError: the combination cannot be trained, the rule cannot be exported, data cannot be read, the workdir is of
        another config or in use, or a checkpoint is damaged. Nothing has been overwritten then.
      CheckpointError: a checkpoint or the metrics could not be written; the checkpoint before is intact.
      StuckError: the run has stopped learning; the checkpoint from before that is intact.
    """
    check_one_process()
    check_exportable(training.optimizer, run.workdir / EXPORT)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(Stopwatch())
        with watch.timed("data"):
            feed = stack.enter_context(Feed(training.families, training.layout, config.seed, config.data_block_steps))
        template = training.template(feed.at(0))
        check_affordable(training, config, template, feed.at(0))
        start = _read_start(config.init_from, training)
        stack.enter_context(
            open_workdir(
                run.workdir,
                config.as_json(),
                may_change=config.may_grow,
                defaults=MetaTrainConfig().as_json(),
                needed_bytes=(KEEP + 1) * num_bytes(template),
            )
        )
        checkpoints = stack.enter_context(Checkpoints(run.workdir))
        signals = stack.enter_context(_caught_signals())
        with watch.timed("starting"):
            if checkpoints.latest_step() is None:
                logging.info("compiling; the first outer step also brings the trajectories to their starting points")
                step, state = 0, jax.block_until_ready(training.init(config.seed, feed.at(0), start))
            else:
                step, state = checkpoints.restore(template)
                logging.info("going on from step %d", step)

        rows_log = stack.enter_context(MetricsLog(run.workdir / METRICS, step))
        tracker = open_tracker(run.wandb, config=config.as_json(), workdir=run.workdir)
        stack.callback(tracker.finish)
        progress = stack.enter_context(Progress(total=config.outer_steps, start=step))
        health = Health()

        def save(step: int, state: OuterState) -> None:
            with watch.timed("saving"):
                theta, card = jax.device_get(state.theta), _card(config, run, step)
                folder = run.workdir / EXPORT
                checkpoints.save(
                    step, state, then=functools.partial(save_export, folder, training.optimizer, theta, card=card)
                )

        target = config.outer_steps if run.stop_after is None else min(config.outer_steps, step + run.stop_after)
        saved, block = step, 1
        while step < target and not signals:
            next_checkpoint = (step // run.checkpoint_every + 1) * run.checkpoint_every
            count = min(step + block, target, next_checkpoint, step + (feed.steps_left(step) or block)) - step
            started = time.monotonic()
            with watch.timed("data"):
                data = feed.at(step)
            with watch.timed("training"):
                state, metrics = outer_steps(training, state, data, jnp.asarray(count, jnp.int32))
                rows = _rows(metrics, step, count)
            rows[-1] |= watch.lap(rows)
            block = _next_block(block, count, time.monotonic() - started)
            step += count
            rows_log.write(rows)
            for row in rows:
                tracker.log(row, step=row["step"])
            progress.update(step, meta_loss=rows[-1]["meta_loss"])
            health.observe(rows)
            if step == next_checkpoint and not health.ill:
                save(step, state)
                saved = step
        if step == config.outer_steps:
            health.end()
        if saved < step or not (run.workdir / EXPORT).exists():
            save(step, state)
        checkpoints.wait()
    return Outcome(step, step >= config.outer_steps, signals[0] if signals else None, run.workdir / EXPORT)


def _read_start(init_from: str, training: MetaTraining) -> Theta | None:
    """The theta that a setting names, checked to be one of the rule's; None for a fresh one."""
    if not init_from:
        return None
    optimizer = training.optimizer
    ours = type(optimizer) in OPTIMIZERS.values()  # whose settings may differ from those of the file
    theta = load_pretrained(init_from, optimizer=None if ours else optimizer).theta
    training.check_theta(theta)
    return theta


def _next_block(block: int, count: int, seconds: float) -> int:
    """Outer steps for the next dispatch, so that it takes about `BLOCK_SECONDS`; grows by at most 4 at a time."""
    affordable = int(BLOCK_SECONDS * count / max(seconds, 1e-6))
    return max(1, min(affordable, 4 * block, DISPATCH_STEPS))


def _rows(metrics: Any, step: int, count: int) -> list[dict[str, Any]]:
    """One row per outer step; `step` counts the outer steps done, so the first row is 1."""
    host = {name: np.asarray(values)[:count] for name, values in jax.device_get(metrics).items()}
    return [{"step": step + i + 1, **{name: float(values[i]) for name, values in host.items()}} for i in range(count)]


def _card(config: MetaTrainConfig, run: Invocation, step: int) -> dict[str, Any]:
    horizon, settings = config.trajectory_lengths(), config.as_json()
    return {
        "tasks": config.tasks,
        "horizon": [horizon.min_length, horizon.max_length],
        "meta_loss": config.meta_loss,
        "estimator": settings["estimator"],
        "outer_steps": step,
        "seed": config.seed,
        "command": shlex.join(run.command),
        "config": settings,
    }


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """The signals that asked the run to stop, as they come; a second Ctrl-C stops at once.

    Python delivers signals to the main thread alone: in another one, nothing is caught.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        del frame
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])
        logging.warning("%s: stopping after this block of outer steps", signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
