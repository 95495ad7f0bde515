"""How long trajectories are: a fixed horizon, or one drawn for each trajectory, log-uniformly or uniformly."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError, check_known

LAWS = ("log", "uniform")


@dataclasses.dataclass(frozen=True)
class Horizon:
    """Log-uniform or uniform on [min_length, max_length] inner steps, rounded to multiples of a window's length.

    Resets happen at window starts, so a trajectory has whole windows. The lengths that can occur are few; their
    distribution is kept as a table, which makes the mean length, and the lengths seen at a random moment, exact.
    """

    min_length: int
    max_length: int
    law: str = "log"

    def __post_init__(self):
        check_known("law of horizons", self.law, LAWS)
        if not 1 <= self.min_length <= self.max_length:
            raise InputError(f"horizon {self}: need 1 <= shortest <= longest, as in 1000, 200:2000 or 200:2000:uniform")

    def __str__(self) -> str:
        if self.min_length == self.max_length:
            return f"{self.min_length}"
        law = "" if self.law == "log" else f":{self.law}"
        return f"{self.min_length}:{self.max_length}{law}"

    @staticmethod
    def parse(text: str) -> "Horizon":
        """Reads `1000`, `200:2000` or `200:2000:uniform`."""
        match = re.fullmatch(r"(\d+)(?::(\d+)(?::(\w+))?)?", text)
        if not match:
            raise InputError(
                f"cannot read horizon {text!r}: write a number, SHORTEST:LONGEST or SHORTEST:LONGEST:uniform"
            )
        first, last, law = match.groups()
        return Horizon(int(first), int(last or first), law or "log")

    def check(self, truncation: int) -> None:
        """Raises InputError unless trajectories can consist of windows of `truncation` steps."""
        if truncation < 1:
            raise InputError(f"truncation must be at least 1 inner step, not {truncation}")
        if truncation > self.min_length:
            raise InputError(f"truncation {truncation} is longer than the shortest horizon, {self.min_length}")
        if self.min_length == self.max_length and self.min_length % truncation:
            below = self.min_length // truncation * truncation
            raise InputError(
                f"a fixed horizon must be a multiple of the truncation, {truncation}: "
                f"take {below} or {below + truncation} instead of {self.min_length}"
            )

    def table(self, multiple_of: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """`(lengths [n] int32, probabilities [n] float64)` after rounding to multiples, at least one of them."""
        k = multiple_of
        first, last = (max(1, math.floor(x / k + 0.5)) for x in (self.min_length, self.max_length))
        lengths = k * np.arange(first, last + 1, dtype=np.int32)
        if first == last:
            return lengths, np.ones(1)
        edges = np.clip((lengths[:-1] + lengths[1:]) / 2, self.min_length, self.max_length)
        edges = np.concatenate([[self.min_length], edges, [self.max_length]])
        heights = np.log(edges) if self.law == "log" else edges
        return lengths, np.diff(heights) / (heights[-1] - heights[0])

    def mean(self, multiple_of: int = 1) -> float:
        """E[T] in inner steps."""
        lengths, probabilities = self.table(multiple_of)
        return float(lengths @ probabilities)

    def sample(self, key: jax.Array, multiple_of: int = 1) -> jax.Array:
        """The horizon of a trajectory that starts, int32."""
        lengths, probabilities = self.table(multiple_of)
        return _draw(key, lengths, probabilities)

    def sample_running(self, key: jax.Array, multiple_of: int = 1) -> jax.Array:
        """The horizon of the trajectory met at a random moment: probability proportional to its length."""
        lengths, probabilities = self.table(multiple_of)
        return _draw(key, lengths, probabilities * lengths)


def _draw(key: jax.Array, lengths: np.ndarray, weights: np.ndarray) -> jax.Array:
    if len(lengths) == 1:
        return jnp.asarray(lengths[0], jnp.int32)
    cumulative = jnp.asarray(np.cumsum(weights) / np.sum(weights), jnp.float32)[:-1]
    return jnp.asarray(lengths)[jnp.searchsorted(cumulative, jax.random.uniform(key), side="right")]
