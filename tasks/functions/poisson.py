"""A differential equation solved by a small network: Poisson's, by the residual at random points."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lopt.types import Batch, Config, Data, Params, Task

from ..checks import MOST_LAYERS, check_memory, check_whole, check_widths, mlp_numbers
from ..naming import family_name
from ..networks import ACTIVATIONS, MLP, apply, init_params
from ..synthetic import Synthetic, split_key

READOUT_GAIN = 0.01  # variance times fan-in of the readout, so that the first solution is near 0


@dataclasses.dataclass(frozen=True)
class Poisson(Synthetic):
    """mean_x (u''(x) + f(x))^2 for u(x) = x (1 - x) net(x), which is 0 at both ends of [0, 1].

    f(x) = sum_k a_k sin(k pi x) with a_k ~ N(0, 1), drawn once per task; the solution is sum_k a_k sin(k pi x) / (k
    pi)^2. A loss of 1 is that of u = 0. M. Raissi, P. Perdikaris, G. E. Karniadakis, "Physics-informed neural
    networks", 2019.

    Attributes:
      hidden_sizes: width of each hidden layer; the activation is tanh.
      waves: number of sines in f.
      batch_size: points per batch, B below.
    """

    hidden_sizes: tuple[int, ...] = (16, 16)
    waves: int = 3
    batch_size: int = 32

    def __post_init__(self):
        check_whole(self, batch_size=1)
        check_whole(self, waves=1, most=MOST_LAYERS)
        check_widths(self)
        check_memory(self, **mlp_numbers((1, *self.hidden_sizes, 1), self.batch_size))

    @property
    def name(self) -> str:
        """`poisson`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "poisson")

    def sample(self, key: jax.Array) -> Config:
        """`{"amplitudes": a, float32 [waves]}`."""
        return {"amplitudes": jax.random.normal(key, (self.waves,))}

    def task(self, config: Config) -> Task:
        """The task's functions; a batch is `{"x": float32 [B]}`, of any B."""
        amplitudes = config["amplitudes"]

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            del key
            x = batch["x"]
            force = jnp.sin(self._frequencies()[None, :] * x[:, None]) @ amplitudes
            return jnp.mean(jnp.square(self._curvature(params, x) + force))

        def normalize(loss: jax.Array) -> jax.Array:
            return loss / (jnp.sum(jnp.square(amplitudes)) / 2)  # the sines are orthogonal, of mean square 1/2

        def metrics(params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
            del params, key, batch
            return {}

        return Task(self._init, loss, normalize, metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"x": float32 [B]}`, uniform in [0, 1]."""
        del data, config
        return {"x": jax.random.uniform(split_key(key, split), (self.batch_size,))}

    def _frequencies(self) -> jax.Array:
        return math.pi * jnp.arange(1, self.waves + 1)

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, 1, "tanh")

    def _init(self, key: jax.Array) -> Params:
        gain = ACTIVATIONS["tanh"][1]
        return init_params(self._network(), key, (1, 1), gain=gain, gains={"output": READOUT_GAIN})

    def _curvature(self, params: Params, x: jax.Array) -> jax.Array:
        """u'' at each of the points [B], by two derivatives in forward mode: no point sees another."""

        def solution(x: jax.Array) -> jax.Array:
            return x * (1 - x) * apply(self._network(), params, x[:, None])[:, 0]

        def slope(x: jax.Array) -> jax.Array:
            return jax.jvp(solution, (x,), (jnp.ones_like(x),))[1]

        return jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]
