"""The meta-training loop around the jitted outer steps: logging, checkpoints, exports, signals, resuming."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lopt.distributed import check_one_process
from lopt.meta_training.attempt import Attempt, Invocation, Outcome
from lopt.meta_training.budget import check_affordable, num_bytes
from lopt.meta_training.checkpoint import go_back
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.feed import Feed
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
        another config or in use, or a checkpoint is damaged. Nothing has been overwritten then.
      CheckpointError: a checkpoint or the metrics could not be written; the checkpoint before is intact.
      StuckError: the run has stopped learning, also from earlier checkpoints; the one from before that is intact.
    """
    check_one_process()
    check_mode(run.wandb)
    if run.checkpoint_every < 1:
        raise InputError(f"checkpoint_every must be at least 1, not {run.checkpoint_every}")
    if run.keep_checkpoints < 0:
        raise InputError(f"keep_checkpoints must be at least 0, not {run.keep_checkpoints}; 0 keeps all")
    for name in (EXPORT, EXPORT_EMA, EXPORT_BEST):
        check_exportable(training.optimizer, run.workdir / name)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(Stopwatch())
        with watch.timed("data"):
            feed = stack.enter_context(Feed(training.families, training.layout, config.seed, config.data_block_steps))
        template = training.template(feed.at(0))
        check_affordable(training, config, template, feed.at(0))
        before = finished_steps(run.workdir / CHECKPOINTS)
        kept = run.keep_checkpoints or -(-(config.outer_steps - max(before, default=0)) // run.checkpoint_every)
        # A run that goes on has its own theta, and need not find that of another, which may be gone.
        start = None if before else read_start(config.init_from, training)
        stack.enter_context(
            open_workdir(
                run.workdir,
                config.as_json(),
                may_change=config.may_grow,
                defaults=MetaTrainConfig().as_json(),
                needed_bytes=(kept + 2) * num_bytes(template),
            )
        )
        record = Record.read(run.workdir)
        signals = stack.enter_context(_caught_signals())
        lowest = (SCORE, EMA_SCORE, "valid/*")
        tracker = open_tracker(run.wandb, config=config.as_json(), workdir=run.workdir, kind="train", lowest=lowest)
        stack.callback(tracker.finish)
        done = max(finished_steps(run.workdir / CHECKPOINTS), default=0)
        progress = stack.enter_context(Progress(total=config.outer_steps, start=done))
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
                record.note(error, go_back(run.workdir, error.good))


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
