"""How long trajectories are: a fixed horizon, or one drawn for each trajectory, log-uniformly or uniformly."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError, check_known

MAX_LENGTHS = 1_000_000  # of a range of horizons: they are kept as a table
LAWS = ("log", "uniform")
FORMS = "1000, 200:2000 (log-uniform), 200:2000:uniform or 200:2000:grow=500 (reached after 500 outer steps)"


@dataclasses.dataclass(frozen=True)
class Horizon:
    """A law of lengths between min_length and max_length inner steps, rounded to multiples of a window's length.

    Trajectories reset at window starts only, so each has whole windows. The lengths that can occur are few; their
    distribution is kept as a table, which makes the mean length, and the lengths met at a random moment, exact.

    A horizon may grow: after `step` estimates the law is cut off at its quantile step / growth, so that the longest
    trajectory rises from min_length to max_length over `growth` estimates, geometrically under the log-uniform law.

    Attributes:
      min_length: shortest trajectory, in inner steps.
      max_length: longest trajectory, in inner steps.
      law: `log` for log-uniform, or `uniform`.
      growth: number of estimates until max_length is reached; 0: the law is complete from the start.

    >>> from lopt.horizons import Horizon
    >>> Horizon(100, 400, law="uniform").table(multiple_of=100)[0].tolist()
    [100, 200, 300, 400]
    """

    min_length: int
    max_length: int
    law: str = "log"
    growth: int = 0

    def __post_init__(self):
        check_known("law of horizons", self.law, LAWS)
        if self.growth < 0 or (self.growth and self.min_length == self.max_length):
            raise InputError(f"horizon {self}: growth counts outer steps, from 0, and needs a range such as 200:2000")
        if not 1 <= self.min_length <= self.max_length:
            raise InputError(f"horizon {self}: lengths must be at least 1, and the shortest comes first, as in {FORMS}")

    def __str__(self) -> str:
        if self.min_length == self.max_length:
            return f"{self.min_length}"
        law = "" if self.law == "log" else f":{self.law}"
        growth = f":grow={self.growth}" if self.growth else ""
        return f"{self.min_length}:{self.max_length}{law}{growth}"

    @staticmethod
    def parse(text: str) -> "Horizon":
        """Reads `1000`, `200:2000`, `200:2000:uniform` or `200:2000:grow=500`, which grows over 500 outer steps."""
        match = re.fullmatch(r"(\d+)(?::(\d+)(?::([a-z]+))?(?::grow=(\d+))?)?", text)
        if not match:
            raise InputError(f"cannot read horizon {text!r}: write it as in {FORMS}")
        first, last, law, growth = match.groups()
        return Horizon(int(first), int(last or first), law or "log", int(growth or 0))

    def check(self, truncation: int) -> None:
        """Raises InputError unless trajectories can consist of windows of `truncation` steps."""
        if truncation < 1:
            raise InputError(f"truncation must be at least 1 inner step, not {truncation}")
        if truncation > self.min_length:
            raise InputError(f"truncation {truncation} is longer than the shortest horizon, {self.min_length}")
        if (self.max_length - self.min_length) // truncation >= MAX_LENGTHS:
            raise InputError(
                f"horizon {self} has more than {MAX_LENGTHS:,} different lengths, in windows of {truncation} inner "
                "steps: take a narrower range or a longer truncation"
            )
        if self.min_length == self.max_length and self.min_length % truncation:
            below = self.min_length // truncation * truncation
            raise InputError(
                f"a fixed horizon must be a multiple of the truncation, {truncation}: "
                f"take {below} or {below + truncation} instead of {self.min_length}"
            )

    def table(self, multiple_of: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The lengths that can occur, when fully grown, and their probabilities.

        Args:
          multiple_of: lengths are rounded to multiples of this, and are at least this.

        Returns:
          `(lengths [n] int32, probabilities [n] float64)`.
        """
        k = multiple_of
        first, last = (max(1, math.floor(x / k + 0.5)) for x in (self.min_length, self.max_length))
        lengths = k * np.arange(first, last + 1, dtype=np.int32)
        if first == last:
            return lengths, np.ones(1)
        edges = np.clip((lengths[:-1] + lengths[1:]) / 2, self.min_length, self.max_length)
        edges = np.concatenate([[self.min_length], edges, [self.max_length]])
        heights = np.log(edges) if self.law == "log" else edges
        return lengths, np.diff(heights) / (heights[-1] - heights[0])

    def mean(self, multiple_of: int = 1, step: int | jax.Array = 0) -> float | jax.Array:
        """E[T], in inner steps, of a trajectory that starts after `step` estimates."""
        lengths, probabilities = self.table(multiple_of)
        if not self.growth:
            return float(lengths @ probabilities)
        reached = self._reached(probabilities, step)
        cut = jnp.diff(jnp.minimum(jnp.asarray(np.cumsum(probabilities)), reached), prepend=0)
        return (jnp.asarray(lengths, cut.dtype) @ cut) / reached

    def sample(self, key: jax.Array, multiple_of: int = 1, step: int | jax.Array = 0) -> jax.Array:
        """Draws the length of a trajectory that starts after `step` estimates, int32."""
        lengths, probabilities = self.table(multiple_of)
        reached = self._reached(probabilities, step) if self.growth else 1
        return _draw(key, lengths, probabilities, reached)

    def sample_running(self, key: jax.Array, multiple_of: int = 1) -> jax.Array:
        """Draws the length of the trajectory met at a random moment, with probability proportional to the length.

        This is before the first estimate: a horizon that grows gives its shortest length.
        """
        lengths, probabilities = self.table(multiple_of)
        return jnp.asarray(lengths[0]) if self.growth else _draw(key, lengths, probabilities * lengths, 1)

    def _reached(self, probabilities: np.ndarray, step: int | jax.Array) -> jax.Array:
        """The quantile at which the law is cut off; at least the share of the shortest length."""
        return jnp.clip(jnp.asarray(step) / self.growth, float(probabilities[0]), 1)


def _draw(key: jax.Array, lengths: np.ndarray, weights: np.ndarray, reached: int | jax.Array) -> jax.Array:
    if len(lengths) == 1:
        return jnp.asarray(lengths[0], jnp.int32)
    cumulative = jnp.asarray(np.cumsum(weights) / np.sum(weights), jnp.float32)[:-1]
    return jnp.asarray(lengths)[jnp.searchsorted(cumulative, reached * jax.random.uniform(key), side="right")]
