"""Image classification with perceptrons of sampled width, depth, activation, scale and data set, all of one shape."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError
from lopt.types import SPLITS, Batch, Config, Data, Params, Task

from .. import datasets
from ..checks import MOST_LAYERS, check_memory, check_range, check_whole, mlp_numbers
from ..naming import UNNAMED, family_name
from ..networks import ACTIVATIONS, accuracy, cross_entropy
from ..sampling import sample_indices
from .family import check_channels, describe_images
from .image_mlp import ImageMLP

# Added to the logits of classes that a data set lacks. Finite, so that noise in the labels may name them.
MISSING = -10.0

_FUNCTIONS, _GAINS = zip(*ACTIVATIONS.values(), strict=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomMLP:
    """An `ImageMLP` with hidden_sizes = (width,) * depth, where sample(key) draws the network and the data set.

    All draws share the params of the largest network, so that tasks can be vmapped and compile once: the units of a
    hidden layer past `width` are 0, layers past `depth` pass x on, and classes that the data set lacks get almost no
    probability. Params that play no part are 0, and so are their gradients. Activations are drawn equally often.

    Attributes:
      datasets: image sets, drawn equally often; each is resized, and standardised by its own moments.
      size: images are resized to squares of `size` x `size` pixels.
      channels: 1, grey; or 3, colour.
      widths: smallest and largest width; its logarithm is uniform.
      max_depth: most hidden layers; uniform from 1.
      init_scales: smallest and largest `ImageMLP.init_scale`; its logarithm is uniform.
      batch_size: images per batch, B below.
      num_classes: number of logits, C below; the data sets may have fewer classes.
      data_dir: directory that holds the data sets; None for the default.
    """

    datasets: tuple[str, ...] = ("digits", "mnist_5k")
    size: int = 8
    channels: int = 1
    widths: tuple[int, int] = (8, 64)
    max_depth: int = 3
    init_scales: tuple[float, float] = (0.6, 1.1)
    batch_size: int = 128
    num_classes: int = 10
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False, metadata=UNNAMED)

    def __post_init__(self):
        names = self.datasets
        if not isinstance(names, tuple) or not names or any(not isinstance(name, str) for name in names):
            raise InputError(f"datasets must be a tuple of names such as ('digits', 'mnist_5k'), not {names!r}")
        check_whole(self, size=1, batch_size=1, num_classes=2)
        check_whole(self, max_depth=1, most=MOST_LAYERS)
        check_channels(self.channels)
        for setting, types in (("widths", (int,)), ("init_scales", (int, float))):
            pair = getattr(self, setting)
            if not isinstance(pair, tuple) or len(pair) != 2 or any(type(value) not in types for value in pair):
                raise InputError(f"{setting} must be a pair, the smallest and the largest, not {pair!r}")
            check_range(*pair, setting)
        features, width = self.size**2 * self.channels, self.widths[1]
        sizes = (features, *(width for _ in range(self.max_depth)), self.num_classes)
        check_memory(self, **mlp_numbers(sizes, self.batch_size))

    @property
    def name(self) -> str:
        """`random_mlp`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "random_mlp")

    @property
    def streams(self) -> bool:
        """Whether one of the sets is read one block at a time."""
        return any(datasets.describe(name, self.data_dir).streams for name in self.datasets)

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads the sets, or one block of each, and joins them.

        Returns:
          `{split: {"image": uint8 [n, F], "label": int32 [n], "start": int32 [S], "count": int32 [S]}}` for each of the
          four splits, where the images of set s are rows start[s] to start[s] + count[s]; and `"mean"`, `"std"` float32
          [S, channels], `"num_classes"` int32 [S].
        """
        infos = [describe_images(name, self.data_dir) for name in self.datasets]
        for info in infos:
            if info.num_classes > self.num_classes:
                raise InputError(
                    f"{info.name!r} has {info.num_classes} classes, more than num_classes={self.num_classes}: raise it"
                )
        sets = [self._single(info.name, info.num_classes).load(seed, block) for info in infos]
        data: dict[str, object] = {m: np.stack([arrays[m] for arrays in sets]) for m in ("mean", "std")}
        data["num_classes"] = np.array([info.num_classes for info in infos], np.int32)
        for split in SPLITS:
            count = np.array([len(arrays[split]["label"]) for arrays in sets], np.int32)
            joined = {kind: np.concatenate([arrays[split][kind] for arrays in sets]) for kind in ("image", "label")}
            data[split] = {**joined, "start": (np.cumsum(count) - count).astype(np.int32), "count": count}
        return data

    def _single(self, dataset: str, num_classes: int) -> ImageMLP:
        """The family that loads one of the sets."""
        return ImageMLP(
            dataset=dataset, size=self.size, channels=self.channels, num_classes=num_classes, data_dir=self.data_dir
        )

    def sample(self, key: jax.Array) -> Config:
        """`{"dataset", "width", "depth", "activation": int32, "init_scale": float32}`: set and activation by index."""
        u = jax.random.uniform(key, (5,))

        def log_uniform(u: jax.Array, low: float, high: float) -> jax.Array:
            return low * jnp.exp(u * math.log(high / low))

        low, high = self.widths
        return {
            "dataset": (u[0] * len(self.datasets)).astype(jnp.int32),
            "width": jnp.minimum(log_uniform(u[1], low, high + 1).astype(jnp.int32), high),
            "depth": 1 + (u[2] * self.max_depth).astype(jnp.int32),
            "activation": (u[3] * len(ACTIVATIONS)).astype(jnp.int32),
            "init_scale": log_uniform(u[4], *self.init_scales),
        }

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is what `sample_batch` gives, of any B.

        The loss is already in units of uniform guessing among the classes of the data set.
        """

        def init(key: jax.Array) -> Params:
            return self._init(config, key)

        def loss(params: Params, key: jax.Array, batch: Batch) -> jax.Array:
            del key
            nats = cross_entropy(self._logits(config, params, batch), batch["label"])
            return jnp.mean(nats / jnp.log(batch["num_classes"]))

        def metrics(params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
            del key
            return {"accuracy": accuracy(self._logits(config, params, batch), batch["label"])}

        return Task(init, loss, lambda loss: loss, metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"image": float32 [B, F], standardised, "label": int32 [B], "num_classes": int32 [B], all the same}`."""
        arrays, chosen_set = data[split], config["dataset"]
        chosen = jnp.asarray(arrays["start"])[chosen_set] + sample_indices(
            key, self.batch_size, jnp.asarray(arrays["count"])[chosen_set]
        )
        mean, std = (jnp.tile(jnp.asarray(data[m])[chosen_set], self.size**2)[None, :] for m in ("mean", "std"))
        return {
            "image": (jnp.asarray(arrays["image"])[chosen] - mean) / std,
            "label": jnp.asarray(arrays["label"])[chosen],
            "num_classes": jnp.full(self.batch_size, jnp.asarray(data["num_classes"])[chosen_set]),
        }

    def _init(self, config: Config, key: jax.Array) -> Params:
        """`{"layer_0": {"w": [F, W], "b": [W]}, ..., "output": {"w": [W, C], "b": [C]}}`, W the largest width.

        Normal weights of variance init_scale^2 gain / fan-in, where fan-in counts the units in use; zero biases.
        """
        features, width = self.size**2 * self.channels, self.widths[1]
        shapes = {"layer_0": (features, width)}
        shapes |= {f"layer_{layer}": (width, width) for layer in range(1, self.max_depth)}
        shapes["output"] = (width, self.num_classes)
        flat = jax.random.normal(key, (sum(math.prod(shape) for shape in shapes.values()),))
        used = jnp.arange(width) < config["width"]
        gain = jnp.array(_GAINS)[config["activation"]]
        params, start = {}, 0
        for layer, (name, shape) in enumerate(shapes.items()):
            hidden = name != "output"
            w = flat[start : start + math.prod(shape)].reshape(shape)
            start += w.size
            fan_in = features if layer == 0 else config["width"]
            w = w * (config["init_scale"] * jnp.sqrt((gain if hidden else 1.0) / fan_in))
            if layer > 0:
                w = jnp.where(used[:, None], w, 0)
            if hidden:
                w = jnp.where(used[None, :] & (layer < config["depth"]), w, 0)
            params[name] = {"w": w, "b": jnp.zeros(shape[1])}
        return params

    def _logits(self, config: Config, params: Params, batch: Batch) -> jax.Array:
        """float32 [B, C]."""
        used = (jnp.arange(self.widths[1]) < config["width"])[None, :]
        x = batch["image"]
        for layer in range(self.max_depth):
            leaves = params[f"layer_{layer}"]
            z = x @ leaves["w"] + leaves["b"][None, :]
            y = jnp.select([config["activation"] == i for i in range(len(_FUNCTIONS))], [f(z) for f in _FUNCTIONS])
            y = jnp.where(used, y, 0)
            x = jnp.where(layer < config["depth"], y, x) if layer else y
        lacking = jnp.arange(self.num_classes)[None, :] >= batch["num_classes"][:, None]
        return x @ params["output"]["w"] + params["output"]["b"][None, :] + jnp.where(lacking, MISSING, 0)
