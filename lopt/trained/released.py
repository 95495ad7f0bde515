"""Reads weights that others have published as theta of this library; `published.py` has their layout."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from lopt.names import InputError, Spec, build
from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import theta_template
from lopt.trained.published import read_published
from lopt.trees import describe_leaves, differences
from lopt.types import LearnedOptimizer, Theta


def read_released(path: str | os.PathLike) -> tuple[LearnedOptimizer, Theta, dict[str, Any]]:
    """Reads a published `theta.state`.

    Returns:
      The optimizer, its theta, and what is known of them under the keys of an export's card.

    Raises:
      InputError: the file cannot be read, or has another layout.
    """
    (optimizer, theta), card = read_published(path, _check)
    return optimizer, jax.tree.map(jnp.asarray, theta), card


def _check(name: str, settings: dict[str, Any], theta: Theta) -> tuple[LearnedOptimizer, Theta]:
    optimizer = build("architecture", Spec(name, settings), OPTIMIZERS)
    wanted = describe_leaves(theta_template(optimizer))
    if different := differences(describe_leaves(theta), wanted):
        raise InputError(different)
    return optimizer, theta
