"""The keys of a meta-training run, from its seed."""

import jax

from lopt.types import LearnedOptimizer, Theta


def run_keys(seed: int | jax.Array) -> jax.Array:
    """Keys of a run: for theta, for the start of the trajectories, for the outer steps."""
    return jax.random.split(jax.random.key(seed), 3)


def initial_theta(optimizer: LearnedOptimizer, seed: int | jax.Array) -> Theta:
    """Theta before the first outer step of a run with this seed."""
    return optimizer.init_theta(run_keys(seed)[0])
