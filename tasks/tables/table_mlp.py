"""Classification and regression of tables with a multi-layer perceptron, or with a linear model."""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_whole, check_widths, mlp_numbers
from ..naming import family_name
from ..networks import ACTIVATIONS, MLP, accuracy, apply, cross_entropy, init_params
from .family import TableFamily, draw

# Variance times fan-in of the readout: predictions that start near 0, by columns that may be alike.
READOUT_GAIN = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableMLP(TableFamily):
    """Trains an MLP on the standardised columns of a table; see `TableFamily`.

    Classes: cross-entropy, where 1 is uniform guessing. Numbers: mean squared error of the standardised target, where
    1 is predicting the mean.

    Attributes:
      hidden_sizes: width of each hidden layer; empty for logistic or linear regression.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      batch_size: rows per batch, B below.
    """

    hidden_sizes: tuple[int, ...] = (32,)
    activation: str = "relu"
    batch_size: int = 64

    def __post_init__(self):
        check_whole(self, batch_size=1)
        check_widths(self)
        check_known("activation", self.activation, ACTIVATIONS)
        sizes = (self.num_features, *self.hidden_sizes, self.num_classes or 1)
        check_memory(self, **mlp_numbers(sizes, self.batch_size))

    @property
    def name(self) -> str:
        """`table_mlp/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"table_mlp/{self.dataset}")

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is as `sample_batch` has it, of any B."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"x": float32 [B, d], "label": int32 [B]}`, or `"y"`, float32 [B], if the target is a number."""
        del config
        return draw(data[split], key, self.batch_size)

    def _network(self) -> nn.Module:
        return MLP(self.hidden_sizes, self.num_classes or 1, self.activation)

    def _init(self, key: jax.Array) -> Params:
        gain = ACTIVATIONS[self.activation][1]
        shape = (1, self.num_features)
        return init_params(self._network(), key, shape, gain=gain, gains={"output": READOUT_GAIN})

    def _outputs(self, params: Params, batch: Batch) -> jax.Array:
        """Logits [B, C], or [B, 1] for a number."""
        return apply(self._network(), params, batch["x"])

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean cross-entropy in nats, or mean squared error."""
        del key
        outputs = self._outputs(params, batch)
        if self.num_classes:
            return jnp.mean(cross_entropy(outputs, batch["label"]))
        return jnp.mean(jnp.square(outputs[:, 0] - batch["y"]))

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of uniform guessing; a standardised target has variance 1."""
        return loss / math.log(self.num_classes) if self.num_classes else loss

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`, where there are classes: fraction of the rows whose largest logit is the label's."""
        del key
        if not self.num_classes:
            return {}
        return {"accuracy": accuracy(self._outputs(params, batch), batch["label"])}
