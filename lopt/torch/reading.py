"""Reads trained optimizers for PyTorch: the same files that `lopt.load` reads, without JAX."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lopt.names import InputError, Spec, build
from lopt.torch.rules import RULES
from lopt.torch.types import Rule, Theta
from lopt.trained.card import as_tuples, complete
from lopt.trained.folders import Read, find_export, read_files, theta_arrays
from lopt.trained.published import read_published


class Trained(NamedTuple):
    """A trained optimizer.

    Attributes:
      rule: the rule with the settings that it was trained with.
      theta: float32 tensors by name.
      card: the content of card.json.
    """

    rule: Rule
    theta: Theta
    card: Mapping[str, Any]


def read_trained(path_or_name: str | os.PathLike) -> Trained:
    """Reads an export, a run, an optimizer that ships, or published weights, as `lopt.load_pretrained` does.

    Raises:
      InputError: there is no such optimizer, it is damaged, or PyTorch lacks its rule.
    """
    if Path(path_or_name).is_file():
        (rule, theta), card = read_published(path_or_name, _check_published)
    else:
        rule, theta, card, _ = read_files(lambda: find_export(path_or_name), _rule_of, _theta_of)
    return Trained(rule, {name: torch.from_numpy(np.array(x)) for name, x in theta.items()}, card)


def make_rule(name: str, settings: Mapping[str, Any]) -> Rule:
    """The rule of this name. Raises InputError, which names those that there are, if PyTorch lacks it."""
    if name not in RULES:
        raise InputError(f"PyTorch lacks the rule {name}; it has {', '.join(sorted(RULES))}. lopt.load has all, in JAX")
    return build("architecture", Spec(name, dict(as_tuples(settings))), RULES)


def _rule_of(card: Mapping[str, Any]) -> Rule:
    return complete(make_rule(card["architecture"], card["settings"]), card)


def _theta_of(rule: Rule, card: Mapping[str, Any], read: Read) -> dict[str, np.ndarray]:
    numbers = sum(int(np.prod(shape)) for shape in rule.theta_shapes().values())
    return _checked(rule, theta_arrays(card, read, 4 * numbers))


def _check_published(name: str, settings: dict[str, Any], theta: dict[str, Any]) -> tuple[Rule, dict[str, np.ndarray]]:
    rule = make_rule(name, settings)
    return rule, _checked(rule, {f"{part}/{key}": x for part, arrays in theta.items() for key, x in arrays.items()})


def _checked(rule: Rule, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = rule.theta_shapes()
    found = {name: x.shape for name, x in arrays.items()}
    wrong = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if wrong:
        raise InputError(f"theta does not fit this architecture: look at {', '.join(wrong[:3])}")
    for name, x in arrays.items():
        if x.dtype != np.float32 or not np.isfinite(x).all():
            raise InputError(f"theta must be finite float32, and {name} is not")
    return arrays
