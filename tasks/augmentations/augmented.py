"""A task family wrapped so that its tasks are varied by an augmentation."""

import dataclasses
from typing import ClassVar

import jax

from lopt.types import Batch, Config, Data, Task, TaskFamily
from tasks.naming import family_name


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What an augmentation may change; a subclass overrides one of these.

    Attributes:
      name: what stands behind a family's name.
    """

    name: ClassVar[str]

    def check(self, family: TaskFamily) -> None:
        """Raises InputError if the family cannot be augmented so."""

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        """The augmentation's own draw, arrays."""
        raise NotImplementedError

    def task(self, task: Task, draw: Config) -> Task:
        return task

    def batch(self, batch: Batch, draw: Config, key: jax.Array) -> Batch:
        """Changes a batch of the train split."""
        return batch


@dataclasses.dataclass(frozen=True)
class Augmented:
    """A family whose every task is augmented. A config is `{"task": the family's, "draw": the augmentation's}`.

    Attributes:
      family: the wrapped one.
      augmentation: what is done to it.
    """

    family: TaskFamily
    augmentation: Augmentation

    def __post_init__(self):
        self.augmentation.check(self.family)

    @property
    def name(self) -> str:
        """The family's name, followed by `+augmentation:setting=value...`."""
        return f"{self.family.name}+{family_name(self.augmentation, self.augmentation.name)}"

    @property
    def streams(self) -> bool:
        return self.family.streams

    def load(self, seed: int = 0, block: int = 0) -> Data:
        return self.family.load(seed, block)

    def sample(self, key: jax.Array) -> Config:
        task_key, draw_key = jax.random.split(key)
        config = self.family.sample(task_key)
        return {"task": config, "draw": self.augmentation.sample(self.family, draw_key, config)}

    def task(self, config: Config) -> Task:
        return self.augmentation.task(self.family.task(config["task"]), config["draw"])

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        if split != "train":
            return self.family.sample_batch(data, key, config["task"], split)
        batch_key, change_key = jax.random.split(key)
        batch = self.family.sample_batch(data, batch_key, config["task"], split)
        return self.augmentation.batch(batch, config["draw"], change_key)
