"""The types that all rooms share: tasks, learned optimizers, inner problems, gradient estimators. No logic.

Shapes are written `[num_pairs, K]`. Keys are `jax.random.key` scalars, consumed by the function that gets them. Types
of pytrees are named by their meaning (`Params`, `Theta`); all of them are plain JAX pytrees of arrays.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax

PyTree = Any
Theta = PyTree  # meta-parameters
Params = PyTree  # inner parameters
Data = PyTree  # arrays of a data set; {} for a synthetic family
Batch = PyTree
Config = PyTree  # one draw of a task family, as arrays, so that tasks can be vmapped

SPLITS = ("train", "meta", "valid", "test")
NOTHING = optax.identity()  # one object, so that tasks without corruption are equal


class Task(NamedTuple):
    """The functions of one task: one draw of a family.

    Attributes:
      init: `(key) -> params`.
      loss: `(params, key, batch) -> scalar`, in the task's own unit.
      normalize: `(loss) -> scalar`; 1 is the loss of the trivial predictor.
      metrics: `(params, key, batch) -> {name: scalar}`, `{"accuracy": ...}` where there is one, else `{}`.
      corrupt: what happens to the gradients before the optimizer sees them, such as noise or delay.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, jax.Array, Batch], jax.Array]
    normalize: Callable[[jax.Array], jax.Array]
    metrics: Callable[[Params, jax.Array, Batch], Mapping[str, jax.Array]]
    corrupt: optax.GradientTransformation = NOTHING


class TaskFamily(Protocol):
    """A distribution of tasks that share one static shape: a frozen dataclass, hashable and equal by value."""

    @property
    def name(self) -> str:
        """What `--tasks` calls it: `family/dataset`, with its settings where they are not the defaults."""
        ...

    @property
    def streams(self) -> bool:
        """Whether the data are too many to be held, so that `load` reads a block of them at a time."""
        ...

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads the arrays that batches are drawn from; the only method that touches files.

        A family that streams returns a sample that depends on (seed, block), of the same shapes for every block. Any
        other family returns all its data, whatever the arguments.
        """
        ...

    def sample(self, key: jax.Array) -> Config:
        """Draws one task."""
        ...

    def task(self, config: Config) -> Task:
        """The functions of the task that `config` stands for."""
        ...

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """Draws one batch, with replacement, from a split in `SPLITS`; `split` is static."""
        ...


class TaskMixture(NamedTuple):
    """Task families that are trained on together.

    Attributes:
      families: the families.
      weights: how much each family counts, above 0.
    """

    families: tuple[TaskFamily, ...]
    weights: tuple[float, ...]


class LearnedOptimizer(Protocol):
    """An update rule with meta-parameters theta: a frozen dataclass, hashable and equal by value."""

    @property
    def requires(self) -> frozenset[str]:
        """The optional inputs that the rule reads, of `"value"`, `"params"` and `"num_steps"`."""
        ...

    def init_theta(self, key: jax.Array) -> Theta:
        """A fresh theta: nested dicts of float32 arrays."""
        ...

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> PyTree:
        """The state before the first update. `num_steps`, the length of the training, may be a traced int32."""
        ...

    def update(
        self, theta: Theta, grads: Params, state: PyTree, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, PyTree]:
        """One step: `(updates, state)`; `updates` is added to `params`, `value` is the loss at `params`."""
        ...


class InnerProblem(NamedTuple):
    """One unrolled computation. A gradient estimator sees nothing else of what it differentiates.

    `init` starts a trajectory; `step` advances it by one inner step and returns that step's loss, already bounded if
    the problem has a `cap`. A problem with `final_loss` returns 0 before the last step of the horizon.

    Attributes:
      init: `(theta, key, horizon) -> state`; horizon is an int32 scalar.
      step: `(theta, state, key) -> (state, loss)`.
      evaluate: `(theta, state, key) -> loss` of a state, without advancing it; None where a state has no loss.
      differentiable: whether d loss / d theta exists and is wanted.
      cap: losses reach it only when a trajectory has diverged; None for an unbounded problem.
      final_loss: whether only the last step's loss counts.
      weight: `state -> w`, what `step` has multiplied the loss of the step that led to this state by, the cap included;
        None for 1.
    """

    init: Callable[[Theta, jax.Array, jax.Array], PyTree]
    step: Callable[[Theta, PyTree, jax.Array], tuple[PyTree, jax.Array]]
    evaluate: Callable[[Theta, PyTree, jax.Array], jax.Array] | None = None
    differentiable: bool = True
    cap: float | None = None
    final_loss: bool = False
    weight: Callable[[PyTree], jax.Array] | None = None


class Estimate(NamedTuple):
    """A gradient estimator's answer.

    Attributes:
      grad: estimate of d J / d theta, structure of theta.
      loss: scalar, mean loss of the inner steps just run.
      info: scalars to log; never read by numerics.
    """

    grad: Theta
    loss: jax.Array
    info: Mapping[str, jax.Array]


class GradientEstimator(Protocol):
    """A method that estimates d J / d theta of J = E[sum_t l_t] / E[T]: a frozen dataclass of settings."""

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> PyTree:
        """Starts the trajectories. Raises InputError if the method cannot handle the problem."""
        ...

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: PyTree, key: jax.Array, *, step: jax.Array | None = None
    ) -> tuple[Estimate, PyTree]:
        """One estimate from one window of every trajectory.

        Args:
          problem: the unrolled computation.
          theta: where the gradient is wanted.
          state: of the trajectories, as `init` or the last estimate left it.
          key: consumed.
          step: outer steps done, int32, which schedules of sigma and growing horizons read. Of a mixture, a family may
            be asked in some outer steps only. None: the number of estimates made from this state.

        Returns:
          The estimate, and the state after it. Without any usable pair, both are NaN. Where only final
          losses count, `loss` is NaN if no trajectory has ended.
        """
        ...
