"""Sweeps: one meta-training run for each combination of settings, one after another, and a table of what came out."""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lopt.meta_training.checkpoint import CheckpointError
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.health import StuckError
from lopt.meta_training.metrics import final_meta_loss, read_columns
from lopt.meta_training.run import Run
from lopt.meta_training.validation import EMA_SCORE, SCORE
from lopt.meta_training.workdir import CONFIG, METRICS
from lopt.names import InputError, check_known, split_list

MOST_LETTERS = 120  # of a folder's name; file systems take 255 bytes
_TYPES = {field.name: type(field.default) for field in dataclasses.fields(MetaTrainConfig)}
_WORDS = {int: "a whole number", float: "a number"}


class Member(NamedTuple):
    """One run of a sweep: its folder, the settings in which runs differ, and all that are not at their default."""

    folder: Path
    varied: dict[str, Any]
    settings: dict[str, Any]


class Result(NamedTuple):
    """What came out of a run.

    Attributes:
      member: the run.
      state: finished, how far it is, or why it failed.
      failed: whether it did.
      meta_loss: mean of the last 5 % of its outer steps; NaN without any.
      valid_score: of the best validation, as `export-best/` has it; NaN without one.
    """

    member: Member
    state: str
    failed: bool
    meta_loss: float = math.nan
    valid_score: float = math.nan


def read_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Reads `NAME=VALUE,VALUE...`, once per setting. Of a name that is given several times, each value is one text.

    The latter is for values with commas: `["tasks=a,b", "tasks=c"]` has two values. Commas in brackets part nothing.

    Raises:
      InputError: a setting is unknown, has no value, or has one twice or of another type.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise InputError(f"cannot read --sweep={text}: write --sweep=NAME=VALUE,VALUE")
        check_known("setting to sweep over:", name, _TYPES)
        axes.setdefault(name, []).append(value)
    read = {
        name: [_value(name, text) for text in (split_list(values[0]) if len(values) == 1 else values)]
        for name, values in axes.items()
    }
    for name, values in read.items():
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise InputError(f"--sweep: {name} has the value {twice[0]} twice")
    return read


def members(root: str | os.PathLike, axes: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> list[Member]:
    """All combinations, each with a folder below `root` that is named after its values.

    Args:
      root: folder of the sweep.
      axes: values by setting.
      settings: what all runs share, such as a preset's; those of `axes` take the place of these.

    Raises:
      InputError: `root` is the folder of a run.
    """
    if (Path(root) / CONFIG).exists():
        raise InputError(
            f"{root} is the folder of a run: choose another one for the sweep, which makes a folder per run"
        )
    combinations = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [Member(Path(root, folder_name(varied)), varied, {**settings, **varied}) for varied in combinations]


def folder_name(varied: Mapping[str, Any]) -> str:
    """A name such as `outer_learning_rate=0.001__seed=0`; with a checksum where letters had to be replaced."""
    wanted = "__".join(f"{name}={value}" for name, value in varied.items())
    name = re.sub(r"[^\w.=+-]+", "-", wanted, flags=re.ASCII)[:MOST_LETTERS].rstrip("-")
    return name if name == wanted else f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:6]}"


def run_sweep(sweep: Sequence[Member], start: Callable[[Member], Run]) -> tuple[list[Result], int | None]:
    """Runs what is not finished yet. A run that fails does not stop the others.

    Args:
      sweep: the runs.
      start: starts one of them, or goes on with it.

    Returns:
      The results of the runs that were reached, and the number of the signal that stopped the sweep; None if none did.

    Raises:
      InputError: no run can be started as its settings are.
    """
    refusals = {member.folder: _refusal(member) for member in sweep}
    if None not in refusals.values():
        raise InputError(next(iter(refusals.values())))
    results: list[Result] = []
    for number, member in enumerate(sweep, 1):
        logging.info("run %d of %d: %s", number, len(sweep), member.folder)
        if (reason := refusals[member.folder]) is not None:
            results.append(Result(member, f"refused: {reason}", True))
            continue
        try:
            run = _finished(member) or start(member)
        except Exception as error:  # whatever it is, the others may do better
            reason = " ".join(str(error).split()) or type(error).__name__
            expected = isinstance(error, InputError | CheckpointError | StuckError | OSError)
            logging.warning("this run failed: %s", reason, exc_info=not expected)
            results.append(_result(member, f"failed: {reason}", failed=True))
            continue
        results.append(_result(member, "finished" if run.finished else f"at step {run.step} of {run.outer_steps}"))
        if run.signal is not None:
            return results, run.signal
    return results, None


def table(results: Sequence[Result]) -> str:
    """One line per run, the best one first: by the validation score if all that did not fail have one, else by the
    meta-loss. Those that failed come last."""
    by_score = all(math.isfinite(result.valid_score) for result in results if not result.failed)

    def order(result: Result) -> tuple[bool, float]:
        value = result.valid_score if by_score else result.meta_loss
        return result.failed, value if math.isfinite(value) else math.inf

    names = list(results[0].member.varied) if results else []
    scored = any(math.isfinite(result.valid_score) for result in results)
    rows = [[*names, "meta-loss", *(["valid_score"] if scored else []), "folder", "state"]]
    for result in sorted(results, key=order):
        numbers = [result.meta_loss, *([result.valid_score] if scored else [])]
        shown = [f"{x:.4g}" if math.isfinite(x) else "-" for x in numbers]
        values = [str(value) for value in result.member.varied.values()]
        rows.append([*values, *shown, str(result.member.folder), result.state])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _value(name: str, text: str) -> Any:
    kind = _TYPES[name]
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"--sweep: {name} must be {_WORDS[kind]}, not {text!r}") from None


def _refusal(member: Member) -> str | None:
    """Why there can be no run with these settings; None if there can."""
    try:
        MetaTrainConfig(**member.settings)
    except InputError as error:
        return str(error)
    return None


def _finished(member: Member) -> Run | None:
    """The run, if it is there and all of its outer steps are done; whatever else is there is the run's own affair."""
    try:
        there = json.loads((member.folder / CONFIG).read_bytes())
        run = Run.open(member.folder)
    except (OSError, ValueError):
        return None
    asked = json.loads(json.dumps(MetaTrainConfig(**member.settings).as_json()))
    return run if run.finished and {**MetaTrainConfig().as_json(), **there} == asked else None


def _result(member: Member, state: str, *, failed: bool = False) -> Result:
    try:
        columns = read_columns(member.folder / METRICS)
    except (OSError, ValueError):
        return Result(member, state, failed)
    scores = [x for name in (SCORE, EMA_SCORE) for x in columns.get(name, []) if math.isfinite(x)]
    score = float(min(scores, default=math.nan))
    return Result(member, state, failed, final_meta_loss(columns), score)
