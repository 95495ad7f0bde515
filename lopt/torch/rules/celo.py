"""`celo`: one tiny MLP for all parameters and a learned schedule; the rule of `lopt/optimizers/celo.py`."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.accumulators import DECAYS, init_statistics
from lopt.torch.parts.scheduler import advance_schedule_, init_schedule, scheduler_shapes
from lopt.torch.parts.velo_step import velo_shapes, velo_step
from lopt.torch.types import Stack, State, Theta


@dataclasses.dataclass(frozen=True)
class Celo:
    """Update = -1e-3 s_t d exp(1e-3 a) rms(p); (d, a) is the MLP of a parameter, s_t the factor of the scheduler.

    Attributes:
      hidden_sizes: widths of the MLP's hidden layers.
      lstm_size: width of the scheduler's LSTM.
      scheduled: whether the scheduler is used; if not, s_t = 1.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    lstm_size: int = 64
    scheduled: bool = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"value", "num_steps"} if self.scheduled else ())

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        network = {f"mlp/{name}": shape for name, shape in velo_shapes(self.hidden_sizes).items()}
        return network | scheduler_shapes(self.lstm_size, num_weights=1)

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        del path, shape

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        del kind
        return init_statistics(param, DECAYS)

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        return init_schedule(theta, num_steps) if self.scheduled else {}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        scale: torch.Tensor | float = 1.0
        if self.scheduled:
            assert value is not None
            scale = advance_schedule_(theta, shared, value, num_steps)
        return [velo_step(stack, theta, scale) for stack in stacks]
