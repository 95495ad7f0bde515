"""Metric learning on images: codes of images of one class are drawn together, those of others apart."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import check_known
from lopt.types import Batch, Params

from ..checks import check_memory, check_positive, check_whole, check_widths, mlp_numbers
from ..networks import ACTIVATIONS, MLP, apply, init_params
from .family import ImageFamily
from .reconstruction import pixel_moments


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageContrastive(ImageFamily):
    """The supervised contrastive loss of a batch, of codes z = net(x) / |net(x)|, in nats.

    -mean_i mean_{j in P(i)} log softmax_{k != i}(z_i . z_k / temperature)_j, where P(i) are the other images of the
    class of image i; an image that is alone in its class is left out. A loss of 1 is that of codes that are all alike,
    ln(B - 1). P. Khosla et al., "Supervised contrastive learning", 2020 (arXiv 2004.11362), equation 2.

    Attributes:
      hidden_sizes: width of each hidden layer.
      latent_size: length of the code.
      temperature: what similarities are divided by.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      batch_size: images per batch, B, at least 3.
    """

    head: ClassVar[str] = "image_contrastive"
    hidden_sizes: tuple[int, ...] = (32,)
    latent_size: int = 8
    temperature: float = 0.5
    activation: str = "relu"
    batch_size: int = 48

    def _check(self) -> None:
        check_widths(self)
        check_whole(self, latent_size=1)
        check_whole(self, batch_size=3)
        check_positive(self, "temperature")
        check_known("activation", self.activation, ACTIVATIONS)
        sizes = (self.size**2 * self.channels, *self.hidden_sizes, self.latent_size)
        check_memory(self, **mlp_numbers(sizes, self.batch_size), similarities=self.batch_size**2)

    def _moments(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pixel_moments(images)

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, self.latent_size, self.activation)

    def _init(self, key: jax.Array) -> Params:
        shape = (1, self.size**2 * self.channels)
        return init_params(self._network(), key, shape, gain=ACTIVATIONS[self.activation][1])

    def _similarities(self, params: Params, batch: Batch) -> jax.Array:
        """z_i . z_k of each two images, [B, B]; -infinity of an image with itself."""
        codes = apply(self._network(), params, batch["image"])
        # 1e-12 keeps the gradient of the length finite where a code is 0.
        codes = codes / jnp.sqrt(jnp.sum(jnp.square(codes), axis=1, keepdims=True) + 1e-12)
        return jnp.where(jnp.eye(len(codes), dtype=bool), -jnp.inf, codes @ codes.T)

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """The mean over the images that share their class with another one; 0 if there is none."""
        del key
        logs = jax.nn.log_softmax(self._similarities(params, batch) / self.temperature)
        labels = batch["label"]
        alike = (labels[:, None] == labels[None, :]) & ~jnp.eye(len(labels), dtype=bool)
        number = jnp.sum(alike, axis=1)
        losses = -jnp.sum(logs, axis=1, where=alike) / jnp.maximum(number, 1)
        return jnp.sum(losses) / jnp.maximum(jnp.sum(number > 0), 1)

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of codes that are all alike."""
        return loss / math.log(self.batch_size - 1)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`: fraction of the batch whose most similar image is of their class."""
        del key
        nearest = jnp.argmax(self._similarities(params, batch), axis=1)
        return {"accuracy": jnp.mean(batch["label"][nearest] == batch["label"])}
