"""Notebooks that are not in the cache run before the pages are read, as many at a time as there are cores.

`python -m docs.building.notebooks` says how long the slowest of them took.
"""

from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from docs.building.sources import digest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 5
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


def seconds(cache: Any, docs: Path) -> dict[str, float]:
    """How long the cells of each page took when they ran last, the slowest page first."""
    records = sorted(cache.list_cache_records(), key=lambda record: record.created)
    taken = {record.uri: record.data["execution_seconds"] for record in records}
    named = {str(Path(page).relative_to(docs)): found for page, found in taken.items()}
    return dict(sorted(named.items(), key=lambda row: -row[1]))


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", execute)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    found = seconds(get_cache(str(ROOT / "runs" / "docs" / "cache" / digest(ROOT))), ROOT / "docs")
    slowest = ", ".join(f"{page} {taken:.0f}" for page, taken in list(found.items())[:SHOWN])
    print(f"Slowest pages of {len(found)}, in seconds beside another one: {slowest}")
