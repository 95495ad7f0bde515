"""A task family without data that trains in microseconds: noisy quadratics of sampled scale."""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.types import Batch, Config, Data, Task


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """loss(p, batch) = scale mean((p - 1 - batch)^2) / 2, batch ~ N(0, noise^2), p_0 ~ N(0, 1)."""

    dim: int = 3
    noise: float = 0.1

    @property
    def name(self) -> str:
        return "quadratic" if self == Quadratic() else f"quadratic:dim={self.dim}:noise={self.noise}"

    @property
    def streams(self) -> bool:
        return False

    def load(self, seed: int = 0, block: int = 0) -> Data:
        del seed, block
        return {}

    def sample(self, key: jax.Array) -> Config:
        return {"scale": jnp.exp(jax.random.uniform(key))}

    def task(self, config: Config) -> Task:
        def loss(params, key, batch):
            del key
            return config["scale"] * jnp.mean(jnp.square(params["p"] - 1 - batch)) / 2

        return Task(
            init=lambda key: {"p": jax.random.normal(key, (self.dim,))},
            loss=loss,
            normalize=lambda loss: loss / config["scale"],
            metrics=lambda params, key, batch: {},
        )

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        del data, config
        offset = {"train": 0.0, "meta": 0.5}.get(split, 0.0)  # so that a test can tell the splits apart
        return offset + self.noise * jax.random.normal(key, (self.dim,))
