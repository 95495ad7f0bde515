"""`tbptt`: backpropagation through one window, from a state that counts as given. Low variance, and biased.

It misses how theta shaped the state in which the window starts. Ronald J. Williams, Jing Peng, "An efficient
gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2(4), 1990.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, Theta


@dataclasses.dataclass(frozen=True)
class TBPTT:
    """g = 1 / N sum_i d L_i / dtheta, L_i the mean loss of a window as a function of theta and a detached first state.

    Where a window starts a trajectory, its first state is init(theta), and is differentiated too. Memory K states a
    trajectory, and the inside of one step.

    Attributes:
      num_pairs: N, the number of trajectories; nothing is paired.
      truncation: K, inner steps a window.
      horizon: lengths of trajectories.
      staggered: whether trajectories start spread out over the horizon.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        gradients.check_num_pairs(self.num_pairs)
        self.horizon.check(self.truncation)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> gradients.Trajectory:
        gradients.check_differentiable("tbptt", problem)
        if problem.final_loss and self.truncation < self.horizon.max_length:
            raise InputError(
                "tbptt cannot follow a final-loss objective: all windows but the last have no loss. "
                "Take bptt, rtrl, uoro or forward, another meta_loss, or a truncation equal to a fixed horizon."
            )
        return gradients.start(self, functools.partial(self._window, problem, theta), problem, theta, (), key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: gradients.Trajectory, key: jax.Array
    ) -> tuple[Estimate, gradients.Trajectory]:
        window = functools.partial(self._window, problem, theta)
        return gradients.estimate(self, window, theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, trajectory: gradients.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, gradients.Trajectory]:
        """One window of one trajectory."""
        keys = pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        first = windows.start_or_continue(problem, theta, trajectory, trajectory.state, keys.init)
        ran = gradients.reverse(problem, theta, first, keys.steps, self.truncation, self.truncation)
        init = gradients.init_function(problem, theta, keys.init, trajectory.horizon)
        through_init = jax.lax.cond(
            trajectory.position == 0,
            lambda: gradients.pull_init(init, flat_theta, ran.cotangent),
            lambda: jnp.zeros_like(flat_theta),
        )
        terms = gradients.window_terms(self, ran.grad + through_init, ran.loss, trajectory, ran.capped)
        return terms, gradients.after_window(self, trajectory, ran.state, (), keys)
