"""`learnable_sgd`: gradient descent with momentum whose hyperparameters are theta."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.learned_schedule import init_learning_rate, init_logit, learning_rate
from lopt.types import Params, PyTree, Theta


class LearnableSGDState(NamedTuple):
    """The state.

    Attributes:
      momentum: a tree like `params`.
      step: int32, number of updates done.
      num_steps: int32, length of the training; 0 without a learned schedule.
    """

    momentum: PyTree
    step: jax.Array
    num_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class LearnableSGD:
    """m <- b m + g, update = -lr(t) m; theta = (ln learning rate, logit b) and, with `schedule_terms`, a schedule.

    With a fresh theta the rule is exactly `optax.sgd(learning_rate, momentum)`. The schedule is that of
    `learnable_adam`.

    Attributes:
      learning_rate: value in a fresh theta.
      momentum: value in a fresh theta.
      schedule_terms: number of cosines of the learned schedule; 0 means a constant learning rate.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    schedule_terms: int = 0

    def __post_init__(self):
        if self.learning_rate <= 0 or not 0 < self.momentum < 1 or self.schedule_terms < 0:
            raise InputError("learning_rate must be above 0, momentum between 0 and 1, schedule_terms at least 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"num_steps"} if self.schedule_terms else ())

    def init_theta(self, key: jax.Array) -> Theta:
        del key
        return {
            **init_learning_rate(self.learning_rate, self.schedule_terms),
            "logit_momentum": init_logit(self.momentum),
        }

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> LearnableSGDState:
        del theta
        steps = jnp.asarray(num_steps if self.schedule_terms else 0, jnp.int32)
        return LearnableSGDState(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32), steps)

    def update(
        self, theta: Theta, grads: Params, state: LearnableSGDState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, LearnableSGDState]:
        del params, value
        decay = jax.nn.sigmoid(theta["logit_momentum"])
        momentum = jax.tree.map(lambda m, g: decay * m + g, state.momentum, grads)
        lr = learning_rate(theta, state.step, state.num_steps)
        updates = jax.tree.map(lambda m: -lr * m, momentum)
        return updates, LearnableSGDState(momentum, state.step + 1, state.num_steps)
