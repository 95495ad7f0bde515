"""Running statistics of gradients that rules share."""

import jax
import jax.numpy as jnp


def init_momenta(param: jax.Array, num_decays: int) -> jax.Array:
    """Zeros `[num_decays, *param.shape]`, float32."""
    return jnp.zeros((num_decays, *param.shape), jnp.float32)


def update_momenta(momenta: jax.Array, grad: jax.Array, decays: jax.Array) -> jax.Array:
    """One momentum per decay b, without bias correction: m_b <- b m_b + (1 - b) g.

    Args:
      momenta: `[num_decays, *shape]`.
      grad: `[*shape]`.
      decays: `[num_decays]`.
    """
    b = decays.reshape(-1, *[1] * grad.ndim)
    return b * momenta + (1 - b) * grad[None]
