"""`blend`'s network: what it reads, centred and scaled, and what it says of every tensor."""

import jax
import jax.numpy as jnp

from lopt.types import Theta

MATRIX, VECTOR = "matrix", "vector"  # the two kinds of tensors, and theta's heads; scalars count as vectors
# About the mean and the standard deviation of what is read, over steps, tensors and tasks of `pool_cheap`.
CENTRES: dict[str, tuple[float, ...]] = {
    MATRIX: (0.1, 3.3, 2.7, 0.1, 0.1, -2.0, 4.3, 0.0, 6.2, -0.85, -0.75),
    VECTOR: (0.1, 0.0, 2.7, 0.0, 0.1, -1.5, 2.0, 0.0, 6.2, -0.85, -0.75),
}
SCALES: dict[str, tuple[float, ...]] = {
    MATRIX: (0.15, 1.0, 1.0, 0.3, 0.25, 1.3, 0.65, 0.7, 1.0, 0.2, 1.25),
    VECTOR: (0.15, 1.0, 1.0, 1.0, 0.25, 1.2, 1.3, 0.7, 1.0, 0.2, 1.25),
}
LIMIT = 2.0  # of what is read, in standard deviations: beyond it, nothing was seen
BOUND = 2.0  # of the outputs, smoothly


def outputs_of(theta: Theta, inputs: jax.Array, kinds: list[str]) -> list[jax.Array]:
    """The network's outputs for every tensor.

    Args:
      theta: a head per kind of tensor, linear in features and hidden layer, and that layer, if there is one.
      inputs: what is read, `[num_features, num_tensors]`.
      kinds: of the tensors.
    """
    centres, scales = (jnp.asarray([x[kind][: len(inputs)] for kind in kinds], jnp.float32) for x in (CENTRES, SCALES))
    read = jnp.clip((inputs.T - centres) / scales, -LIMIT, LIMIT)
    raw = {kind: (read @ theta[kind]["features"] + theta[kind]["bias"][None]) for kind in set(kinds)}
    if "hidden" in theta:
        hidden = jnp.tanh(read @ theta["hidden"]["kernel"] + theta["hidden"]["bias"][None])
        raw = {kind: x + hidden @ theta[kind]["hidden"] for kind, x in raw.items()}
    return [BOUND * jnp.tanh(raw[kind][i] / BOUND) for i, kind in enumerate(kinds)]
