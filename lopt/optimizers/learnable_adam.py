"""`learnable_adam`: Adam whose hyperparameters are theta. A learned optimizer that is simple enough to debug with.

Adam: Diederik P. Kingma, Jimmy Ba, "Adam: A method for stochastic optimization", 2015 (arXiv 1412.6980).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.optimizers.parts.learned_schedule import init_learning_rate, init_logit, learning_rate
from lopt.types import Params, Theta


class LearnableAdamState(NamedTuple):
    """The state.

    Attributes:
      adam: the state of optax's `scale_by_adam`.
      num_steps: int32, length of the training; 0 without a learned schedule.
    """

    adam: optax.OptState
    num_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class LearnableAdam:
    """Adam with theta = (ln learning rate, logit b1, logit b2) and, with `schedule_terms`, a schedule over t / T.

    lr(t) = exp(log_learning_rate + sum_k schedule_k cos(pi k t / T)), k = 1..schedule_terms. With a fresh theta the
    rule is exactly `optax.adam(learning_rate, b1, b2)`.

    Attributes:
      learning_rate: value in a fresh theta.
      b1: value in a fresh theta.
      b2: value in a fresh theta.
      schedule_terms: number of cosines of the learned schedule; 0 means a constant learning rate.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    schedule_terms: int = 0

    def __post_init__(self):
        if self.learning_rate <= 0 or not 0 < self.b1 < 1 or not 0 < self.b2 < 1 or self.schedule_terms < 0:
            raise InputError("learning_rate must be above 0, b1 and b2 between 0 and 1, schedule_terms at least 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"num_steps"} if self.schedule_terms else ())

    def init_theta(self, key: jax.Array) -> Theta:
        del key
        return {
            **init_learning_rate(self.learning_rate, self.schedule_terms),
            "logit_b1": init_logit(self.b1),
            "logit_b2": init_logit(self.b2),
        }

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> LearnableAdamState:
        del theta
        steps = jnp.asarray(num_steps if self.schedule_terms else 0, jnp.int32)
        return LearnableAdamState(optax.scale_by_adam().init(params), steps)

    def update(
        self, theta: Theta, grads: Params, state: LearnableAdamState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, LearnableAdamState]:
        del params, value
        adam = optax.scale_by_adam(b1=jax.nn.sigmoid(theta["logit_b1"]), b2=jax.nn.sigmoid(theta["logit_b2"]))
        directions, adam_state = adam.update(grads, state.adam)
        lr = learning_rate(theta, optax.tree.get(state.adam, "count"), state.num_steps)
        updates = jax.tree.map(lambda d: -lr * d, directions)
        return updates, LearnableAdamState(adam_state, state.num_steps)
