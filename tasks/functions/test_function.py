"""Classical test functions of global optimisation, in chain form, from a random start.

Their formulas and minima are those of Surjanovic and Bingham, Virtual Library of Simulation Experiments,
https://www.sfu.ca/~ssurjano/optimization.html.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError, check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_whole
from ..naming import family_name
from ..synthetic import Synthetic


class Function(NamedTuple):
    """A row of the table of functions.

    Attributes:
      value: `[d] -> scalar`.
      minimum: the least value, per coordinate, or per pair of coordinates if `pairs` is set.
      optimum: the value of every coordinate at the minimum, or the two values of every pair of coordinates.
      radius: starts are uniform in [-radius, radius]^d.
      pairs: whether the function is a sum over pairs (x_1, x_2), (x_3, x_4), ...: then d is even.
    """

    value: Callable[[jax.Array], jax.Array]
    optimum: tuple[float, ...]
    radius: float
    minimum: float = 0.0
    pairs: bool = False


def rosenbrock(x: jax.Array) -> jax.Array:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2."""
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def rastrigin(x: jax.Array) -> jax.Array:
    """sum_i 10 + x_i^2 - 10 cos(2 pi x_i)."""
    return jnp.sum(10 + jnp.square(x) - 10 * jnp.cos(2 * jnp.pi * x))


def ackley(x: jax.Array) -> jax.Array:
    """20 + e - 20 exp(-0.2 sqrt(mean x^2)) - exp(mean cos(2 pi x))."""
    square = jnp.mean(jnp.square(x))
    positive = square > 0
    # The root has no derivative at 0; this gives it 0 there.
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return 20 + jnp.e - 20 * jnp.exp(-0.2 * norm) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x)))


def styblinski_tang(x: jax.Array) -> jax.Array:
    """sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2."""
    return jnp.sum(x**4 - 16 * jnp.square(x) + 5 * x) / 2


def griewank(x: jax.Array) -> jax.Array:
    """1 + sum_i x_i^2 / 4000 - prod_i cos(x_i / sqrt(i))."""
    i = jnp.arange(1, len(x) + 1, dtype=x.dtype)
    return 1 + jnp.sum(jnp.square(x)) / 4000 - jnp.prod(jnp.cos(x / jnp.sqrt(i)))


def levy(x: jax.Array) -> jax.Array:
    """With w = 1 + (x - 1) / 4: sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + the end's term."""
    w = 1 + (x - 1) / 4
    inner = jnp.square(w[:-1] - 1) * (1 + 10 * jnp.square(jnp.sin(jnp.pi * w[:-1] + 1)))
    end = jnp.square(w[-1] - 1) * (1 + jnp.square(jnp.sin(2 * jnp.pi * w[-1])))
    return jnp.square(jnp.sin(jnp.pi * w[0])) + jnp.sum(inner) + end


def beale(x: jax.Array) -> jax.Array:
    """sum over pairs (u, v): (1.5 - u + u v)^2 + (2.25 - u + u v^2)^2 + (2.625 - u + u v^3)^2."""
    u, v = x[0::2], x[1::2]
    terms = (1.5 - u + u * v, 2.25 - u + u * jnp.square(v), 2.625 - u + u * v**3)
    return jnp.sum(jnp.square(terms[0]) + jnp.square(terms[1]) + jnp.square(terms[2]))


def himmelblau(x: jax.Array) -> jax.Array:
    """sum over pairs (u, v): (u^2 + v - 11)^2 + (u + v^2 - 7)^2."""
    u, v = x[0::2], x[1::2]
    return jnp.sum(jnp.square(jnp.square(u) + v - 11) + jnp.square(u + jnp.square(v) - 7))


FUNCTIONS = {
    "ackley": Function(ackley, (0.0,), 5.0),
    "beale": Function(beale, (3.0, 0.5), 4.5, pairs=True),
    "griewank": Function(griewank, (0.0,), 100.0),
    "himmelblau": Function(himmelblau, (3.0, 2.0), 5.0, pairs=True),
    "levy": Function(levy, (1.0,), 10.0),
    "rastrigin": Function(rastrigin, (0.0,), 5.12),
    "rosenbrock": Function(rosenbrock, (1.0,), 2.0),
    "styblinski_tang": Function(styblinski_tang, (-2.9035340277711770,), 5.0, minimum=-39.166165703771419),
}


@dataclasses.dataclass(frozen=True)
class TestFunction(Synthetic):
    """Minimises a test function of `dimension` variables; a loss of 1 is that of the start, 0 that of the optimum.

    The start is drawn once per task. Nothing in a batch is random: it is `{}`.

    Attributes:
      function: one of `FUNCTIONS`.
      dimension: number of variables, d below.
    """

    __test__ = False  # pytest would take a class of this name for tests

    function: str = "rosenbrock"
    dimension: int = 10

    def __post_init__(self):
        check_known("test function", self.function, FUNCTIONS)
        check_whole(self, dimension=2)
        check_memory(self, parameters=self.dimension)
        if FUNCTIONS[self.function].pairs and self.dimension % 2:
            raise InputError(f"{self.function} is a sum over pairs: dimension must be even, not {self.dimension}")

    @property
    def name(self) -> str:
        """`test_function`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "test_function")

    def sample(self, key: jax.Array) -> Config:
        """`{"start": float32 [d]}`."""
        radius = FUNCTIONS[self.function].radius
        return {"start": jax.random.uniform(key, (self.dimension,), minval=-radius, maxval=radius)}

    def task(self, config: Config) -> Task:
        """The task's functions; the batch is not read."""
        row = FUNCTIONS[self.function]
        minimum = row.minimum * (self.dimension // 2 if row.pairs else self.dimension)

        def init(key: jax.Array) -> Params:
            del key
            return {"x": config["start"]}

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            """The value above the minimum."""
            del key, batch
            return row.value(params["x"]) - minimum

        def normalize(loss: jax.Array) -> jax.Array:
            return loss / (row.value(config["start"]) - minimum)

        return Task(init, loss, normalize, lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{}`."""
        del data, key, config, split
        return {}
