"""Tunes the hyperparameters of an optax optimizer on your own loss, by meta-gradients through the training."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lopt.distributed import check_one_process, default_layout
from lopt.estimators import ESTIMATORS
from lopt.extras import need
from lopt.horizons import Horizon
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import BLOCK_STEPS, outer_steps
from lopt.meta_training.tunables import OptaxRule, Tunable
from lopt.names import InputError, parse_spec
from lopt.own import foreign
from lopt.own.models import dissect
from lopt.own.task import OwnTask, check_numbers, denormalized, measure_start, normalized
from lopt.types import Batch, Config, Data, Params, PyTree, Task

# `(params, key, data) -> scalar`: a loss on a fresh batch, drawn from `data` with `key`.
LossFn = Callable[[Any, jax.Array, Data], jax.Array]


class _Functions(NamedTuple):
    """What is trained, as functions of params that are arrays by name."""

    init: Callable[[jax.Array], Params]
    loss: LossFn
    objective: LossFn
    data: PyTree


@dataclasses.dataclass(frozen=True)
class UserTask:
    """A task family made of your own functions. A batch is a key and the data, under the name of its split.

    Attributes:
      init_params: `(key) -> params`.
      loss: what the inner training minimises.
      objective: what the hyperparameters are tuned to minimise.
      start: the objective of fresh params.
    """

    init_params: Callable[[jax.Array], Params]
    loss: LossFn
    objective: LossFn
    start: float
    name: str = "user"

    @property
    def streams(self) -> bool:
        return False

    def load(self, seed: int = 0, block: int = 0) -> Data:
        del seed, block
        return ()  # `tune` has it already

    def sample(self, key: jax.Array) -> Config:
        del key
        return {}

    def task(self, config: Config) -> Task:
        del config
        return Task(self.init_params, self._loss, self._normalize, lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        del config
        return {split: (key, data)}

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        del key  # a batch has its own
        ((split, (key, data)),) = batch.items()
        return (self.loss if split == "train" else self.objective)(params, key, data)

    def _normalize(self, loss: jax.Array) -> jax.Array:
        return normalized(loss, self.start)


class Tuned(NamedTuple):
    """What `tune` found.

    Attributes:
      optimizer: the optax optimizer with the tuned hyperparameters, schedules over the updates made.
      hyperparameters: values by name: a float, `[knots]` for a schedule, a dict of these by tensor if per tensor.
      history: `[num_updates]`, the objective of the perturbed trainings at each update of the hyperparameters: the mean
        over the windows just run, or, of a final objective, over the trainings that ended; NaN where none did.
    """

    optimizer: optax.GradientTransformation
    hyperparameters: dict[str, Any]
    history: np.ndarray


def tune(
    factory: Callable[..., optax.GradientTransformation],
    tunables: Mapping[str, Tunable],
    *,
    init: Callable[[jax.Array], Any] | None = None,
    loss: LossFn | None = None,
    num_steps: int,
    data: PyTree = (),
    task: OwnTask | None = None,
    objective: LossFn | None = None,
    final: bool = False,
    fixed: Mapping[str, Any] | None = None,
    estimator: str = "pes",
    num_updates: int = 200,
    learning_rate: float = 0.1,
    num_pairs: int = 8,
    sigma: float = 0.1,
    truncation: int | None = None,
    seed: int = 0,
) -> Tuned:
    """Tunes `factory(**tunables, **fixed)` for trainings of `num_steps` steps, by estimates of its meta-gradient.

    theta holds, for each hyperparameter, its distance from the initial value in the coordinates of its scale; the
    objective is the mean over a training of `objective` after each step, or the objective after the last one.
    A training that diverges counts with the objective of fresh params plus its size, so twice the objective where that
    is positive. A run takes num_updates * 2 * num_pairs * truncation inner steps and one compilation.

    Args:
      factory: makes the optimizer, such as `optax.adamw`; called through `optax.inject_hyperparams`.
      tunables: by the name of the factory's argument.
      init: `(key) -> params`, arrays in dicts, lists and tuples, or a module of Flax NNX or Equinox.
      loss: `(params, key, data) -> scalar` on a fresh training batch, drawn with the key.
      data: arrays that the functions read; arguments of the compiled program, not constants in it.
      task: what `lopt.task` has made, in the place of init, loss, data and objective, which is then the loss on its
        split `meta`.
      objective: what to minimise, on fresh batches; it need not be differentiable. By default the loss.
      final: only the objective after the last step counts.
      fixed: further arguments of the factory.
      estimator: a name, with settings as in `"pes:staggered=False"`; with `final`, `"nres"` has less variance.
      learning_rate: peak rate of Adam on theta; it falls to 0 along a cosine.
      sigma: standard deviation of the noise on theta: 0.1 changes a hyperparameter on a log scale by a tenth.
      truncation: inner steps between two updates, a divisor of num_steps; by default about a twentieth of it.

    Raises:
      InputError: a name or a number is not allowed, or `loss` or `objective` is no finite scalar at the start.

    Source: hyperparameter optimization in Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation
    in unrolled computation graphs with Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835).
    """
    need("lopt.tune", "rich")
    check_one_process("lopt.tune")
    rule = OptaxRule.make(factory, tunables, fixed or {})
    if num_steps < 1 or num_updates < 1:
        raise InputError(f"num_steps and num_updates must be at least 1, not {num_steps} and {num_updates}")
    if truncation is None:
        truncation = _divisor_near(num_steps, num_steps / 20)
    layout = default_layout(num_pairs)
    built = foreign.make(
        "estimator",
        parse_spec(estimator),
        ESTIMATORS,
        num_pairs=num_pairs,
        sigma=sigma,
        truncation=truncation,
        horizon=Horizon(num_steps, num_steps),
        layout=layout,
    )
    functions = _read_functions(task, init, loss, objective, data)
    checked = {"loss": functions.loss, "objective": functions.objective}
    check_numbers(functions.init, checked, functions.data)
    _, start = measure_start(functions.init, checked, functions.data, jax.random.key(seed))
    rule = rule.for_params(jax.eval_shape(functions.init, jax.random.key(seed)))
    training = MetaTraining(
        optimizer=rule,
        families=(UserTask(functions.init, functions.loss, functions.objective, start),),
        estimator=built,
        outer_optimizer=OuterOptimizer(learning_rate=learning_rate, schedule="cosine", num_steps=num_updates),
        objective=Objective("final" if final else "meta_batch"),
        layout=layout,
    )
    arrays = jax.device_put((functions.data,), layout.replicated)
    theta, history = _run(training, start, seed, arrays, num_updates)
    return Tuned(rule.transformation(theta, num_steps), rule.values(theta), history)


def _run(
    training: MetaTraining, start: float, seed: int, data: tuple[Data, ...], num_updates: int
) -> tuple[Any, np.ndarray]:
    """Theta after the updates, and the objective at each of them, in its own unit."""
    from lopt.meta_training.progress import Progress  # here, so that `import lopt` needs no rich

    state = training.init(seed, data)
    history: list[np.ndarray] = []
    with Progress(total=num_updates, number="objective") as progress:
        for first in range(0, num_updates, BLOCK_STEPS):
            count = min(BLOCK_STEPS, num_updates - first)
            state, metrics = outer_steps(training, state, data, count)
            history.append(denormalized(np.asarray(metrics["meta_loss"])[:count], start))
            told = [float(value) for values in history for value in values if math.isfinite(value)] or [math.nan]
            progress.update(first + count, meta_loss=told[-1], first=told[0])
    return jax.device_get(state.theta), np.concatenate(history)


def _read_functions(
    task: OwnTask | None,
    init: Callable[[jax.Array], Any] | None,
    loss: LossFn | None,
    objective: LossFn | None,
    data: PyTree,
) -> _Functions:
    """Either a task's functions or those that are given; models become their params (`lopt.own.models`)."""
    if task is not None:
        if not isinstance(task, OwnTask):
            raise InputError(f"task must be what lopt.task returns, not {task!r:.200}")
        if init or loss or objective or jax.tree.leaves(data):
            raise InputError("init, loss, objective and data are those of the task: leave them out, or the task")
        return _Functions(task.init_params, task.draw_loss("train"), task.draw_loss("meta"), task.load())
    if init is None or loss is None:
        raise InputError("give init and loss, or a task: lopt.task(init=..., loss=..., data=..., name=...)")
    anatomy = dissect(init)

    def of_params(function: LossFn) -> LossFn:
        return lambda params, key, data: function(anatomy.model(params), key, data)

    return _Functions(lambda key: anatomy.params(init(key)), of_params(loss), of_params(objective or loss), data)


def _divisor_near(n: int, wanted: float) -> int:
    """The divisor of n nearest to `wanted` in ratio."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(math.log(d / wanted)))
