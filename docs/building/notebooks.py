"""Notebooks that are not in the cache run before the pages are read, as many at a time as there are cores."""

from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

MARK = "file_format: mystnb"
READER = {"name": "myst_nb_md", "type": "plugin"}


def notebooks(docs: Path) -> list[Path]:
    """The pages with cells that run."""
    return [page for page in sorted(docs.rglob("*.md")) if MARK in page.read_text()[:100]]


def execute(app: Any) -> None:
    """Fills the cache. What fails here is run once more when its page is read, which says why."""
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    for page in notebooks(Path(app.srcdir)):
        cache.add_nb_to_project(str(page), read_data=READER)
    load_executor("temp-parallel", cache).run_and_cache(timeout=app.config.nb_execution_timeout)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", execute)
    return {"parallel_read_safe": True}
