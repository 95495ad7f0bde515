"""What every task family keeps."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.own.foreign import check_members
from lopt.testing.broken import all_finite, check_value, plain, require, runs
from lopt.types import SPLITS, TaskFamily

NUM_TASKS, NUM_STEPS = 3, 50


def check_task(family: TaskFamily, *, learning_rate: float = 0.01, bound: float = 0.95) -> None:
    """Checks all that meta-training and evaluation take for granted of a task family; takes some seconds.

    Args:
      family: the family; a small one is checked as well as a large one, and faster.
      learning_rate: of Adam, at which 50 steps lower the loss.
      bound: what they lower the normalized loss to, mean of the last ten steps and of three tasks.

    Raises:
      InputError: it is no family.
      Broken: a rule is broken.
    """
    trials = TaskTrials(family, learning_rate)
    trials.check_value()
    trials.check_batches()
    trials.check_start()
    trials.check_training(bound)
    trials.check_vmap()
    trials.check_x64()


class Start(NamedTuple):
    """A task before training: batches by split, and what the task makes of that of the train split."""

    batches: Any
    params: Any
    grads: Any
    loss: Any
    norm: Any
    slopes: Any
    metrics: Any


@functools.partial(jax.jit, static_argnames="family")
def start_together(family: TaskFamily, data: Any, keys: jax.Array) -> Start:
    """The starts of several tasks, vmapped; `slopes` are those of the loss along the gradient, by two differences."""

    def start(key: jax.Array) -> Start:
        config = family.sample(key)
        task = family.task(config)
        key = jax.random.fold_in(key, 0)
        batches = {split: family.sample_batch(data, key, config, split) for split in SPLITS}
        params = task.init(key)
        loss = lambda params: task.loss(params, key, batches["train"])  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        norm = _norm(grads)
        steps = jnp.array([1e-3, -1e-3, 1e-2, -1e-2])
        along = jax.lax.map(lambda s: loss(jax.tree.map(lambda p, g: p + s / norm * g, params, grads)), steps)
        metrics = task.metrics(params, key, batches["train"])
        slopes = (along[::2] - along[1::2]) / (2 * steps[::2])
        return Start(batches, params, grads, task.normalize(value), norm, slopes, metrics)

    return jax.vmap(start)(keys)


@functools.partial(jax.jit, static_argnames="family")
def train_alone(family: TaskFamily, data: Any, key: jax.Array, learning_rate: jax.Array) -> tuple[jax.Array, jax.Array]:
    """50 steps of Adam on one task: normalised losses and norms of the gradients, `[50]` each."""
    config = family.sample(key)
    task = family.task(config)
    params = task.init(jax.random.fold_in(key, 0))
    optimizer = optax.chain(task.corrupt, optax.adam(learning_rate))

    def step(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        step_key = jax.random.fold_in(key, t)
        batch = family.sample_batch(data, step_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, step_key, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (task.normalize(value), _norm(grads))

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(NUM_STEPS))[1]


@dataclasses.dataclass(frozen=True)
class TaskTrials:
    """The checks of one family, which share what they have run.

    Attributes:
      family: the family.
      learning_rate: of Adam.
    """

    family: TaskFamily
    learning_rate: float = 0.01

    def check_value(self) -> None:
        """It has all that a family has, is hashable, and loads the same data twice."""
        check_members("task family", self.family, repr(self.family)[:200])
        check_value(self.family)
        first, second = (plain(self.family.load()) for _ in range(2))
        same = jax.tree.structure(first) == jax.tree.structure(second) and all(
            np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        )
        rule = "load() returns the same arrays whenever it is called, unless the family streams"
        require(same or self.family.streams, rule, "two answers that differ", "draw from the seed that load gets")

    @functools.cached_property
    def data(self) -> Any:
        """The family's data on the device."""
        return jax.tree.map(jnp.asarray, self.family.load())

    @functools.cached_property
    def keys(self) -> jax.Array:
        """One key per task."""
        return jax.random.split(jax.random.key(5), NUM_TASKS)

    @functools.cached_property
    def started(self) -> Start:
        """`Start` of three tasks, stacked."""
        remedy = "write sample, task and sample_batch with jax.numpy alone, and init, loss and metrics too"
        with runs("all methods but load can be traced and vmapped", remedy):
            return plain(start_together(self.family, self.data, self.keys))

    @functools.cached_property
    def trained(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Losses and norms `[3, 50]` of the same tasks, each alone; and how many programs that compiled."""
        programs: Any = train_alone
        before = programs._cache_size()
        rate = jnp.asarray(self.learning_rate)
        with runs(
            "a training can be scanned: every step has params and batches of the same shapes", "keep shapes fixed"
        ):
            trainings = [train_alone(self.family, self.data, key, rate) for key in self.keys]
        losses, norms = (np.stack(column) for column in zip(*trainings, strict=True))
        return losses, norms, programs._cache_size() - before

    def check_batches(self) -> None:
        """Batches are functions of their key, of the same shapes in all splits, and differ by split and task."""
        batches = self.started.batches
        again = plain(start_together(self.family, self.data, self.keys)).batches
        same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (batches, again)), strict=True))
        require(
            same, "sample_batch is a function of its arguments", "two batches of one key differ", "draw from the key"
        )
        shapes = {split: jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch) for split, batch in batches.items()}
        rule = "batches of all splits have the same shapes and types"
        require(all(s == shapes["train"] for s in shapes.values()), rule, shapes, "give all splits the same arrays")
        if jax.tree.leaves(batches):  # else a function without data or noise
            kinds = {_bytes(batch, i) for batch in batches.values() for i in range(NUM_TASKS)}
            rule = "batches differ by key and by split, so that what is measured was not trained on"
            seen = f"{len(kinds)} different ones of {NUM_TASKS * len(SPLITS)}"
            require(len(kinds) == NUM_TASKS * len(SPLITS), rule, seen, "draw from data[split] with the key")

    def check_start(self) -> None:
        """Loss and gradient are finite, of the params' shapes; of float32, the gradient is the slope along itself."""
        start = self.started
        same = jax.tree.map(np.shape, start.params) == jax.tree.map(np.shape, start.grads)
        require(same, "every param has a gradient of its shape", "other shapes", "return arrays from init")
        finite = all_finite((start.loss, start.grads, start.metrics))
        require(finite, "loss, gradient and metrics of fresh params are finite", start.loss, "look for 0 / 0 and log 0")
        scalars = all(x.shape == (NUM_TASKS,) for x in start.metrics.values())
        require(
            scalars, "metrics are scalars by name", {k: x.shape[1:] for k, x in start.metrics.items()}, "take means"
        )
        if {x.dtype for x in jax.tree.leaves(start.params)} != {np.dtype(np.float32)}:
            return  # differences of losses are coarser than the slope
        ratios = start.slopes / start.norm[:, None]
        rule = "the loss rises along its gradient by the gradient's norm"
        remedy = "look for stop_gradient, for rounding, and for a loss that draws other numbers when it is called again"
        require((np.abs(ratios - 1).min(axis=1) < 0.05).all(), rule, f"ratios {ratios.round(3).tolist()}", remedy)

    def check_training(self, bound: float) -> None:
        """Adam lowers the normalized loss, which begins at about 1; one program serves all tasks of the family."""
        losses, _, programs = self.trained
        rule = "tasks of one family share one program: what varies is in the arrays of config"
        require(programs <= 1, rule, f"{programs} programs", "let no Python number depend on the config")
        require(np.isfinite(losses).all(), "50 steps of Adam stay finite", losses, "give a lower learning_rate")
        first, last = losses[:, 0].mean(), losses[:, -10:].mean()
        rule = "normalize makes 1 of the loss of the trivial predictor, about that of fresh params (0.5 to 1.7)"
        require(0.5 < first < 1.7, rule, f"{first:.3g}", "divide by the loss of guessing")
        rule = f"50 steps of Adam at {self.learning_rate:g} lower the normalized loss to {bound:g}"
        require(last < bound, rule, f"{last:.3g}, from {first:.3g}", "give another learning_rate, or a bound")

    def check_vmap(self) -> None:
        """Tasks that are vmapped are those that are run alone."""
        losses, norms, _ = self.trained
        for name, together, alone in (("loss", self.started.loss, losses), ("gradient", self.started.norm, norms)):
            rule = f"the {name} of a task is the same whether tasks are vmapped or alone"
            close = np.allclose(together, alone[:, 0], rtol=2e-3)
            require(close, rule, (together, alone[:, 0]), "use no shape or value outside of the arguments")

    def check_x64(self) -> None:
        """It trains where `jax_enable_x64` is on, in float64; the program is traced and not run."""
        rule, remedy = "a training can be traced under jax_enable_x64", "name no dtype, or cast to that of the params"
        with jax.enable_x64(True), runs(rule, remedy):
            program = functools.partial(train_alone, self.family)
            losses, norms = jax.eval_shape(program, self.data, self.keys[0], jnp.asarray(0.1))
        rule, remedy = "the normalized loss is a scalar", "let loss and normalize return one number"
        require((losses.shape, norms.shape) == ((NUM_STEPS,),) * 2, rule, losses.shape[1:], remedy)


def _norm(grads: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))


def _bytes(batch: Any, i: int) -> bytes:
    """The batch of task i of a stack."""
    return b"".join(x[i].tobytes() for x in jax.tree.leaves(batch))
