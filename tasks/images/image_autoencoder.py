"""Autoencoding images with an MLP, through a code of a few numbers."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lopt.types import Batch, Params

from ..networks import MLP, apply, init_params
from .reconstruction import ImageReconstruction, check_code, code_gains, pixel_moments


class Autoencoder(nn.Module):
    """[B, F] -> [B, F]: an MLP to a code of `latent_size` numbers, and its mirror image back."""

    hidden_sizes: tuple[int, ...]
    latent_size: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        latent = MLP(self.hidden_sizes, self.latent_size, self.activation, name="encoder")(x)
        return MLP(self.hidden_sizes[::-1], x.shape[-1], self.activation, name="decoder")(latent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageAutoencoder(ImageReconstruction):
    """mean_{b,i} (net(x)_{bi} - x_{bi})^2: the squared error of the pixels in units of their variance.

    x = (pixel - mean image) / s, where s^2 is the mean over the pixels of their variance about the mean image, both of
    the train split. So whatever the range of the pixels, the loss is the mean squared error divided by that of the best
    guess that does not see the image: 1 is the mean image, 0 is perfect.

    Attributes:
      hidden_sizes: width of each hidden layer of the encoder; the decoder has them in reverse.
      latent_size: length of the code.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      batch_size: images per batch.
    """

    head: ClassVar[str] = "image_autoencoder"
    hidden_sizes: tuple[int, ...] = (64,)
    latent_size: int = 8
    activation: str = "relu"
    batch_size: int = 128

    def _check(self) -> None:
        check_code(self)

    def _moments(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pixel_moments(images)

    @property
    def _net(self) -> Autoencoder:
        return Autoencoder(self.hidden_sizes, self.latent_size, self.activation)

    def _init(self, key: jax.Array) -> Params:
        """Normal kernels of variance gain / fan-in; the last ones are small, so that the first guess is the mean."""
        return init_params(self._net, key, (1, self.size**2 * self.channels), **code_gains(self.activation))

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean squared error, in units of the pixels' variance."""
        del key
        return jnp.mean((apply(self._net, params, batch["image"]) - batch["image"]) ** 2)

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """The loss itself: 1 is guessing the mean image."""
        return loss
