"""The learned schedule of `celo` and `celo_adam`: an LSTM that reads how far a training is and returns one factor.

The same numbers as in `lopt/optimizers/parts/scheduler.py`. All tensors share one LSTM, as all start alike and read the
same inputs.
"""

import torch

from lopt.torch.parts.progress import (
    NUM_PROGRESS_FEATURES,
    init_loss_averages,
    progress_features,
    update_loss_averages_,
)
from lopt.torch.types import State, Theta

SCALE = 0.1
PREFIX = "scheduler/"


def scheduler_shapes(size: int, num_weights: int = 0) -> dict[str, tuple[int, ...]]:
    """Shapes of the scheduler's theta; `num_weights` is the size of a read-out that nothing reads."""
    shapes: dict[str, tuple[int, ...]] = {"initial_c": (size,), "initial_h": (size,)}
    layers = {"unused": NUM_PROGRESS_FEATURES, "mix": NUM_PROGRESS_FEATURES, "input": NUM_PROGRESS_FEATURES}
    for name, fan_in in layers.items():
        shapes |= {f"kernel_{name}": (fan_in, size), f"bias_{name}": (size,)}
    shapes |= {"kernel_lstm": (2 * size, 4 * size), "bias_lstm": (4 * size,)}
    shapes |= {"kernel_step": (size, 1), "bias_step": (1,)}
    if num_weights:
        shapes |= {"kernel_weights": (size, num_weights), "bias_weights": (num_weights,)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def init_schedule(theta: Theta, num_steps: int) -> State:
    """The state before the first loss."""
    first = {name: theta[f"{PREFIX}initial_{name}"].clone() for name in ("c", "h")}
    device = first["c"].device
    lstm = {"lstm_c": first["c"], "lstm_h": first["h"]}
    return {"step": torch.zeros((), device=device), **init_loss_averages(num_steps, device), **lstm}


def advance_schedule_(theta: Theta, shared: State, value: torch.Tensor, num_steps: int) -> torch.Tensor:
    """s_t = 0.1 exp(read-out), the factor of the coming update, given the loss before it; moves the state on."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ theta[f"{PREFIX}kernel_{name}"] + theta[f"{PREFIX}bias_{name}"]

    update_loss_averages_(shared, value)
    x = progress_features(shared, num_steps)
    # The published network adds the maximum over all tensors of a mixing layer; here that is the layer itself.
    x = linear("input", x) + torch.relu(linear("mix", x))
    c, h = shared["lstm_c"], shared["lstm_h"]
    input_gate, forget_gate, candidate, output_gate = linear("lstm", torch.cat([x, h])).chunk(4)
    c.copy_(torch.sigmoid(forget_gate + 1) * c + torch.sigmoid(input_gate) * torch.tanh(candidate))
    h.copy_(torch.sigmoid(output_gate) * torch.tanh(c))
    shared["step"] += 1
    return SCALE * torch.exp(linear("step", h)[0])
