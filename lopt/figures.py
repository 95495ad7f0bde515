"""What all figures share: colours and kinds of line that are told apart in grey too, text as it stands, PNG files."""

import io
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure

# As `c0` to `c8` of lopt/page/style.css, by daylight. The first stands out.
COLOURS = ("#c85200", "#1b1b1b", "#0b5394", "#2a8a57", "#8e3b7a", "#4a9fd8", "#a97f00", "#6a5acd", "#8f8f8f")
# As `d0` to `d6` there, in pixels on and off: 8 colours and 7 dashes draw 56 lines before two are alike.
DASHES = ((), (7, 3), (2, 2.5), (8, 3, 2, 3), (13, 3), (4, 2), (8, 2, 2, 2, 2, 2))


def line_style(colour: int, dash: int, *, width: float = 1.6) -> dict[str, Any]:
    """The arguments of a line of matplotlib, from the places of its colour and its dash, counted round."""
    dashes = tuple(x / 1.6 for x in DASHES[dash % len(DASHES)])
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "linewidth": width,
        "linestyle": (0, dashes) if dashes else "-",
    }


def line_classes(colour: int, dash: int) -> str:
    """The classes of the same line on a page, of lopt/page/style.css."""
    return f"c{colour % len(COLOURS)} d{dash % len(DASHES)}"


def plain_text(text: str) -> str:
    """A text that matplotlib draws as it stands: no formula between dollars, and no label that a legend leaves out."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def to_png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name may have letters that the font lacks: they become boxes, and the picture is still right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
