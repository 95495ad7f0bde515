"""A per-parameter network applied to normalized features of a tensor.

As in `lopt/optimizers/parts/networks.py`, a first pass over the tensor finds the mean square of each feature, and a
second pass computes the features again, and the network on them. Where a tensor is a single block, they are kept.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lopt.torch.parts.accumulators import Statistics
from lopt.torch.parts.blocks import cut, from_local, to_local
from lopt.torch.parts.sums import added_up
from lopt.torch.types import Theta

Features = Callable[..., list[torch.Tensor]]
AT_ONCE = 2**20  # most numbers in a layer of a network on a CPU, so that layers stay in a cache; found by measuring


def mlp_shapes(num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the theta of an MLP, `{"kernel_i", "bias_i"}`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, size) in enumerate(itertools.pairwise((num_inputs, *hidden_sizes, num_outputs))):
        shapes |= {f"kernel_{i}": (fan_in, size), f"bias_{i}": (size,)}
    return shapes


def normalized_rule(
    features: Features,
    theta: Theta,
    rule: Callable[..., torch.Tensor],
    statistics: Statistics,
    *,
    prefix: str = "",
    constants: torch.Tensor | None = None,
    num_axes: int | None = None,
    epsilon: float = 1e-5,
    num_plain: int = 0,
) -> torch.Tensor:
    """rule(*MLP([x / sqrt(epsilon + mean(x^2)) for x in features(statistics)], constants)), updates `[k, *shape]`.

    Args:
      features: computes arrays `[k, *shape]`, or with some axes of length 1, from statistics.
      theta: has the MLP, `kernel_i: [fan_in, size]` and `bias_i: [size]`, each after the prefix.
      rule: maps the outputs of the MLP, followed by the plain features, to an array, element by element.
      statistics: those of the stack.
      prefix: of the MLP's names in theta.
      constants: inputs of the MLP that all parameters share, `[c]`.
      num_axes: the mean of the squares is taken over this number of last axes; None means all of them.
      epsilon: added to the mean square.
      num_plain: this number of last features is passed to the rule as they are, and not to the MLP.
    """
    whole = statistics.grad
    first = 1 if num_axes is None else max(whole.ndim - num_axes, 1)
    local = to_local(statistics, whole)
    shape = local.arrays.grad.shape
    axes = tuple(i for i, axis in enumerate(local.axes) if axis >= first)
    along = axes[0] if axes else 0
    blocks = list(cut(local.arrays, shape, along))
    kept = features(blocks[0][0]) if len(blocks) == 1 else None  # of one block, features are computed once

    means: Any = 0.0
    for block, place in blocks:
        inputs = features(block) if kept is None else kept
        share = local.share * (place.stop - place.start) / max(shape[along], 1)
        means = means + share * _mean_squares(inputs[: len(inputs) - num_plain], axes)
    factors = torch.rsqrt(epsilon + added_up([means], whole)[0])

    width = max(len(x) for name, x in theta.items() if name.startswith(f"{prefix}bias_"))
    most = AT_ONCE // width if axes else shape.numel()
    result = torch.empty(shape, dtype=torch.float32, device=local.arrays.grad.device)
    for block, place in blocks:
        inputs = features(block) if kept is None else kept
        target = result.narrow(along, place.start, place.stop - place.start)
        for part, own in cut(inputs, target.shape, along, most):
            outputs = apply_mlp(theta, prefix, part[: len(factors)], factors, constants)
            step = rule(*outputs, *part[len(factors) :])
            target.narrow(along, own.start, own.stop - own.start).copy_(step)
    return from_local(result, local, whole)


def _mean_squares(arrays: Sequence[torch.Tensor], axes: tuple[int, ...]) -> torch.Tensor:
    """The means of x^2 over the axes, which keep length 1, stacked along a new first axis; 0 for no elements."""
    if not axes:
        return torch.stack(torch.broadcast_tensors(*arrays)).square()
    # One pass each; it stores no squares.
    norms = [torch.linalg.vector_norm(x, dim=axes, keepdim=True) for x in arrays]
    counts = [max(math.prod(x.shape[axis] for axis in axes), 1) for x in arrays]
    norms = torch.stack(torch.broadcast_tensors(*norms))
    return norms.square() / norms.new_tensor(counts).reshape(-1, *[1] * arrays[0].ndim)


def apply_mlp(
    theta: Theta,
    prefix: str,
    features: Sequence[torch.Tensor],
    factors: torch.Tensor,
    constants: torch.Tensor | None,
) -> list[torch.Tensor]:
    """The outputs of an MLP, one array per output, of features that are multiplied by their factors.

    What is constant along an axis is multiplied by its weights there once, and broadcast after that. A factor that each
    of the k tensors has one of multiplies the weights, of which each tensor then has its own.

    Args:
      theta: as for `normalized_rule`.
      prefix: as for `normalized_rule`.
      features: arrays that can be broadcast to one another; their first axis holds the tensors.
      factors: one per feature, arrays `[features, k, ...]` that can be broadcast to them.
      constants: inputs after the features that all parameters share, `[c]`.
    """
    shape = torch.broadcast_shapes(*(x.shape for x in features))
    if factors[0].numel() != factors.shape[1]:
        features = [x * factor for x, factor in zip(features, factors.unbind(), strict=True)]
        scales = torch.ones(1, len(features), device=features[0].device)
    else:
        scales = factors.flatten(1).T  # [k, features]
    kernel, bias = theta[f"{prefix}kernel_0"], theta[f"{prefix}bias_0"]
    if constants is not None:
        bias = bias + constants @ kernel[len(features) :]
    hidden = bias.reshape(1, -1, *[1] * (len(shape) - 1))
    by_shape: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(features):
        by_shape.setdefault(x.shape, []).append(i)
    for own, places in sorted(by_shape.items(), key=lambda item: item[0].numel()):
        rows = torch.stack([features[i] for i in places], 1).unsqueeze(-1).flatten(2)  # scalars have no axis to flatten
        weights = (kernel[places] * scales[:, places, None]).mT
        term = (weights @ rows).reshape(own[0], kernel.shape[1], *own[1:])
        hidden = term + hidden if own != shape else term.add_(hidden)
    for i in itertools.count(1):
        if f"{prefix}kernel_{i}" not in theta:
            return list(hidden.unbind(1))
        kernel, bias = theta[f"{prefix}kernel_{i}"], theta[f"{prefix}bias_{i}"]
        x = hidden.relu_().unsqueeze(-1).flatten(2)
        hidden = torch.baddbmm(bias[:, None], kernel.T.expand(len(x), -1, -1), x)
        hidden = hidden.reshape(shape[0], len(bias), *shape[1:])
    raise AssertionError
