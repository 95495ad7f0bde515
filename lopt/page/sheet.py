"""A page as one file of HTML, which opens from disk."""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SCRIPTS = ("tables.js", "drawing.js", "chart.js")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def sheet(
    title: str,
    header: str,
    sections: Iterable[tuple[str, str, str]],
    data: Mapping[str, Any],
    script: str,
    *,
    connect: bool = False,
) -> str:
    """The page.

    Args:
      title: of the page, as text.
      header: what is above the links to the sections, as HTML.
      sections: name, title and body of each, as HTML; one without a body is left out.
      data: what the script draws: plain values.
      script: runs after `SCRIPTS`.
      connect: whether the page may ask the server that it came from.
    """
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    return fill(
        FOLDER / "page.html",
        title=escape(title),
        policy=POLICY + ("; connect-src 'self'" if connect else ""),
        style=read(FOLDER / "style.css"),
        header=f"{header}<nav aria-label='Parts of this page'>{links}</nav>",
        main="\n".join(f'<section id="{name}"><h2>{title}</h2>\n{body}\n</section>' for name, title, body in sections),
        # Within a script element only "<" could end it.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        script="\n".join([*(read(FOLDER / name) for name in SCRIPTS), script]),
    )


def fill(path: Path, **parts: str) -> str:
    """A file with its {{placeholders}} filled in one pass, so that nothing inside a part is read as a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], read(path))


@functools.cache
def read(path: Path) -> str:
    """The text of a file that belongs to a page."""
    return path.read_text(encoding="utf-8")
