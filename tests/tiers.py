"""Which rows of a table `make test` runs; the others are marked `thorough`, and `make test-all` runs them too.

A test with several `parametrize` is a table, with an axis for each. `make test` runs rows in which every value of every
axis is met: the k-th value of the longest axis with the k-th of each other one, which begins again where it ends. A new
value joins by itself. A test of which every row is needed is marked `whole_table`.
"""

import collections
from collections.abc import Hashable, Iterable, Iterator, Sequence

import pytest


def mark_thorough(items: Iterable[pytest.Item]) -> None:
    """Marks the rows that `make test` leaves out."""
    tables = collections.defaultdict(list)
    for item in items:
        if (
            hasattr(item, "callspec")
            and not any(item.iter_markers("slow"))
            and not any(item.iter_markers("whole_table"))
        ):
            tables[item.nodeid.partition("[")[0]].append(item)
    for rows in tables.values():
        kept = cover([tuple(values(row)) for row in rows])
        for i, row in enumerate(rows):
            if i not in kept:
                row.add_marker(pytest.mark.thorough)


def values(row: pytest.Item) -> Iterator[Hashable]:
    """What a row has on each axis. A value is known by its identity, as two may be equal, or NaN."""
    params = dict(row.callspec.params)  # type: ignore[attr-defined]
    for mark in row.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        yield tuple(id(params.pop(name.strip())) for name in names)
    yield from map(id, params.values())  # those of fixtures


def cover(rows: Sequence[tuple[Hashable, ...]]) -> set[int]:
    """Indices of rows in which every value of every axis is met, whatever rows there are of the full product.

    >>> rows = [(i, j) for i in "abc" for j in "xy"]
    >>> [rows[i] for i in sorted(cover(rows))]
    [('a', 'x'), ('b', 'y'), ('c', 'x')]
    """
    axes = [list(dict.fromkeys(axis)) for axis in zip(*rows, strict=True)]
    longest = max(range(len(axes)), key=lambda a: len(axes[a]), default=0)
    kept, met = set(), set()

    def is_diagonal(row: tuple[Hashable, ...]) -> bool:
        k = axes[longest].index(row[longest])
        return all(axis.index(value) == k % len(axis) for axis, value in zip(axes, row, strict=True))

    for i in sorted(range(len(rows)), key=lambda i: not is_diagonal(rows[i])):
        new = set(enumerate(rows[i])) - met
        if new:
            kept.add(i)
            met |= new
    return kept
