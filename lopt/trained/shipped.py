"""What is known of the trained optimizers that ship with lopt, without loading them."""

import inspect
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.trained.card import optimizer_of, read_card
from lopt.trained.export import CARD_FILE, theta_template
from lopt.trained.folders import shipped_folders
from lopt.types import LearnedOptimizer

READS = {"params": "params", "value": "loss", "num_steps": "num_steps"}  # what a person calls the inputs of a rule
# What those that are not demonstrations are for. The first is what `lopt.load()` gives.
PURPOSES = {
    "blend": "the one to try first: needs the loss and the length of the training",
    "blend_anytime": "for trainings of unknown length; does not need the loss",
    "blend_cheap": "blend without orthogonalized updates: an update costs three times Adam's",
    "blend_fit": "blend for the lowest training loss: with an eighth of its weight decay",
}
SIDE = 1024  # of the matrix whose state is counted: what exists once per tensor, row or column hardly shows


class Shipped(NamedTuple):
    """A trained optimizer that ships with lopt.

    Attributes:
      name: what `lopt.load` calls it.
      purpose: what it is for, in a line; empty for a demonstration of its rule.
      rule: the architecture.
      what: what the rule does, in a line.
      reads: what an update reads, of "gradient", "params", "loss" and "num_steps".
      weights: how many numbers were learned.
      state: numbers that are kept per parameter of a large matrix; Adam keeps 2.
      tasks: what it was meta-trained on, as for `--tasks`.
      horizon: steps of the shortest and of the longest training that it was meta-trained on.
      outer_steps: length of the meta-training.
    """

    name: str
    purpose: str
    rule: str
    what: str
    reads: tuple[str, ...]
    weights: int
    state: float
    tasks: str
    horizon: tuple[int, int]
    outer_steps: int


def shipped() -> dict[str, Shipped]:
    """The trained optimizers that ship with lopt, by name: what for, what they cost and read, how far trained.

    This is read from their cards and from the shapes of their arrays. Nothing is computed.
    """
    found = {}
    for name, folder in shipped_folders().items():
        try:
            card = read_card((folder / CARD_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {folder / CARD_FILE}: {error}; install lopt again") from error
        rule = optimizer_of(card, None)
        (shortest, longest) = card["horizon"]
        found[name] = Shipped(
            name,
            purpose=PURPOSES.get(name, ""),
            rule=card["architecture"],
            what=_description(rule),
            reads=("gradient", *(word for key, word in READS.items() if key in rule.requires)),
            weights=sum(leaf.size for leaf in jax.tree.leaves(theta_template(rule))),
            state=state_numbers(rule),
            tasks=card["tasks"],
            horizon=(shortest, longest),
            outer_steps=card["outer_steps"],
        )
    return found


def listed(rows: Mapping[str, Shipped]) -> str:
    """A table of those to use, what each is for, and a table of the demonstrations."""
    to_use = {name: row for name, row in rows.items() if row.purpose}
    width = max(map(len, to_use), default=0)
    purposes = "\n".join(f"{name.ljust(width)}  {row.purpose}" for name, row in to_use.items())
    others = table({name: row for name, row in rows.items() if not row.purpose})
    return f"{purposes}\n\n{table(to_use)}\n\nDemonstrations of the rules, meta-trained in minutes:\n\n{others}"


def table(rows: Mapping[str, Shipped]) -> str:
    """One line per optimizer."""
    columns = ["name", "rule", "reads", "weights", "state", "for trainings of", "outer steps", "meta-trained on"]
    cells = [
        (
            *(row.name, row.rule, ", ".join(row.reads), f"{row.weights:,}", f"{row.state:.1f}".removesuffix(".0")),
            *(f"{row.horizon[0]:,} to {row.horizon[1]:,} steps", f"{row.outer_steps:,}", row.tasks),
        )
        for row in rows.values()
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    number = [name in ("weights", "state", "outer steps") for name in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, number, strict=True)
        ).rstrip()
        for line in (columns, *cells)
    )


def state_numbers(rule: LearnedOptimizer) -> float:
    """The size of a rule's state for a large matrix, in numbers kept for each parameter; Adam keeps 2."""

    def begin():
        theta = rule.init_theta(jax.random.key(0))
        params = {"w": jnp.zeros((SIDE, SIDE))}
        return rule.init(theta, params, num_steps=1 if "num_steps" in rule.requires else None)

    with jax.enable_x64(False):
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(begin))) / SIDE**2


def _description(rule: LearnedOptimizer) -> str:
    """The first line of the docstring of its file, without the name that it begins with."""
    line = (inspect.getdoc(sys.modules[type(rule).__module__]) or "").partition("\n")[0]
    return line.partition(": ")[2].removesuffix(".") or line
