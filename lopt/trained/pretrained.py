"""Loads trained optimizers by name or path, as optax transformations."""

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optax

from lopt.names import InputError, parse_spec
from lopt.trained.export import read_export
from lopt.trained.folders import DEFAULT, find_export
from lopt.trained.transform import as_optax, check_num_steps
from lopt.types import LearnedOptimizer, Theta


class Pretrained(NamedTuple):
    """A trained optimizer.

    Attributes:
      optimizer: the rule with the settings that it was trained with.
      theta: float32 arrays, structure of `optimizer.init_theta`.
      card: the content of card.json.
      path: the folder or file that it was read from.
    """

    optimizer: LearnedOptimizer
    theta: Theta
    card: Mapping[str, Any]
    path: Path

    @property
    def name(self) -> str:
        """The name of its folder; in a run's folder NAME, that of `export/` is NAME, of `export-best/` NAME-best."""
        path = self.path
        head, dash, kind = path.name.partition("-")
        in_a_run = head == "export" and kind in ("", "best", "ema")
        return f"{path.parent.name}{dash}{kind}" if in_a_run else path.stem if path.is_file() else path.name


def beyond_horizon(pretrained: Pretrained, num_steps: int) -> str | None:
    """A warning, if a training of so many updates is longer than any that the rule was meta-trained on."""
    _, longest = pretrained.card.get("horizon", (0, num_steps))  # a pair of rule and theta has no such card
    if num_steps <= longest:
        return None
    return f"{pretrained.name} was meta-trained on at most {longest:,} steps, and is to train for {num_steps:,}"


def load(
    path_or_name: str | os.PathLike = DEFAULT,
    *,
    num_steps: int | None = None,
    lr: optax.ScalarOrSchedule = 1.0,
    weight_decay: float = 0.0,
    optimizer: str | LearnedOptimizer | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an optax transformation: `tx.update(grads, state, params, value=loss)`; see `as_optax`.

    The update is lr (u - weight_decay params), where u is what the rule says. Nothing needs to be tuned; the two
    numbers are for those who want to.

    Args:
      path_or_name: as for `load_pretrained`.
      num_steps: length of your training in updates. A rule that reads it and does not get it is told the longest
        training that it was meta-trained on, and a warning says so; another warning says of any rule that it was not
        meta-trained on trainings as long as yours. It counts when a state is made by `init`; a restored state keeps its
        own, which `carry_over` changes.
      lr: multiple of the rule's own update, or a schedule of it.
      weight_decay: decoupled decay of all parameters per update.
      optimizer: as for `load_pretrained`.

    Raises:
      InputError: as for `load_pretrained`, or lr or weight_decay is below 0 or not finite.

    >>> import jax.numpy as jnp
    >>> import lopt
    >>> tx = lopt.load("learnable_adam_digits", num_steps=100)
    >>> params = {"w": jnp.ones(3)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update(params, state, params, value=jnp.ones(()))  # the gradient of |w|^2 / 2 is w
    >>> bool((updates["w"] < 0).all())
    True
    """
    for name, number in (("lr", lr), ("weight_decay", weight_decay)):
        if isinstance(number, int | float) and not 0 <= number < math.inf:
            raise InputError(f"{name} must be a number of at least 0, not {number}")
    pretrained = load_pretrained(path_or_name, optimizer=optimizer)
    if num_steps is None and "num_steps" in pretrained.optimizer.requires:
        num_steps = pretrained.card["horizon"][1]
        warnings.warn(
            f"{os.fspath(path_or_name)} reads the length of the training, which is taken to be {num_steps} updates, as "
            "in its longest meta-training; give num_steps",
            stacklevel=2,
        )
    rule = as_optax(pretrained.optimizer, pretrained.theta, num_steps=num_steps)
    steps = None if num_steps is None else check_num_steps(num_steps)  # an array under optax.inject_hyperparams
    if isinstance(steps, int) and (warning := beyond_horizon(pretrained, steps)):
        warnings.warn(warning, stacklevel=2)
    decay = [optax.add_decayed_weights(-weight_decay)] if weight_decay else []
    scale = [optax.scale_by_learning_rate(lr, flip_sign=False)] if callable(lr) or lr != 1 else []
    return optax.with_extra_args_support(optax.chain(rule, *decay, *scale)) if decay or scale else rule


def scale_by_learned(
    path_or_name: str | os.PathLike = DEFAULT,
    *,
    num_steps: int | None = None,
    optimizer: str | LearnedOptimizer | None = None,
) -> optax.GradientTransformationExtraArgs:
    """As `load`, with the sign of optax's `scale_by_*`: it gives a direction that a chain goes on with.

    `optax.chain(scale_by_learned(...), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))` adds
    -rate (direction + decay params), which is decoupled weight decay. A rate of 1, or a schedule that starts at 1,
    keeps the rule's own step size.

    Args:
      path_or_name: as for `load_pretrained`.
      num_steps: as for `load`.
      optimizer: as for `load_pretrained`.
    """
    rule = load(path_or_name, num_steps=num_steps, optimizer=optimizer)
    return optax.with_extra_args_support(optax.chain(rule, optax.scale(-1.0)))


def load_pretrained(
    path_or_name: str | os.PathLike = DEFAULT, *, optimizer: str | LearnedOptimizer | None = None
) -> Pretrained:
    """Reads a trained optimizer.

    Args:
      path_or_name: the folder of an export; the folder of a run, which has one in `export/`; the name of an optimizer
        that ships with lopt; or a file of weights that others have published, see `lopt.trained.released`. The default
        is the optimizer to try first.
      optimizer: the rule with its settings, or the text that names it, "my_rules.py:MyRule:width=8". It is needed for
        one that neither is part of lopt nor registered by an installed package, as no code is run because a file names
        it. It must agree with the card.

    Raises:
      InputError: there is no such optimizer, it is damaged, or this version of lopt cannot run it.
    """
    if Path(path_or_name).is_file():
        from lopt.trained.released import read_released  # here, so that `import lopt` does not import Flax

        return Pretrained(*read_released(path_or_name), Path(path_or_name).resolve())
    return Pretrained(*read_export(lambda: find_export(path_or_name), _rule(optimizer)))


def _rule(optimizer: str | LearnedOptimizer | None) -> LearnedOptimizer | None:
    if not isinstance(optimizer, str):
        return optimizer
    from lopt.optimizers import OPTIMIZERS
    from lopt.own import foreign  # here, as few exports need it

    return foreign.make("optimizer", parse_spec(optimizer), OPTIMIZERS)
