"""How each optimizer is drawn: one colour and one kind of line, the same in all pictures and on the page."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from lopt.evaluation.baselines import BASELINES

# As `c0` to `c8` of page/style.css, by daylight. The first is the learned optimizer's alone.
COLOURS = ("#c85200", "#1b1b1b", "#0b5394", "#2a8a57", "#8e3b7a", "#4a9fd8", "#a97f00", "#6a5acd", "#8f8f8f")
# As `d0` to `d6` of page/style.css, in pixels on and off: 8 colours and 7 dashes draw 56 lines before two are alike.
DASHES = ((), (7, 3), (2, 2.5), (8, 3, 2, 3), (13, 3), (4, 2), (8, 2, 2, 2, 2, 2))
# The order in which optimizers get their styles, whoever else takes part.
ORDER = ("adam", "adam_default", "untrained", *(name for name in BASELINES if name != "adam"))


class Style(NamedTuple):
    """Attributes: colour, an index of `COLOURS`; dash, an index of `DASHES`."""

    colour: int
    dash: int

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of a line of matplotlib."""
        width = 2.6 if self.colour == 0 else 1.6
        dashes = tuple(x / 1.6 for x in DASHES[self.dash])
        return {"color": COLOURS[self.colour], "linewidth": width, "linestyle": (0, dashes) if dashes else "-"}

    @property
    def classes(self) -> str:
        """The classes of page/style.css."""
        return f"c{self.colour} d{self.dash}"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of each optimizer by the name of its entry; other learned optimizers in the order of their names."""
    names = list(names)
    others = [name for name in names if name != "learned" and name not in ORDER]
    places = {name: i for i, name in enumerate([*ORDER, *others])}
    colours, dashes = len(COLOURS) - 1, len(DASHES)
    return {
        name: Style(0, 0) if name == "learned" else Style(1 + places[name] % colours, places[name] % dashes)
        for name in names
    }


def plain_text(text: str) -> str:
    """A text that matplotlib draws as it stands: no formula between dollars, and no label that a legend leaves out."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
