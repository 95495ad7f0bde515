"""`celo_adam`: Adam with Celo's learned schedule as its learning rate; the rule of `lopt/optimizers/celo_adam.py`."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.numbers import update_mean_, weight_seen
from lopt.torch.parts.scheduler import advance_schedule_, init_schedule, scheduler_shapes
from lopt.torch.parts.sums import per_tensor
from lopt.torch.types import Stack, State, Theta

LEARNING_RATE = 1e-3
B1, B2, EPSILON, EPSILON_ROOT = 0.9, 0.999, 1e-8, 1e-10
MAX_GRADIENT = 1000.0


@dataclasses.dataclass(frozen=True)
class CeloAdam:
    """Adam with b = (0.9, 0.999) and learning rate 1e-3 s_t; s_t comes from the scheduler.

    Attributes:
      lstm_size: width of the scheduler's LSTM.
    """

    lstm_size: int = 64

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"value", "num_steps"})

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        return scheduler_shapes(self.lstm_size)

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        del path, shape

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        del kind
        state = {name: torch.zeros_like(param, dtype=torch.float32) for name in ("momentum", "rms")}
        return {**state, "step": torch.zeros((), device=param.device)}

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        return init_schedule(theta, num_steps)

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        assert value is not None
        scale = advance_schedule_(theta, shared, value, num_steps)
        return [self._move(stack, -LEARNING_RATE * scale) for stack in stacks]

    def _move(self, stack: Stack, rate: torch.Tensor) -> torch.Tensor:
        state, grad, num_axes = stack.state, stack.grads.clamp(-MAX_GRADIENT, MAX_GRADIENT), len(stack.shape)
        count = state["step"].add_(1)
        update_mean_(state["momentum"], grad, B1)
        update_mean_(state["rms"], grad.square(), B2)
        momentum, mean_square = (
            state[name] / per_tensor(weight_seen(b, count), num_axes) for name, b in (("momentum", B1), ("rms", B2))
        )
        return rate * momentum / (torch.sqrt(mean_square + EPSILON_ROOT) + EPSILON)
