"""`blend`: hand-made directions, whose sizes and mixture are learned functions of what is seen of a tensor.

The rule of `lopt/optimizers/blend.py`, which has its definition and sources, in the same order and with the same names.
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.blend_features import (
    NUM_FEATURES,
    TINY,
    Moments,
    TensorSignals,
    agreement_of,
    fans,
    features,
    tensor_signals,
)
from lopt.torch.parts.numbers import rounded, update_mean_, weight_seen
from lopt.torch.parts.orthogonal import orthogonalize
from lopt.torch.parts.progress import init_loss_averages, update_loss_averages_
from lopt.torch.parts.sums import per_tensor
from lopt.torch.types import Stack, State, Theta

MATRIX, VECTOR = "matrix", "vector"  # the two kinds of tensors, and theta's heads; scalars count as vectors
# A fast and a slow momentum, and a mean square.
DECAYS: dict[Hashable, tuple[float, ...]] = {MATRIX: rounded(0.95, 0.99, 0.999), VECTOR: rounded(0.8, 0.99, 0.95)}
EPSILON = 1e-8
SIZE_GAIN = 2.0
MAX_DRIFT = 3.0  # largest change of ln(size) by the drift over a whole training
BOUND = 2.0  # of the outputs, smoothly
(MEMORY,) = rounded(0.95)  # of the running mean of agreements


@dataclasses.dataclass(frozen=True)
class Blend:
    """update = -s_t exp(2 z + drift) D, with s_t = (1 + cos(pi t / T)) / 2; see `lopt/optimizers/blend.py`.

    Attributes:
      hidden_size: width of the network's hidden layer; 0 for outputs that are linear in what it reads.
      matrix_rate: r, Muon's learning rate of matrices at the start. The first update has a root mean square of
        r / sqrt(n), r times that of the usual initialisation.
      vector_rate: l, Adam's learning rate of all other tensors at the start.
      weight_decay: w, of matrices.
      orthogonalize: whether matrices have O. If not, D = r ((A + b B + c G) / sqrt(n) + w e^y p), at the cost of Adam.
    """

    hidden_size: int = 0
    matrix_rate: float = 0.025
    vector_rate: float = 0.05
    weight_decay: float = 0.01
    orthogonalize: bool = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"value", "num_steps"})

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        size, shapes = self.hidden_size, {}
        for kind, count in ((MATRIX, 6 if self.orthogonalize else 5), (VECTOR, 4)):
            shapes |= {f"{kind}/bias": (count,), f"{kind}/features": (NUM_FEATURES, count)}
            if size:
                shapes[f"{kind}/hidden"] = (size, count)
        return shapes | ({"hidden/kernel": (NUM_FEATURES, size), "hidden/bias": (size,)} if size else {})

    def kind(self, path: str, shape: tuple[int, ...]) -> str:
        """Whether a tensor is a matrix, of two axes or more, or not; by its shape alone."""
        del path
        return MATRIX if len(shape) > 1 and math.prod(shape) > 0 else VECTOR

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        del kind
        names, numbers = ("fast", "slow", "rms"), ("step", "agreement", "drift")
        state = {name: torch.zeros_like(param, dtype=torch.float32) for name in names}
        return state | {name: torch.zeros((), device=param.device) for name in numbers}

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        device = theta["vector/bias"].device
        return {"step": torch.zeros((), device=device), **init_loss_averages(num_steps, device)}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        assert value is not None
        update_loss_averages_(shared, value)
        sizes = [len(stack.params) for stack in stacks]
        moments, told = zip(*(self._observe(stack) for stack in stacks), strict=True)
        signals = TensorSignals(*(torch.cat(x) for x in zip(*told, strict=True)))
        count, agreement, drift = (_joined(stacks, name) for name in ("step", "agreement", "drift"))
        agreement = MEMORY * agreement + (1 - MEMORY) * signals.agreement
        inputs = features(
            [stack.shape for stack in stacks for _ in stack.params],
            [self._size(stack) for stack in stacks for _ in stack.params],
            signals,
            agreement / weight_seen(MEMORY, count),
            drift / MAX_DRIFT,
            shared,
            shared["step"],
            num_steps,
        )
        outputs = [_outputs(theta, x, stack.kind) for x, stack in zip(inputs.split(sizes, 1), stacks, strict=True)]
        change = MAX_DRIFT / num_steps * torch.tanh(torch.cat([x[:, 1] for x in outputs]))
        drift = (drift + change).clamp(-MAX_DRIFT, MAX_DRIFT)
        schedule = 0.5 * (1 + torch.cos(math.pi * (shared["step"] / num_steps).clamp(max=1.0)))
        updates = []
        parts = (agreement.split(sizes), drift.split(sizes))
        for stack, known, x, new_agreement, new_drift in zip(stacks, moments, outputs, *parts, strict=True):
            stack.state["agreement"].copy_(new_agreement)
            stack.state["drift"].copy_(new_drift)
            size = schedule * torch.exp(SIZE_GAIN * x[:, 0] + new_drift)
            direction = self._matrix if stack.kind == MATRIX else self._vector
            update = self._size(stack) * direction(stack, known, x[:, 2:])
            rank = len(stack.shape)
            if stack.kind == MATRIX:
                decay = self.matrix_rate * self.weight_decay
                update = update + decay * per_tensor(torch.exp(x[:, -1]), rank) * stack.params
            updates.append(per_tensor(-size, rank) * update)
        shared["step"] += 1
        return updates

    def _observe(self, stack: Stack) -> tuple[Moments, TensorSignals]:
        """The moments after this step's gradient, which are stored, and what they tell."""
        state, grad = stack.state, stack.grads
        agreement = agreement_of(grad, state["fast"])
        state["step"] += 1
        for name, x, b in zip(("fast", "slow", "rms"), (grad, grad, grad.square()), DECAYS[stack.kind], strict=True):
            update_mean_(state[name], x, b)
        moments = _moments(stack)
        return moments, tensor_signals(stack.params, agreement, moments)

    def _size(self, stack: Stack) -> float:
        """Root mean square of a tensor's first update."""
        return self.matrix_rate / math.sqrt(fans(stack.shape)[0]) if stack.kind == MATRIX else self.vector_rate

    def _vector(self, stack: Stack, moments: Moments, weights: torch.Tensor) -> torch.Tensor:
        """A + b B + c G."""
        b, c = (per_tensor(x, len(stack.shape)) for x in (weights[:, 0], weights[:, 1]))
        return (moments.fast + b * moments.slow + c * stack.grads) / moments.root

    def _matrix(self, stack: Stack, moments: Moments, weights: torch.Tensor) -> torch.Tensor:
        """sqrt(max(n, m)) O + a A, or, without O, that of a vector."""
        rank = len(stack.shape)
        if self.orthogonalize:
            # Nesterov's momentum as Muon has it, with a share of the slow one.
            b, count = DECAYS[MATRIX][0], stack.state["step"]
            old, new = weight_seen(b, count), weight_seen(b, count + 1)
            fast, grad = b * old / new, (1 - b) * torch.exp(weights[:, 1]) / old
            numbers = [per_tensor(x, rank) for x in (fast, grad, weights[:, 0], weights[:, 2])]
            mixed = numbers[0] * moments.fast + numbers[1] * stack.grads + numbers[2] * moments.slow
            matrix = mixed.reshape(-1, *fans(stack.shape))
            scale = math.sqrt(max(fans(stack.shape)))
            direction = scale * orthogonalize(matrix).reshape(mixed.shape)
            return direction + numbers[3] * moments.fast / moments.root
        return self._vector(stack, moments, weights)


def _joined(stacks: list[Stack], name: str) -> torch.Tensor:
    """A number of every tensor, `[num_tensors]`."""
    return torch.cat([stack.state[name] for stack in stacks])


def _moments(stack: Stack) -> Moments:
    """Moments of tensors, corrected for their start at zero."""
    state, count, rank = stack.state, stack.state["step"], len(stack.shape)
    fast, slow, mean_square = (
        state[name] / per_tensor(weight_seen(b, count), rank)
        for name, b in zip(("fast", "slow", "rms"), DECAYS[stack.kind], strict=True)
    )
    return Moments(fast, slow, torch.sqrt(mean_square + TINY) + EPSILON)


def _outputs(theta: Theta, inputs: torch.Tensor, kind: Hashable) -> torch.Tensor:
    """The network's outputs for tensors of one kind, `[k, outputs]`, from features `[NUM_FEATURES, k]`."""
    raw = inputs.T @ theta[f"{kind}/features"] + theta[f"{kind}/bias"]
    if "hidden/kernel" in theta:
        raw = raw + torch.tanh(inputs.T @ theta["hidden/kernel"] + theta["hidden/bias"]) @ theta[f"{kind}/hidden"]
    return BOUND * torch.tanh(raw / BOUND)
