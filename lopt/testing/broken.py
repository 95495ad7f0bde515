"""What a check says when a rule is broken."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.types import PyTree


class Broken(AssertionError):
    """What every task, rule or estimator keeps is broken. The message names it, what was seen, and what to do."""


def require(condition: Any, rule: str, seen: Any, remedy: str) -> None:
    """Raises Broken unless the condition holds."""
    if not condition:
        raise Broken(f"{rule}\n  seen: {seen}\n  to do: {remedy}")


@contextlib.contextmanager
def runs(rule: str, remedy: str) -> Iterator[None]:
    """Turns whatever the code within raises into Broken."""
    try:
        yield
    except Broken:
        raise
    except Exception as error:  # whatever other people's code raises
        raise Broken(f"{rule}\n  seen: {type(error).__name__}: {error}\n  to do: {remedy}") from error


def all_finite(tree: PyTree) -> bool:
    """Whether all numbers of a tree are finite."""
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(plain(tree)))


def plain(tree: PyTree) -> PyTree:
    """The tree in numpy, with typed keys as numbers."""

    def one(x: Any) -> np.ndarray:
        is_key = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(one, tree)


def check_value(made: Any) -> None:
    """It is equal to a copy of itself, with the same hash."""
    rule = "settings decide equality and hash, so that one compiled program serves all equal objects"
    remedy = "make it a frozen dataclass whose fields are numbers, words, tuples and functions of a module"
    with runs(rule, remedy):
        again = copy.copy(made)
        same = again == made and hash(again) == hash(made)
    require(same, rule, "a copy that is not equal", remedy)
