"""Quadratic functions in a random rotation, with a sampled spectrum and noise in the gradient."""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_number, check_whole
from ..naming import family_name
from ..synthetic import Synthetic, split_key
from .spectra import log_uniform, rotation


@dataclasses.dataclass(frozen=True)
class Quadratic(Synthetic):
    """Minimises f(x) = (x - b)^T H (x - b) / 2 over x of `dimension` entries, from gradients H (x - b) + n.

    H = Q diag(h) Q^T with h log-uniform in [1 / condition, 1] and Q a uniform rotation; the optimum b and the start
    are N(0, I). All are drawn once per task, and n once per batch. A loss of 1 is that of the start, 0 that of the
    optimum. Only the gradient is noisy: noise in the loss would reward going far away, because what it costs is capped
    and what it gains is not.

    Attributes:
      dimension: number of entries of x, d below.
      condition: bound of the ratio of the largest eigenvalue of H to the smallest.
      noise: standard deviation of n's entries, in units of the root mean square of the gradient at the start.
    """

    dimension: int = 32
    condition: float = 100.0
    noise: float = 0.1

    def __post_init__(self):
        check_whole(self, dimension=1)
        check_number(self, condition=1, noise=0)
        check_memory(self, **{"a matrix": self.dimension**2})

    @property
    def name(self) -> str:
        """`quadratic`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "quadratic")

    def sample(self, key: jax.Array) -> Config:
        """`{"hessian": [d, d], "optimum": [d], "start": [d], "start_loss": [], "noise": []}`, float32."""
        d = self.dimension
        spectrum_key, normal_key = jax.random.split(key)
        eigenvalues = log_uniform(spectrum_key, d, self.condition)
        normal = jax.random.normal(normal_key, (d + 2, d))
        q, optimum, start = rotation(normal[:d]), normal[d], normal[d + 1]
        hessian = (q * eigenvalues[None, :]) @ q.T
        gradient = hessian @ (start - optimum)
        return {
            "hessian": (hessian + hessian.T) / 2,  # symmetric to the last bit, as its gradient takes it to be
            "optimum": optimum,
            "start": start,
            "start_loss": gradient @ (start - optimum) / 2,
            "noise": float(self.noise) * jnp.sqrt(jnp.mean(jnp.square(gradient))),
        }

    def task(self, config: Config) -> Task:
        """The task's functions; a batch is `{"noise": n, float32 [d]}`."""

        def init(key: jax.Array) -> Params:
            del key
            return {"x": config["start"]}

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            del key
            distance = params["x"] - config["optimum"]
            tilt = batch["noise"] @ distance
            return distance @ (config["hessian"] @ distance) / 2 + (tilt - jax.lax.stop_gradient(tilt))

        return Task(init, loss, lambda loss: loss / config["start_loss"], lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"noise": float32 [d]}`, independent normal entries of mean 0."""
        del data
        return {"noise": config["noise"] * jax.random.normal(split_key(key, split), (self.dimension,))}
