"""The optimizers that a learned one is compared with, each tuned on every task over 15 learning rates in five decades.

Weight decay is decoupled and applies to every tensor. optax 0.2.8 has no SOAP and no Shampoo, so neither is here.

Adam: Kingma, Ba, 2015 (arXiv 1412.6980). AdamW, cosine schedule: Loshchilov, Hutter, 2019 (1711.05101), 2017
(1608.03983). NAdam: Dozat, 2016. RMSProp: Hinton, 2012. Adagrad: Duchi, Hazan, Singer, 2011. Lion: Chen et al., 2023
(2302.06675). Adafactor: Shazeer, Stern, 2018 (1804.04235). LAMB: You et al., 2020 (1904.00962). Muon: Jordan et al.,
2024, with the scale of Liu et al., 2025 (2502.16982). Schedule-Free: Defazio et al., 2024 (2405.15682).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from lopt.names import InputError, check_known, split_list
from lopt.types import Params, PyTree

REFERENCE = "adam"  # the baseline that speed-ups and scores refer to
DEFAULT = "adam,adam_cosine,adamw"
WARMUP = 0.05  # share of the steps
DECAY = ("weight_decay", 0.01)


def cosine(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """(1 + cos(pi t / T)) / 2 after t of T updates."""
    return 0.5 * (1 + jnp.cos(jnp.pi * count / num_steps))


def warmup_cosine(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """A straight line from 1 / W to 1 over the first W = 5 % of the updates, then the cosine over the others."""
    warmup = jnp.maximum(1.0, WARMUP * num_steps)
    return jnp.where(count < warmup, (count + 1) / warmup, cosine(count - warmup, num_steps - warmup)).clip(max=1.0)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An optax optimizer whose learning rate is tuned: a `runs.Rule` whose `hyper` is that rate.

    Attributes:
      name: its name in `--baselines`.
      constructor: takes a learning rate, or a function from the number of updates done to one.
      settings: further arguments of the constructor, (name, value).
      schedule: factor of the learning rate, a function of (updates done, num_steps); None for a constant rate.
      label: the name that people read.
      rates: the grid of learning rates, rising; the program of a run does not depend on it.
    """

    name: str
    constructor: Callable[..., optax.GradientTransformation]
    settings: tuple[tuple[str, Any], ...] = ()
    schedule: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    label: str = dataclasses.field(default="", compare=False)
    rates: tuple[float, ...] = dataclasses.field(default=(), compare=False)

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer at a learning rate, for a training of `num_steps`."""
        schedule, rate = self.schedule, hyper
        if schedule is not None:
            rate = lambda count: hyper * schedule(count, num_steps)  # noqa: E731
        return optax.with_extra_args_support(self.constructor(rate, **dict(self.settings)))

    def eval_params(self, state: PyTree, params: Params) -> Params:
        """The parameters to use after the training: their average, where the rule keeps one."""
        return contrib.schedule_free_eval_params(state, params) if _is_schedule_free(self) else params

    @property
    def kind(self) -> str:
        """One of `results.KINDS`."""
        return "constant" if self.schedule is None else "scheduled"

    def describe(self) -> str:
        """Everything that decides its runs, apart from the rate and the version of optax."""
        constructor = self.constructor.func if isinstance(self.constructor, functools.partial) else self.constructor
        schedule = self.schedule.__name__ if self.schedule else None
        return f"{self.name}: {constructor.__module__}.{constructor.__qualname__} {self.settings} {schedule}"


def grid(highest: float) -> tuple[float, ...]:
    """15 rates over the five decades that end at `highest`."""
    top = np.log10(highest)
    return tuple(np.logspace(top - 5, top, 15).tolist())


def _is_schedule_free(baseline: Baseline) -> bool:
    return baseline.constructor is contrib.schedule_free_adamw


# Rules whose step is about as large as the rate share five decades. Those whose step is a fraction of the rate, because
# it scales with the gradient, the parameters or an average, get rates ten times higher. Where the best rate is at the
# edge of its grid, the evaluation warns.
_TABLE = (
    Baseline("adam", optax.adam, (), None, "Adam", grid(1)),
    Baseline("adam_cosine", optax.adam, (), cosine, "Adam, cosine", grid(1)),
    Baseline("adam_warmup_cosine", optax.adam, (), warmup_cosine, "Adam, warm-up and cosine", grid(1)),
    Baseline("adamw", optax.adamw, (DECAY,), None, "AdamW", grid(1)),
    Baseline("adamw_cosine", optax.adamw, (DECAY,), cosine, "AdamW, cosine", grid(1)),
    Baseline("nadamw", optax.nadamw, (DECAY,), None, "NAdamW", grid(1)),
    Baseline("sgdm", optax.sgd, (("momentum", 0.9),), None, "SGD, momentum 0.9", grid(10)),
    Baseline("rmsprop", optax.rmsprop, (), None, "RMSProp", grid(1)),
    Baseline("adagrad", optax.adagrad, (), None, "Adagrad", grid(10)),
    Baseline("lion", optax.lion, (("weight_decay", 0.1),), None, "Lion", grid(1)),
    Baseline("adafactor", optax.adafactor, (), None, "Adafactor", grid(10)),
    Baseline("lamb", optax.lamb, (DECAY,), None, "LAMB", grid(10)),
    # Muon updates matrices, at the root mean square of an Adam update; Adam updates all else, at the same rate.
    Baseline("muon", contrib.muon, (("consistent_rms", 0.2),), None, "Muon (and Adam)", grid(1)),
    Baseline("schedule_free_adamw", contrib.schedule_free_adamw, (DECAY,), None, "Schedule-Free AdamW", grid(10)),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _TABLE}


def parse_baselines(given: str | Iterable[str | Baseline]) -> tuple[Baseline, ...]:
    """Reads baselines. Adam at a constant rate, the reference, is there whatever is given.

    Args:
      given: a comma list of names, or `all`; or names and baselines of one's own.

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
