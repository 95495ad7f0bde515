"""The file metrics.jsonl: one row of numbers per outer step."""

import array
import contextlib
import itertools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopt.files import write_atomic
from lopt.names import InputError


class MetricsLog(contextlib.AbstractContextManager):
    """Appends rows to a file of JSON objects, one per line, each with its `step`.

    Args:
      path: the file, made if absent.
      step: outer steps that the run has done; rows of later steps, and a last line that was cut short, are dropped.

    Raises:
      InputError: the file holds something else, or a step twice. That rows are missing is a warning.
    """

    def __init__(self, path: str | os.PathLike, step: int):
        path = Path(path)
        old = path.read_bytes() if path.exists() else b""
        lines = old.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        steps = [_step(path, number, line) for number, line in enumerate(lines, 1)]
        _check_order(path, steps)
        kept = b"".join(line for line, its_step in zip(lines, steps, strict=True) if its_step <= step)
        if absent := sorted(set(range(1, step + 1)) - set(steps)):
            logging.warning("%s lacks the rows of %d outer steps, the first of step %d", path, len(absent), absent[0])
        if kept != old:
            write_atomic(path, kept)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closed in __exit__

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of numbers, strings and lists, and flushes. A number that is not finite becomes null."""
        self._file.write("".join(json.dumps(_jsonable(row), allow_nan=False) + "\n" for row in rows))
        self._file.flush()


def read_rows(path: str | os.PathLike, key: str) -> Iterator[dict[str, Any]]:
    """The rows of a file that have a value of this name. A `MetricsLog` has checked them."""
    wanted = json.dumps(key).encode()
    with open(path, "rb") as file:
        yield from (json.loads(line) for line in file if wanted in line)


class Columns:
    """The numbers of a file of metrics that may still grow: each `look` reads what is new.

    Args:
      path: the file; it need not be there yet.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._start_anew()

    def _start_anew(self) -> None:
        self._inode, self._offset, self._rows = 0, 0, 0
        self._columns: dict[str, array.array] = {}

    def look(self) -> dict[str, np.ndarray]:
        """Every number: arrays `[rows]` by name, NaN where a row has no such number.

        A last line that is still being written is left for the next look. A file that was replaced, as by a run that
        goes back to a checkpoint, is read from its start.

        Raises:
          OSError: the file cannot be read.
          ValueError: a line is not a row of metrics.
        """
        with open(self._path, "rb") as file:
            now = os.fstat(file.fileno())
            file.seek(max(0, self._offset - 1))
            if now.st_ino != self._inode or (self._offset and file.read(1) != b"\n"):
                self._start_anew()
                file.seek(0)
            self._inode = now.st_ino
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        try:
            for line in new.split(b"\n")[:-1]:
                self._add(line)
        except ValueError:
            self._start_anew()
            raise
        self._offset += len(new)
        return {name: np.array(values) for name, values in self._columns.items()}

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except RecursionError as error:
            raise ValueError(f"line {self._rows + 1} is nested too deeply") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {self._rows + 1} is not a row of metrics: {line[:60]!r}")
        for name in [name for name in row if name not in self._columns]:
            self._columns[name] = array.array("d", [math.nan]) * self._rows
        for name, values in self._columns.items():
            values.append(_number(row.get(name)))
        self._rows += 1


def read_columns(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every number of a file of metrics, as `Columns.look` returns them."""
    return Columns(path).look()


def final_meta_loss(columns: Mapping[str, np.ndarray]) -> float:
    """Mean meta-loss of the last 5 % of the outer steps, of one at least; NaN without any."""
    values = columns.get("meta_loss", np.empty(0))
    last = values[-max(1, len(values) // 20) :]
    return float(np.nanmean(last)) if np.isfinite(last).any() else math.nan


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.inf


def _step(path: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"line {number} of {path} is not a row of metrics: {line[:60]!r}. Nothing was changed; "
            "repair or remove the file, or choose another workdir."
        ) from error


def _check_order(path: Path, steps: Sequence[int]) -> None:
    for number, (before, after) in enumerate(itertools.pairwise(steps), 2):
        if after <= before:
            raise InputError(
                f"line {number} of {path} is of step {after}, and the line before of step {before}: it was changed, or "
                "two runs wrote to it. Nothing was changed; repair or remove the file, or choose another workdir."
            )


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "dtype"):  # numpy and JAX
        return _jsonable(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
