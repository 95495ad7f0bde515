"""A task family whose tasks an augmentation varies; and what augmentations share."""

import abc
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.types import Batch, Config, Data, Task, TaskFamily

from ..naming import family_name

MOST_AUGMENTATIONS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation(abc.ABC):
    """One way to vary tasks. A subclass draws how much (`sample`) and changes the task, or its training batches.

    Attributes:
      name: what people write behind a family's name.
    """

    name: ClassVar[str]

    def check(self, family: TaskFamily) -> None:  # noqa: B027  most augmentations fit every family
        """Raises InputError if the augmentation does not fit the family."""

    @abc.abstractmethod
    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        """The augmentation's own draw for the task `config` of the family, as arrays."""

    def task(self, task: Task, draw: Config) -> Task:
        """The augmented task."""
        return task

    def batch(self, batch: Batch, draw: Config, key: jax.Array) -> Batch:
        """The augmented batch of the train split."""
        return batch


@dataclasses.dataclass(frozen=True)
class Augmented:
    """A family whose every task is augmented. A config is `{"task": the family's, "draw": the augmentation's}`.

    Attributes:
      family: the wrapped family.
      augmentation: what varies its tasks.
    """

    family: TaskFamily
    augmentation: Augmentation

    def __post_init__(self):
        if _depth(self) > MOST_AUGMENTATIONS:
            raise InputError(
                f"a task can have at most {MOST_AUGMENTATIONS} augmentations, because each one makes its program "
                "slower to compile: take fewer"
            )
        self.augmentation.check(self.family)

    @property
    def name(self) -> str:
        """The family's name, followed by `+augmentation:setting=value...`."""
        return f"{self.family.name}+{family_name(self.augmentation, self.augmentation.name)}"

    @property
    def streams(self) -> bool:
        """Whether the wrapped family streams."""
        return self.family.streams

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """The wrapped family's data."""
        return self.family.load(seed, block)

    def sample(self, key: jax.Array) -> Config:
        """Draws a task of the wrapped family, and what the augmentation makes of it."""
        task_key, draw_key = jax.random.split(key)
        config = self.family.sample(task_key)
        return {"task": config, "draw": self.augmentation.sample(self.family, draw_key, config)}

    def task(self, config: Config) -> Task:
        """The functions of the augmented task."""
        return self.augmentation.task(self.family.task(config["task"]), config["draw"])

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """A batch of the wrapped family; one of the train split is augmented."""
        if split != "train":
            return self.family.sample_batch(data, key, config["task"], split)
        batch_key, change_key = jax.random.split(key)
        batch = self.family.sample_batch(data, batch_key, config["task"], split)
        return self.augmentation.batch(batch, config["draw"], change_key)


def _depth(family: TaskFamily) -> int:
    """Number of augmentations around a family."""
    return 1 + _depth(family.family) if isinstance(family, Augmented) else 0


def setting_of(family: TaskFamily, name: str) -> int:
    """A number among the settings of the family inside all augmentations; 0 if it has no such setting."""
    return setting_of(family.family, name) if isinstance(family, Augmented) else getattr(family, name, 0)


def log_uniform(key: jax.Array, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """float32 of `shape`, between `low` and `high`; the logarithms are uniform."""
    return jnp.exp(jax.random.uniform(key, shape, minval=math.log(low), maxval=math.log(high)))
