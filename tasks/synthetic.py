"""What families without data share: nothing to load, a stream of keys for each split, random spectra and rotations."""

import math

import jax
import jax.numpy as jnp

from lopt.types import SPLITS, Data


class Synthetic:
    """A family whose batches are functions of their keys alone."""

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """There are no data: `{}`."""
        del seed, block
        return {}

    @property
    def streams(self) -> bool:
        return False


def split_key(key: jax.Array, split: str) -> jax.Array:
    """The key of a batch of one split. Splits draw from streams of their own: one key gives each another batch."""
    return jax.random.fold_in(key, SPLITS.index(split))


def log_uniform(key: jax.Array, number: int, condition: float) -> jax.Array:
    """float32 [number] in (1 / condition, 1], their logarithms uniform: a spectrum of at most that condition."""
    return jnp.exp(-math.log(condition) * jax.random.uniform(key, (number,)))


def rotation(normal: jax.Array) -> jax.Array:
    """float32 [d, d], independent N(0, 1) -> an orthogonal matrix, uniform (Haar) over all of them.

    The QR decomposition made unique by a positive diagonal of R (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    q, r = jnp.linalg.qr(normal)
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]
