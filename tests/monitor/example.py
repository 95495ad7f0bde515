"""Folders of runs for tests, with metrics from formulas."""

import json
import os
from pathlib import Path
from typing import Any

from lopt.monitor.runs import Seen, Watcher

CONFIG = {"optimizer": "mlp", "tasks": "image_mlp/digits", "outer_steps": 100, "outer_learning_rate": 0.01, "seed": 0}
NOW = 1_000_000.0  # what the clock says
BLOCK = 5  # outer steps


def row(step: int, **changes: Any) -> dict[str, Any]:
    """A row of a run that is well: 2 s per outer step, of which 0.1 s go into saving."""
    found = {"step": step, "meta_loss": 1 / step, "grad_norm": 0.5, "grad_variance": 0.1, "update_norm": 0.01}
    found |= {"capped": 0.0, "left_out": 0.0, "update_over_theta/mlp": 0.02, "update_over_theta/lstm": 0.01}
    if step % BLOCK == 0:
        found |= {"seconds_training": 1.9 * BLOCK, "seconds_saving": 0.1 * BLOCK, "seconds_compiling": 0.0}
    return found | changes


def write(folder: Path, rows: list[dict[str, Any]], *, age: float = 1.0, **config: Any) -> Path:
    """A run's folder, that last wrote `age` seconds before `NOW`; metrics.jsonl is absent without rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if rows:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    touch(folder, age)
    return folder


def touch(folder: Path, age: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (NOW - age, NOW - age))


def watcher(*folders: Path) -> Watcher:
    return Watcher([str(folder) for folder in folders], clock=lambda: NOW)


def seen(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Seen:
    """A run of these rows, as it is seen."""
    (run,) = watcher(write(folder, rows, **more)).look()
    return run


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [row(step, **changes) for step in range(1, count + 1)]
