"""How fast a run is, from the seconds in its metrics: they stand in the last row of each block of outer steps."""

import math
from collections.abc import Mapping

import numpy as np

COMING_AGAIN = tuple(f"seconds_{part}" for part in ("training", "data", "saving", "validating"))
LAST_SHARE = 0.2  # of the outer steps, from which the present speed is taken


def block_seconds(history: Mapping[str, np.ndarray], names: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """The last outer steps of the blocks, and the seconds that each block took: `[blocks]` each.

    Args:
      history: the columns of metrics.jsonl.
      names: columns to add up; all seconds if empty.
    """
    parts = [history[name] for name in names or history if name in history and name.startswith("seconds_")]
    if not parts:
        return np.empty(0), np.empty(0)
    ends = np.isfinite(parts).any(axis=0)
    return history["step"][ends], np.nansum(parts, axis=0)[ends]


def seconds_per_step(history: Mapping[str, np.ndarray]) -> float:
    """Seconds that an outer step takes, of what comes again: not of compiling and starting. NaN where no row says."""
    steps, seconds = block_seconds(history, COMING_AGAIN)
    if not len(steps):
        return math.nan
    last = steps > (1 - LAST_SHARE) * history["step"][-1]
    last[-1] = True
    counts = np.diff(steps, prepend=0.0)[last].sum()
    return float(seconds[last].sum() / counts) if counts > 0 else math.nan


def time_shares(history: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of each part in the time of the last fifth of the outer steps, by the name of its column."""
    shares = {}
    for name in COMING_AGAIN:
        steps, seconds = block_seconds(history, (name,))
        shares[name] = float(seconds[steps > (1 - LAST_SHARE) * history["step"][-1]].sum()) if len(steps) else 0.0
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else {}


def written_time(seconds: float) -> str:
    """A length of time as people say it: 45 s, 12 min, 3:05 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
