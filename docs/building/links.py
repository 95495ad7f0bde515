"""Links that the site has otherwise: those to files of the repository, and those that are called by a file's name."""

import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)(#[^)\s]*)?\)")
FILE = re.compile(r"\[[\w/-]+\.md\]\((?=[\w/.-]+\.md[#)])")


def inside(text: str, page: Path, docs: Path) -> str:
    """The page with links out of `docs` as plain text; those to the changelog lead to its page of the site.

    A link that is called by the name of a page's file gets no text, for which Sphinx puts that page's title.
    """

    def replace(found: re.Match) -> str:
        words, target, _ = found.groups()
        path = Path(os.path.normpath(page.parent / target))
        if path.name == "CHANGELOG.md":
            return f"[{words}]({os.path.relpath(docs / 'changelog.md', page.parent)})"
        if path.is_relative_to(docs):
            return found[0]
        place = path.relative_to(docs.parent)
        return words if str(place) in words else f"{words} (`{place}`)"

    return FILE.sub("[](", LINK.sub(replace, text))


def rewrite(app: Any, docname: str, source: list[str]) -> None:
    docs = Path(app.srcdir)
    source[0] = inside(source[0], docs / f"{docname}.md", docs)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True}
