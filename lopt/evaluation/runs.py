"""One training of a task by any optimizer: task, batches and the order of computations are the same for all."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.distributed import PairLayout
from lopt.evaluation.measures import VALID_POINTS
from lopt.evaluation.results import Curves
from lopt.inner_step import TrainState, inner_step
from lopt.trained.transform import as_optax
from lopt.types import Config, Data, LearnedOptimizer, Params, PyTree, Task, TaskFamily

VALID_BATCHES = 16
TURNS, TIMED_STEPS = 5, 100  # short calls by which two optimizers are timed in turn, and their length


class Rule(Protocol):
    """A kind of optimizer, hashable. Its runs differ in an array only, so that one program serves them all."""

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer of one run."""
        ...

    def eval_params(self, state: PyTree, params: Params) -> Params:
        """The parameters to judge, computed from the optimizer's state and the parameters of the training."""
        ...

    def describe(self) -> str:
        """Everything that decides its runs, apart from hypers and sources, as plain text."""
        ...


@dataclasses.dataclass(frozen=True)
class Learned:
    """A learned optimizer as a rule; its `hyper` is theta."""

    optimizer: LearnedOptimizer

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The learned optimizer with this theta."""
        return as_optax(self.optimizer, hyper, num_steps=num_steps)

    def eval_params(self, state: PyTree, params: Params) -> Params:
        """The parameters of the training."""
        del state
        return params

    def describe(self) -> str:
        """The architecture and its settings."""
        return repr(self.optimizer)


class RunSpec(NamedTuple):
    """Which runs to make.

    Attributes:
      hyper: index into the stacked hypers, int32 `[num_runs]`.
      seed: seed of the run, int32 `[num_runs]`.
      num_steps: length of the training, int32 `[num_runs]`.
      num_points: at how many equally spaced moments of it the validation loss is measured, 0 to `VALID_POINTS`: the
        last is the end of the training, int32 `[num_runs]`.
    """

    hyper: Any
    seed: Any
    num_steps: Any
    num_points: Any


def train(
    rule: Rule,
    hyper: PyTree,
    family: TaskFamily,
    data: Data,
    key: jax.Array,
    num_steps: jax.Array,
    num_points: jax.Array | int,
    max_steps: int,
    split: str = "valid",
) -> Curves:
    """One training of a task drawn from `family`.

    Args:
      rule: the optimizer.
      hyper: its learning rate or theta.
      family: the task family.
      data: what `family.load` returned.
      key: decides the task, its initial parameters and its batches, whatever the optimizer.
      num_steps: length of the training, at most max_steps; the losses after it are NaN. A training of 0 steps is not
        judged: its losses and accuracy are NaN.
      num_points: at how many moments the validation loss is measured; see `RunSpec`.
      max_steps: length of the array of losses.
      split: the split that the trained parameters are judged on.

    Returns:
      Losses `[max_steps]` and `[VALID_POINTS]`, and a scalar.
    """
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = family.sample(config_key)
    task = family.task(config)
    params = task.init(params_key)
    transformation = rule.transformation(hyper, num_steps)

    def step(t: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        state, value = _step(family, task, config, transformation, data, jax.random.fold_in(steps_key, t), state)
        return state, losses.at[t].set(value.astype(jnp.float32))

    def validate(state: TrainState) -> tuple[jax.Array, jax.Array]:
        params = rule.eval_params(state.optimizer, state.params)

        def one(batch_key):
            batch = family.sample_batch(data, batch_key, config, split)
            metrics = task.metrics(params, batch_key, batch)
            loss = jnp.asarray(task.loss(params, batch_key, batch), jnp.float32)
            return loss, jnp.asarray(metrics.get("accuracy", jnp.nan), jnp.float32)

        # The same batches for all runs, so that their differences are those of the trainings.
        loss, accuracy = jax.lax.map(one, jax.random.split(jax.random.key(0), VALID_BATCHES))
        return loss.mean(), accuracy.mean()

    def part(i: jax.Array, carry: tuple[TrainState, Curves]) -> tuple[TrainState, Curves]:
        """The steps up to the next moment at which the validation loss is measured."""
        state, curves = carry
        first, last = (num_steps // parts * k + num_steps % parts * k // parts for k in (i, i + 1))
        state, losses = jax.lax.fori_loop(first, last, step, (state, curves.loss))
        nothing = jnp.full((), jnp.nan, jnp.float32)
        loss, accuracy = jax.lax.cond(num_points > 0, validate, lambda state: (nothing, nothing), state)
        return state, Curves(losses, curves.valid_losses.at[VALID_POINTS - parts + i].set(loss), accuracy)

    parts = jnp.maximum(num_points, 1)
    start = TrainState(params, transformation.init(params), task.corrupt.init(params))
    empty = Curves(*(jnp.full(shape, jnp.nan, jnp.float32) for shape in ((max_steps,), (VALID_POINTS,), ())))
    return jax.lax.fori_loop(0, jnp.where(num_steps > 0, parts, 0), part, (start, empty))[1]


@functools.partial(jax.jit, static_argnames=("rule", "family", "layout", "max_steps", "split"))
def train_all(
    rule: Rule,
    family: TaskFamily,
    layout: PairLayout,
    max_steps: int,
    split: str,
    hypers: PyTree,
    data: Data,
    key: jax.Array,
    runs: RunSpec,
) -> Curves:
    """All of `runs`; a run with the seed i has the key fold_in(key, i).

    Args:
      rule: the optimizer.
      family: the task family.
      layout: how the runs are spread over devices.
      max_steps: length of the longest run.
      split: the split that the trained parameters are judged on.
      hypers: learning rates or thetas, stacked; `runs.hyper` indexes the leading axis.
      data: what `family.load` returned.
      key: the key that the keys of the runs are folded from.
      runs: which runs to make.

    Returns:
      Losses `[num_runs, max_steps]` and `[num_runs, VALID_POINTS]`, and accuracies `[num_runs]`.
    """

    def train_one(run: RunSpec) -> Curves:
        hyper = jax.tree.map(lambda x: x[run.hyper], hypers)
        run_key = jax.random.fold_in(key, run.seed)
        return train(rule, hyper, family, data, run_key, run.num_steps, run.num_points, max_steps, split)

    return layout.for_all(layout.map_pairs(train_one, runs))


def forget_programs() -> None:
    """Drops what `train_all` has compiled: the programs of a task are of no use for the next one."""
    compiled: Any = train_all  # JAX's types do not tell of it
    compiled.clear_cache()


class Runner:
    """Makes runs of one rule on one task by one program, and measures their time."""

    def __init__(
        self,
        *,
        rule: Rule,
        hypers: PyTree,
        family: TaskFamily,
        data: Data,
        seed: int,
        split: str,
        layout: PairLayout,
        max_steps: int,
        capacity: int,
    ):
        """
        Args:
          rule: the optimizer.
          hypers: learning rates or thetas, stacked.
          family: the task family.
          data: what `family.load` returned.
          seed: a run with the run seed i has the key fold_in(key(seed), i).
          split: the split that the trained parameters are judged on.
          layout: how the runs are spread over devices.
          max_steps: steps that the program has room for; a shorter call costs nothing more.
          capacity: runs that the program has room for; a smaller call is padded with runs of 0 steps, at next to no
            cost.
        """
        self._rule, self._hypers, self._family, self._data = rule, hypers, family, data
        self._key, self._split, self._layout = jax.random.key(seed), split, layout
        self._max_steps, self._capacity = max_steps, capacity

    def step_seconds(self, other: "Runner") -> np.ndarray:
        """Times of one step of one run on one device while all are busy, after compilation: `[TURNS, 2]`.

        This runner and the other one take turns, so that whatever else the machine does meets both.
        """
        runners = self, other
        for runner in runners:
            runner._timed_call(0)  # compiles, if this is its first call
        return np.array([[runner._timed_call(TIMED_STEPS) for runner in runners] for _ in range(TURNS)])

    def _timed_call(self, num_steps: int) -> float:
        """Seconds per step of a run on each device, all at once."""
        num_steps = min(num_steps, self._max_steps)
        plan = np.zeros((2, min(self._layout.num_devices, self._capacity)), np.int32)
        started = time.monotonic()
        self._execute(plan, num_steps, 0)
        return (time.monotonic() - started) / max(num_steps, 1)

    def __call__(self, plan: np.ndarray, num_steps: int, *, num_points: int = 1) -> Curves:
        """Trains runs.

        Args:
          plan: `[2, num_runs]` for (hyper, seed).
          num_steps: length of all of them.
          num_points: at how many moments of each the validation loss is measured.

        Returns:
          Losses `[num_runs, num_steps]` and `[num_runs, VALID_POINTS]`, in numpy.
        """
        curves = self._execute(plan, num_steps, num_points)
        return Curves(curves.loss[:, :num_steps], *curves[1:])

    def _execute(self, plan: np.ndarray, num_steps: int, num_points: int) -> Curves:
        num_runs, devices = plan.shape[1], self._layout.num_devices
        filled = -(-self._capacity // devices) * devices
        runs = np.zeros((4, filled), np.int32)
        runs[:, :num_runs] = *plan, np.full(num_runs, num_steps), np.full(num_runs, num_points)
        # Run i goes to device i mod D, so that all devices have the same number of steps to do.
        dealt = np.arange(filled).reshape(-1, devices).T.ravel()
        specs = RunSpec(*runs[:, dealt])
        where = (self._rule, self._family, self._layout, self._max_steps, self._split)
        curves = train_all(*where, self._hypers, self._data, self._key, specs)
        return Curves(*(np.asarray(x)[np.argsort(dealt)[:num_runs]] for x in curves))


def flops_per_step(rule: Rule, hypers: PyTree, family: TaskFamily, data: Data) -> float:
    """Floating-point operations of one step, from batch to update, by XLA's count before it optimizes the program.

    XLA counts a loop inside the step, such as the one over the characters of a text, as one pass.

    Args:
      rule: the optimizer.
      hypers: learning rates or thetas, stacked; the count does not depend on their values.
      family: the task family.
      data: what `family.load` returned.
    """

    def one(config, hyper, data, key, num_steps, state):
        return _step(family, family.task(config), config, rule.transformation(hyper, num_steps), data, key, state)

    def start(hyper, key, num_steps):
        config = family.sample(key)
        task = family.task(config)
        params = task.init(key)
        transformation = rule.transformation(hyper, num_steps)
        return config, TrainState(params, transformation.init(params), task.corrupt.init(params))

    hyper = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), hypers)
    key, num_steps = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    config, state = jax.eval_shape(start, hyper, key, num_steps)
    cost = jax.jit(one).lower(config, hyper, data, key, num_steps, state).cost_analysis()
    return float((cost or {}).get("flops", jnp.nan))


def _step(
    family: TaskFamily,
    task: Task,
    config: Config,
    transformation: optax.GradientTransformationExtraArgs,
    data: Data,
    key: jax.Array,
    state: TrainState,
) -> tuple[TrainState, jax.Array]:
    """One step on a fresh batch, and the loss before it."""
    batch_key, loss_key = jax.random.split(key)
    batch = family.sample_batch(data, batch_key, config, "train")

    def update(grads: Params, own: PyTree, params: Params, value: jax.Array) -> tuple[Params, PyTree]:
        return transformation.update(grads, own, params, value=value)

    return inner_step(task, update, batch, loss_key, state)
