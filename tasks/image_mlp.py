"""Image classification with a multi-layer perceptron: small images, one task per data set."""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError, Spec, check_known
from lopt.types import Batch, Config, Data, Params, Task
from tasks import datasets

# Activation, and the weight variance times fan-in that keeps the size of its outputs: He's 2 where half is cut off.
ACTIVATIONS = {"relu": (jax.nn.relu, 2.0), "gelu": (jax.nn.gelu, 2.0), "tanh": (jnp.tanh, 1.0)}

# Weights of red, green and blue in the grey level (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# What the data set decides, or where it lies; not a part of the name.
_UNNAMED = ("dataset", "num_classes", "data_dir")


@dataclasses.dataclass(frozen=True)
class ImageMLP:
    """Trains an MLP on standardised images of `size` x `size` x `channels`, flattened to F = size * size * channels.

    Attributes:
      dataset: a name that `datasets.describe` knows.
      size: images are resized to a square of this many pixels a side.
      channels: 1, grey; or 3, colour.
      hidden_sizes: width of each hidden layer; empty for a linear classifier.
      activation: of the hidden layers, one of `ACTIVATIONS`.
      batch_size: images a batch, B below.
      num_classes: number of classes of the data set, C below.
      data_dir: where the data set is looked for; None for the default.
    """

    dataset: str = "digits"
    size: int = 8
    channels: int = 1
    hidden_sizes: tuple[int, ...] = (32,)
    activation: str = "relu"
    batch_size: int = 128
    num_classes: int = 10
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        for setting, least in (("size", 1), ("batch_size", 1), ("num_classes", 2)):
            value = getattr(self, setting)
            if type(value) is not int or value < least:
                raise InputError(f"{setting} must be a whole number of at least {least}, not {value!r}")
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 (grey) or 3 (colour), not {self.channels!r}")
        widths = self.hidden_sizes
        if not isinstance(widths, tuple) or any(type(width) is not int or width < 1 for width in widths):
            raise InputError(f"hidden_sizes must be a tuple of positive whole numbers such as (32,), not {widths!r}")
        check_known("activation", self.activation, ACTIVATIONS)

    @property
    def name(self) -> str:
        """`image_mlp/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        named = (field for field in dataclasses.fields(self) if field.name not in _UNNAMED)
        settings = {f.name: getattr(self, f.name) for f in named if getattr(self, f.name) != f.default}
        return str(Spec(f"image_mlp/{self.dataset}", settings))

    def load(self) -> Data:
        """Reads the set and brings it to the family's size and channels.

        Returns:
          `{split: {"image": uint8 [n, F], "label": int32 [n]}}` for each of the four splits, and `"mean"`, `"std"`
          float32 [channels], in grey levels, of the images of the train split.
        """
        info = datasets.describe(self.dataset, self.data_dir)
        if info.num_classes != self.num_classes:
            raise InputError(f"{self.dataset!r} has {info.num_classes} classes: num_classes is {self.num_classes}")
        data: dict[str, object] = {}
        for split, arrays in datasets.load_images(self.dataset, self.data_dir).items():
            image = resize_images(arrays["image"], self.size, self.channels)
            data[split] = {"image": image.reshape(len(image), -1), "label": arrays["label"]}
            if split == "train":
                data["mean"] = image.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
                # At least one grey level, so that a channel without any contrast is not divided by zero.
                data["std"] = np.maximum(image.std((0, 1, 2), dtype=np.float64), 1).astype(np.float32)
        return data

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is `{"image": float32 [B, F], "label": int32 [B]}`, of any B."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"image": float32 [B, F], standardised by the train split's mean and std, "label": int32 [B]}`."""
        del config
        images, labels = data[split]["image"], data[split]["label"]
        # Not randint: its remainders of whole numbers take a quarter of an inner step's time. Of the 2^23 values of
        # uniform, each image gets equally many, give or take one; the product never rounds up to len(labels).
        chosen = (jax.random.uniform(key, (self.batch_size,)) * len(labels)).astype(jnp.int32)
        # Channels come last in the flattened pixels, so one period of the pattern is one pixel.
        mean, std = (jnp.tile(data[moment], self.size**2)[None, :] for moment in ("mean", "std"))
        return {"image": (images[chosen] - mean) / std, "label": labels[chosen]}

    def _init(self, key: jax.Array) -> Params:
        """`{"layer_0": {"w": [F, h], "b": [h]}, ...}`: normal weights of variance gain / fan-in, zero biases."""
        sizes = (self.size**2 * self.channels, *self.hidden_sizes, self.num_classes)
        shapes = list(itertools.pairwise(sizes))
        # One draw for all layers, as each call of normal costs a third of a second of compile time.
        flat = jax.random.normal(key, (sum(math.prod(shape) for shape in shapes),))
        params, start = {}, 0
        for layer, (fan_in, fan_out) in enumerate(shapes):
            gain = ACTIVATIONS[self.activation][1] if layer < len(self.hidden_sizes) else 1.0
            w = flat[start : start + fan_in * fan_out].reshape(fan_in, fan_out) * math.sqrt(gain / fan_in)
            params[f"layer_{layer}"] = {"w": w, "b": jnp.zeros(fan_out)}
            start += fan_in * fan_out
        return params

    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        """float32 [B, F] -> [B, C]."""
        x = images
        for layer in range(len(self.hidden_sizes) + 1):
            w, b = params[f"layer_{layer}"]["w"], params[f"layer_{layer}"]["b"]
            x = x @ w + b[None, :]
            if layer < len(self.hidden_sizes):
                x = ACTIVATIONS[self.activation][0](x)
        return x

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean cross-entropy, in nats."""
        del key
        log_probability = jax.nn.log_softmax(self._logits(params, batch["image"]))
        # A mask rather than an index: the gradient of an indexing is a scatter, which is slow in the inner loop.
        is_label = batch["label"][:, None] == jnp.arange(self.num_classes)[None, :]
        return -jnp.mean(jnp.sum(log_probability, axis=-1, where=is_label))

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of uniform guessing."""
        return loss / math.log(self.num_classes)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`: fraction of the batch whose largest logit is the label's."""
        del key
        guess = jnp.argmax(self._logits(params, batch["image"]), axis=-1)
        return {"accuracy": jnp.mean(guess == batch["label"])}


def resize_images(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """uint8 [n, h, w, 1 or 3] -> uint8 [n, size, size, channels], by linear interpolation, antialiased.

    A grey image becomes a colour image of three equal channels. An image that is not square is squeezed.
    """
    n, height, width, depth = images.shape
    if depth == channels and (height, width) == (size, size):
        return images
    rows, columns = _resize_weights(height, size), _resize_weights(width, size)
    result = np.empty((n, size, size, channels), np.uint8)
    block = 1024  # images at once, to bound the float copies
    for start in range(0, n, block):
        x = images[start : start + block].astype(np.float32)
        if depth == 3 and channels == 1:
            x = x @ LUMA[:, None]
        x = np.einsum("yh,nhwc,xw->nyxc", rows, x, columns, optimize=True)
        result[start : start + block] = np.rint(x)  # also copies one channel into three
    return result


def _resize_weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old], rows summing to 1: what each old pixel gives each new one, along one axis.

    As `jax.image.resize(..., "linear", antialias=True)`, but in numpy: nothing to compile for every shape, no device.
    The triangle is as wide as the coarser of the two grids.
    """
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centres - np.arange(old)[None, :]) / max(scale, 1))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
