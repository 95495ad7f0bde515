"""Docstrings are plain text with code between single backticks; Sphinx reads them as reStructuredText.

So code between backticks becomes literal, and the characters that reStructuredText would take for markup are escaped.
"""

import collections
import re
from typing import Any

FIELD = type(
    vars(collections.namedtuple("Pair", "x y"))["x"]
)  # of a NamedTuple: described under Attributes of its class
CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"([\\*|]|_(?=\W|$)|(?<=\W)_)")


def plain(line: str) -> str:
    """A line of a docstring, as reStructuredText that shows it as it stands.

    >>> plain("L_i+ is |x| * y_, as `a|b` says")
    'L_i+ is \\\\|x\\\\| \\\\* y\\\\_, as ``a|b`` says'
    """
    parts = CODE.split(line)
    for i in range(0, len(parts), 2):
        after_code = i > 0 and parts[i][:1].isalnum()  # as in the plural of a name
        parts[i] = ("\\ " if after_code else "") + MARKUP.sub(r"\\\1", parts[i])
    return "".join(f"`{part}`" if i % 2 else part for i, part in enumerate(parts))


def convert(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrites a docstring in place, before its sections are read."""
    del app, what, name, obj, options
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else plain(line) for line in lines]


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out what only repeats the section of attributes, and what every tuple and exception has."""
    del app, what, options
    return True if isinstance(obj, FIELD) or name in ("count", "index", "add_note", "with_traceback") else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", convert, priority=100)  # Napoleon, which reads the sections, has 500
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
