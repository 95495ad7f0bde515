"""Trains tasks with a learned optimizer and with Adam: one training function, the same seeds and batches for all."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt import scores
from lopt.distributed import PairLayout
from lopt.names import InputError
from lopt.scores import Curves, TaskCurves
from lopt.transform import as_optax
from lopt.types import Data, LearnedOptimizer, PyTree, TaskFamily, Theta

LEARNING_RATES = tuple(np.logspace(-5, 0, 15).tolist())  # of Adam, for tuning
VALID_BATCHES = 16
MIN_HORIZON = 20  # 5 % of it is one step


class Rule(Protocol):
    """A kind of optimizer: hashable. What its runs differ in is an array, so that one program serves them all."""

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer of one run."""
        ...


@dataclasses.dataclass(frozen=True)
class Adam:
    """`hyper` is the learning rate."""

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        del num_steps
        return optax.with_extra_args_support(optax.adam(hyper))


@dataclasses.dataclass(frozen=True)
class Learned:
    """`hyper` is theta."""

    optimizer: LearnedOptimizer

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        return as_optax(self.optimizer, hyper, num_steps=num_steps)


class RunSpec(NamedTuple):
    """Which runs: `hyper`, index into the stacked hypers; `seed`; `num_steps`. Each int32 `[num_runs]`."""

    hyper: Any
    seed: Any
    num_steps: Any


def train(
    rule: Rule, hyper: PyTree, family: TaskFamily, data: Data, key: jax.Array, num_steps: jax.Array, max_steps: int
) -> Curves:
    """One training of a task drawn from `family`.

    Args:
      hyper: of the rule.
      key: decides the task, its initial parameters and its batches, whatever the optimizer.
      num_steps: at most max_steps; the losses after it are NaN.

    Returns:
      Losses `[max_steps]`, and scalars.
    """
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = family.sample(config_key)
    task = family.task(config)
    params = task.init(params_key)
    transformation = optax.chain(task.corrupt, rule.transformation(hyper, num_steps))

    def step(t, carry):
        params, state, losses = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, t))
        batch = family.sample_batch(data, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        updates, state = transformation.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, losses.at[t].set(value)

    losses = jnp.full((max_steps,), jnp.nan, jnp.float32)
    params, _, losses = jax.lax.fori_loop(0, num_steps, step, (params, transformation.init(params), losses))

    def validate(batch_key):
        batch = family.sample_batch(data, batch_key, config, "valid")
        metrics = task.metrics(params, batch_key, batch)
        return task.loss(params, batch_key, batch), jnp.asarray(metrics.get("accuracy", jnp.nan), jnp.float32)

    # The same images for all runs, so that their differences are those of the trainings.
    valid_loss, accuracy = jax.lax.map(validate, jax.random.split(jax.random.key(0), VALID_BATCHES))
    return Curves(losses, valid_loss.mean(), accuracy.mean())


@functools.partial(jax.jit, static_argnames=("rule", "family", "layout", "max_steps"))
def _train_all(
    rule: Rule,
    family: TaskFamily,
    layout: PairLayout,
    max_steps: int,
    hypers: PyTree,
    data: Data,
    key: jax.Array,
    runs: RunSpec,
) -> Curves:
    def train_one(run: RunSpec) -> Curves:
        hyper = jax.tree.map(lambda x: x[run.hyper], hypers)
        run_key = jax.random.fold_in(key, run.seed)
        return train(rule, hyper, family, data, run_key, run.num_steps, max_steps)

    return layout.map_pairs(train_one, runs)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an optimizer is put through on every task.

    Attributes:
      horizon: T, steps of a training.
      num_seeds: S, as many for the evaluation and for tuning Adam.
      seed: a run with the run seed i has the key fold_in(key(seed), i).
      learning_rates: Adam's, rising.
      layout: of the runs over the devices.
    """

    horizon: int
    num_seeds: int = 5
    seed: int = 0
    learning_rates: tuple[float, ...] = LEARNING_RATES
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        if self.horizon < MIN_HORIZON:
            raise InputError(f"the horizon must be at least {MIN_HORIZON} steps, not {self.horizon}")
        if self.num_seeds < 1:
            raise InputError(f"num_seeds must be at least 1, not {self.num_seeds}")

    @property
    def num_runs(self) -> int:
        """Trainings of T steps a task; Adam's `num_seeds` long ones come on top."""
        return (2 * len(self.learning_rates) + 3) * self.num_seeds

    def task_curves(
        self, optimizer: LearnedOptimizer, theta: Theta, initial_theta: Theta, family: TaskFamily, data: Data
    ) -> TaskCurves:
        """Trains one family's tasks. One program for the learned rule and one for Adam, whatever the grid and seeds."""
        seeds = np.arange(self.num_seeds)
        tuning_seeds = self.num_seeds + seeds
        num_rates = len(self.learning_rates)

        thetas = jax.tree.map(lambda *xs: jnp.stack(xs), theta, initial_theta)
        learned_rule = Learned(optimizer)
        learned = self._run(learned_rule, thetas, family, data, _product([0, 1], seeds), self.horizon)

        rates = jnp.asarray([*self.learning_rates, scores.DEFAULT_RATE], jnp.float32)
        both = np.concatenate([seeds, tuning_seeds])
        plan = np.concatenate([_product(range(num_rates), both), _product([num_rates], seeds)], axis=1)
        adam = functools.partial(self._run, Adam(), rates, family, data, max_steps=scores.LONG * self.horizon)
        runs = adam(plan, self.horizon)
        grid = jax.tree.map(lambda x: x[: -self.num_seeds].reshape(num_rates, 2, self.num_seeds, *x.shape[1:]), runs)
        tuning = jax.tree.map(lambda x: x[:, 1], grid)
        best = scores.best_rate(tuning.loss, "final_loss")
        long = adam(_product([best], seeds), scores.LONG * self.horizon, capacity=plan.shape[1])

        shapes = jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
        return TaskCurves(
            num_params=sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)),
            learning_rates=np.asarray(self.learning_rates),
            seeds=seeds,
            tuning_seeds=tuning_seeds,
            learned=jax.tree.map(lambda x: x[: self.num_seeds], learned),
            untrained=jax.tree.map(lambda x: x[self.num_seeds :], learned),
            adam_default=jax.tree.map(lambda x: x[-self.num_seeds :], runs),
            adam_grid=jax.tree.map(lambda x: x[:, 0], grid),
            adam_tuning=tuning,
            adam_long=long,
        )

    def _run(
        self,
        rule: Rule,
        hypers: PyTree,
        family: TaskFamily,
        data: Data,
        plan: np.ndarray,
        num_steps: int,
        max_steps: int | None = None,
        capacity: int | None = None,
    ) -> Curves:
        """Trains the runs of `plan`, (hyper, seed) by runs; losses `[num_runs, num_steps]`.

        `max_steps` and `capacity`, of steps and runs, belong to the program and not to this call: what is missing to
        them costs nothing, since a run of 0 steps fills up the number of runs.
        """
        num_runs, devices = plan.shape[1], self.layout.num_devices
        filled = -(-(capacity or num_runs) // devices) * devices
        runs = np.zeros((3, filled), np.int32)
        runs[:, :num_runs] = *plan, np.full(num_runs, num_steps)
        # Run i goes to device i mod D, so that all devices have as many steps to do.
        dealt = np.arange(filled).reshape(-1, devices).T.ravel()
        key = jax.random.key(self.seed)
        curves = _train_all(
            rule, family, self.layout, max_steps or num_steps, hypers, data, key, RunSpec(*runs[:, dealt])
        )
        loss, *after = (np.asarray(x)[np.argsort(dealt)[:num_runs]] for x in curves)
        return Curves(loss[:, :num_steps], *after)


def _product(hypers: Any, seeds: np.ndarray) -> np.ndarray:
    """All (hyper, seed), the seeds running fastest: `[2, num_hypers * num_seeds]`."""
    return np.stack([x.ravel() for x in np.meshgrid(hypers, seeds, indexing="ij")])
