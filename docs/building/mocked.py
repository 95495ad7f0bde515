"""The reference where PyTorch is not installed: Sphinx puts an object of no use in the place of each name of torch."""

from collections.abc import Iterator
from typing import Any

from sphinx.ext.autodoc.mock import _MockObject  # pyright: ignore[reportPrivateImportUsage]


def without_sources(app: Any) -> Iterator[Any]:
    """Leaves modules that have no source out of the list of sources, which would link to pages that do not exist."""
    modules = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]
    return iter(())


def setup(app: Any) -> dict[str, bool]:
    for union in ("__or__", "__ror__"):  # of `torch.Tensor | None` in an annotation
        setattr(_MockObject, union, lambda self, other: self)
    app.connect("html-collect-pages", without_sources, priority=100)  # sources are collected at 500
    return {"parallel_read_safe": True}
