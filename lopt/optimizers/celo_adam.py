"""`celo_adam`: Adam with Celo's learned schedule as its learning rate.

Abhinav Moudgil, Boris Knyazev, Guillaume Lajoie, Eugene Belilovsky, "Celo: training versatile learned optimizers on a
compute diet", 2025 (arXiv 2501.12670).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.optimizers.parts.gradients import clip_gradients
from lopt.optimizers.parts.recurrent import draw_kernels
from lopt.optimizers.parts.scheduler import Scheduler, SchedulerState
from lopt.types import Params, Theta

LEARNING_RATE = 1e-3


class CeloAdamState(NamedTuple):
    """The state.

    Attributes:
      adam: the state of optax's `scale_by_adam`.
      schedule: state of the scheduler.
    """

    adam: optax.OptState
    schedule: SchedulerState


@dataclasses.dataclass(frozen=True)
class CeloAdam:
    """Adam with b = (0.9, 0.999) and learning rate 1e-3 s_t; s_t comes from the scheduler, theta["scheduler"].

    Attributes:
      lstm_size: width of the scheduler's LSTM.
    """

    lstm_size: int = 64

    def __post_init__(self):
        if self.lstm_size < 1:
            raise InputError(f"lstm_size must be at least 1, not {self.lstm_size}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"value", "num_steps"})

    @property
    def _scheduler(self) -> Scheduler:
        return Scheduler(self.lstm_size)

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8, eps_root=1e-10)

    def init_theta(self, key: jax.Array) -> Theta:
        return draw_kernels(key, {"scheduler": self._scheduler.shapes()})

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> CeloAdamState:
        schedule = self._scheduler.init(theta["scheduler"], jnp.asarray(num_steps, jnp.int32))
        return CeloAdamState(self._adam.init(params), schedule)

    def update(
        self, theta: Theta, grads: Params, state: CeloAdamState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, CeloAdamState]:
        del params
        scale, schedule = self._scheduler.update(theta["scheduler"], state.schedule, jnp.asarray(value, jnp.float32))
        directions, adam = self._adam.update(clip_gradients(grads), state.adam)
        updates = jax.tree.map(lambda d: -LEARNING_RATE * scale * d, directions)
        return updates, CeloAdamState(adam, schedule)
