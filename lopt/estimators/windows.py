"""What estimators that work window by window share: a trajectory's clock, its honest start, the map over pairs."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.estimators import pairs
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class Clock(NamedTuple):
    """Where a pair stands; int32, `[num_pairs]` outside of a window.

    Attributes:
      position: inner step; 0 for a trajectory that starts with the next window.
      horizon: the trajectory's length.
      step: estimates made before the next one, which is what schedules read.
    """

    position: jax.Array
    horizon: jax.Array
    step: jax.Array

    @property
    def starts(self) -> jax.Array:
        """Whether the next window is the first of its trajectory."""
        return self.position == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowedEstimator(pairs.PairEstimator):
    """An estimator that gives an estimate for every window. The state of a pair is a NamedTuple with a `clock`.

    Attributes:
      truncation: K, inner steps a window.
      staggered: whether trajectories start spread out over the horizon.
    """

    truncation: int = 50
    staggered: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.horizon.check(self.truncation)

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError if the method cannot handle the problem."""

    def _blank(self, problem: InnerProblem, theta: Theta, clock: Clock) -> Any:
        """The state of a pair whose trajectory is about to start."""
        raise NotImplementedError

    def _window(self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array) -> tuple[pairs.PairTerms, Any]:
        """One window of one pair."""
        raise NotImplementedError

    def _burn_in(self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array) -> Any:
        """The state after a window of which no estimate is wanted."""
        return self._window(problem, theta, state, key)[1]

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> Any:
        """States of all pairs, in the middle of trajectories as they would be met at a random moment.

        A horizon (probability proportional to its length) and a phase (uniform over its windows) are drawn for each
        pair, and `phase` windows are run with the estimator's own noise, so that states and credits are honest. Not
        staggered, all trajectories start at once.

        Raises:
          InputError: the method cannot handle the problem.
        """
        self.check(problem, theta)
        zero = jnp.zeros((), jnp.int32)

        def start_pair(pair_key):
            length_key, phase_key, run_key = jax.random.split(pair_key, 3)
            if not self.staggered:
                return self._blank(problem, theta, Clock(zero, self.horizon.sample(length_key, self.truncation), zero))
            length = self.horizon.sample_running(length_key, self.truncation)
            phase = jax.random.randint(phase_key, (), 0, length // self.truncation)

            def body(i, state):
                state = self._burn_in(problem, theta, state, jax.random.fold_in(run_key, i))
                return state._replace(clock=state.clock._replace(step=zero))  # it is before the first estimate

            return jax.lax.fori_loop(0, phase, body, self._blank(problem, theta, Clock(zero, length, zero)))

        return self.layout.map_pairs(start_pair, pairs.pair_keys(key, self.num_pairs))

    def estimate(self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array) -> tuple[Estimate, Any]:
        """One window of every pair, and the mean of their estimates."""
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, new_state = self.layout.sum_pairs(lambda pair: self._window(problem, theta, *pair), (state, keys))
        return pairs.mean_over_pairs(sums, self.num_pairs, theta), new_state

    def _tick(self, clock: Clock, key: jax.Array) -> Clock:
        """The clock after a window: of the same trajectory, or at the start of the one that follows."""
        position, step = clock.position + self.truncation, clock.step + 1
        ended = position >= clock.horizon
        next_length = self.horizon.sample(key, self.truncation, step)
        return Clock(jnp.where(ended, 0, position), jnp.where(ended, next_length, clock.horizon), step)

    def _terms(self, grad: jax.Array, losses: jax.Array, clock: Clock, capped: jax.Array) -> pairs.PairTerms:
        """A pair's share in the mean after a window; mean `losses` and steps `capped` are those of its particles."""
        return pairs.pair_terms(
            grad, losses, capped=capped.mean() / self.truncation, started=clock.starts, position=clock.position
        )


def start_or_continue(problem: InnerProblem, theta: Theta, clock: Clock, state: PyTree, key: jax.Array) -> PyTree:
    """The inner state in which the window starts. `cond`, as one after another the branch not taken costs nothing."""
    return jax.lax.cond(clock.starts, lambda: problem.init(theta, key, clock.horizon), lambda: state)
