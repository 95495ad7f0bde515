"""What the image classifiers share: the loss, its unit, the accuracy, and how pixels are standardised."""

import abc
import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lopt.types import Batch, Params

from ..networks import accuracy, cross_entropy
from .family import ImageFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassifier(ImageFamily):
    """Cross-entropy -1/B sum_b log softmax(logits_b)[label_b], in nats; 1 is the loss ln C of uniform guessing."""

    @abc.abstractmethod
    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        """float32 [B, F] -> [B, C]."""

    def _moments(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, float32 [c]."""
        mean, variance = images.mean((0, 1, 2), dtype=np.float64), images.var((0, 1, 2), dtype=np.float64)
        # At least one grey level, so that a channel without any contrast is not divided by zero.
        return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1).astype(np.float32)

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean cross-entropy, in nats."""
        del key
        return jnp.mean(cross_entropy(self._logits(params, batch["image"]), batch["label"]))

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of uniform guessing."""
        return loss / math.log(self.num_classes)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`: fraction of the batch whose largest logit is the label's."""
        del key
        return {"accuracy": accuracy(self._logits(params, batch["image"]), batch["label"])}
