"""The meta-task: training a small learned optimizer, by gradient descent through its unrolled inner trainings.

Metz et al. 2022 (VeLO, arXiv:2211.09760) have it among their tasks, under the name of learned-optimizer training.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.types import Batch, Config, Data, LearnedOptimizer, Params, PyTree, Task, TaskFamily

from .checks import check_number, check_whole
from .naming import UNNAMED, family_name
from .synthetic import split_key

# Entries of the inner parameters and gradients are held within these bounds. Both lie far beyond where the loss has
# reached the cap, and low enough that their squares are finite: a bounded loss passes back 0, and 0 times infinity
# would be NaN.
_PARAMS_BOUND = 1e6
_GRADS_BOUND = 1e12

MOST_STEPS = 10_000  # the gradient keeps the states of all of them


@dataclasses.dataclass(frozen=True)
class TrainOptimizer:
    """Minimises, over theta of `optimizer`, the mean normalised training loss of `num_steps` inner steps on `task`.

    loss(theta) = mean over t < num_steps of min(normalize(l_t), cap), NaN counted as cap, with l_t the loss of inner
    batch t before the update, as in `lopt.meta_training.inner` for the meta-loss `train`. An update that is NaN costs
    the cap in all later steps. The gradient is exact, through all the steps. 1 is an inner training that stays at the
    trivial predictor.

    The fields are objects, because this file imports neither optimizers nor other families. The caller looks up their
    names, and passes the optimizer's on as `optimizer_name`.

    Attributes:
      optimizer: the learned optimizer to train; all of it must be differentiable.
      task_family: the family whose tasks it trains on; one draw of that family is one task of this one.
      optimizer_name: what this family's name calls the optimizer; if empty, the name of its class.
      num_steps: inner steps of an unroll.
      cap: upper bound of an inner step's normalised loss.
    """

    optimizer: LearnedOptimizer = dataclasses.field(metadata=UNNAMED)
    task_family: TaskFamily = dataclasses.field(metadata=UNNAMED)
    optimizer_name: str = dataclasses.field(default="", compare=False, metadata=UNNAMED)
    num_steps: int = 10
    cap: float = 2.0

    def __post_init__(self):
        check_whole(self, num_steps=1, most=MOST_STEPS)
        check_number(self, cap=1)

    @property
    def name(self) -> str:
        """`train_optimizer[OPTIMIZER][TASK]`, followed by `:setting=value` for each that is not the default."""
        optimizer = self.optimizer_name or type(self.optimizer).__name__
        return family_name(self, f"train_optimizer[{optimizer}][{self.task_family.name}]")

    @property
    def streams(self) -> bool:
        return self.task_family.streams

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """The data of the inner task."""
        return self.task_family.load(seed, block)

    def sample(self, key: jax.Array) -> Config:
        """A draw of the inner family."""
        return self.task_family.sample(key)

    def task(self, config: Config) -> Task:
        """The task's functions; see `sample_batch` for the batch."""

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            del key  # the batch has its own: a loss is a function of theta and the batch
            return self._unroll(params, config, batch)

        return Task(self.optimizer.init_theta, loss, lambda loss: loss, lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"batches": inner batches of the split, stacked [num_steps, ...], "key": for the start and the losses}`."""
        batch_key, unroll_key = jax.random.split(split_key(key, split))
        keys = jax.random.split(batch_key, self.num_steps)
        data = jax.tree.map(jnp.asarray, data)  # a numpy array cannot be indexed by a mapped index
        draw = jax.vmap(lambda key: self.task_family.sample_batch(data, key, config, split))
        return {"batches": draw(keys), "key": unroll_key}

    def _unroll(self, theta: Params, config: Config, batch: Batch) -> jax.Array:
        task, cap = self.task_family.task(config), float(self.cap)
        init_key, loss_key = jax.random.split(batch["key"])
        params = task.init(init_key)
        state = self.optimizer.init(theta, params, num_steps=self.num_steps)

        def step(carry: PyTree, inputs: PyTree) -> tuple[PyTree, jax.Array]:
            params, state, corruption, lost = carry
            t, inner_batch = inputs
            value, grads = jax.value_and_grad(task.loss)(params, jax.random.fold_in(loss_key, t), inner_batch)
            normalized = task.normalize(value)
            bounded = jnp.where((normalized < cap) & ~lost, normalized, cap)  # False for NaN
            grads = jax.tree.map(lambda leaf: _hold(leaf, _GRADS_BOUND), grads)
            grads, corruption = task.corrupt.update(grads, corruption, params)
            value = jnp.where(jnp.isfinite(value), value, cap)
            updates, state = self.optimizer.update(theta, grads, state, params, value=value)
            for update in jax.tree.leaves(updates):
                lost |= jnp.any(jnp.isnan(update))
            updates = jax.tree.map(lambda leaf: _hold(leaf, _PARAMS_BOUND), updates)
            params = jax.tree.map(lambda leaf, update: _hold(leaf + update, _PARAMS_BOUND), params, updates)
            return (params, state, corruption, lost), bounded

        start = params, state, task.corrupt.init(params), jnp.zeros((), bool)
        return jnp.mean(jax.lax.scan(step, start, (jnp.arange(self.num_steps), batch["batches"]))[1])


def _hold(x: jax.Array, bound: float) -> jax.Array:
    """x within [-bound, bound]; 0 where it is NaN."""
    return jnp.clip(jnp.where(jnp.isnan(x), 0.0, x), -bound, bound)
