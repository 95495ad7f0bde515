"""Who takes part in an evaluation."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax

from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.runs import Learned, Rule
from lopt.names import InputError
from lopt.trained.pretrained import Pretrained
from lopt.types import LearnedOptimizer, PyTree, Theta

RESERVED = ("learned", "untrained", "adam_default", *BASELINES)  # names of entries


class Contestant(NamedTuple):
    """An optimizer that takes part.

    Attributes:
      name: of its entry.
      label: for people.
      kind: of `entries.KINDS`.
      rule: of its runs.
      hypers: what the runs may have, stacked: learning rates `[G]`, or theta with a leading axis of 1.
      rates: `[G]` learning rates to choose from; one, NaN if it has none, for what is not tuned.
    """

    name: str
    label: str
    kind: str
    rule: Rule
    hypers: PyTree
    rates: tuple[float, ...]


def learned_contestant(name: str, label: str, optimizer: LearnedOptimizer, theta: Theta, *, kind: str = "learned"):
    """A learned optimizer that takes part; nothing of it is tuned."""
    return Contestant(name, label, kind, Learned(optimizer), jax.tree.map(lambda x: x[None], theta), (math.nan,))


def other_contestants(others: Iterable[Pretrained]) -> list[Contestant]:
    """Further learned optimizers, by their names. Raises InputError if two have the same."""
    taken, found = set(RESERVED), []
    for other in others:
        if other.name in taken:
            raise InputError(f"there is another optimizer of the name {other.name!r}: rename its folder")
        taken.add(other.name)
        found.append(learned_contestant(other.name, other.name, other.optimizer, other.theta))
    return found


def horizon_warnings(optimizers: Mapping[str, Pretrained], horizon: int) -> list[str]:
    """Which of them, by what they are called, are asked for more steps than they were meta-trained on."""
    longest = {name: pretrained.card["horizon"][1] for name, pretrained in optimizers.items()}
    return [
        f"{name} was meta-trained on at most {steps:,} steps, and is evaluated on {horizon:,}"
        for name, steps in longest.items()
        if horizon > steps
    ]
