"""`lstm`: a two-layer LSTM reads the gradients of each parameter; weights are shared, hidden states are per parameter.

Marcin Andrychowicz, Misha Denil, Sergio Gomez, Matthew W. Hoffman, David Pfau, Tom Schaul, Brendan Shillingford, Nando
de Freitas, "Learning to learn by gradient descent by gradient descent", 2016 (arXiv 1606.04474).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import zeros_beside
from lopt.optimizers.parts.blocks import over_blocks
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.recurrent import INIT, lstm_cell
from lopt.optimizers.parts.tensors import map_tensors
from lopt.optimizers.parts.xla import apart
from lopt.types import Params, PyTree, Theta


def log_and_sign(grad: jax.Array, p: float) -> tuple[jax.Array, jax.Array]:
    """The paper's two inputs: (log|g| / p, sign g) if |g| >= e^-p, else (-1, e^p g); both are of order 1."""
    size = jnp.abs(grad)
    large = size >= math.exp(-p)
    log = jnp.log(jnp.where(large, size, 1.0)) / p
    return jnp.where(large, log, -1.0), jnp.where(large, jnp.sign(grad), math.exp(p) * grad)


class CoordinateLSTM(nn.Module):
    """Stacked LSTM cells and a linear read-out, on `n` parameters at once, features first.

    Attributes:
      hidden_sizes: width of each layer.
    """

    hidden_sizes: Sequence[int]

    @nn.compact
    def __call__(self, carry: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        """One step.

        Args:
          carry: one (c, h) per layer, each `[hidden, n]`.
          x: `[features, n]`.

        Returns:
          The new carry and the read-out, `[n]`.
        """
        new_carry = []
        for i, (size, (c, h)) in enumerate(zip(self.hidden_sizes, carry, strict=True)):
            kernel = self.param(f"kernel_{i}", INIT, (x.shape[0] + size, 4 * size), jnp.float32)
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (4 * size,), jnp.float32)
            c, h = lstm_cell(kernel, bias, (c, h), x)
            new_carry.append((c, h))
            x = h
        kernel = self.param("kernel_out", INIT, (x.shape[0], 1), jnp.float32)
        bias = self.param("bias_out", nn.initializers.zeros, (1,), jnp.float32)
        return tuple(new_carry), jnp.tensordot(kernel[:, 0], x, 1) + bias.reshape([1] * (x.ndim - 1))


class LSTMState(NamedTuple):
    """The state.

    Attributes:
      carry: a tree like `params`; each leaf is one (c, h) per layer, each `[hidden, *shape]`.
    """

    carry: PyTree


@dataclasses.dataclass(frozen=True)
class LSTMOptimizer:
    """Coordinate-wise LSTM: update = -step_scale LSTM(log_and_sign(g)).

    Attributes:
      hidden_sizes: width of each layer.
      step_scale: size of an update when the read-out is 1.
      gradient_log_range: the paper's p: gradients below e^-p enter linearly.
    """

    hidden_sizes: tuple[int, ...] = (20, 20)
    step_scale: float = 0.01
    gradient_log_range: float = 10.0

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.step_scale <= 0 or self.gradient_log_range <= 0:
            raise InputError("step_scale and gradient_log_range must be above 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def _network(self) -> CoordinateLSTM:
        return CoordinateLSTM(self.hidden_sizes)

    def _zero_carry(self, param: jax.Array) -> PyTree:
        # Two arrays: one that is used for both c and h could not be donated.
        return tuple((zeros_beside(param, h), zeros_beside(param, h)) for h in self.hidden_sizes)

    def init_theta(self, key: jax.Array) -> Theta:
        one = jnp.zeros((1,), jnp.float32)
        return self._network.init(key, self._zero_carry(one), jnp.zeros((2, 1), jnp.float32))["params"]

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> LSTMState:
        del theta, num_steps
        return LSTMState(jax.tree.map(self._zero_carry, params))

    def update(
        self, theta: Theta, grads: Params, state: LSTMState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, LSTMState]:
        del params, value
        updates, carry = map_tensors(
            lambda kind, grad, carry: self._update_tensor(theta, grad, carry), 2, grads, state.carry
        )
        return updates, LSTMState(carry)

    def _update_tensor(self, theta: Theta, grad: jax.Array, carry: PyTree) -> tuple[jax.Array, PyTree]:
        def update_block(own: tuple[jax.Array, PyTree], grad: jax.Array) -> tuple[jax.Array, PyTree]:
            features = jnp.stack(log_and_sign(grad, self.gradient_log_range))
            carry, out = self._network.apply({"params": theta}, own[1], features)  # type: ignore[misc]
            return -self.step_scale * jnp.asarray(out), carry

        # If it were fused with the replacing of blocks, XLA would read c after it had replaced parts of h, and would
        # therefore copy both in full.
        return over_blocks(apart(update_block), (grad,), grad.shape, start=(jnp.zeros_like(grad), carry))
