"""Random spectra and rotations: the matrices of ill-conditioned problems."""

import math

import jax
import jax.numpy as jnp


def log_uniform(key: jax.Array, number: int, condition: float) -> jax.Array:
    """float32 [number] in (1 / condition, 1] with uniform logarithms: a spectrum of at most that condition."""
    return jnp.exp(-math.log(condition) * jax.random.uniform(key, (number,)))


def rotation(normal: jax.Array) -> jax.Array:
    """float32 [d, d], independent N(0, 1) -> an orthogonal matrix, uniform (Haar) over all of them.

    The QR decomposition made unique by a positive diagonal of R (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    q, r = jnp.linalg.qr(normal)
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]
