"""Running means with decays as JAX rounds them, so that both sides compute with the same numbers."""

import numpy as np
import torch


def rounded(*decays: float) -> tuple[float, ...]:
    """The float32 next to each number: 1 - b of a decay b shows the difference."""
    return tuple(float(np.float32(b)) for b in decays)


def update_mean_(mean: torch.Tensor, x: torch.Tensor, decay: float) -> None:
    """mean <- b mean + (1 - b) x, in place; b is `rounded`."""
    mean.mul_(decay).add_(x, alpha=1 - decay)


def weight_seen(decay: float, count: torch.Tensor) -> torch.Tensor:
    """1 - b^t: the weight in a running mean of what it has seen, as it starts at zero; b is `rounded`."""
    return 1 - torch.pow(decay, count)
