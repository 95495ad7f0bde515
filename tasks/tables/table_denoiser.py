"""A denoising autoencoder of tables: entries of a row are hidden, and predicted from the others."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import InputError, check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_positive, check_whole, check_widths, mlp_numbers, show
from ..naming import family_name
from ..networks import ACTIVATIONS, MLP, apply, init_params
from .family import TableFamily, draw

READOUT_GAIN = 0.01  # variance times fan-in of the readout: predictions that start near the columns' means


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableDenoiser(TableFamily):
    """sum_{b,j} h_bj (net(x_b (1 - h_b), h_b)_j - x_bj)^2 / sum_{b,j} h_bj on standardised columns.

    h_bj is 1 with probability `hidden`, drawn anew for every batch: entry j of row b is then shown as the column's
    mean, and the network is told so. A loss of 1 is that of predicting the mean. P. Vincent et al., "Extracting and
    composing robust features with denoising autoencoders", 2008.

    Attributes:
      hidden_sizes: width of each hidden layer.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      hidden: probability that an entry is hidden, above 0 and below 1.
      batch_size: rows per batch, B below.
    """

    ignores_labels: ClassVar[bool] = True  # so that label_noise and permute_labels refuse it
    hidden_sizes: tuple[int, ...] = (32, 8, 32)
    activation: str = "gelu"
    hidden: float = 0.25
    batch_size: int = 64

    def __post_init__(self):
        check_whole(self, batch_size=1)
        check_positive(self, "hidden")
        if self.hidden >= 1:
            raise InputError(f"hidden must be below 1, not {show(self.hidden)}")
        check_widths(self)
        check_known("activation", self.activation, ACTIVATIONS)
        sizes = (2 * self.num_features, *self.hidden_sizes, self.num_features)
        check_memory(self, **mlp_numbers(sizes, self.batch_size))

    @property
    def name(self) -> str:
        """`table_denoiser/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"table_denoiser/{self.dataset}")

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is as `sample_batch` has it, of any B."""
        del config
        return Task(self._init, self._loss, lambda loss: loss, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"x": float32 [B, d], "hidden": float32 [B, d], 1 where an entry is hidden}`."""
        del config
        rows_key, hidden_key = jax.random.split(key)
        x = draw({"x": data[split]["x"]}, rows_key, self.batch_size)["x"]
        return {"x": x, "hidden": (jax.random.uniform(hidden_key, x.shape) < self.hidden).astype(x.dtype)}

    def _network(self) -> nn.Module:
        return MLP(self.hidden_sizes, self.num_features, self.activation)

    def _init(self, key: jax.Array) -> Params:
        gain, shape = ACTIVATIONS[self.activation][1], (1, 2 * self.num_features)
        return init_params(self._network(), key, shape, gain=gain, gains={"output": READOUT_GAIN})

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean squared error of the hidden entries; 0 where none is hidden."""
        del key
        x, hidden = batch["x"], batch["hidden"]
        predicted = apply(self._network(), params, jnp.concatenate([x * (1 - hidden), hidden], axis=1))
        return jnp.sum(hidden * jnp.square(predicted - x)) / jnp.maximum(jnp.sum(hidden), 1)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """There are none: `{}`."""
        del params, key, batch
        return {}
