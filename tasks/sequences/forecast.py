"""Forecasting noisy chaotic series with a recurrent network: regression, and every series is fresh."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import MOST_LAYERS, check_memory, check_number, check_whole
from ..naming import family_name
from ..networks import apply, init_params
from ..synthetic import Synthetic, split_key
from .networks import CELLS, Kernel, recurrent_numbers

B = 0.3  # Henon's value; with it, every a of A_RANGE keeps series that start near 0 within [-1.5, 1.5]
A_RANGE = (1.2, 1.4)
SETTLING = 16  # steps that are dropped, after which a series is on the attractor
MEASURED = 512  # steps from which a task's mean and standard deviation are taken
READOUT_GAIN = 0.01  # variance times fan-in of the readout, so that the first forecast is near the mean


class SeriesNetwork(nn.Module):
    """[N, L] -> [N, L]: one recurrent layer of `width` units that reads a number at a time, linear readout."""

    cell: str
    width: int

    @nn.compact
    def __call__(self, series: jax.Array) -> jax.Array:
        gates, step, num_states = CELLS[self.cell]
        from_input = nn.Dense(gates * self.width, name="input")(series.T[..., None])  # [L, N, gates * width]
        recurrent = Kernel((self.width, gates * self.width), name="recurrent")()
        start = tuple(jnp.zeros((len(series), self.width)) for _ in range(num_states))
        _, outputs = jax.lax.scan(lambda state, x: step(state, x, recurrent), start, from_input)
        return nn.Dense(1, name="output")(outputs)[..., 0].T


@dataclasses.dataclass(frozen=True)
class Forecast(Synthetic):
    """mean_t (net(y_1..y_t) - y_{t+1})^2 on series y of the Henon map, standardised and with noise added.

    x_{t+1} = 1 - a x_t^2 + 0.3 x_{t-1}, with a uniform in [1.2, 1.4] drawn once per task, and
    y_t = (x_t - mean) / std + noise N(0, 1). A loss of 1 is that of forecasting the mean; the noise of the target alone
    costs noise^2. M. Henon, "A two-dimensional mapping with a strange attractor", 1976.

    Attributes:
      cell: "gru" or "lstm", see `tasks.sequences.networks`.
      width: number of units of the layer.
      length: numbers read in a series, L below.
      noise: standard deviation of the noise, in units of that of the series.
      batch_size: series per batch, N below.
    """

    cell: str = "gru"
    width: int = 16
    length: int = 8
    noise: float = 0.1
    batch_size: int = 16

    def __post_init__(self):
        check_known("cell", self.cell, CELLS)
        check_whole(self, width=1, batch_size=1)
        check_whole(self, length=1, most=MOST_LAYERS)
        check_number(self, noise=0)
        check_memory(self, **recurrent_numbers(self.width, self.batch_size * self.length))

    @property
    def name(self) -> str:
        """`forecast`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "forecast")

    def sample(self, key: jax.Array) -> Config:
        """`{"a": [], "mean": [], "std": []}`, float32: the map, and the moments of its series."""
        a_key, start_key = jax.random.split(key)
        a = jax.random.uniform(a_key, minval=A_RANGE[0], maxval=A_RANGE[1])
        series = henon(a, jax.random.uniform(start_key, (2, 1), minval=-0.1, maxval=0.1), MEASURED)
        return {"a": a, "mean": series.mean(), "std": series.std()}

    def task(self, config: Config) -> Task:
        """The task's functions; a batch is `{"series": float32 [N, L + 1]}`, of any N and L."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"series": float32 [N, L + 1]}`: the first number is only read, the last is only forecast."""
        del data
        start_key, noise_key = jax.random.split(split_key(key, split))
        starts = jax.random.uniform(start_key, (2, self.batch_size), minval=-0.1, maxval=0.1)
        series = (henon(config["a"], starts, self.length + 1) - config["mean"]) / config["std"]
        return {"series": series + float(self.noise) * jax.random.normal(noise_key, series.shape)}

    def _init(self, key: jax.Array) -> Params:
        network = SeriesNetwork(self.cell, self.width)
        return init_params(network, key, (1, self.length), gains={"output": READOUT_GAIN})

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean squared error of the number after each one read."""
        del key
        forecast = apply(SeriesNetwork(self.cell, self.width), params, batch["series"][:, :-1])
        return jnp.mean(jnp.square(forecast - batch["series"][:, 1:]))

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the variance of a number with its noise."""
        return loss / (1 + float(self.noise) ** 2)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """There are none: `{}`."""
        del params, key, batch
        return {}


def henon(a: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """x_{t+1} = 1 - a x_t^2 + 0.3 x_{t-1}, `length` numbers of each series after it has settled.

    Args:
      a: scalar.
      starts: x_0 and x_1 of N series, [2, N].
      length: L.

    Returns:
      The series, [N, L].
    """

    def step(pair: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        before, now = pair
        after = 1 - a * jnp.square(now) + B * before
        return (now, after), after

    return jax.lax.scan(step, (starts[0], starts[1]), None, SETTLING + length)[1][SETTLING:].T
