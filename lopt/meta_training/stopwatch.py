"""Where the time of a run goes: compiling, starting, training, data, saving, validating."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.monitoring

COMPILING, RATE = "compiling", "inner_steps_per_second"
PARTS: tuple[str, ...] = (COMPILING, "starting", "training", "data", "saving", "validating")
KEYS = (*(f"seconds_{part}" for part in PARTS), RATE)  # what a lap adds to a row


class Stopwatch(contextlib.AbstractContextManager):
    """Adds up the seconds of each part of a run. What JAX compiles within another part counts as compiling alone.

    Args:
      clock: seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._compiled: list[tuple[float, float]] = []  # start and end
        self._began = clock()

    def __enter__(self) -> "Stopwatch":
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Counts what happens within as this part."""
        started, compiled = self._clock(), self._compiling()
        try:
            yield
        finally:
            self._seconds[part] += max(0.0, self._clock() - started - (self._compiling() - compiled))

    def lap(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Seconds of each part since the last lap, and inner steps per second of training over these rows."""
        seconds = {**self._seconds, COMPILING: self._compiling()}
        self._seconds, self._compiled, self._began = dict.fromkeys(PARTS, 0.0), [], self._clock()
        lap = {f"seconds_{part}": value for part, value in seconds.items()}
        if all("inner_steps" in row for row in rows) and seconds["training"] > 0:
            lap[RATE] = sum(row["inner_steps"] for row in rows) / seconds["training"]
        return lap

    def _note(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        """Takes in an event of JAX, from any thread."""
        del kwargs
        if event.startswith("/jax/core/compile/"):
            end = self._clock()
            # JAX takes it from a clock that may be set meanwhile: it is no longer than the lap, and not negative.
            self._compiled.append((min(end, max(end - duration_secs, self._began)), end))

    def _compiling(self) -> float:
        """Seconds within any of the spans: to trace a function traces those it calls, and threads compile at once."""
        total, last = 0.0, -math.inf
        for start, end in sorted(self._compiled):
            total += max(0.0, end - max(start, last))
            last = max(last, end)
        return total
