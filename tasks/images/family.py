"""What the families on image sets share: reading a set, and drawing batches of standardised images."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError
from lopt.types import Batch, Config, Data, Params, Task

from .. import datasets
from ..checks import check_memory, check_whole, show
from ..naming import UNNAMED, family_name
from ..sampling import sample_indices
from .resizing import IMAGES_AT_ONCE, resize_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFamily(abc.ABC):
    """One task on standardised images of `size` x `size` x `channels`, flattened to F = size * size * channels.

    Attributes:
      head: what the name begins with.
      dataset: a name that `datasets.describe` knows.
      size: images are resized to squares of `size` x `size` pixels.
      channels: 1, grey; or 3, colour.
      num_classes: number of classes of the data set, C below.
      data_dir: directory that holds the data set; None for the default.
    """

    head: ClassVar[str]
    dataset: str = dataclasses.field(default="digits", metadata=UNNAMED)
    size: int = 8
    channels: int = 1
    num_classes: int = dataclasses.field(default=10, metadata=UNNAMED)
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False, metadata=UNNAMED)

    def __post_init__(self):
        check_whole(self, size=1, batch_size=1, num_classes=2)
        check_channels(self.channels)
        check_memory(self, **{"a batch of images": self.batch_size * self.size**2 * self.channels})
        self._check()

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Images per batch, B: a field of each family, because names list it after the settings of the network."""

    @abc.abstractmethod
    def _check(self) -> None:
        """Raises InputError unless the family's own settings make sense."""

    @abc.abstractmethod
    def _moments(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, h, w, c] of the train split -> shift and scale of pixels, float32 [c] or [F]."""

    @abc.abstractmethod
    def _init(self, key: jax.Array) -> Params:
        """Initial params."""

    @abc.abstractmethod
    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """The loss of a batch."""

    @abc.abstractmethod
    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the trivial predictor's loss."""

    @abc.abstractmethod
    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """Other numbers of a batch."""

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is `{"image": float32 [B, F], "label": int32 [B]}`, of any B."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    @property
    def name(self) -> str:
        """`HEAD/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"{self.head}/{self.dataset}")

    @property
    def streams(self) -> bool:
        """Whether the set is read one block at a time."""
        return datasets.describe(self.dataset, self.data_dir).streams

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads the set, or one block of it, and brings it to the family's size and channels.

        Returns:
          `{split: {"image": uint8 [n, F], "label": int32 [n]}}` for each of the four splits, and `"mean"`, `"std"`, in
          grey levels, of the images of the train split (of block 0 of seed 0, so that all blocks share one scale).
        """
        info = describe_images(self.dataset, self.data_dir)
        if info.num_classes != self.num_classes:
            raise InputError(
                f"{self.dataset!r} has {info.num_classes} classes, and the family has num_classes={self.num_classes}"
            )
        self._check_memory(info)
        data: dict[str, object] = {}
        for split, arrays in datasets.load_images(self.dataset, self.data_dir, seed=seed, block=block).items():
            image = resize_images(arrays["image"], self.size, self.channels)
            data[split] = {"image": image.reshape(len(image), -1), "label": arrays["label"]}
            if split == "train":
                first = not info.streams or (seed, block) == (0, 0)
                data["mean"], data["std"] = self._moments(image) if first else _first_moments(self, self.data_dir)
        return data

    def _check_memory(self, info: datasets.DatasetInfo) -> None:
        """Raises InputError unless the images of this size, and those that are resized at once, fit into memory."""
        number = sum(info.split_sizes.values())
        if info.streams:
            number = min(number, sum(datasets.BLOCK_IMAGES.values()))
        pixels = self.size**2 * self.channels
        check_memory(self, **{"the images": number * pixels // 4 + min(number, IMAGES_AT_ONCE) * pixels})

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"image": float32 [B, F], standardised by the train split's moments, "label": int32 [B]}`."""
        del config
        images, labels = data[split]["image"], data[split]["label"]
        chosen = sample_indices(key, self.batch_size, len(labels))
        # Channels come last in the flattened pixels, so one period of the pattern is one pixel.
        mean, std = (jnp.tile(data[m], images.shape[1] // len(data[m]))[None, :] for m in ("mean", "std"))
        return {"image": (images[chosen] - mean) / std, "label": labels[chosen]}


@functools.lru_cache(maxsize=32)
def _first_moments(family: ImageFamily, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The moments of block 0 of seed 0. `data_dir` is an argument because equal families may differ in it."""
    images = datasets.load_images(family.dataset, data_dir)["train"]["image"]
    return family._moments(resize_images(images, family.size, family.channels))


def describe_images(name: str, data_dir: str | None) -> datasets.DatasetInfo:
    """`datasets.describe`; raises InputError unless the set holds images."""
    info = datasets.describe(name, data_dir)
    datasets.check_kind(info, "image")
    return info


def check_channels(channels: int) -> None:
    """Raises InputError unless images can have that many channels."""
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 (grey) or 3 (colour), not {show(channels)}")
