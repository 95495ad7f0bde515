"""The pool of inner tasks: task families by name, their augmentations, and named sets of them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augmentations import AUGMENTATIONS
    from .families import FAMILIES, Family
    from .pools import POOLS, parse_mixture, parse_tasks

__all__ = ["AUGMENTATIONS", "FAMILIES", "POOLS", "Family", "parse_mixture", "parse_tasks"]

# Loaded at first use: `python -m tasks` has to hear Ctrl-C before JAX loads.
_LATER = {
    "AUGMENTATIONS": ".augmentations",
    "FAMILIES": ".families",
    "Family": ".families",
    "POOLS": ".pools",
    "parse_mixture": ".pools",
    "parse_tasks": ".pools",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
