"""A task family of a person's own functions and arrays: `lopt.task`."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import MAX_WHOLE, InputError
from lopt.own.models import Anatomy, dissect
from lopt.own.splits import Splits
from lopt.trees import describe
from lopt.types import Batch, Config, Data, Params, PyTree, Task

# `(params, key, batch) -> scalar`, where params are what `init` returned.
LossFn = Callable[[Any, jax.Array, Batch], jax.Array]
DRAWS = 8  # of fresh params, over which the loss at the start is averaged


def task(
    *,
    init: Callable[[jax.Array], Any],
    loss: LossFn,
    data: PyTree = None,
    name: str,
    batch_size: int = 64,
    metrics: Callable[[Any, jax.Array, Batch], Mapping[str, jax.Array]] | None = None,
    trivial_loss: float | None = None,
) -> "OwnTask":
    """A task family of your own functions, for `lopt.meta_train`, `lopt.evaluate` and `lopt.tune`.

    Args:
      init: `(key) -> params`: arrays in dicts, lists and tuples, or a module of Flax NNX or Equinox, of which the
        floating-point arrays are trained. Statistics that a module changes in its call are not carried on.
      loss: `(params, key, batch) -> scalar`, where params are what `init` returns; the key is for noise of its own.
      data: arrays that share their first axis, one row per example, in dicts, lists or tuples; or such arrays by split,
        `{"train": ..., "meta": ..., "valid": ..., "test": ...}`, of which `train` must be there. A split that is
        missing is cut from it, after a shuffle with a fixed seed. None for a loss that draws all from its key.
      name: what results are called.
      batch_size: rows of a batch, drawn with replacement.
      metrics: `(params, key, batch) -> {name: scalar}`, such as an accuracy, to be shown beside the loss.
      trivial_loss: the loss of guessing, in the loss's own unit. By default that of fresh params, the mean of 8.

    Returns:
      A task family, equal to another one of the same functions, arrays and settings.

    Raises:
      InputError: something is not as described above. Whether the loss is finite is seen when the data are loaded.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import lopt
    >>> def init(key):
    ...     return {"slope": jnp.zeros(())}
    >>> def loss(params, key, batch):
    ...     return jnp.mean((params["slope"] * batch["x"] - batch["y"]) ** 2)
    >>> x = np.arange(100.0)
    >>> line = lopt.task(init=init, loss=loss, data={"x": x, "y": 2 * x}, name="line", batch_size=8)
    >>> sorted(line.load())
    ['meta', 'test', 'train', 'valid']
    """
    if not re.fullmatch(r"[\w./ =-]+", name):
        raise InputError(f"name must be letters, digits, blanks and any of . / = - _, not {name!r}")
    if type(batch_size) is not int or not 1 <= batch_size <= MAX_WHOLE:
        raise InputError(f"batch_size must be a whole number of at least 1, not {batch_size}")
    if trivial_loss is not None and not (math.isfinite(trivial_loss) and trivial_loss != 0):
        raise InputError(f"trivial_loss must be a finite number other than 0, not {trivial_loss}")
    made = OwnTask(name, init, loss, Splits.of(data), batch_size, metrics, trivial_loss)
    made.check()
    return made


@dataclasses.dataclass(frozen=True)
class OwnTask:
    """What `task` returns; the attributes are its arguments."""

    name: str
    init: Callable[[jax.Array], Any]
    loss: LossFn
    data: Splits
    batch_size: int
    metrics: Callable[[Any, jax.Array, Batch], Mapping[str, jax.Array]] | None
    trivial_loss: float | None

    @property
    def spelling(self) -> str:
        """What a run's config says: the loss's module, the names of init and loss, settings, the data's checksum."""
        module = getattr(self.loss, "__module__", type(self.loss).__module__)
        loss = getattr(self.loss, "__qualname__", type(self.loss).__qualname__)
        init = getattr(self.init, "__qualname__", type(self.init).__qualname__)
        settings = f"batch_size={self.batch_size}:trivial_loss={self.trivial_loss}:data={self.data.sha256[:16]}"
        return f"{module}:lopt.task:name={self.name!r}:init={init!r}:loss={loss!r}:{settings}"

    @property
    def streams(self) -> bool:
        return False

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """What of the model is trained."""
        return dissect(self.init)

    @functools.cached_property
    def start(self) -> float:
        """The loss that counts as 1: `trivial_loss`, or that of fresh params, measured."""
        if self.trivial_loss is not None:
            return self.trivial_loss
        with jax.ensure_compile_time_eval():
            (start,) = measure_start(
                self.init_params, {"loss": self.draw_loss("train")}, self.data.arrays, jax.random.key(0)
            )
        return start

    def check(self) -> None:
        """Raises InputError unless the functions return what they should; nothing is computed."""
        check_numbers(self.init_params, {"loss": self.draw_loss("train")}, self.data.arrays)

    def init_params(self, key: jax.Array) -> Params:
        """Fresh params as arrays."""
        return self.anatomy.params(self.init(key))

    def draw_loss(self, split: str) -> LossFn:
        """`(params, key, data) -> scalar`, the loss of a batch of a split, drawn with the key: what `tune` takes."""

        def loss(params: Params, key: jax.Array, data: Data) -> jax.Array:
            batch_key, loss_key = jax.random.split(key)
            return self._loss(params, loss_key, self.sample_batch(data, batch_key, {}, split))

        return loss

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """The arrays by split. Raises InputError if the loss of fresh params is not finite."""
        del seed, block
        assert math.isfinite(self.start)
        return self.data.arrays

    def sample(self, key: jax.Array) -> Config:
        del key
        return {}

    def task(self, config: Config) -> Task:
        del config
        return Task(self.init_params, self._loss, lambda loss: normalized(loss, self.start), self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """Rows of the arrays, `[batch_size, ...]`, or () without data."""
        del config
        if not data:
            return ()
        number = len(jax.tree.leaves(data[split])[0])
        # Not `randint`, which is slow; the product never rounds up to the number.
        rows = (jax.random.uniform(key, (self.batch_size,), jnp.float32) * number).astype(jnp.int32)
        return jax.tree.map(lambda x: jnp.asarray(x)[rows], data[split])

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        return self.loss(self.anatomy.model(params), key, batch)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        return {} if self.metrics is None else self.metrics(self.anatomy.model(params), key, batch)


def normalized(loss: jax.Array, start: float) -> jax.Array:
    """1 at the start, 0 at a loss of 0, and rising with it, for negative losses too: 1 + (loss - start) / |start|."""
    return 1 + (loss - start) / max(abs(start), 1e-6)


def denormalized(loss: np.ndarray, start: float) -> np.ndarray:
    """A normalized loss in its own unit again."""
    return start + (loss - 1) * max(abs(start), 1e-6)


def check_numbers(init: Callable[[jax.Array], Params], functions: Mapping[str, LossFn], data: Data) -> None:
    """Raises InputError unless each `function(init(key), key, data)` is one number. Nothing is computed."""
    for name, function in functions.items():

        def call(data: Data, function: LossFn = function) -> Any:
            key = jax.random.key(0)
            return function(init(key), key, data)

        try:
            found = jax.eval_shape(call, data)
        except InputError:
            raise
        except Exception as error:  # whatever it raises
            raise InputError(f"{name} fails on fresh params: {type(error).__name__}: {error}") from error
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape != ():
            raise InputError(
                f"{name} must return one number, the loss, and nothing beside it: it returns "
                f"{jax.tree.map(describe, found)}"
            )


def measure_start(
    init: Callable[[jax.Array], Params], functions: Mapping[str, LossFn], data: Data, key: jax.Array
) -> list[float]:
    """The mean of each function over `DRAWS` fresh params. Raises InputError where one is not finite."""

    @jax.jit
    def fresh(keys: jax.Array, data: Data) -> list[jax.Array]:
        def one(key: jax.Array) -> list[jax.Array]:
            params = init(key)
            return [function(params, jax.random.fold_in(key, 1), data) for function in functions.values()]

        return jax.lax.map(one, keys)

    values = [np.asarray(value) for value in fresh(jax.random.split(key, DRAWS), data)]
    for name, found in zip(functions, values, strict=True):
        if not np.isfinite(found).all():
            raise InputError(f"{name} of fresh params must be a finite number, not {found[0]}")
    return [float(found.mean()) for found in values]
