"""The pool of inner tasks: task families by name, their augmentations, and named sets of them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.augmentations import AUGMENTATIONS
    from tasks.families import FAMILIES, Family
    from tasks.pools import POOLS, parse_mixture, parse_tasks

__all__ = ["AUGMENTATIONS", "FAMILIES", "POOLS", "Family", "parse_mixture", "parse_tasks"]

# Loaded at first use: `python -m tasks` has to hear Ctrl-C before JAX loads.
_LATER = {
    "AUGMENTATIONS": "tasks.augmentations",
    "FAMILIES": "tasks.families",
    "Family": "tasks.families",
    "POOLS": "tasks.pools",
    "parse_mixture": "tasks.pools",
    "parse_tasks": "tasks.pools",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
