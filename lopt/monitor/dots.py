"""Lines drawn with the dots of Braille letters, of which a cell of a terminal has 2 x 4."""

from collections.abc import Sequence

import numpy as np
from rich.text import Text

from lopt.meta_training.panels import Line, Panel, Scale, scale_of

# Bits of the dots of a letter by row and column, from U+2800 on.
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
COLOURS = ("dark_orange3", "default", "dodger_blue2", "green4", "magenta", "cyan", "yellow4", "medium_purple", "grey58")
AXIS = 10  # cells to the left of the plot


def draw(panels: Sequence[Panel], width: int, height: int, last: float, *, numbered: bool = False) -> list[Text]:
    """One picture per panel, which share their y-axis if they are `alike`.

    Args:
      panels: what to draw.
      width: of a picture in cells, its axis included.
      height: of a picture in lines, title and axis included.
      last: the outer step at the right edge.
      numbered: whether each line ends with the number of its colour, counted from 1; a panel that names its lines
        numbers them in any case.
    """
    alike = [panel for panel in panels if panel.alike]
    return [
        _draw(panel, scale_of(alike if panel.alike else [panel]), width, height, last, numbered) for panel in panels
    ]


def colour(place: int | None) -> str:
    """The colour of a line in a terminal, light or dark."""
    return "grey58" if place is None else COLOURS[place % len(COLOURS)]


def _draw(panel: Panel, scale: Scale, width: int, height: int, last: float, numbered: bool) -> Text:
    columns, rows = max(4, width - AXIS - 1), max(2, height - 2)
    canvas = _Canvas(columns, rows)
    if panel.reference is not None and scale.low < panel.reference < scale.high:
        across = np.array([0.0, last])
        canvas.line(_dots(across, np.full(2, panel.reference), scale, last, canvas), "grey58", dotted=True)
    for line in sorted(panel.lines, key=lambda line: (line.place is not None, -(line.place or 0))):
        canvas.line(_dots(line.steps, line.values, scale, last, canvas), colour(line.place))
    named = [line for line in panel.lines if line.place is not None]
    if numbered or (panel.legend and len(named) > 1):
        for line in reversed(named):
            canvas.number(_dots(line.steps, line.values, scale, last, canvas)[-1], line)
    text = Text(no_wrap=True, overflow="crop", end="")
    text.append(panel.title[: width - 2], style="bold")
    for line in named if panel.legend and len(named) > 1 else ():
        text.append(f"  {(line.place or 0) + 1} {line.label}", style=colour(line.place))
    text.truncate(width - 2)
    text.append("\n")
    labels = {0: scale.high, rows - 1: scale.low}
    if rows >= 6:
        middle = rows // 2
        share = 1 - (middle + 0.5) / rows
        ends = np.log([scale.low, scale.high]) if scale.log else np.array([scale.low, scale.high])
        value = ends[0] + share * (ends[1] - ends[0])
        labels[middle] = float(np.exp(value)) if scale.log else float(value)
    for row in range(rows):
        label = f"{labels[row]:.3g}" if row in labels else ""
        text.append(f"{label:>{AXIS - 2}} \N{BOX DRAWINGS LIGHT VERTICAL}", style="grey58")
        text.append_text(canvas.row(row))
        text.append("\n")
    kind = "log" if scale.log else ""
    text.append(f"{kind:>{AXIS - 2}} 0{f'step {last:,.0f}':>{columns}}", style="grey58")
    return text


class _Canvas:
    def __init__(self, columns: int, rows: int):
        self.shape = rows * 4, columns * 2
        self._bits = np.zeros((rows, columns), int)
        self._styles = np.full((rows, columns), "", object)
        self._letters = np.full((rows, columns), "", object)

    def line(self, dots: np.ndarray, style: str, *, dotted: bool = False) -> None:
        """Joins dots, `[n, 2]` rows and columns."""
        for start, end in zip(dots, dots[1:] if len(dots) > 1 else dots, strict=False):
            count = int(np.abs(end - start).max()) + 1
            between = np.rint(np.linspace(start, end, count)).astype(int)
            for y, x in between[:: 4 if dotted else 1].tolist():
                self._bits[y // 4, x // 2] |= BITS[y % 4][x % 2]
                self._styles[y // 4, x // 2] = style

    def number(self, dot: np.ndarray, line: Line) -> None:
        """Writes the number of a line where it ends."""
        y, x = int(dot[0]) // 4, int(dot[1]) // 2
        for i, letter in enumerate(str((line.place or 0) + 1)):
            if x + i < self._letters.shape[1]:
                self._letters[y, x + i], self._styles[y, x + i] = letter, f"bold {colour(line.place)}"

    def row(self, row: int) -> Text:
        text = Text()
        for letter, bits, style in zip(self._letters[row], self._bits[row], self._styles[row], strict=True):
            text.append(letter or (chr(0x2800 + bits) if bits else " "), style=style)
        return text


def _dots(steps: np.ndarray, values: np.ndarray, scale: Scale, last: float, canvas: _Canvas) -> np.ndarray:
    """Where points of a line are: rows and columns of dots, `[n, 2]`, one point per column at most."""
    height, width = canvas.shape
    low, high = (np.log(scale.low), np.log(scale.high)) if scale.log else (scale.low, scale.high)
    y = np.log(np.maximum(values, 1e-300)) if scale.log else values
    rows = np.clip(np.rint((high - y) / (high - low) * (height - 1)), 0, height - 1)
    columns = np.clip(np.rint(steps / max(last, 1.0) * (width - 1)), 0, width - 1)
    newest = np.append(columns[1:] != columns[:-1], True)  # the last value of each column
    return np.stack([rows, columns], axis=1)[newest]
