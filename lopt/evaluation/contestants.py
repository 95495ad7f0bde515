"""Who takes part in an evaluation: the learned optimizer, what it is compared with, and other learned optimizers."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lopt.evaluation.baselines import BASELINES, RATE, REFERENCE, Baseline, in_words
from lopt.evaluation.cache import arrays_sha
from lopt.evaluation.deciding import UNTUNED
from lopt.evaluation.runs import Learned, Rule
from lopt.evaluation.scores import DEFAULT_RATE
from lopt.names import InputError
from lopt.seeds import initial_theta
from lopt.trained.pretrained import Pretrained, load_pretrained
from lopt.trees import describe_leaves, differences
from lopt.types import LearnedOptimizer, PyTree, Theta

RESERVED = ("learned", "untrained", "adam_default", *BASELINES, *(name + UNTUNED for name in BASELINES))  # of entries


class Contestant(NamedTuple):
    """An optimizer that takes part.

    Attributes:
      name: the name of its entry.
      label: the name that people read.
      kind: one of `results.KINDS`.
      rule: the optimizer of its runs.
      hypers: what its runs may differ in, stacked: learning rates `[G]`, a dict of settings `[G]` each, or theta with a
        leading axis of 1.
      rates: learning rates to choose from, `[G]`; for what is not tuned a single one, NaN if it has none.
      settings: what else differs between the trials, in words, `[G]`.
      reference: Adam as a rule, in turn with whose steps its own are timed.
    """

    name: str
    label: str
    kind: str
    rule: Rule
    hypers: PyTree
    rates: tuple[float, ...]
    settings: tuple[str, ...] = ("",)
    reference: Rule = BASELINES[REFERENCE]


def as_pretrained(trained: Any) -> Pretrained:
    """A trained optimizer from whatever form a person gives it in.

    Args:
      trained: a name or path as for `load_pretrained`, followed by `@` and its rule, FILE.py:CLASS[:setting=value]...,
        where that is one of your own; a `Pretrained`; an object with the attribute `pretrained`, such as the run that
        made it; or a pair (optimizer, theta), whose card is empty but for the checksum.

    Raises:
      InputError: it is none of these, or cannot be loaded, or theta does not belong to the optimizer.
    """
    if isinstance(trained, Pretrained):
        return trained
    if isinstance(trained, str | os.PathLike):
        return _load(trained)
    if hasattr(trained, "pretrained"):
        return as_pretrained(trained.pretrained)
    if isinstance(trained, tuple) and len(trained) == 2 and hasattr(trained[0], "init_theta"):
        optimizer, theta = trained
        _check_theta(optimizer, theta)
        return Pretrained(optimizer, theta, {"theta_sha256": arrays_sha(theta)}, Path(type(optimizer).__name__))
    raise InputError(
        f"{trained!r:.200} is no trained optimizer: give a name, a path, the result of lopt.load_pretrained or of a "
        "meta-training, or a pair (optimizer, theta)"
    )


def _load(path_or_name: str | os.PathLike) -> Pretrained:
    path, at, rule = str(path_or_name).rpartition("@")
    if at and not Path(path_or_name).exists():  # a folder may have such a name, too
        return load_pretrained(path, optimizer=rule)
    return load_pretrained(path_or_name)


def contestants(
    pretrained: Pretrained, baselines: Sequence[Baseline], others: Iterable[Pretrained] = ()
) -> list[Contestant]:
    """All that take part: the learned optimizer, itself untrained, Adam at its default rate, baselines, other rules.

    Args:
      pretrained: the learned optimizer that the evaluation is about.
      baselines: the baselines that are tuned; the reference among them comes first.
      others: other learned optimizers.

    Raises:
      InputError: two have the same name, or one is compared with itself.
    """
    untrained = initial_theta(pretrained.optimizer, pretrained.card.get("seed") or 0)
    rates = {baseline.name: baseline.rates for baseline in baselines}[REFERENCE]
    default = Contestant(
        "adam_default",
        f"Adam at {DEFAULT_RATE:g}",
        "untuned",
        BASELINES[REFERENCE],
        np.full(len(rates), DEFAULT_RATE, np.float32),  # as many as tuned Adam has, whose program it shares
        (DEFAULT_RATE,),
    )
    tuned = [tuned_baseline(x) for x in sorted(baselines, key=lambda baseline: baseline.name != REFERENCE)]
    found = [
        _learned("learned", pretrained.name, pretrained.optimizer, pretrained.theta),
        _learned("untrained", f"{pretrained.name}, untrained", pretrained.optimizer, untrained, kind="untuned"),
        *(default, *tuned),
        *(_learned(other.name, other.name, other.optimizer, other.theta) for other in others),
    ]
    names = [pretrained.name, *(other.name for other in others)]
    for other in others:
        if _identity(other) == _identity(pretrained):
            raise InputError(f"{other.name!r} is the optimizer that is evaluated: compare it with others")
        if other.name in RESERVED or names.count(other.name) > 1:
            raise InputError(f"there is another optimizer of the name {other.name!r}: rename its folder")
    return found


def tuned_baseline(baseline: Baseline) -> Contestant:
    """A baseline with all of its trials."""
    trials = baseline.trials
    rates, settings = tuple(trial[RATE] for trial in trials), tuple(map(in_words, trials))
    return Contestant(baseline.name, baseline.label, baseline.kind, baseline, baseline.hypers, rates, settings)


def one_setting(baseline: Baseline, index: int) -> Contestant:
    """A baseline at one of its trials, for all tasks; it shares the program of the tuned one."""
    trial = baseline.trials[index]
    words = ", ".join(x for x in (f"lr {trial[RATE]:.2g}", in_words(trial)) if x)
    hypers = jax.tree.map(lambda x: np.full_like(x, x[index]), baseline.hypers)
    label = f"{baseline.label} (always {words})"
    name, kind, settings = baseline.name + UNTUNED, baseline.kind, (in_words(trial),)
    return Contestant(name, label, kind, baseline, hypers, (trial[RATE],), settings)


def _identity(pretrained: Pretrained) -> tuple[LearnedOptimizer, str]:
    return pretrained.optimizer, pretrained.card["theta_sha256"]


def _learned(name: str, label: str, optimizer: LearnedOptimizer, theta: Theta, *, kind: str = "learned") -> Contestant:
    """A learned optimizer that takes part; nothing about it is tuned."""
    return Contestant(name, label, kind, Learned(optimizer), jax.tree.map(lambda x: x[None], theta), (math.nan,))


def _check_theta(optimizer: LearnedOptimizer, theta: Theta) -> None:
    wanted = jax.eval_shape(optimizer.init_theta, jax.random.key(0))
    found = jax.tree.map(lambda x: jax.eval_shape(lambda: x), theta)
    if wrong := differences(describe_leaves(found), describe_leaves(wanted)):
        raise InputError(f"theta does not belong to {optimizer}: {wrong}")
