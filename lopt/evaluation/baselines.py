"""The optimizers that a learned one is compared with, each tuned on every task.

Most have 15 trials, which are learning rates over five decades; `adamw_grid` has more, and those that find their rate
themselves have one. Weight decay is decoupled and applies to every tensor. The papers are in docs/evaluation.md.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from optax import contrib

from lopt.evaluation.schedules import cosine, slow_decay, slow_weight, warmup_cosine
from lopt.evaluation.soap import soap
from lopt.names import InputError, check_known, split_list
from lopt.types import Params, PyTree

REFERENCE = "adam"  # the baseline that speed-ups and scores refer to
DEFAULT = "adam,adam_cosine,adamw"
DECAY = ("weight_decay", 0.01)
RATE = "learning_rate"
Schedule = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An optax optimizer that is tuned: a `runs.Rule` whose `hyper` is a learning rate, or a dict of settings.

    Attributes:
      name: its name in `--baselines`.
      constructor: takes a learning rate, or a function from the number of updates done to one.
      settings: further arguments of the constructor, (name, value); a value that is a function of (updates done,
        num_steps) becomes one of the updates done.
      schedule: factor of the learning rate, a function of (updates done, num_steps); None for a constant rate.
      label: the name that people read.
      rates: the learning rates to choose from, rising; the program of a run does not depend on them.
      also: further settings to choose from, (name, values): trials are all combinations. The name `schedule` is no
        argument of the constructor: where it is 0, the rate is constant.
    """

    name: str
    constructor: Callable[..., optax.GradientTransformation]
    settings: tuple[tuple[str, Any], ...] = ()
    schedule: Schedule | None = None
    label: str = dataclasses.field(default="", compare=False)
    rates: tuple[float, ...] = dataclasses.field(default=(), compare=False)
    also: tuple[tuple[str, tuple[float, ...]], ...] = dataclasses.field(default=(), compare=False)

    @property
    def trials(self) -> tuple[dict[str, float], ...]:
        """The settings of each trial, the rates rising slowest."""
        names, values = [RATE, *(name for name, _ in self.also)], [self.rates, *(x for _, x in self.also)]
        return tuple(dict(zip(names, trial, strict=True)) for trial in itertools.product(*values))

    @property
    def hypers(self) -> PyTree:
        """What the trials differ in, float32 `[G]`: learning rates, or a dict of all tuned settings."""
        columns = {name: np.array([trial[name] for trial in self.trials], np.float32) for name in self.trials[0]}
        return columns if self.also else columns[RATE]

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer of one trial, for a training of `num_steps`."""
        tuned = dict(hyper) if isinstance(hyper, Mapping) else {RATE: hyper}
        rate, share = tuned.pop(RATE), tuned.pop("schedule", 1.0)
        settings = {name: _of_count(value, num_steps) for name, value in self.settings}
        if (schedule := self.schedule) is not None:
            constant = rate
            rate = lambda count: constant * (share * schedule(count, num_steps) + (1 - share))  # noqa: E731
        return optax.with_extra_args_support(self.constructor(rate, **settings, **tuned))

    def eval_params(self, state: PyTree, params: Params) -> Params:
        """The parameters to use after the training: their average, where the rule keeps one."""
        return contrib.schedule_free_eval_params(state, params) if _is_schedule_free(self) else params

    @property
    def kind(self) -> str:
        """One of `results.KINDS`."""
        return "constant" if self.schedule is None else "scheduled"

    def describe(self) -> str:
        """Everything that decides its runs, apart from the trial and the version of optax."""
        constructor = self.constructor.func if isinstance(self.constructor, functools.partial) else self.constructor
        schedule = self.schedule.__name__ if self.schedule else None
        settings = tuple((name, value.__name__ if callable(value) else value) for name, value in self.settings)
        return f"{self.name}: {constructor.__module__}.{constructor.__qualname__} {settings} {schedule}"


def grid(highest: float) -> tuple[float, ...]:
    """15 rates over the five decades that end at `highest`."""
    top = np.log10(highest)
    return tuple(np.logspace(top - 5, top, 15).tolist())


def in_words(trial: Mapping[str, float]) -> str:
    """What a trial sets apart from its rate: "weight decay 0.1, constant"; "" if that is nothing."""
    words = [f"{name.replace('_', ' ')} {x:g}" for name, x in trial.items() if name not in (RATE, "schedule")]
    if "schedule" in trial:
        words.append("scheduled" if trial["schedule"] else "constant")
    return ", ".join(words)


def _of_count(value: Any, num_steps: jax.Array) -> Any:
    return (lambda count: value(count, num_steps)) if callable(value) else value


def _is_schedule_free(baseline: Baseline) -> bool:
    return baseline.constructor is contrib.schedule_free_adamw


def _mechanic(learning_rate: Any) -> optax.GradientTransformation:
    return contrib.mechanize(optax.adam(learning_rate))


# Rules whose step is about as large as the rate share five decades. Those whose step is a fraction of the rate, because
# it scales with the gradient, the parameters or an average, get rates ten times higher. Where the best rate is at the
# edge of its grid, the evaluation warns. Muon updates matrices, at the root mean square of an Adam update; Adam updates
# all else, at the same rate. AdEMAMix's slow average forgets over 1,000 updates, as optax advises for short trainings.
_MUON = (("consistent_rms", 0.2),)
_ADEMAMIX = (("b3", slow_decay), ("alpha", slow_weight), DECAY)
_HALF_DECADES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_GRID = (("weight_decay", (0.01, 0.1)), ("schedule", (0.0, 1.0)))
_TABLE = (
    Baseline("adam", optax.adam, (), None, "Adam", grid(1)),
    Baseline("adam_cosine", optax.adam, (), cosine, "Adam, cosine", grid(1)),
    Baseline("adam_warmup_cosine", optax.adam, (), warmup_cosine, "Adam, warm-up and cosine", grid(1)),
    Baseline("adamw", optax.adamw, (DECAY,), None, "AdamW", grid(1)),
    Baseline("adamw_cosine", optax.adamw, (DECAY,), cosine, "AdamW, cosine", grid(1)),
    Baseline("adamw_grid", optax.adamw, (), cosine, "AdamW, 28 trials", _HALF_DECADES, _GRID),
    Baseline("nadamw", optax.nadamw, (DECAY,), None, "NAdamW", grid(1)),
    Baseline("sgdm", optax.sgd, (("momentum", 0.9),), None, "SGD, momentum 0.9", grid(10)),
    Baseline("rmsprop", optax.rmsprop, (), None, "RMSProp", grid(1)),
    Baseline("adagrad", optax.adagrad, (), None, "Adagrad", grid(10)),
    Baseline("lion", optax.lion, (("weight_decay", 0.1),), None, "Lion", grid(1)),
    Baseline("adafactor", optax.adafactor, (), None, "Adafactor", grid(10)),
    Baseline("lamb", optax.lamb, (DECAY,), None, "LAMB", grid(10)),
    Baseline("muon", contrib.muon, _MUON, None, "Muon (and Adam)", grid(1)),
    Baseline("muon_cosine", contrib.muon, _MUON, cosine, "Muon (and Adam), cosine", grid(1)),
    Baseline("soap", soap, (DECAY,), None, "SOAP", grid(1)),
    Baseline("soap_cosine", soap, (DECAY,), warmup_cosine, "SOAP, warm-up and cosine", grid(1)),
    Baseline("ademamix_cosine", contrib.ademamix, _ADEMAMIX, cosine, "AdEMAMix, cosine", grid(1)),
    Baseline("schedule_free_adamw", contrib.schedule_free_adamw, (DECAY,), None, "Schedule-Free AdamW", grid(10)),
    Baseline("prodigy_cosine", contrib.prodigy, (), cosine, "Prodigy, cosine", (1.0,)),
    Baseline("mechanic_cosine", _mechanic, (), cosine, "Mechanic on Adam, cosine", (1.0,)),
    Baseline("dowg", contrib.dowg, (), None, "DoWG", (1.0,)),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _TABLE}


def parse_baselines(given: str | Iterable[str | Baseline]) -> tuple[Baseline, ...]:
    """Reads baselines. Adam at a constant rate, the reference, is there whatever is given.

    Args:
      given: a comma list of names, or `all`; or names and your own baselines.

    Raises:
      InputError: an unknown name, or one named twice.
    """
    if isinstance(given, str):
        given = list(BASELINES) if given.strip() == "all" else split_list(given)
    found: dict[str, Baseline] = {}
    for item in given:
        name = item if isinstance(item, str) else item.name
        if name == "all" or name in found:
            raise InputError(f"the baseline {name!r}: name each baseline once, or write all alone")
        if isinstance(item, str):
            check_known("baseline", name, [*BASELINES, "all"])
        found[name] = BASELINES[item] if isinstance(item, str) else item
    return tuple({REFERENCE: BASELINES[REFERENCE], **found}.values())
