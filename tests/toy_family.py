"""Task families that train in microseconds: noisy quadratics of sampled scale, and bowls around a data set's value."""

import dataclasses
from typing import ClassVar

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


@dataclasses.dataclass(frozen=True)
class Bowl:
    """mean(|w - batch|^power), w and batch `[8]`: noisy batches around the data set's value, one scale per task."""

    power: int = 2
    start: float = 1.0
    noise: float = 0.3
    traces: ClassVar[list[str]] = []

    @property
    def name(self):
        return "bowl"

    @property
    def streams(self):
        return False

    def load(self, seed=0, block=0):
        return {"train": jnp.ones(8), "valid": jnp.full(8, 1.5), "meta": jnp.ones(0)}

    def sample(self, key):
        return {"scale": jax.random.uniform(key, minval=0.5, maxval=2)}

    def task(self, config):
        def loss(params, key, batch):
            del key
            return config["scale"] * jnp.mean(jnp.abs(params["w"] - batch) ** self.power)

        def metrics(params, key, batch):
            self.traces.append(self.name)
            return {"accuracy": jnp.mean(params["w"] > 0)}

        return Task(lambda key: {"w": self.start + jax.random.normal(key, (8,))}, loss, lambda x: x, metrics)

    def sample_batch(self, data, key, config, split):
        return data[split] + self.noise * jax.random.normal(key, (8,))
