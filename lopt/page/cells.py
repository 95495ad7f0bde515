"""Cells and rows of the tables. Every cell carries the number that it shows, for the script that sorts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Cell = str | float | int | None  # as in summary.json: "inf" for a diverged run, None for no value


class Column(NamedTuple):
    """One measure.

    Attributes:
      key: its key in the rows.
      title: the head of its column.
      better: `low` or `high`, the values that are better; None for neither.
      write: writes a value.
      beside: what stands beside it in small letters, with a place for a count, and the count's key; None for nothing.
    """

    key: str
    title: str
    better: str | None
    write: Callable[[float], str]
    beside: tuple[str, str] | None = None


def number(value: Cell) -> float | None:
    """A plain value as a number: "inf" is infinite, None and NaN are None."""
    value = None if value is None else float(value)
    return None if value is None or math.isnan(value) else value


def quantity(x: float) -> str:
    """A count, with commas between thousands."""
    return f"{x:,.0f}"


def significant(x: float) -> str:
    """Three digits, zeros at the end included, so that columns line up."""
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(x)))
    return f"{x:.{max(0, 2 - exponent)}f}" if -4 <= exponent < 5 else f"{x:.2e}"


def percent(x: float) -> str:
    """A share, with one decimal; the sign never begins a line."""
    return f"{100 * x:.1f}\N{NO-BREAK SPACE}%"


def with_prefix(x: float) -> str:
    """A large count, three digits: 2.35 M."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{significant(x / size)} {letter}"
    return quantity(x)


def present(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns for which some row has a value."""
    return [column for column in columns if any(number(row.get(column.key)) is not None for row in rows)]


def best_value(column: Column, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The lowest or highest finite value of a column, None where neither is better."""
    values = [value for row in rows if (value := number(row.get(column.key))) is not None and math.isfinite(value)]
    if not values or column.better is None:
        return None
    return min(values) if column.better == "low" else max(values)


def measure_cell(column: Column, row: Mapping[str, Any], best: float | None, *, lower_bound: bool = False) -> str:
    """One value as its column writes it; a lower bound has a sign before it."""
    value = number(row.get(column.key))
    if value is None:
        return data_cell(None, "")
    if math.isinf(value):
        return data_cell(value, '<span class="diverged">diverged</span>')
    text = column.write(value)
    if column.beside and row.get(column.beside[1]):
        text += f' <span class="unit">{column.beside[0].format(quantity(row[column.beside[1]]))}</span>'
    if lower_bound:
        text = f"&ge; {text}"
    return data_cell(value, text, best=value == best)


def data_cell(value: float | None, text: str, *, best: bool = False) -> str:
    """A cell with the number to sort by; a dash where there is no value."""
    if value is None:
        return '<td class="none" data-value="">&ndash;</td>'
    name = "Infinity" if value == math.inf else repr(value)
    return f'<td data-value="{name}"{" class=best" if best else ""}>{text}</td>'


def word_cell(text: str) -> str:
    """A cell with a word to sort by, as HTML."""
    return f'<td class="word" data-value="{text}">{text or "&ndash;"}</td>'


def column_head(title: str, better: str | None, *, words: bool = False) -> str:
    """A header that sorts; the first click shows the better values first. Over words it stands to the left."""
    first, kind = "descending" if better == "high" else "ascending", ' class="word"' if words else ""
    return f'<th scope="col"{kind} aria-sort="none"><button type="button" data-first="{first}">{title}</button></th>'


def labelled_row(label: str, style: str, cells: Iterable[str], kind: str = "") -> str:
    """A row of what has a line: a sample of it, its name, and the cells.

    Args:
      label: the name, as HTML.
      style: classes of the line in style.css.
      cells: of `data_cell` and the like.
      kind: class of the row; "" for none.
    """
    line = f'<line x1="1" x2="29" y1="5" y2="5" class="line {style}"/>'
    swatch = f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}</svg>'
    opening = f' class="{kind}"' if kind else ""
    who = f'<span class="who">{swatch}<span>{label}</span></span>'
    return f'<tr{opening}><th scope="row" data-value="{label}">{who}</th>{"".join(cells)}</tr>'


def sortable_table(name: str, heads: Iterable[str], groups: Iterable[str], foot: str = "") -> str:
    """A table that scrolls on its own; each group of rows sorts within itself."""
    bodies = "".join(f"<tbody>{rows}</tbody>" for rows in groups)
    return f"""<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table>
<thead><tr>{"".join(heads)}</tr></thead>
{bodies}{f"<tfoot>{foot}</tfoot>" if foot else ""}</table></div>"""
