"""The meta-training loop around the jitted outer steps: logging, checkpoints, exports, signals, resuming."""

import contextlib
import functools
import json
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from lopt import processes
from lopt.meta_training.attempt import Attempt, Invocation, Outcome
from lopt.meta_training.budget import check_affordable, num_bytes
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.feed import Feed
from lopt.meta_training.going_back import go_back, set_damaged_aside
from lopt.meta_training.health import StuckError
from lopt.meta_training.outer import MetaTraining
from lopt.meta_training.progress import Progress
from lopt.meta_training.recovery import Record
from lopt.meta_training.starting import read_start
from lopt.meta_training.stopwatch import Stopwatch
from lopt.meta_training.validation import EMA_SCORE, SCORE, Validator
from lopt.meta_training.workdir import (
    CHECKPOINTS,
    EXPORT,
    EXPORT_BEST,
    EXPORT_EMA,
    finished_steps,
    open_workdir,
)
from lopt.names import InputError
from lopt.tracking import check_mode, open_tracker
from lopt.trained.export import check_exportable
from lopt.version import versions

_WHAT_IS_LEFT = "The last checkpoint is intact: the same command, also with fewer processes, goes on from there."


def train(
    training: MetaTraining, config: MetaTrainConfig, run: Invocation, validator: Validator | None = None
) -> Outcome:
    """Runs `config` in `run.workdir`, from its latest checkpoint if there is one.

    Args:
      training: what `config` stands for.
      config: the settings.
      run: what this call does with the run.
      validator: what scores theta on `config.valid_tasks`; None without them.

    Raises:
      InputError: the combination cannot be trained, the rule cannot be exported, data cannot be read, the workdir is of
        another config or in use, or all its checkpoints are damaged. Nothing has been overwritten then.
      CheckpointError: a checkpoint or the metrics could not be written; the checkpoint before is intact.
      PeerError: another process of this run has ended, or cannot go on.
      StuckError: the run has stopped learning, also from earlier checkpoints; the one from before that is intact.
    """
    check_mode(run.wandb)
    if run.checkpoint_every < 1:
        raise InputError(f"checkpoint_every must be at least 1, not {run.checkpoint_every}")
    if run.keep_checkpoints < 0:
        raise InputError(f"keep_checkpoints must be at least 0, not {run.keep_checkpoints}; 0 keeps all")
    for name in (EXPORT, EXPORT_EMA, EXPORT_BEST):
        check_exportable(training.optimizer, run.workdir / name)
    first = processes.is_first()
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.noticing_lost_peers(_WHAT_IS_LEFT))
        watch = stack.enter_context(Stopwatch())
        with watch.timed("data"):
            feed = processes.all_do(
                lambda: stack.enter_context(
                    Feed(training.families, training.layout, config.seed, config.data_block_steps)
                )
            )
        _check_same(config, run, feed)
        template = training.template(feed.at(0))
        check_affordable(training, config, template, feed.at(0))
        before = processes.first_does(lambda: finished_steps(run.workdir / CHECKPOINTS))
        kept = run.keep_checkpoints or -(-(config.outer_steps - max(before, default=0)) // run.checkpoint_every)
        # A run that goes on has its own theta, and need not find that of another, which may be gone.
        start = None if before else read_start(config.init_from, training)

        def use_workdir() -> None:
            opened = open_workdir(
                run.workdir,
                config.as_json(),
                may_change=config.may_grow,
                defaults=MetaTrainConfig().as_json(),
                needed_bytes=(kept + 2) * num_bytes(template),
            )
            stack.enter_context(opened)
            set_damaged_aside(run.workdir)

        processes.first_does(use_workdir)
        record = Record.read(run.workdir)
        signals = stack.enter_context(_caught_signals())
        wandb, lowest = run.wandb if first else "disabled", (SCORE, EMA_SCORE, "valid/*")
        tracker = open_tracker(wandb, config=config.as_json(), workdir=run.workdir, kind="train", lowest=lowest)
        stack.callback(tracker.finish)
        done = processes.first_does(lambda: max(finished_steps(run.workdir / CHECKPOINTS), default=0))
        console = None if first else Console(quiet=True)
        progress = stack.enter_context(Progress(total=config.outer_steps, start=done, console=console))
        target = config.outer_steps if run.stop_after is None else min(config.outer_steps, done + run.stop_after)
        attempt = Attempt(
            training, config, run, validator, feed, template, start, record, signals, tracker, progress, watch
        )
        while True:
            try:
                return attempt.until(target)
            except StuckError as error:
                if not error.recoverable:
                    raise
                record.check_may_go_back(error, config.max_recoveries)
                back_to = functools.partial(go_back, run.workdir, error.good)
                record.note(error, processes.first_does(back_to))


def _check_same(config: MetaTrainConfig, run: Invocation, feed: Feed) -> None:
    """Raises InputError unless all processes have been started alike."""
    if processes.number() == 1:
        return
    settings = {**config.as_json(), **run._replace(command=())._asdict()}
    things = {"settings": json.dumps(settings, default=str), "versions": json.dumps(versions())}
    processes.check_same({**things, "data": feed.at(0)})


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
