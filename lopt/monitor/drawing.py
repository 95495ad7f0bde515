"""What the script of the page draws: panels of lines, as plain values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lopt.figures import line_classes
from lopt.meta_training.panels import Line, Panel, scale_of

MOST_POINTS = 600  # of a line: more than a screen shows


def drawn(row: Sequence[Panel]) -> list[dict[str, Any]]:
    """The panels of a row, as the script draws them."""
    alike = [panel for panel in row if panel.alike]
    found = []
    for panel in row:
        scale = scale_of(alike if panel.alike else [panel])
        lines = [line for line in panel.lines if line.place is not None]
        behind = [_line(line) for line in panel.lines if line.place is None]
        behind += [_line(line._replace(values=line.trace)) for line in lines if line.trace is not None]
        found.append(
            {
                "title": panel.title,
                "y": {
                    "label": panel.ylabel + (" (log)" if scale.log else ""),
                    "low": _digits(scale.low),
                    "high": _digits(scale.high),
                    "log": scale.log,
                    "reference": panel.reference,
                },
                "lines": [{"label": line.label} | _line(line) for line in lines],
                "behind": behind,
            }
        )
    return found


def _line(line: Line) -> dict[str, Any]:
    keep = np.unique(np.linspace(0, len(line.steps) - 1, MOST_POINTS).round().astype(int))
    kind = "c8 d0 behind" if line.place is None else line_classes(line.place, line.place)
    return {
        "style": kind,
        "x": [int(x) for x in line.steps[keep]],
        "y": [_digits(x) for x in line.values[keep]],
    }


def _digits(x: float) -> float | None:
    """Seven digits, which is more than a screen shows; None for what is not finite."""
    return float(f"{x:.7g}") if math.isfinite(x) else None
