"""`blend`: hand-made directions, whose sizes and mixture are learned functions of what is seen of a tensor.

The rule of `lopt/optimizers/blend.py`, which has its definition and sources, in the same order and with the same names.
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.blend_features import (
    NUM_HORIZON_FEATURES,
    NUM_TENSOR_FEATURES,
    TINY,
    Moments,
    TensorSignals,
    agreement_of,
    fans,
    gain,
    horizon_features,
    is_kernel,
    tensor_features,
    tensor_signals,
    units,
)
from lopt.torch.parts.numbers import rounded, update_mean_, weight_seen
from lopt.torch.parts.orthogonal import orthogonalize
from lopt.torch.parts.progress import init_loss_averages, update_loss_averages_
from lopt.torch.parts.sums import per_tensor
from lopt.torch.types import Stack, State, Theta

MATRIX, VECTOR = "matrix", "vector"  # the two kinds of tensors, and theta's heads; scalars count as vectors
# Of the momentum of matrices that are orthogonalized, of that of all other tensors, and of all mean squares.
MUON_DECAY, MOMENTUM_DECAY, RMS_DECAY = rounded(0.95, 0.8, 0.95)
# About the mean and the standard deviation of what is read, over steps, tensors and tasks of `pool_cheap`.
CENTRES: dict[Hashable, tuple[float, ...]] = {
    MATRIX: (0.1, 3.3, 2.7, 0.1, 0.1, -2.0, 4.3, 0.0, 6.2, -0.85, -0.75),
    VECTOR: (0.1, 0.0, 2.7, 0.0, 0.1, -1.5, 2.0, 0.0, 6.2, -0.85, -0.75),
}
SCALES: dict[Hashable, tuple[float, ...]] = {
    MATRIX: (0.15, 1.0, 1.0, 0.3, 0.25, 1.3, 0.65, 0.7, 1.0, 0.2, 1.25),
    VECTOR: (0.15, 1.0, 1.0, 1.0, 0.25, 1.2, 1.3, 0.7, 1.0, 0.2, 1.25),
}
EPSILON = 1e-8
ANYTIME_STEPS = 100.0
SIZE_GAIN = 2.0
BOUND = 2.0  # of the outputs, smoothly
LIMIT = 2.0  # of what the network reads, in standard deviations
(MEMORY,) = rounded(0.95)  # of the running mean of agreements
LEAST_AGREEMENT = -0.5  # that the decay of matrices follows


@dataclasses.dataclass(frozen=True)
class Blend:
    """update = -s_t exp(2 z) u D; a network sets z, a and y for every tensor, at every step; see `optimizers/blend.py`.

    Attributes:
      hidden_size: width of the network's hidden layer; 0 for outputs that are linear in what it reads.
      matrix_rate: r, Muon's learning rate of matrices at the start. The first update has a root mean square of
        r / sqrt(n), r times that of the usual initialisation.
      kernel_rate: the same for tensors of four axes and more, the kernels of convolutions over images.
      vector_rate: l, Adam's learning rate of all other tensors at the start.
      weight_decay: w, of matrices.
      decay_gain: k, by which the decay falls where gradients disagree.
      adam_share: b, of Adam's direction beside the orthogonalized momentum of matrices.
      adam_keys: parts of the paths (`layer/kernel`) of matrices that are treated as no matrices are.
      orthogonalize: whether matrices have O. If not, D = r (A / sqrt(n) + w e^(k c + y) p), without matrix products.
      anytime: whether the rule works without the length of the training and without the loss.
    """

    hidden_size: int = 0
    matrix_rate: float = 0.025
    kernel_rate: float = 0.1
    vector_rate: float = 0.05
    weight_decay: float = 0.08
    decay_gain: float = 4.0
    adam_share: float = 0.5
    adam_keys: tuple[str, ...] = ("embedding",)
    orthogonalize: bool = True
    anytime: bool = False

    @property
    def requires(self) -> frozenset[str]:
        return frozenset() if self.anytime else frozenset({"value", "num_steps"})

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        size, shapes = self.hidden_size, {}
        inputs = NUM_TENSOR_FEATURES + (0 if self.anytime else NUM_HORIZON_FEATURES)
        for kind, count in ((MATRIX, 3 if self.orthogonalize else 2), (VECTOR, 1)):
            shapes |= {f"{kind}/bias": (count,), f"{kind}/features": (inputs, count)}
            if size:
                shapes[f"{kind}/hidden"] = (size, count)
        return shapes | ({"hidden/kernel": (inputs, size), "hidden/bias": (size,)} if size else {})

    def kind(self, path: str, shape: tuple[int, ...]) -> str:
        """Whether a tensor is a matrix, of two axes or more, or not; by its shape and its name."""
        is_matrix = len(shape) > 1 and math.prod(shape) > 0 and not any(key in path for key in self.adam_keys)
        return MATRIX if is_matrix else VECTOR

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        state = {name: torch.zeros_like(param, dtype=torch.float32) for name in ("momentum", "rms")}
        state |= {name: torch.zeros((), device=param.device) for name in ("step", "agreement")}
        return state | {"gain": gain(param, _fan_in(kind, tuple(param.shape)))}

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        device = theta["vector/bias"].device
        losses = {} if self.anytime else init_loss_averages(num_steps, device)
        return {"step": torch.zeros((), device=device), **losses}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        sizes = [len(stack.params) for stack in stacks]
        moments, directions, told = zip(*(self._observe(stack) for stack in stacks), strict=True)
        signals = TensorSignals(*(torch.cat(x) for x in zip(*told, strict=True)))
        count, agreement, gains = (_joined(stacks, name) for name in ("step", "agreement", "gain"))
        scales = units(gains, [stack.kind == MATRIX for stack in stacks for _ in stack.params])
        agreement = MEMORY * agreement + (1 - MEMORY) * signals.agreement
        seen = agreement / weight_seen(MEMORY, count)
        inputs = tensor_features(
            [stack.shape for stack in stacks for _ in stack.params],
            scales.new_tensor([self._size(stack) for stack in stacks for _ in stack.params]) * scales,
            signals,
            seen,
            shared["step"],
        )
        if self.anytime:
            schedule = torch.rsqrt(1 + shared["step"] / ANYTIME_STEPS)
        else:
            assert value is not None
            update_loss_averages_(shared, value)
            common = horizon_features(shared, shared["step"], num_steps)
            inputs = torch.cat([inputs, common[:, None].expand(-1, sum(sizes))])
            schedule = 0.5 * (1 + torch.cos(math.pi * (shared["step"] / num_steps).clamp(max=1.0)))
        updates = []
        decays = self.weight_decay * torch.exp(self.decay_gain * seen.clamp(LEAST_AGREEMENT, 0))
        split = (inputs.split(sizes, 1), *(x.split(sizes) for x in (agreement, scales, decays)))
        for stack, known, adam, read, new_agreement, scale, decay in zip(
            stacks, moments, directions, *split, strict=True
        ):
            stack.state["agreement"].copy_(new_agreement)
            outputs, rank = _outputs(theta, read, stack.kind), len(stack.shape)
            size = per_tensor(schedule * torch.exp(SIZE_GAIN * outputs[:, 0]), rank)
            scaled = per_tensor(scale, rank)
            if stack.kind == VECTOR:
                updates.append(-size * scaled * self.vector_rate * adam)
                continue
            update = scaled * self._size(stack) * self._matrix(stack, known.momentum, adam, outputs[:, 2:])
            decayed = self._rate(stack.shape) * per_tensor(decay * torch.exp(outputs[:, 1]), rank) * stack.params
            updates.append(-size * (update + decayed))
        shared["step"] += 1
        return updates

    def _observe(self, stack: Stack) -> tuple[Moments, torch.Tensor, TensorSignals]:
        """The moments after this step's gradient, which are stored, Adam's direction, and what they tell."""
        state, grad = stack.state, stack.grads
        agreement = agreement_of(grad, state["momentum"])
        state["step"] += 1
        for name, x, b in zip(("momentum", "rms"), (grad, grad.square()), self._decays(stack.kind), strict=True):
            update_mean_(state[name], x, b)
        moments = _moments(stack, self._decays(stack.kind))
        adam = moments.momentum / moments.root
        return moments, adam, tensor_signals(stack.params, agreement, adam)

    def _decays(self, kind: Hashable) -> tuple[float, ...]:
        return (MUON_DECAY if kind == MATRIX and self.orthogonalize else MOMENTUM_DECAY), RMS_DECAY

    def _size(self, stack: Stack) -> float:
        """Root mean square of a tensor's first update."""
        if stack.kind == VECTOR:
            return self.vector_rate
        return self._rate(stack.shape) / math.sqrt(_fan_in(stack.kind, stack.shape))

    def _rate(self, shape: tuple[int, ...]) -> float:
        return self.kernel_rate if is_kernel(shape) else self.matrix_rate

    def _matrix(self, stack: Stack, momentum: torch.Tensor, adam: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """sqrt(max(n, m)) O + (b + a) A, with Nesterov's momentum, as Muon has it; A alone without O."""
        if not self.orthogonalize:
            return adam
        rank, b, count = len(stack.shape), MUON_DECAY, stack.state["step"]
        old, new = weight_seen(b, count), weight_seen(b, count + 1)
        ahead = per_tensor(b * old / new, rank) * momentum + per_tensor((1 - b) / old, rank) * stack.grads
        scale = math.sqrt(max(fans(stack.shape)))
        orthogonal = orthogonalize(ahead.reshape(-1, *fans(stack.shape))).reshape(ahead.shape)
        return scale * orthogonal + per_tensor(self.adam_share + share[:, 0], rank) * adam


def _fan_in(kind: Hashable, shape: tuple[int, ...]) -> int:
    return fans(shape)[0] if kind == MATRIX else 1


def _joined(stacks: list[Stack], name: str) -> torch.Tensor:
    """A number of every tensor, `[num_tensors]`."""
    return torch.cat([stack.state[name] for stack in stacks])


def _moments(stack: Stack, decays: tuple[float, ...]) -> Moments:
    """Moments of tensors, corrected for their start at zero."""
    state, count, rank = stack.state, stack.state["step"], len(stack.shape)
    momentum, mean_square = (
        state[name] / per_tensor(weight_seen(b, count), rank)
        for name, b in zip(("momentum", "rms"), decays, strict=True)
    )
    return Moments(momentum, torch.sqrt(mean_square + TINY) + EPSILON)


def _outputs(theta: Theta, inputs: torch.Tensor, kind: Hashable) -> torch.Tensor:
    """The network's outputs for tensors of one kind, `[k, outputs]`, from features `[num_features, k]`."""
    centres, scales = (inputs.new_tensor(x[kind][: len(inputs)]) for x in (CENTRES, SCALES))
    read = ((inputs.T - centres) / scales).clamp(-LIMIT, LIMIT)
    raw = read @ theta[f"{kind}/features"] + theta[f"{kind}/bias"]
    if "hidden/kernel" in theta:
        raw = raw + torch.tanh(read @ theta["hidden/kernel"] + theta["hidden/bias"]) @ theta[f"{kind}/hidden"]
    return BOUND * torch.tanh(raw / BOUND)
