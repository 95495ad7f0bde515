"""`tbptt`: backpropagation through one window, from a state that counts as given. Low variance, and biased.

It misses how theta shaped the state in which the window starts. Ronald J. Williams, Jing Peng, "An efficient
gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2(4), 1990.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import gradients, pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, Theta


@dataclasses.dataclass(frozen=True, kw_only=True)
class TBPTT(gradients.GradientMethod):
    """g = 1 / N sum_i d L_i / dtheta, L_i the mean loss of a window as a function of theta and a detached first state.

    Where a window starts a trajectory, its first state is init(theta), and is differentiated too. Memory K states a
    trajectory, and the inside of one step.
    """

    name: ClassVar[str] = "tbptt"

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        super().check(problem, theta)
        if problem.final_loss and self.truncation < self.horizon.max_length:
            raise InputError(
                "tbptt cannot follow a final-loss objective: all windows but the last have no loss. "
                "Take bptt, rtrl, uoro or forward, another meta_loss, or a truncation equal to a fixed horizon."
            )

    def _window(
        self, problem: InnerProblem, theta: Theta, state: gradients.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, gradients.Trajectory]:
        clock, keys = state.clock, pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        first = windows.start_or_continue(problem, theta, clock, state.state, keys.init)
        ran = gradients.reverse(problem, theta, first, keys.steps, self.truncation, self.truncation)
        init = gradients.init_function(problem, theta, keys.init, clock.horizon)
        through_init = jax.lax.cond(
            clock.starts,
            lambda: gradients.pull_init(init, flat_theta, ran.cotangent),
            lambda: jnp.zeros_like(flat_theta),
        )
        return self._after(clock, ran.grad + through_init, ran.loss, ran.capped, ran.state, (), keys)
