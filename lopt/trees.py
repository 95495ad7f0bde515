"""Pytrees by the names of their leaves, and what differs between two of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from lopt.types import PyTree

MOST_SHOWN = 3  # number of differences that a message lists


def leaf_name(path: Any) -> str:
    """The name of the leaf at a JAX key path: `mlp/kernel_0`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves by their names, in the tree's order."""
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def map_with_name(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Applies `function(name, leaf, ...)` to every leaf; returns a tree like `tree`."""
    return jax.tree.map_with_path(lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest)


def describe(leaf: Any) -> str:
    """Type and shape of an array: `float32[8, 4]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def describe_leaves(tree: PyTree) -> dict[str, str]:
    """Type and shape of every leaf, by name."""
    return {name: describe(leaf) for name, leaf in by_name(tree).items()}


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Says in words how the leaves of two trees differ; empty if they do not.

    Args:
      found: the description of each leaf that there is, by name.
      wanted: the description of each leaf that there should be.
    """
    phrases = [
        f"{name} is {found.get(name, 'missing')}, and should be {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    rest = len(phrases) - MOST_SHOWN
    return "; ".join([*phrases[:MOST_SHOWN], *([f"and {rest} more"] if rest > 0 else [])])
