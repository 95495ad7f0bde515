"""What `adafac_mlp` and `star` have in common; see `lopt/optimizers/parts/adafac.py`."""

from collections.abc import Callable, Sequence

import torch

from lopt.torch.parts.accumulators import Decays, Statistics, learned_decays, read_statistics, update_statistics_
from lopt.torch.parts.adafac_features import NUM_ADAFAC_FEATURES
from lopt.torch.parts.networks import mlp_shapes
from lopt.torch.parts.progress import TIME_SCALES
from lopt.torch.types import Stack, Theta

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))  # of a fresh theta


def adafac_shapes(hidden_sizes: Sequence[int], num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of theta: an MLP of 28 features and 11 time features, and offsets of the logits of the 7 decays."""
    network = mlp_shapes(NUM_ADAFAC_FEATURES + len(TIME_SCALES), hidden_sizes, num_outputs)
    shapes: dict[str, tuple[int, ...]] = {f"mlp/{name}": shape for name, shape in network.items()}
    return shapes | {f"logit_offsets/{name}": (len(start),) for name, start in DECAYS._asdict().items()}


def map_statistics(
    rule: Callable[[Stack, Statistics], torch.Tensor], theta: Theta, stacks: Sequence[Stack]
) -> list[torch.Tensor]:
    """`rule(stack, statistics)` of every stack; the statistics take in its gradient first."""
    decays = Decays(*(learned_decays(theta[f"logit_offsets/{name}"], x) for name, x in DECAYS._asdict().items()))
    updates = []
    for stack in stacks:
        update_statistics_(stack, stack.grads, decays)
        updates.append(rule(stack, read_statistics(stack, stack.grads, decays)))
    return updates
