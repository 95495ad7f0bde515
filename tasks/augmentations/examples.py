"""Other examples: fewer of them (`reduce_batch`), wrong labels (`label_noise`), renamed classes (`permute_labels`)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.types import Batch, Config, Task, TaskFamily

from ..checks import check_positive
from .augmented import Augmentation, setting_of


@dataclasses.dataclass(frozen=True)
class ReduceBatch(Augmentation):
    """Training batches repeat a fraction of their examples in turn; the fraction is uniform between `low` and 1.

    So shapes stay as they are, and the gradient has the noise of the smaller batch. If its size does not divide that of
    the batch, the first examples count once more.
    """

    name: ClassVar[str] = "reduce_batch"
    low: float = 0.01

    def __post_init__(self):
        check_positive(self, "low", most=1)

    def check(self, family: TaskFamily) -> None:
        if setting_of(family, "batch_size") < 2:
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
    """A fraction of the training labels, uniform between 0 and `high`, is replaced by those of other examples."""

    name: ClassVar[str] = "label_noise"
    high: float = 0.5

    def __post_init__(self):
        check_positive(self, "high", most=1)

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
        return jax.random.permutation(key, setting_of(family, "num_classes")).astype(jnp.int32)

    def task(self, task: Task, draw: Config) -> Task:
        # In the task and not in the batch, because the valid and test splits are renamed too.
        def renamed(batch: Batch) -> Batch:
            names = draw
            if "num_classes" in batch:  # a data set may have fewer classes: they are renamed among themselves
                present = jnp.arange(len(draw)) < batch["num_classes"][0]
                names = jnp.sum((draw[:, None] > draw[None, :]) & present[None, :], axis=1)
            return {**batch, "label": names[batch["label"]]}

        return task._replace(
            loss=lambda params, key, batch: task.loss(params, key, renamed(batch)),
            metrics=lambda params, key, batch: task.metrics(params, key, renamed(batch)),
        )


def _check_labels(augmentation: Augmentation, family: TaskFamily) -> None:
    """Raises InputError unless the family's loss is that of classes."""
    if setting_of(family, "num_classes") < 2 or setting_of(family, "ignores_labels"):
        raise InputError(f"{augmentation.name} needs a classification task, which {family.name} is not")
