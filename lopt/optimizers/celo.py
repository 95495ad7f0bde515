"""`celo`: one tiny MLP for all parameters, and an LSTM that schedules the size of its steps over the training.

Abhinav Moudgil, Boris Knyazev, Guillaume Lajoie, Eugene Belilovsky, "Celo: training versatile learned optimizers on a
compute diet", 2025 (arXiv 2501.12670).
"""

import dataclasses
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import Statistics
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.recurrent import draw_kernels
from lopt.optimizers.parts.scheduler import Scheduler, SchedulerState
from lopt.optimizers.parts.tensors import map_tensors
from lopt.optimizers.parts.velo_step import init_velo_statistics, mlp_shapes, velo_step
from lopt.types import Params, PyTree, Theta


class CeloState(NamedTuple):
    """The state.

    Attributes:
      statistics: a tree like `params` of `Statistics`.
      schedule: state of the scheduler; None without one.
    """

    statistics: PyTree
    schedule: SchedulerState | None


@dataclasses.dataclass(frozen=True)
class Celo:
    """Update = -1e-3 s_t d exp(1e-3 a) rms(p); (d, a) is the MLP of a parameter, s_t the factor of the scheduler.

    All tensors share the scheduler. Theta has two parts, `mlp` and `scheduler`. The paper trains them one after the
    other: first `mlp` with `scheduled=False`, where s_t = 1, then `scheduler` with `mlp` frozen.

    Attributes:
      hidden_sizes: widths of the MLP's hidden layers.
      lstm_size: width of the scheduler's LSTM.
      scheduled: whether the scheduler is used.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    lstm_size: int = 64
    scheduled: bool = True

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.lstm_size < 1:
            raise InputError(f"lstm_size must be at least 1, not {self.lstm_size}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params", "value", "num_steps"} if self.scheduled else {"params"})

    @property
    def _scheduler(self) -> Scheduler:
        return Scheduler(self.lstm_size, num_weights=1)

    def init_theta(self, key: jax.Array) -> Theta:
        return draw_kernels(key, {"mlp": mlp_shapes(self.hidden_sizes), "scheduler": self._scheduler.shapes()})

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> CeloState:
        schedule = None
        if self.scheduled:
            schedule = self._scheduler.init(theta["scheduler"], jnp.asarray(num_steps, jnp.int32))
        return CeloState(init_velo_statistics(params), schedule)

    def update(
        self, theta: Theta, grads: Params, state: CeloState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, CeloState]:
        scale, schedule = jnp.ones((), jnp.float32), None
        if state.schedule is not None:
            loss = jnp.asarray(value, jnp.float32)
            scale, schedule = self._scheduler.update(theta["scheduler"], state.schedule, loss)

        def step(
            kind: Hashable, param: jax.Array, grad: jax.Array, statistics: Statistics
        ) -> tuple[jax.Array, Statistics]:
            del kind
            return velo_step(param, grad, statistics, theta["mlp"], scale)

        updates, statistics = map_tensors(step, 2, params, grads, state.statistics)
        return updates, CeloState(statistics, schedule)
