"""What the classifiers of image patches share: cutting an image into patches, and initial params."""

import abc
import dataclasses

import flax.linen as nn
import jax

from lopt.names import InputError
from lopt.types import Params

from ..checks import show
from ..networks import apply, init_params
from .classifier import ImageClassifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchClassifier(ImageClassifier):
    """Classifies images cut into N square patches of P values each.

    Attributes:
      patch_size: pixels along the side of a patch; divides `size`.
      width: size of the token that a patch becomes.
      depth: number of blocks.
    """

    patch_size: int = 2
    width: int = 32
    depth: int = 2

    @property
    @abc.abstractmethod
    def _net(self) -> nn.Module:
        """Patches [B, N, P] -> logits [B, C]."""

    def _init(self, key: jax.Array) -> Params:
        """Normal kernels of variance 1 / fan-in, 2 / fan-in before gelu; embeddings of standard deviation 0.02."""
        shape = patches_shape(self.size, self.channels, self.patch_size)
        return init_params(self._net, key, (1, *shape), gains={"layer_0": 2.0})

    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        """float32 [B, F] -> [B, C]."""
        return apply(self._net, params, to_patches(images, self.size, self.channels, self.patch_size))


def check_patches(size: int, patch_size: int) -> None:
    """Raises InputError unless square patches of that side tile an image."""
    if type(patch_size) is not int or patch_size < 1 or size % patch_size:
        raise InputError(f"patch_size must be a whole number that divides size={size}, not {show(patch_size)}")


def patches_shape(size: int, channels: int, patch_size: int) -> tuple[int, int]:
    """Number N of patches of an image, and number P of values in a patch."""
    return (size // patch_size) ** 2, patch_size**2 * channels


def to_patches(images: jax.Array, size: int, channels: int, patch_size: int) -> jax.Array:
    """Flattened images [B, F] -> patches [B, N, P], in reading order, as are the pixels within a patch."""
    side = size // patch_size
    x = images.reshape(-1, side, patch_size, side, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *patches_shape(size, channels, patch_size))
