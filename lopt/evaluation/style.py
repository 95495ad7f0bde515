"""What all pictures of an evaluation and its page share: each optimizer has one colour and one kind of line."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lopt.evaluation.baselines import BASELINES
from lopt.figures import COLOURS, DASHES, line_classes, line_style, plain_text

DPI = 150
FAINT = "#c4c4c4"  # lines to compare with
PARTS = {"train": "final training loss", "valid": "validation loss"}  # the ratios that decide, in words

# The order in which optimizers get their styles, whoever else takes part.
ORDER = ("adam", "adam_default", "untrained", *(name for name in BASELINES if name != "adam"))


class Style(NamedTuple):
    """Attributes: colour, of `COLOURS`, of which the first is the learned optimizer's alone; dash, of `DASHES`."""

    colour: int
    dash: int

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of a line of matplotlib."""
        return line_style(self.colour, self.dash, width=2.6 if self.colour == 0 else 1.6)

    @property
    def classes(self) -> str:
        """The classes of lopt/page/style.css."""
        return line_classes(self.colour, self.dash) + (" wide" if self.colour == 0 else "")


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


def labels_of(optimizers: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What pictures call each optimizer, from its entry in the content of summary.json."""
    return {name: plain_text(row["label"]) for name, row in optimizers.items()}
