"""How far a run is, for the person who waits: a bar on a terminal, now and then a line elsewhere."""

import collections
import contextlib
import logging
import time
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar


class Progress(contextlib.AbstractContextManager):
    """Outer steps done, their rate, meta-loss and time left: a bar on a terminal, now and then a line elsewhere.

    Args:
      total: outer steps of the whole run.
      start: steps done before this invocation; they do not count in the rate.
      number: what the number that falls is called.
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
        number: str = "meta-loss",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._clock = total, clock
        self._number = number
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

    def update(
        self,
        step: int,
        meta_loss: float | None = None,
        valid: tuple[float, float] | None = None,
        first: float | None = None,
    ) -> None:
        """Says that `step` outer steps are done in all.

        Args:
          step: the number of them.
          meta_loss: the number that falls.
          valid: the newest and the best validation score.
          first: what the number was at first, where that is to be shown.
        """
        now = self._clock()
        if self._samples and step < self._samples[-1][1]:  # the run has gone back to a checkpoint
            self._samples.clear()
            self._printed = None
        self._samples.append((now, step))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self.WINDOW:
            self._samples.popleft()
        self._line = self._describe(meta_loss, valid, first)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._line)
        elif self._printed is None or (
            now - self._printed[0] >= self.SECONDS and step - self._printed[1] >= self.FRACTION * self._total
        ):
            self._print()

    def _describe(self, meta_loss: float | None, valid: tuple[float, float] | None, first: float | None) -> str:
        (since, start), (now, step) = self._samples[0], self._samples[-1]
        rate = (step - start) / (now - since) if now > since else 0.0
        parts = [f"step {step}/{self._total}"]
        if rate > 0:
            parts.append(f"{rate:.3g} steps/s")
        if meta_loss is not None:
            parts.append(f"{self._number} {meta_loss:.4g}" + ("" if first is None else f" (at first {first:.4g})"))
        if valid is not None:
            parts.append(f"validation {valid[0]:.4g} (best {valid[1]:.4g})")
        if rate > 0:
            minutes, seconds = divmod(round((self._total - step) / rate), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(parts)

    def _print(self) -> None:
        self._printed = self._samples[-1]
        self._console.print(self._line, soft_wrap=True, highlight=False, markup=False)
