"""Restarts: where a trajectory has ended, its pair may go on from a stored state, of before its loss rose.

Of most trainings, only a few moments are hard. A pair keeps one state: all that a window started from whose loss got
above the lowest one of its trajectory by more than `restart_rise`. Where a trajectory has ended, the pair goes on from
there with probability `restarts`, if it has such a state, and draws a fresh trajectory otherwise.

The rise is a CUSUM: with L_w the mean loss of window w, over the pair's particles and before `InnerProblem.weight`,

    c_w = max(0, c_{w-1} + L_w - L_{w-1}) = L_w - min(L_1, ..., L_w).

Where c_w > restart_rise, the state before window w is stored in the place of an older one, and c_w is 0 again: later
windows are compared with L_w. Only the minimum has to be kept. A stored state has that of before its window, so that a
restart whose loss gets as high again is stored again. A restart empties the place: a state that is no longer hard for
the theta of now is run once more, and then gone.

A restarted trajectory keeps its horizon: the rule was told it at the start, and the weights of the steps depend on it,
so a longer one would be a training that no trajectory is. What a method knows of how theta got there goes on with the
state: the credit of `pes`, the noise of `nres`.

Bias: windows that were hard count more often than in J. Whether a state is stored depends on the mean over both halves
of a pair, so it is even in the noise, where differences of losses are odd. To leading order in sigma, an estimate of
`pes` or `nres` after a restart is therefore one of E[h dL / dtheta]: L is the loss of the window, followed back to the
start of the trajectory, and h says whether it was chosen, which counts as given. The credit was gathered while theta
moved, as in any trajectory, but from longer ago.

Source: the buffer of ELO (arXiv 2607.06772), which extends the horizon.
"""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lopt.estimators import pairs, problems
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta

LEAST_WEIGHT = 1e-30  # of a step: below, its loss cannot be told from the product


class Counted(NamedTuple):
    """A particle's inner state, and what its steps of this window have cost.

    Attributes:
      state: of the problem.
      total: sum of the losses, each over its weight.
      number: of steps in that sum, int32.
    """

    state: PyTree
    total: jax.Array
    number: jax.Array


class Course(NamedTuple):
    """A trajectory of one pair.

    Attributes:
      state: the method's state of the pair, whose inner states are `Counted`.
      lowest: least mean loss of the windows that count; infinite before the first.
    """

    state: Any
    lowest: jax.Array


class RestartingState(NamedTuple):
    """Every array has a leading axis of `num_pairs`: twice the method's own state.

    Attributes:
      running: the trajectory that goes on.
      stored: the one that a restart would go on with; at position 0, where nothing can be stored, if there is none.
    """

    running: Course
    stored: Course

    @property
    def clock(self) -> Any:
        """Where the running trajectory stands."""
        return self.running.state.clock


class Method(Protocol):
    """A method with windows, as far as restarts know it."""

    @property
    def restarts(self) -> float: ...
    @property
    def restart_rise(self) -> float: ...
    def _window(self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array) -> Any: ...


def check(method: Method) -> None:
    """Raises InputError unless the settings are a probability and a rise."""
    if not 0 <= method.restarts <= 1:
        raise InputError(f"restarts, a probability, must be between 0 and 1, not {method.restarts}")
    if not 0 <= method.restart_rise < math.inf:
        raise InputError(f"restart_rise, in units of the loss, must be at least 0, not {method.restart_rise}")


def check_problem(method: Method, problem: InnerProblem) -> None:
    """Raises InputError where the loss of a window does not say whether it was hard."""
    if method.restarts and problem.final_loss:
        raise InputError(
            "restarts compare the losses of a trajectory's windows, and with a final-loss objective only the last one "
            "has a loss: leave them at 0, or take another meta_loss, with meta_weight=late for the end"
        )


def begin(state: Any, problem: InnerProblem, theta: Theta) -> RestartingState:
    """The state of a pair, from the method's own on the problem that is `counted`; nothing is stored."""
    course = Course(state, jnp.asarray(jnp.inf, problems.loss_dtype(problem, theta)))
    return RestartingState(course, course)


def with_clock(state: Any, clock: Any) -> Any:
    """The state of one pair or of all, with or without restarts, with another clock."""
    if not isinstance(state, RestartingState):
        return state._replace(clock=clock)
    return state._replace(running=state.running._replace(state=state.running.state._replace(clock=clock)))


def counted(problem: InnerProblem) -> InnerProblem:
    """The same problem, with states that count what the steps cost before they are weighted."""
    weight, evaluate = problem.weight, problem.evaluate

    def init(theta: Theta, key: jax.Array, horizon: jax.Array) -> Counted:
        state = problem.init(theta, key, horizon)
        return Counted(state, jnp.zeros((), problems.check_step(problem, theta, state, key)), jnp.zeros((), jnp.int32))

    def step(theta: Theta, before: Counted, key: jax.Array) -> tuple[Counted, jax.Array]:
        state, loss = problem.step(theta, before.state, key)
        w = jnp.ones_like(loss) if weight is None else weight(state)
        tells = w > LEAST_WEIGHT
        cost = jax.lax.stop_gradient(jnp.where(tells, loss / jnp.where(tells, w, 1), 0))
        return Counted(state, before.total + cost.astype(loss.dtype), before.number + tells), loss

    return problem._replace(
        init=init,
        step=step,
        evaluate=None if evaluate is None else lambda theta, state, key: evaluate(theta, state.state, key),
        weight=None if weight is None else lambda state: weight(state.state),
    )


def window(
    method: Method, problem: InnerProblem, theta: Theta, pair: RestartingState, key: jax.Array
) -> tuple[pairs.PairTerms, RestartingState]:
    """One window of one pair: as the method runs it, from where the pair goes on.

    Args:
      method: whose window it is.
      problem: as `counted` makes it.
      theta: meta-parameters.
      pair: its state.
      key: of the window; one more is made of it than the method's own `WindowKeys`.
    """
    now = pair.clock
    draw = jax.random.uniform(jax.random.fold_in(key, len(pairs.WindowKeys._fields)))
    restarts = now.starts & ~pair.stored.state.clock.starts & (draw < method.restarts)
    # The trajectory about to start takes the place of the stored one, which is thereby empty.
    running, stored = jax.lax.cond(restarts, lambda: (pair.stored, pair.running), lambda: (pair.running, pair.stored))
    then = running.state.clock
    clock = now._replace(position=then.position, horizon=then.horizon)
    lowest = jnp.where(clock.starts, jnp.inf, running.lowest)
    running = Course(_from_zero(running.state._replace(clock=clock)), lowest)
    terms, state = method._window(problem, theta, running.state, key)
    loss, tells = _mean_loss(state)
    tells &= terms.used > 0
    hard = tells & (loss - lowest > method.restart_rise)  # not in a first window
    stored = jax.lax.cond(hard, lambda: running, lambda: stored)
    lowest = jnp.where(tells, jnp.where(hard, loss, jnp.minimum(lowest, loss)), lowest)
    return terms._replace(restarted=restarts.astype(terms.used.dtype)), RestartingState(Course(state, lowest), stored)


def _is_counted(x: Any) -> bool:
    return isinstance(x, Counted)


def _from_zero(state: Any) -> Any:
    """The state before a window."""

    def zero(x: Any) -> Any:
        return x._replace(total=jnp.zeros_like(x.total), number=jnp.zeros_like(x.number)) if _is_counted(x) else x

    return jax.tree.map(zero, state, is_leaf=_is_counted)


def _mean_loss(state: Any) -> tuple[jax.Array, jax.Array]:
    """The mean over all steps of the particles that outlive the window, and whether there were such."""
    particles = [x for x in jax.tree.leaves(state, is_leaf=_is_counted) if _is_counted(x)]
    number = jnp.sum(jnp.stack([x.number.sum() for x in particles]))
    total = jnp.sum(jnp.stack([x.total.sum() for x in particles]))
    return total / jnp.maximum(number, 1).astype(total.dtype), number > 0
