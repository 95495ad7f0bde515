"""The learned schedule of `celo` and `celo_adam`: an LSTM that reads how far a training is and returns one factor.

Abhinav Moudgil, Boris Knyazev, Guillaume Lajoie, Eugene Belilovsky, "Celo: training versatile learned optimizers on a
compute diet", 2025 (arXiv 2501.12670).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.progress import (
    NUM_PROGRESS_FEATURES,
    LossAverages,
    init_loss_averages,
    progress_features,
    update_loss_averages,
)
from lopt.optimizers.parts.recurrent import Carry, TensorLSTM, first_carry
from lopt.types import Theta

SCALE = 0.1


class SchedulerState(NamedTuple):
    """State of the schedule.

    Attributes:
      step: int32, number of updates done.
      num_steps: int32, length of the training.
      losses: running means of the loss.
      carry: state of the LSTM, `[lstm_size, 1]`.
    """

    step: jax.Array
    num_steps: jax.Array
    losses: LossAverages
    carry: Carry


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """s_t = 0.1 exp(read-out of an LSTM on the 18 progress features).

    The paper has one LSTM per tensor. All of them start alike and read the same inputs, so one is enough.

    Attributes:
      lstm_size: width of the LSTM and of its mixing layers.
      num_weights: size of a read-out that nothing reads; the published `celo` has one.
    """

    lstm_size: int
    num_weights: int = 0

    @property
    def _network(self) -> TensorLSTM:
        return TensorLSTM(self.lstm_size, self.num_weights)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of theta, by name."""
        return self._network.shapes(NUM_PROGRESS_FEATURES)

    def init(self, theta: Theta, num_steps: jax.Array) -> SchedulerState:
        """The state before the first loss."""
        return SchedulerState(jnp.zeros((), jnp.int32), num_steps, init_loss_averages(num_steps), first_carry(theta, 1))

    def update(self, theta: Theta, state: SchedulerState, value: jax.Array) -> tuple[jax.Array, SchedulerState]:
        """The factor of the coming update, a scalar, given the loss at the parameters before it; and the new state."""
        losses = update_loss_averages(state.losses, value)
        features = progress_features(state.step, state.num_steps, losses)[:, None]
        carry, _, log_scale = self._network.advance(theta, state.carry, features)
        return SCALE * jnp.exp(log_scale[0]), SchedulerState(state.step + 1, state.num_steps, losses, carry)
