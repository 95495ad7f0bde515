"""What estimators that work window by window share: where a trajectory stands, its honest start, the map over pairs."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import pairs
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, PyTree, Theta

State = TypeVar("State")


class Windowed(Protocol):
    """The settings that these functions read."""

    @property
    def num_pairs(self) -> int: ...
    @property
    def truncation(self) -> int: ...
    @property
    def horizon(self) -> Horizon: ...
    @property
    def staggered(self) -> bool: ...
    @property
    def layout(self) -> PairLayout: ...


class Trajectory(Protocol):
    """What these functions read of a pair's state."""

    @property
    def position(self) -> jax.Array:
        """Inner step, int32; 0 for a trajectory that starts with the next window."""
        ...

    @property
    def horizon(self) -> jax.Array:
        """Length, int32."""
        ...


def start(
    settings: Windowed,
    window: Callable[[State, jax.Array], tuple[Any, State]],
    blank: Callable[[jax.Array], State],
    key: jax.Array,
) -> State:
    """States of all pairs, `[num_pairs, ...]`, in the middle of trajectories as they would be met at a random moment.

    A horizon (probability proportional to its length) and a phase (uniform over its windows) are drawn for each pair,
    and `phase` windows are run with the estimator's own noise, so that states and credits are honest. Not staggered,
    all trajectories start at once.

    Args:
      window: `(pair state, key) -> (anything, pair state)`.
      blank: `(horizon) -> pair state` of a trajectory about to start.
    """

    def start_pair(pair_key):
        length_key, phase_key, run_key = jax.random.split(pair_key, 3)
        if not settings.staggered:
            return blank(settings.horizon.sample(length_key, settings.truncation))
        length = settings.horizon.sample_running(length_key, settings.truncation)
        phase = jax.random.randint(phase_key, (), 0, length // settings.truncation)
        return jax.lax.fori_loop(
            0, phase, lambda i, state: window(state, jax.random.fold_in(run_key, i))[1], blank(length)
        )

    return settings.layout.map_pairs(start_pair, pairs.pair_keys(key, settings.num_pairs))


def estimate(
    settings: Windowed,
    window: Callable[[State, jax.Array], tuple[pairs.PairTerms, State]],
    theta: Theta,
    state: State,
    key: jax.Array,
) -> tuple[Estimate, State]:
    """One window of every pair, and the mean of their estimates."""
    keys = pairs.pair_keys(key, settings.num_pairs)
    sums, new_state = settings.layout.sum_pairs(lambda pair: window(*pair), (state, keys))
    return pairs.mean_over_pairs(sums, settings.num_pairs, ravel_pytree(theta)[1]), new_state


def next_position(settings: Windowed, state: Trajectory, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(position, horizon) after a window: of the same trajectory, or 0 and the length of the one that follows."""
    position = state.position + settings.truncation
    ended = position >= state.horizon
    next_length = settings.horizon.sample(key, settings.truncation)
    return jnp.where(ended, 0, position), jnp.where(ended, next_length, state.horizon)


def start_or_continue(
    problem: InnerProblem, theta: Theta, trajectory: Trajectory, inner_state: PyTree, key: jax.Array
) -> PyTree:
    """The inner state in which the window starts. `cond`, as one after another the branch not taken costs nothing."""
    return jax.lax.cond(
        trajectory.position == 0, lambda: problem.init(theta, key, trajectory.horizon), lambda: inner_state
    )


def unroll_halves(
    settings: Windowed,
    problem: InnerProblem,
    theta: Theta,
    noise: jax.Array,
    trajectory: Trajectory,
    inner_states: PyTree,
    keys: pairs.WindowKeys,
) -> pairs.Unrolled:
    """One window of theta + noise and of theta - noise, from `inner_states`; these and the results are `[2, ...]`."""
    flat_theta, unravel = ravel_pytree(theta)

    def half(particle):
        perturbed, inner_state = unravel(particle[0]), particle[1]
        inner_state = start_or_continue(problem, perturbed, trajectory, inner_state, keys.init)
        return pairs.unroll(problem, perturbed, inner_state, keys.steps, settings.truncation)

    return settings.layout.map(half, (jnp.stack([flat_theta + noise, flat_theta - noise]), inner_states))


def window_terms(
    settings: Windowed, grad: jax.Array, losses: jax.Array, trajectory: Trajectory, capped: jax.Array
) -> pairs.PairTerms:
    """A pair's share in the mean after a window; `losses` `[2]` and steps `capped` `[2]` are those of its halves."""
    return pairs.pair_terms(
        grad,
        losses,
        capped=capped.mean() / settings.truncation,
        started=trajectory.position == 0,
        position=trajectory.position,
    )


def twice(inner_state: PyTree) -> PyTree:
    """An inner state for each half, `[2, ...]`."""
    return jax.tree.map(lambda x: jnp.stack([x, x]), inner_state)
