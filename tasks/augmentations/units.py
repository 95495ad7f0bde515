"""Other units: of the parameters (`reparametrize`), and of the loss (`scale_loss`)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.names import check_known
from lopt.types import Config, Params, Task, TaskFamily

from ..checks import check_range
from .augmented import Augmentation, log_uniform

LEVELS = ("global", "tensor", "parameter")


@dataclasses.dataclass(frozen=True)
class Reparametrize(Augmentation):
    """loss'(w) = loss(s w), started at w_0 / s: the same training in other units, with s drawn log-uniformly.

    Attributes:
      level: one s for all (global), one per tensor, or one per parameter.
      low: smallest s.
      high: largest s.
    """

    name: ClassVar[str] = "reparametrize"
    level: str = "global"
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self):
        check_known("level", self.level, LEVELS)
        check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        shapes = _param_shapes(family, config)
        leaves, structure = jax.tree.flatten(shapes)
        if self.level == "parameter":
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            flat, unravel = ravel_pytree(zeros)
            return unravel(log_uniform(key, self.low, self.high, flat.shape))
        count = len(leaves) if self.level == "tensor" else 1
        scales = log_uniform(key, self.low, self.high, (count,))
        return jax.tree.unflatten(structure, [scales[min(i, count - 1)] for i in range(len(leaves))])

    def task(self, task: Task, draw: Config) -> Task:
        def times(params: Params) -> Params:
            return jax.tree.map(lambda w, s: w * s, params, draw)

        return task._replace(
            init=lambda key: jax.tree.map(lambda w, s: w / s, task.init(key), draw),
            loss=lambda params, key, batch: task.loss(times(params), key, batch),
            metrics=lambda params, key, batch: task.metrics(times(params), key, batch),
        )


@dataclasses.dataclass(frozen=True)
class ScaleLoss(Augmentation):
    """c loss, with c drawn log-uniformly from `low` to `high`; the normalised loss stays what it is."""

    name: ClassVar[str] = "scale_loss"
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self):
        check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return log_uniform(key, self.low, self.high)

    def task(self, task: Task, draw: Config) -> Task:
        return task._replace(
            loss=lambda params, key, batch: draw * task.loss(params, key, batch),
            normalize=lambda loss: task.normalize(loss / draw),
        )


def _param_shapes(family: TaskFamily, config: Config) -> Params:
    return jax.eval_shape(lambda config: family.task(config).init(jax.random.key(0)), config)
