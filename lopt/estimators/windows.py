"""The base of estimators that work window by window: a trajectory's clock, the staggered start, the map over pairs."""

import abc
import functools
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import pairs, problems, restarts
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class Clock(NamedTuple):
    """Where a pair stands: scalars inside of a window, and `[num_pairs]` outside.

    Attributes:
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: the trajectory's length, int32.
      step: number of estimates made before the next one, which schedules read, int32.
      behind: windows that bring the trajectory to where its first estimate is made, int32; 0 once that is made.
      key: of these windows.
    """

    position: jax.Array
    horizon: jax.Array
    step: jax.Array
    behind: jax.Array
    key: jax.Array

    @property
    def starts(self) -> jax.Array:
        """Whether the next window is the first of its trajectory."""
        return self.position == 0


class WindowedEstimator(abc.ABC):
    """A method that gives one estimate per window. A method defines one pair; this base maps it over all pairs.

    A subclass is a final dataclass that declares the settings below as its fields, with defaults, beside its own. It
    implements the three abstract methods and overrides nothing else. The state of a pair is a NamedTuple with a
    `clock`.
    """

    num_pairs: int
    truncation: int
    horizon: Horizon
    staggered: bool
    layout: PairLayout
    pair_shaping = "none"  # evolution strategies declare it; other methods have no pairs
    restarts = 0.0  # those of them whose windows have a loss declare it, and the one below
    restart_rise = 0.1
    combine = None  # what makes one estimate of sums over pairs, in a method that has more than one

    @abc.abstractmethod
    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError if the method cannot handle the problem."""

    @abc.abstractmethod
    def _blank(self, problem: InnerProblem, theta: Theta, clock: Clock) -> Any:
        """The state of a pair whose trajectory is about to start."""

    @abc.abstractmethod
    def _window(self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array) -> tuple[pairs.PairTerms, Any]:
        """One window of one pair: its share in the mean, and its state one window on."""

    @final
    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> Any:
        """States of all pairs, each with the way to the middle of its trajectory still before it.

        A horizon (with probability proportional to its length) and a phase (uniform over its windows) are drawn for
        each pair. The first estimate runs `phase` windows with the estimator's own noise before its own, so that states
        and credits follow their long-run distribution: a trajectory is met at a random moment. They are run there, and
        not here, because a window is the most of what there is to compile, and one program has it then. If not
        staggered, all trajectories start at once.

        Raises:
          InputError: the method cannot handle the problem, or the problem's functions do not fit each other.
        """
        problems.check_key(key)
        problems.check(problem, theta)
        self.check(problem, theta)
        restarts.check_problem(self, problem)
        zero = jnp.zeros((), jnp.int32)

        def start_pair(pair_key):
            length_key, phase_key, run_key = jax.random.split(pair_key, 3)
            length, phase = self.horizon.sample(length_key, self.truncation), zero
            if self.staggered:
                length = self.horizon.sample_running(length_key, self.truncation)
                phase = jax.random.randint(phase_key, (), 0, length // self.truncation).astype(jnp.int32)
            clock = Clock(zero, length, zero, phase, run_key)
            if not self.restarts:
                return self._blank(problem, theta, clock)
            return restarts.begin(self._blank(restarts.counted(problem), theta, clock), problem, theta)

        return self.layout.map_pairs(start_pair, pairs.pair_keys(key, self.num_pairs))

    @final
    def estimate(
        self, problem: InnerProblem, theta: Theta, state: Any, key: jax.Array, *, step: jax.Array | None = None
    ) -> tuple[Estimate, Any]:
        """One window of every pair, and the mean of their estimates; arguments as in `GradientEstimator`."""
        if step is not None:
            state = restarts.with_clock(state, state.clock._replace(step=jnp.full_like(state.clock.step, step)))
        own_window, seen = self._window, problem
        if self.restarts:
            own_window, seen = functools.partial(restarts.window, self), restarts.counted(problem)

        def one_pair(pair_state, pair_key):
            start: Clock = pair_state.clock
            zero = jnp.zeros_like(start.behind)

            @jax.jit  # traced once, for its shapes and for the loop
            def window(state, i):
                # The windows of the way to the first estimate count as made at the same moment as that one.
                state = restarts.with_clock(state, state.clock._replace(step=start.step))
                on_the_way = i < start.behind
                window_key = jax.lax.cond(on_the_way, lambda: jax.random.fold_in(start.key, i), lambda: pair_key)
                return own_window(seen, theta, state, window_key)

            shapes = jax.eval_shape(window, pair_state, zero)[0]
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            run = lambda i, carry: window(carry[1], i)  # noqa: E731
            terms, state = jax.lax.fori_loop(zero, start.behind + 1, run, (nothing, pair_state))
            return terms, restarts.with_clock(state, state.clock._replace(behind=zero))

        return pairs.estimate(
            one_pair,
            problem,
            theta,
            state,
            key,
            num_pairs=self.num_pairs,
            layout=self.layout,
            pair_shaping=self.pair_shaping,
            combine=self.combine,
        )

    @final
    def tick(self, clock: Clock, key: jax.Array) -> Clock:
        """The clock after a window: further along its trajectory, or at the start of the next trajectory."""
        position, step = clock.position + self.truncation, clock.step + 1
        ended = position >= clock.horizon
        next_length = self.horizon.sample(key, self.truncation, step)
        horizon = jnp.where(ended, next_length, clock.horizon)
        return clock._replace(position=jnp.where(ended, 0, position), horizon=horizon, step=step)

    @final
    def terms(
        self, grad: jax.Array, losses: jax.Array, clock: Clock, capped: jax.Array, final: jax.Array | None = None
    ) -> pairs.PairTerms:
        """A pair's share in the mean after a window.

        Args:
          grad: the pair's estimate, `[P]`.
          losses: mean loss of each of the pair's particles.
          clock: the clock before the window.
          capped: each particle's number of steps whose loss reached the problem's cap.
          final: each particle's final loss if its trajectory ended; None: the sum of its losses in the window.
        """
        return pairs.pair_terms(
            grad,
            losses,
            final=losses * self.truncation if final is None else final,
            ended=clock.position + self.truncation >= clock.horizon,
            capped=capped.mean() / self.truncation,
            started=clock.starts,
            position=clock.position,
            steps=self.truncation,
            middle=(clock.position + self.truncation / 2) / clock.horizon,
        )


def check_windows(method: WindowedEstimator) -> None:
    """Raises InputError unless there is a pair, trajectories can consist of whole windows, and restarts make sense."""
    pairs.check_num_pairs(method.num_pairs)
    method.horizon.check(method.truncation)
    restarts.check(method)


def check_every_window_has_a_loss(
    name: str, method: WindowedEstimator, problem: InnerProblem, *, instead: str = "pes or full_es"
) -> None:
    """Raises InputError for a method that sees each window on its own, if all windows but the last have no loss."""
    if problem.final_loss and method.truncation < method.horizon.max_length:
        raise InputError(
            f"{name} cannot follow a final-loss objective: all windows but the last have no loss. "
            f"Take {instead}, another meta_loss, or a truncation equal to a fixed horizon."
        )


def start_or_continue(problem: InnerProblem, theta: Theta, clock: Clock, state: PyTree, key: jax.Array) -> PyTree:
    """The inner state in which the window starts.

    By `cond`, whose branch not taken costs nothing where particles run one after another.
    """
    return jax.lax.cond(clock.starts, lambda: problem.init(theta, key, clock.horizon), lambda: state)
