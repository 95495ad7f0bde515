"""What a run shows of itself: metrics.jsonl, a progress bar or lines, and a wandb run. None of it changes the run."""

import collections
import contextlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from lopt.files import write_atomic
from lopt.names import InputError

WANDB_MODES = ("disabled", "offline", "online")
WANDB_SECONDS = 5  # for wandb to start, and again to finish


class MetricsLog(contextlib.AbstractContextManager):
    """Appends rows to a file of one JSON object a line, each with its `step`.

    Args:
      path: the file, made if absent.
      step: where the run goes on from; later rows, and a last line that was cut short, are dropped.

    Raises:
      InputError: the file holds something else.
    """

    def __init__(self, path: str | os.PathLike, step: int):
        path = Path(path)
        old = path.read_bytes() if path.exists() else b""
        lines = old.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        kept = b"".join(line for number, line in enumerate(lines, 1) if _step(path, number, line) <= step)
        if kept != old:
            write_atomic(path, kept)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closed in __exit__

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of numbers, strings and lists, and flushes. What is not finite becomes null: JSON has no NaN."""
        self._file.write("".join(json.dumps(_jsonable(row), allow_nan=False) + "\n" for row in rows))
        self._file.flush()


def _step(path: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"line {number} of {path} is not a row of metrics: {line[:60]!r}. Nothing was changed; "
            "repair or remove the file, or choose another workdir."
        ) from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "dtype"):  # numpy and JAX
        return _jsonable(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress(contextlib.AbstractContextManager):
    """Outer steps done, their rate, meta-loss and time left: a bar on a terminal, now and then a line elsewhere.

    Args:
      total: outer steps of the whole run.
      start: steps done before this invocation; they do not count in the rate.
      console: where to; if None, that of logging's RichHandler, so that their lines do not mix, or standard error.
      clock: seconds, as `time.monotonic`.
    """

    WINDOW = 30.0  # seconds that the rate looks back
    SECONDS, FRACTION = 10.0, 0.05  # a line after both so much time and so much of the run

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._clock = total, clock
        shared = (handler.console for handler in logging.getLogger().handlers if isinstance(handler, RichHandler))
        self._console = console or next(shared, None) or Console(stderr=True)
        # Of time and step, from the first update on: what came before was compiling, and says nothing of the rate.
        self._samples: collections.deque[tuple[float, int]] = collections.deque()
        self._printed: tuple[float, int] | None = None  # time and step of the last line
        self._line = ""
        self._bar = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Bar(BarColumn(), TextColumn("{task.description}", markup=False), console=self._console)
            self._task = self._bar.add_task("starting", total=total, completed=start)
            self._bar.start()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed and self._printed[1] != self._samples[-1][1]:
            self._print()

    def update(self, step: int, meta_loss: float | None = None) -> None:
        """Says that `step` outer steps are done in all."""
        now = self._clock()
        self._samples.append((now, step))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self.WINDOW:
            self._samples.popleft()
        self._line = self._describe(meta_loss)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._line)
        elif self._printed is None or (
            now - self._printed[0] >= self.SECONDS and step - self._printed[1] >= self.FRACTION * self._total
        ):
            self._print()

    def _describe(self, meta_loss: float | None) -> str:
        (since, first), (now, step) = self._samples[0], self._samples[-1]
        rate = (step - first) / (now - since) if now > since else 0.0
        parts = [f"step {step}/{self._total}"]
        if rate > 0:
            parts.append(f"{rate:.3g} steps/s")
        if meta_loss is not None:
            parts.append(f"meta-loss {meta_loss:.4g}")
        if rate > 0:
            minutes, seconds = divmod(round((self._total - step) / rate), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(parts)

    def _print(self) -> None:
        self._printed = self._samples[-1]
        self._console.print(self._line, soft_wrap=True, highlight=False, markup=False)


class Tracker(Protocol):
    """Where the rows go besides metrics.jsonl. Nothing that goes wrong there raises."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Sends the row of one outer step; a value that is a path stands for the picture there."""
        ...

    def finish(self) -> None:
        """Ends the tracking; waits for at most about `WANDB_SECONDS`."""
        ...


def open_tracker(
    mode: str, *, config: Mapping[str, Any], workdir: str | os.PathLike, run_name: str | None = None
) -> Tracker:
    """Starts, or continues, the one wandb run of a workdir; its files are under `WORKDIR/wandb`.

    Where wandb cannot be used, this warns within seconds, and the run goes on without it.

    Args:
      mode: `disabled`, `offline` (no network: upload later with `wandb sync`) or `online`.
      config: shown with the run.
      workdir: the run's folder; it remembers the run's id.
      run_name: the name of the folder if None.
    """
    if mode not in WANDB_MODES:
        raise InputError(f"unknown wandb mode {mode!r}. Known: {', '.join(WANDB_MODES)}.")
    if mode == "disabled":
        return _NoTracker()
    try:
        return _Wandb(mode, dict(config), Path(workdir).absolute(), run_name)
    except Exception as error:
        logging.warning("going on without wandb: %s", " ".join(str(error).split()) or type(error).__name__)
        return _NoTracker()


class _NoTracker:
    def log(self, row: Mapping[str, Any], step: int) -> None:
        del row, step

    def finish(self) -> None:
        pass


class _Wandb:
    def __init__(self, mode: str, config: dict[str, Any], workdir: Path, run_name: str | None):
        # Its telemetry, unlike the run, has no time limit: at exit it waits 12 s for a server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Silent, it raises where it would ask for a key at the terminal. `wandb.login(prompt=False)` answers the same
        # question, but then looks the account up, which is another 5 s without a server.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        workdir.mkdir(parents=True, exist_ok=True)
        id_file = workdir / "wandb_id"
        if not id_file.exists():
            write_atomic(id_file, secrets.token_hex(4))
        settings = wandb.Settings(
            init_timeout=WANDB_SECONDS,
            finish_timeout=WANDB_SECONDS,
            finish_timeout_raises=True,
            console="off",
        )
        self._run = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]  # one of WANDB_MODES
            project="lopt",
            name=run_name or workdir.name,
            id=id_file.read_text().strip(),
            resume="allow" if mode == "online" else None,
            config=config,
            dir=str(workdir),
            settings=settings,
        )

    def log(self, row: Mapping[str, Any], step: int) -> None:
        with self._warning("logging to"):
            if self._run is not None:
                self._run.log({name: _picture(x) if isinstance(x, Path) else x for name, x in row.items()}, step=step)

    def finish(self) -> None:
        with self._warning("finishing"):
            if self._run is not None:
                self._run.finish()
        self._run = None

    @contextlib.contextmanager
    def _warning(self, doing: str):
        try:
            yield
        except Exception as error:
            self._run = None  # one warning, not one a step
            logging.warning("going on without wandb, because %s it failed: %s", doing, " ".join(str(error).split()))


def _picture(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path))
