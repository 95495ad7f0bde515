"""`tbptt`: backpropagation through one window, from a first state taken as given. Low variance, and biased.

It does not see how theta shaped the state in which the window starts. Ronald J. Williams, Jing Peng, "An efficient
gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2(4), 1990.
"""

import dataclasses
from typing import NamedTuple, final

import jax

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.types import InnerProblem, PyTree, Theta


class TBPTTState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the trajectory.
      clock: where it stands.
    """

    state: PyTree
    clock: windows.Clock


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class TBPTT(windows.WindowedEstimator):
    """g = 1 / N sum_i d L_i / dtheta, L_i the mean loss of a window as a function of theta and a detached first state.

    Where a window starts a trajectory, its first state is init(theta), and is differentiated too. Memory per
    trajectory: K states, and what one step needs.

    Attributes:
      num_pairs: N, number of trajectories; nothing is paired.
      truncation: K, inner steps per window.
      horizon: T, lengths of trajectories.
      staggered: whether trajectories start spread out over their horizons, rather than all at their first step.
      max_norm: largest norm of one window's gradient; a longer one, n times that, is divided by n^2, so that the
        longer it is, the less it says. None: no bound. Where trajectories are chaotic, one gradient can be longer than
        all others together. With a bound, the estimate is biased: it follows trajectories that are not chaotic.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    max_norm: float | None = None
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        gradients.check_max_norm(self.max_norm)

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable and every window has a loss."""
        gradients.check_differentiable("tbptt", problem)
        windows.check_every_window_has_a_loss("tbptt", self, problem, instead="bptt, rtrl, uoro or forward")

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> TBPTTState:
        return TBPTTState(pairs.blank_state(problem, theta, clock.horizon), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: TBPTTState, key: jax.Array
    ) -> tuple[pairs.PairTerms, TBPTTState]:
        clock, keys = state.clock, pairs.window_keys(key)
        ran = gradients.reverse_window(problem, theta, state.state, clock, keys, self.truncation)
        losses = ran.loss[None]  # one loss, not a pair
        grad = gradients.shorten(ran.grad / self.truncation, self.max_norm)
        terms = self.terms(grad, losses / self.truncation, clock, ran.capped[None])
        return terms, TBPTTState(ran.state, self.tick(clock, keys.horizon))
