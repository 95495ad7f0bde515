"""Orthogonalized directions: what Muon does to a momentum.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

import jax
import jax.numpy as jnp

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(x: jax.Array, num_steps: int = 5) -> jax.Array:
    """Brings the singular values of matrices near 1 by Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X.

    Args:
      x: `[..., rows, columns]`, divided by its Frobenius norm before the first step.
      num_steps: number of steps.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True) + 1e-16)
    a, b, c = NEWTON_SCHULZ
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
