"""The types of the PyTorch side: an update rule, and tensors of one shape side by side.

Rules see Flax's layout (`layouts.py`), float32, and shapes `[k, *shape]`: k tensors of one shape at a time.
"""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Protocol

import torch

Theta = Mapping[str, torch.Tensor]  # meta-parameters by the names in the export, `mlp/kernel_0`
State = dict[str, torch.Tensor]
SHARED = "shared_"  # begins the names of what all tensors share, in the state of each


@dataclasses.dataclass
class Stack:
    """k tensors of one shape and one kind at one step.

    Attributes:
      kind: what the rule said of them.
      params: `[k, *shape]`.
      grads: `[k, *shape]`, with zeros for elements that are not finite; the rule may overwrite them.
      state: their state by name, `[k, ...]` each, which the rule overwrites in place.
    """

    kind: Hashable
    params: torch.Tensor
    grads: torch.Tensor
    state: State

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one tensor."""
        return tuple(self.params.shape[1:])


class Rule(Protocol):
    """An update rule, the same as the one of this name in `lopt/optimizers/`: a frozen dataclass of settings."""

    @property
    def requires(self) -> frozenset[str]:
        """What the rule reads besides gradients and parameters, of `"value"` and `"num_steps"`."""
        ...

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of theta, by name."""
        ...

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        """What the rule must know of a tensor besides its shape; `path` is written as in Flax, `layer/kernel`."""
        ...

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        """The state of one tensor before its first gradient: zeros, most of them like the parameter."""
        ...

    def init_shared(self, theta: Theta, num_steps: int | None) -> State:
        """The state that all tensors share, before the first update."""
        ...

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: int | None
    ) -> list[torch.Tensor]:
        """One step: what is added to the parameters of each stack, `[k, *shape]`. All states are overwritten.

        Args:
          theta: meta-parameters.
          stacks: the tensors, all of which are in exactly one stack.
          shared: the shared state.
          value: the loss at the parameters, a float32 scalar.
          num_steps: length of the training.
        """
        ...
