"""The pool of inner tasks: task families by name, their augmentations, and named sets of them."""

from tasks.augmentations import AUGMENTATIONS
from tasks.families import FAMILIES, Family
from tasks.pools import POOLS, parse_mixture, parse_tasks

__all__ = ["AUGMENTATIONS", "FAMILIES", "POOLS", "Family", "parse_mixture", "parse_tasks"]
