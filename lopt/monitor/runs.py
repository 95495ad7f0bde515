"""Meta-training runs as their folders show them at this moment: found, read, and nothing written."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.meta_training.metrics import Columns
from lopt.meta_training.workdir import CONFIG, METRICS, RECORD
from lopt.monitor.speed import block_seconds
from lopt.names import InputError

MOST_RUNS = 56  # as many lines can be told apart
DEPTH = 3  # folders below a given one in which runs are looked for
LONGEST = 2**20  # bytes of a config or a record; what is longer is none
QUIET_SECONDS = 120.0  # without a sign, after which a run may not be running
QUIET_BLOCKS = 4.0  # the same in times of the longest block so far: a validation or a compilation takes its time
STARTING_SECONDS = 1800.0  # until the first outer step, which compiles


class Seen(NamedTuple):
    """A run at one moment.

    Attributes:
      name: its folder's, as far up as it takes to tell the runs apart.
      folder: the run's folder.
      config: its settings; empty where they cannot be read.
      history: the columns of metrics.jsonl; empty before the first outer step.
      recoveries: what run.json says of the times it went back to a checkpoint.
      silent: seconds since it last wrote.
      alive: whether the process that last used the folder is there, on this machine.
      problem: what cannot be read; "" where all can.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    history: Mapping[str, np.ndarray]
    recoveries: Sequence[Mapping[str, Any]] = ()
    silent: float = 0.0
    alive: bool = False
    problem: str = ""

    @property
    def step(self) -> int:
        """Outer steps done."""
        return int(self.history["step"][-1]) if "step" in self.history else 0

    @property
    def total(self) -> int | None:
        """Outer steps that the config asks for; None where it does not say."""
        asked = self.config.get("outer_steps")
        return asked if isinstance(asked, int) else None

    @property
    def patience(self) -> float:
        """Seconds for which a run may be silent."""
        if not self.step:
            return STARTING_SECONDS
        longest = float(block_seconds(self.history)[1].max(initial=0.0))
        return max(QUIET_SECONDS, QUIET_BLOCKS * longest)

    @property
    def state(self) -> str:
        """unreadable, finished, starting, running, silent (its process is there) or stopped."""
        if self.problem:
            return "unreadable"
        if self.total is not None and self.step >= self.total:
            return "finished"
        if self.silent < self.patience:
            return "running" if self.step else "starting"
        return "silent" if self.alive else "stopped"


class Watcher:
    """Looks at runs, again and again; of their metrics it reads what is new.

    Args:
      places: folders of runs, or folders that hold runs, such as that of a sweep: new ones are found at each look.
      clock: seconds since the epoch.
    """

    def __init__(self, places: Sequence[str], clock: Callable[[], float] = time.time):
        self._places, self._clock = [Path(place) for place in places], clock
        self._columns: dict[Path, Columns] = {}

    def look(self) -> list[Seen]:
        """The runs at this moment. Raises InputError where a folder holds none, or there are more than `MOST_RUNS`."""
        folders = [folder for place in self._places for folder in _runs_in(place)]
        real = [folder.resolve() for folder in folders]
        folders = [folder for i, folder in enumerate(folders) if real[i] not in real[:i]]
        if len(folders) > MOST_RUNS:
            raise InputError(
                f"at most {MOST_RUNS} runs can be told apart, and there are {len(folders)}: name some of them"
            )
        return [self._seen(name, folder) for name, folder in zip(_names(folders), folders, strict=True)]

    def _seen(self, name: str, folder: Path) -> Seen:
        columns = self._columns.setdefault(folder, Columns(folder / METRICS))
        run, problem = Seen(name, folder, {}, {}), ""
        try:
            run = run._replace(config=_read_config(folder))
            run = run._replace(history=_checked(columns.look()))
        except FileNotFoundError:  # before the first outer step there are no metrics
            pass
        except (OSError, ValueError) as error:
            del self._columns[folder]
            problem = " ".join(str(error).split())
        return run._replace(
            recoveries=_recoveries(folder), silent=self._silent(folder), alive=_is_used(folder), problem=problem
        )

    def _silent(self, folder: Path) -> float:
        written = [0.0]
        for name in (METRICS, CONFIG, RECORD, ".lock"):
            with contextlib.suppress(OSError):
                written.append((folder / name).stat().st_mtime)
        return max(0.0, self._clock() - max(written))


def _runs_in(place: Path) -> list[Path]:
    """The folder itself if it is that of a run, or those of all runs below it."""
    if (place / CONFIG).is_file():
        return [place]
    if not place.is_dir():
        raise InputError(f"{place} is no folder: give what was --workdir of the meta-training, or a folder around it")
    found = list(_below(place, DEPTH))
    if not found:
        raise InputError(
            f"{place} is not the folder of a run, and holds none: give what was --workdir of the meta-training"
        )
    return found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:  # gone meanwhile, or not ours to read
        return
    for child in children:
        if (child / CONFIG).is_file():
            with contextlib.suppress(OSError, ValueError):  # of something else than a run
                _read_config(child)
                yield child
        elif depth > 1:
            yield from _below(child, depth - 1)


def _names(folders: Sequence[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    tails = ([os.sep.join(part[-n:]) for part in parts] for n in range(1, max(map(len, parts)) + 1))
    return next(names for names in tails if len(set(names)) == len(names))


def _read_config(folder: Path) -> Mapping[str, Any]:
    config = _read_json(folder / CONFIG)
    if not isinstance(config, dict) or "outer_steps" not in config:
        raise ValueError(f"{folder / CONFIG} is not the config of a meta-training run")
    return config


def _read_json(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(LONGEST))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _checked(history: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if history and not ({"step", "meta_loss"} <= history.keys() and np.isfinite(history["step"]).all()):
        raise ValueError("metrics.jsonl has rows without a step and a meta_loss")
    return history


def _recoveries(folder: Path) -> list[Mapping[str, Any]]:
    """What run.json lists; nothing where the file is absent or damaged, of which the run itself tells."""
    try:
        items = _read_json(folder / RECORD)["recoveries"]
        return [item for item in items if isinstance(item["at"], int) and isinstance(item["back_to"], int)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_used(folder: Path) -> bool:
    """Whether the process is there that has last locked the folder. Its lock is not tried: a run may be about to."""
    try:
        number = int((folder / ".lock").read_text())
        if number <= 0:
            return False
        os.kill(number, 0)
    except PermissionError:  # it is there, and another person's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
