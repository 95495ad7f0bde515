"""Linear least squares, ill-conditioned, with sparse true weights: every row is fresh."""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_number, check_whole
from ..naming import family_name
from ..synthetic import Synthetic, split_key
from .spectra import log_uniform, rotation


@dataclasses.dataclass(frozen=True)
class LeastSquares(Synthetic):
    """Fits weights w to rows x ~ N(0, S) with labels y = x^T w* + noise, by mean squared error.

    The expected loss is (w - w*)^T S (w - w*) + n^2, with n the standard deviation of the label noise. S has
    eigenvalues log-uniform in [1 / condition, 1] and a uniform rotation; w* has `nonzero` entries N(0, 1) at random
    places and is 0 elsewhere. Both are drawn once per task. w starts at 0; a loss of 1 is that of predicting 0.

    Attributes:
      dimension: number of entries of w, d below.
      nonzero: number of entries of w* that are not 0.
      condition: bound of the ratio of the largest eigenvalue of S to the smallest.
      label_noise: n, in units of the standard deviation of x^T w*.
      batch_size: rows per batch, B below.
    """

    dimension: int = 32
    nonzero: int = 8
    condition: float = 1000.0
    label_noise: float = 0.1
    batch_size: int = 64

    def __post_init__(self):
        check_whole(self, dimension=1, nonzero=1, batch_size=1)
        check_number(self, condition=1, label_noise=0)
        check_memory(self, **{"a matrix": self.dimension**2}, **{"a batch of rows": self.batch_size * self.dimension})

    @property
    def name(self) -> str:
        """`least_squares`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "least_squares")

    def sample(self, key: jax.Array) -> Config:
        """`{"mixing": A with S = A^T A, [d, d], "weights": w* [d], "noise": n [], "scale": E[y^2] []}`, float32."""
        d = self.dimension
        spectrum_key, place_key, normal_key = jax.random.split(key, 3)
        eigenvalues = log_uniform(spectrum_key, d, self.condition)
        normal = jax.random.normal(normal_key, (d + 1, d))
        mixing = jnp.sqrt(eigenvalues)[:, None] * rotation(normal[:d])
        # The places of the smallest of d uniform numbers; with nonzero >= d all of them.
        rank = jnp.argsort(jnp.argsort(jax.random.uniform(place_key, (d,))))
        weights = jnp.where(rank < self.nonzero, normal[d], 0.0)
        signal = jnp.sum(jnp.square(mixing @ weights))
        return {
            "mixing": mixing,
            "weights": weights,
            "noise": float(self.label_noise) * jnp.sqrt(signal),
            "scale": (1 + float(self.label_noise) ** 2) * signal,
        }

    def task(self, config: Config) -> Task:
        """The task's functions; a batch is `{"x": float32 [B, d], "y": float32 [B]}`."""

        def init(key: jax.Array) -> Params:
            del key
            return {"w": jnp.zeros(self.dimension)}

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            del key
            return jnp.mean(jnp.square(batch["x"] @ params["w"] - batch["y"]))

        return Task(init, loss, lambda loss: loss / config["scale"], lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"x": float32 [B, d], "y": float32 [B]}`."""
        del data
        normal = jax.random.normal(split_key(key, split), (self.batch_size, self.dimension + 1))
        x = normal[:, :-1] @ config["mixing"]
        return {"x": x, "y": x @ config["weights"] + config["noise"] * normal[:, -1]}
