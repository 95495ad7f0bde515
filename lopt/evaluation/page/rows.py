"""What sections of the page share: rows of optimizers, each with a sample of its line and its label; pictures."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from lopt.page.cells import column_head, labelled_row, sortable_table

Content = Mapping[str, Any]
Styles = Mapping[str, str]


def learned_label(content: Content) -> str:
    """What people call the learned optimizer."""
    return escape(content.get("optimizers", {}).get("learned", {}).get("label", "the learned optimizer"))


def table_row(name: str, content: Content, styles: Styles, cells: Iterable[str]) -> str:
    """A row for an optimizer: a sample of its line, its name, and the cells."""
    label = escape(content.get("optimizers", {}).get(name, {}).get("label", name))
    return labelled_row(label, styles.get(name, "c8"), cells, "learned" if name == "learned" else "")


def optimizer_table(name: str, heads: Iterable[str], groups: Iterable[str], foot: str = "") -> str:
    """A table of such rows that scrolls on its own; each group of rows sorts within itself."""
    return sortable_table(name, [column_head("Optimizer", None), *heads], groups, foot)


def picture(name: str, words: str, content: Content) -> str:
    """One of the content's pictures, within the page; "" where it is not there."""
    if name not in content["pictures"]:
        return ""
    data = base64.b64encode(content["pictures"][name]).decode()
    return f'<img class="picture" alt="{words}" src="data:image/png;base64,{data}">'


def is_lower_bound(key: str, row: Mapping[str, Any]) -> bool:
    """Whether a speed-up says that the reference never got there: the envelope's is as large only in that case."""
    return bool(row.get("speed_up_is_lower_bound")) and row.get(key) == row["speed_up"]
