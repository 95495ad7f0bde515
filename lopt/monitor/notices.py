"""What is wrong with a run, or may become so, and what to do about it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lopt.meta_training.health import PATIENCE, ailment
from lopt.meta_training.validation import FALL
from lopt.monitor.numbers import Numbers, standing_of
from lopt.monitor.runs import Seen
from lopt.monitor.speed import time_shares, written_time

FAR = 1.25  # the newest validation over the best one, from which it is far
MUCH_CAPPED = 0.25  # share of inner steps
RISEN = 0.05  # share of inner steps above the least running share, from which trainings diverge that did not
MUCH_LEFT_OUT = 0.05  # share of pairs
FAINT = 1.05  # |g|^2 over its variance, of which noise alone makes 1
MUCH_WAITING = 0.3  # share of the time
WINDOW = 50  # outer steps of a running share


class Notice(NamedTuple):
    """Attributes: grave, whether the run will not get anywhere as it is; text, what is wrong; advice, what to do."""

    grave: bool
    text: str
    advice: str


def notices_of(run: Seen, numbers: Numbers) -> list[Notice]:
    """All that there is to say of a run, the gravest first."""
    found = [*_of_the_process(run), *(_of_the_numbers(run, numbers) if run.step else ())]
    return sorted(found, key=lambda notice: not notice.grave)


def _of_the_process(run: Seen) -> Iterator[Notice]:
    done = f"after outer step {run.step:,} of {run.total or 0:,}"
    if run.problem:
        yield Notice(True, f"it cannot be read: {run.problem}", "repair the file, or look at another folder")
    elif run.state == "silent":
        yield Notice(
            True,
            f"its process is there and has written nothing for {written_time(run.silent)}",
            "see what it does (top, its log): a validation or a compilation can take minutes; if it hangs, stop it: "
            "the same command goes on from the latest checkpoint",
        )
    elif run.state == "stopped":
        yield Notice(
            False,
            f"it has stopped {done}, {written_time(run.silent)} ago: no process on this machine has it open",
            "the same command goes on from there",
        )
    for item in run.recoveries[-1:]:
        times = f"{len(run.recoveries)} times" if len(run.recoveries) > 1 else "once"
        yield Notice(
            False,
            f"it has gone back to a checkpoint {times}, at last from outer step {item['at']} to {item['back_to']} "
            f"({item.get('reason', 'no reason given')})",
            "it goes on at a lower outer learning rate by itself; start the next run with that rate",
        )


def _of_the_numbers(run: Seen, numbers: Numbers) -> Iterator[Notice]:
    yield from _ailing(run)
    standing = standing_of(run.history)
    if standing.best and numbers.score > FAR * numbers.best:
        yield Notice(
            numbers.score > FALL * numbers.best,
            f"the newest validation is {numbers.score:.3g}, and the best was {numbers.best:.3g} after outer step "
            f"{standing.best.step:,}",
            "export-best/ has that theta; then take a smaller --outer_learning_rate, more tasks, or --theta_ema",
        )
    if numbers.capped > MUCH_CAPPED or numbers.capped > RISEN + _least_share(run, "capped"):
        yield Notice(
            False,
            f"{_share(numbers.capped)} of the inner steps are at the cap of the loss: trainings diverge",
            "usual at the start alone; else a smaller --outer_learning_rate or --sigma, or shorter horizons",
        )
    if numbers.left_out > MUCH_LEFT_OUT:
        yield Notice(
            False,
            f"{_share(numbers.left_out)} of the pairs are left out, as they are not finite",
            "with gradient methods, shorter horizons or windows, or an evolution strategy; else a smaller --sigma",
        )
    if numbers.signal < FAINT:
        yield Notice(
            False,
            f"the meta-gradient is nearly all noise: |g|\N{SUPERSCRIPT TWO} / variance is {numbers.signal:.3g}, and "
            "noise alone makes 1",
            "harmless while the meta-loss falls; else, in this order: more --num_pairs, shorter horizons, a larger "
            "--truncation, another --estimator, a larger --sigma",
        )
    shares = time_shares(run.history)
    for name, flag in (("seconds_data", "--data_block_steps"), ("seconds_saving", "--checkpoint_every")):
        if shares.get(name, 0.0) > MUCH_WAITING:
            what = name.removeprefix("seconds_")
            yield Notice(False, f"{_share(shares[name])} of the time goes into {what}", f"a larger {flag}")


def _share(x: float) -> str:
    return f"{100 * x:.0f}\N{NO-BREAK SPACE}%"


def _ailing(run: Seen) -> Iterator[Notice]:
    """What the run's own watch says of its last outer steps (lopt/meta_training/health.py)."""
    history = run.history
    if not math.isfinite(history.get("update_norm", np.zeros(1))[-1]):
        text = f"theta is not finite after outer step {run.step:,}"
        yield Notice(True, text, "a smaller --outer_learning_rate, or clipping (--outer_clip_norm)")
        return
    known = {name: history[name] for name in ("step", "grad_norm", "left_out", "capped") if name in history}
    if "grad_norm" not in known:  # a run of another version
        return
    since, reason = None, ""
    for i in range(len(history["step"]) - 1, max(-1, len(history["step"]) - 1 - PATIENCE), -1):
        ill = ailment({name: values[i] for name, values in known.items()})
        if ill is None:
            break
        since, reason = int(history["step"][i]), ill
    if since is not None:
        what, _, advice = reason.partition(": ")
        yield Notice(True, f"since outer step {since:,}, {what}", f"{advice}; after {PATIENCE} such steps it stops")


def _least_share(run: Seen, name: str) -> float:
    """The lowest mean of a share over `WINDOW` outer steps in a row; infinite before there are so many."""
    values = np.nan_to_num(run.history.get(name, np.empty(0)))
    if len(values) < WINDOW:
        return math.inf
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return float((sums[WINDOW:] - sums[:-WINDOW]).min() / WINDOW)
