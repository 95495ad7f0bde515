"""Image classification with an MLP-mixer: MLPs along the patches and along the channels in turn."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from ..checks import MOST_LAYERS, check_memory, check_whole
from ..networks import MLP
from .patches import PatchClassifier, check_patches, patches_shape


class Mixer(nn.Module):
    """Patches [B, N, P] -> logits [B, num_classes].

    x = patches W + b;  depth times: x += MLP_N(LN(x)^T)^T, x += MLP_width(LN(x));  logits = mean_N(LN(x)) W + b.
    """

    width: int
    depth: int
    token_width: int
    channel_width: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, name="patches")(x)
        for block in range(self.depth):
            tokens = MLP((self.token_width,), x.shape[1], name=f"tokens_{block}")
            channels = MLP((self.channel_width,), self.width, name=f"channels_{block}")
            x = x + tokens(nn.LayerNorm(name=f"norm_{block}_0")(x).swapaxes(1, 2)).swapaxes(1, 2)
            x = x + channels(nn.LayerNorm(name=f"norm_{block}_1")(x))
        return nn.Dense(self.num_classes, name="classes")(nn.LayerNorm(name="norm")(x).mean(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMixer(PatchClassifier):
    """Trains a `Mixer` on square patches.

    Attributes:
      patch_size: pixels along the side of a patch; divides `size`.
      width: size of a token.
      depth: number of blocks of two MLPs.
      token_width: hidden width of the MLP along the patches.
      channel_width: hidden width of the MLP along the channels.
      batch_size: images per batch.

    Reference: Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, 2021,
    https://arxiv.org/abs/2105.01601.
    """

    head: ClassVar[str] = "image_mixer"
    token_width: int = 16
    channel_width: int = 64
    batch_size: int = 64

    def _check(self) -> None:
        check_patches(self.size, self.patch_size)
        check_whole(self, width=1, token_width=1, channel_width=1)
        check_whole(self, depth=1, most=MOST_LAYERS)
        tokens, values = patches_shape(self.size, self.channels, self.patch_size)
        mlps = 2 * (tokens * self.token_width + self.width * self.channel_width)
        widest = max(tokens * max(self.width, self.channel_width), self.width * self.token_width)
        parameters = self.width * values + self.depth * mlps
        check_memory(self, parameters=parameters, activations=self.batch_size * widest)

    @property
    def _net(self) -> Mixer:
        return Mixer(self.width, self.depth, self.token_width, self.channel_width, self.num_classes)
