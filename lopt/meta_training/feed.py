"""The data of a run: loaded once, or, for a family that streams, one block at a time."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from lopt import processes
from lopt.distributed import PairLayout
from lopt.types import Data, TaskFamily


class Feed(contextlib.AbstractContextManager):
    """Gives the data of each outer step, as a function of (seed, step) alone.

    Outer steps n B to (n + 1) B - 1 draw their batches from block n of every family that streams, with B the
    `block_steps`. While they run, a thread reads block n + 1.

    Args:
      families: the families whose data are given.
      layout: all of its devices get all the data.
      seed: the seed of the run.
      block_steps: B, outer steps per block; the result of a run depends on it where a family streams.

    Raises:
      InputError: a family's data cannot be read, here or later in `at`.
    """

    def __init__(self, families: tuple[TaskFamily, ...], layout: PairLayout, seed: int, block_steps: int):
        self._families, self._sharding, self._seed = families, layout.replicated, seed
        self._block_steps = block_steps
        self._held = tuple(None if f.streams else self._load(f, 0) for f in families)
        streams = any(f.streams for f in families)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed") if streams else None
        self._blocks: dict[int, Future[tuple[Data, ...]]] = {}  # the one in use and the next

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def steps_left(self, step: int) -> int | None:
        """Outer steps from `step` on that may run on the same data; None for any number."""
        return None if self._pool is None else self._block_steps - step % self._block_steps

    def at(self, step: int) -> tuple[Data, ...]:
        """The data of outer step `step`, a tuple with one entry per family."""
        if self._pool is None:
            return self._held
        first = step // self._block_steps
        for block in (first, first + 1):
            if block not in self._blocks:
                self._blocks[block] = self._pool.submit(self._load_block, block)
        self._blocks = {block: self._blocks[block] for block in (first, first + 1)}
        streamed = iter(self._blocks[first].result())
        return tuple(next(streamed) if held is None else held for held in self._held)

    def _load_block(self, block: int) -> tuple[Data, ...]:
        return tuple(self._load(f, block) for f in self._families if f.streams)

    def _load(self, family: TaskFamily, block: int) -> Data:
        return processes.put(family.load(self._seed, block), self._sharding)
