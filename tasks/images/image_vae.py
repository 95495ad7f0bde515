"""Variational autoencoding of images: a latent code with a normal prior, and the bound on log p(x)."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import check_known
from lopt.types import Batch, Params

from ..checks import check_positive
from ..networks import MLP, apply, init_params
from .reconstruction import ImageReconstruction, check_code, code_gains, pixel_moments

LIKELIHOODS = ("bernoulli", "gaussian")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageVAE(ImageReconstruction):
    """-ELBO per pixel, in nats: 1/F (E_{z ~ q(z|x)}[-log p(x|z)] + KL(q(z|x) || N(0, 1))), mean over the batch.

    q(z|x) = N(m, exp(v)) with m, v [L] from the encoder. The expectation is estimated by one draw z = m + exp(v / 2) e,
    with e from the key of the loss. KL = 1/2 sum_j (m_j^2 + exp(v_j) - 1 - v_j). With y [F] from the decoder,
    -log p(x|z) is

    - bernoulli: -sum_i (x_i log s(y_i) + (1 - x_i) log(1 - s(y_i))), s the logistic function, pixels x in 0..1;
    - gaussian: sum_i (y_i - x_i)^2 / (2 noise^2), the constant left out, pixels x as in `ImageAutoencoder`.

    The normalised loss is at least 0, and about 1 at the start: bernoulli divides by ln 2, the loss of guessing grey;
    gaussian multiplies by 2 noise^2, so that the squared error of the mean image is 1.

    Attributes:
      hidden_sizes: width of each hidden layer of the encoder; the decoder has them in reverse.
      latent_size: number L of latent variables.
      likelihood: p(x|z), one of `LIKELIHOODS`.
      noise: standard deviation of the gaussian likelihood, in units of the pixels' standard deviation.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      batch_size: images per batch.

    Reference: Kingma & Welling, Auto-Encoding Variational Bayes, 2013, https://arxiv.org/abs/1312.6114.
    """

    head: ClassVar[str] = "image_vae"
    hidden_sizes: tuple[int, ...] = (64,)
    latent_size: int = 8
    likelihood: str = "bernoulli"
    noise: float = 0.5
    activation: str = "relu"
    batch_size: int = 128

    def _check(self) -> None:
        check_code(self)
        check_known("likelihood", self.likelihood, LIKELIHOODS)
        check_positive(self, "noise")

    def _moments(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.likelihood == "gaussian":
            return pixel_moments(images)
        return np.zeros(1, np.float32), np.full(1, 255, np.float32)

    @property
    def _encoder(self) -> MLP:
        return MLP(self.hidden_sizes, 2 * self.latent_size, self.activation)

    @property
    def _decoder(self) -> MLP:
        return MLP(self.hidden_sizes[::-1], self.size**2 * self.channels, self.activation)

    def _init(self, key: jax.Array) -> Params:
        """Normal kernels of variance gain / fan-in; the last ones are small: q is near N(0, 1), and y near 0."""
        gains = code_gains(self.activation)
        encoder_key, decoder_key = jax.random.split(key)
        return {
            "encoder": init_params(self._encoder, encoder_key, (1, self.size**2 * self.channels), **gains),
            "decoder": init_params(self._decoder, decoder_key, (1, self.latent_size), **gains),
        }

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """-ELBO, in nats per pixel."""
        x = batch["image"]
        m, v = jnp.split(apply(self._encoder, params["encoder"], x), 2, axis=-1)
        z = m + jnp.exp(v / 2) * jax.random.normal(key, m.shape)
        y = apply(self._decoder, params["decoder"], z)
        kl = jnp.sum(m**2 + jnp.exp(v) - 1 - v, axis=-1) / 2
        if self.likelihood == "bernoulli":
            surprise = jnp.sum(jax.nn.softplus(y) - x * y, axis=-1)
        else:
            surprise = jnp.sum((y - x) ** 2, axis=-1) / (2 * float(self.noise) ** 2)
        return jnp.mean(surprise + kl) / x.shape[-1]

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """About 1 if the decoder gives a grey image, or the mean image, and the code is the prior."""
        return loss / math.log(2) if self.likelihood == "bernoulli" else loss * (2 * float(self.noise) ** 2)
