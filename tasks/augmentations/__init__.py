"""The augmentations: what a learned optimizer should not depend on, varied. One class each, and the table of names.

Reparametrisation, loss scales, small batches and corrupted gradients are those of VeLO (Luke Metz and others, "VeLO:
Training versatile learned optimizers by scaling up", 2022, arXiv 2211.09760).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from lopt.names import InputError, check_known
from lopt.types import Batch, Config, Params, Task, TaskFamily
from tasks.augmentations.augmented import Augmentation, Augmented

LEVELS = ("global", "tensor", "parameter")


def _log_uniform(key: jax.Array, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jnp.exp(jax.random.uniform(key, shape, minval=math.log(low), maxval=math.log(high)))


def _check_range(low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise InputError(f"low and high must be numbers with 0 < low <= high, not {low!r} and {high!r}")


def _param_shapes(family: TaskFamily, config: Config) -> Params:
    return jax.eval_shape(lambda config: family.task(config).init(jax.random.key(0)), config)


@dataclasses.dataclass(frozen=True)
class Reparametrize(Augmentation):
    """loss'(w) = loss(s w), started at w_0 / s: the same training in other units, with s drawn log-uniformly.

    Attributes:
      level: one s for all (global), one a tensor, or one a parameter.
      low, high: range of s.
    """

    name: ClassVar[str] = "reparametrize"
    level: str = "global"
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self):
        check_known("level", self.level, LEVELS)
        _check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        shapes = _param_shapes(family, config)
        leaves, structure = jax.tree.flatten(shapes)
        if self.level == "parameter":
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            flat, unravel = ravel_pytree(zeros)
            return unravel(_log_uniform(key, self.low, self.high, flat.shape))
        count = len(leaves) if self.level == "tensor" else 1
        scales = _log_uniform(key, self.low, self.high, (count,))
        return jax.tree.unflatten(structure, [scales[min(i, count - 1)] for i in range(len(leaves))])

    def task(self, task: Task, draw: Config) -> Task:
        def times(params: Params) -> Params:
            return jax.tree.map(lambda w, s: w * s, params, draw)

        return task._replace(
            init=lambda key: jax.tree.map(lambda w, s: w / s, task.init(key), draw),
            loss=lambda params, key, batch: task.loss(times(params), key, batch),
            metrics=lambda params, key, batch: task.metrics(times(params), key, batch),
        )


@dataclasses.dataclass(frozen=True)
class ScaleLoss(Augmentation):
    """c loss, with c drawn log-uniformly from `low` to `high`; the normalised loss stays what it is."""

    name: ClassVar[str] = "scale_loss"
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self):
        _check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return _log_uniform(key, self.low, self.high)

    def task(self, task: Task, draw: Config) -> Task:
        return task._replace(
            loss=lambda params, key, batch: draw * task.loss(params, key, batch),
            normalize=lambda loss: task.normalize(loss / draw),
        )


@dataclasses.dataclass(frozen=True)
class ReduceBatch(Augmentation):
    """Training batches that hold a fraction of their examples, repeated in turn; it is uniform from `low` to 1.

    So the shapes stay, and the gradient has the noise of the smaller batch (where its size does not divide the batch,
    the first examples count once more).
    """

    name: ClassVar[str] = "reduce_batch"
    low: float = 0.01

    def __post_init__(self):
        if not 0 < self.low <= 1:
            raise InputError(f"low, the smallest fraction of a batch, must be above 0 and at most 1, not {self.low!r}")

    def check(self, family: TaskFamily) -> None:
        if _setting(family, "batch_size") < 2:
            raise InputError(f"reduce_batch needs a task whose batches hold several examples: {family.name} has none")

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return jax.random.uniform(key, minval=self.low, maxval=1.0)

    def batch(self, batch: Batch, draw: Config, key: jax.Array) -> Batch:
        def repeat(x: jax.Array) -> jax.Array:
            kept = jnp.maximum(jnp.round(draw * len(x)), 1).astype(jnp.int32)
            return x[jnp.arange(len(x)) % kept]

        return jax.tree.map(repeat, batch)


@dataclasses.dataclass(frozen=True)
class LabelNoise(Augmentation):
    """A fraction of the training labels is replaced by those of random others; it is uniform from 0 to `high`."""

    name: ClassVar[str] = "label_noise"
    high: float = 0.5

    def __post_init__(self):
        if not 0 < self.high <= 1:
            raise InputError(f"high, the largest share of labels replaced, must be in (0, 1], not {self.high!r}")

    def check(self, family: TaskFamily) -> None:
        _check_labels(self, family)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return self.high * jax.random.uniform(key)

    def batch(self, batch: Batch, draw: Config, key: jax.Array) -> Batch:
        labels = batch["label"]
        u, v = jax.random.uniform(key, (2, len(labels)))
        others = labels[(v * len(labels)).astype(jnp.int32)]
        return {**batch, "label": jnp.where(u < draw, others, labels)}


@dataclasses.dataclass(frozen=True)
class PermuteLabels(Augmentation):
    """Classes are renamed by a random permutation, in every split."""

    name: ClassVar[str] = "permute_labels"

    def check(self, family: TaskFamily) -> None:
        _check_labels(self, family)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return jax.random.permutation(key, _setting(family, "num_classes")).astype(jnp.int32)

    def task(self, task: Task, draw: Config) -> Task:
        # In the task rather than in the batch, since it holds for the valid and test splits too.
        def renamed(batch: Batch) -> Batch:
            names = draw
            if "num_classes" in batch:  # of the data set, which may have fewer: they keep to themselves
                present = jnp.arange(len(draw)) < batch["num_classes"][0]
                names = jnp.sum((draw[:, None] > draw[None, :]) & present[None, :], axis=1)
            return {**batch, "label": names[batch["label"]]}

        return task._replace(
            loss=lambda params, key, batch: task.loss(params, key, renamed(batch)),
            metrics=lambda params, key, batch: task.metrics(params, key, renamed(batch)),
        )


@dataclasses.dataclass(frozen=True)
class NoisyGradient(Augmentation):
    """g + c rms(g) n, n ~ N(0, I), rms over each tensor, with c drawn log-uniformly from `low` to `high`."""

    name: ClassVar[str] = "noisy_gradient"
    low: float = 0.01
    high: float = 1.0

    def __post_init__(self):
        _check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        scale_key, noise_key = jax.random.split(key)
        return {"scale": _log_uniform(scale_key, self.low, self.high), "key": noise_key}

    def task(self, task: Task, draw: Config) -> Task:
        def update(grads: Params, step: jax.Array, params: Any = None) -> tuple[Params, jax.Array]:
            flat, unravel = ravel_pytree(grads)
            noise = unravel(jax.random.normal(jax.random.fold_in(draw["key"], step), flat.shape, flat.dtype))
            noisy = jax.tree.map(lambda g, n: g + draw["scale"] * jnp.sqrt(jnp.mean(g * g)) * n, grads, noise)
            return noisy, step + 1

        return _corrupted(task, lambda params: jnp.zeros((), jnp.int32), update)


@dataclasses.dataclass(frozen=True)
class DelayGradient(Augmentation):
    """The optimizer sees the gradient of d steps ago, at first the first one; d is uniform in 1, ..., `high`."""

    name: ClassVar[str] = "delay_gradient"
    high: int = 8

    def __post_init__(self):
        if type(self.high) is not int or self.high < 1:
            raise InputError(f"high, the longest delay in steps, must be a whole number above 0, not {self.high!r}")

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return jax.random.randint(key, (), 1, self.high + 1)

    def task(self, task: Task, draw: Config) -> Task:
        size = self.high + 1

        def init(params: Any) -> tuple[Params, jax.Array]:
            return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), params), jnp.zeros((), jnp.int32)

        def update(grads: Params, state: Any, params: Any = None) -> tuple[Params, Any]:
            past, step = state
            past = jax.tree.map(lambda x, g: x.at[step % size].set(g), past, grads)
            return jax.tree.map(lambda x: x[jnp.maximum(step - draw, 0) % size], past), (past, step + 1)

        return _corrupted(task, init, update)


def _corrupted(task: Task, init: optax.TransformInitFn, update: Callable[..., Any]) -> Task:
    """The task with one more thing that befalls its gradients, after those before."""
    return task._replace(corrupt=optax.chain(task.corrupt, optax.GradientTransformation(init, update)))


def _setting(family: TaskFamily, name: str) -> int:
    """A number among the settings of the family within all augmentations; 0 where it has none such."""
    return _setting(family.family, name) if isinstance(family, Augmented) else getattr(family, name, 0)


def _check_labels(augmentation: Augmentation, family: TaskFamily) -> None:
    """Raises InputError unless the family's loss is that of classes."""
    if _setting(family, "num_classes") < 2 or _setting(family, "ignores_labels"):
        raise InputError(f"{augmentation.name} needs a task of classification: {family.name} is none")


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    known.name: known
    for known in (Reparametrize, ScaleLoss, ReduceBatch, LabelNoise, PermuteLabels, NoisyGradient, DelayGradient)
}
