"""Image classification with a vision transformer: small by default, a few milliseconds per step on a CPU."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax

from lopt.names import InputError

from ..checks import MOST_LAYERS, check_memory, check_whole
from ..networks import MLP
from .patches import PatchClassifier, check_patches, patches_shape


class Attention(nn.Module):
    """Self-attention over N tokens, [B, N, width] -> [B, N, width]: concat_h(softmax(q_h k_h^T / sqrt(d)) v_h) W + b,
    where each head's q, k, v [N, d], d = width / num_heads, are linear in x."""

    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        size = width // self.num_heads
        q, k, v = (
            nn.Dense(width, name=name)(x).reshape(batch, tokens, self.num_heads, size).swapaxes(1, 2)
            for name in ("query", "key", "value")
        )
        weights = jax.nn.softmax(q @ k.swapaxes(2, 3) / math.sqrt(size))  # [B, heads, N, N]
        return nn.Dense(width, name="output")((weights @ v).swapaxes(1, 2).reshape(batch, tokens, width))


class ViT(nn.Module):
    """Patches [B, N, P] -> logits [B, num_classes].

    x = patches W + b + position;  depth times: x += attention(LN(x)), x += MLP(LN(x));  logits = mean_N(LN(x)) W + b.
    """

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, name="patches")(x)
        position = nn.Embed(x.shape[1], self.width, name="position").embedding
        x = x + position[None, :, :]
        for block in range(self.depth):
            x = x + Attention(self.num_heads, name=f"attention_{block}")(nn.LayerNorm(name=f"norm_{block}_0")(x))
            mlp = MLP((self.mlp_width,), self.width, name=f"mlp_{block}")
            x = x + mlp(nn.LayerNorm(name=f"norm_{block}_1")(x))
        return nn.Dense(self.num_classes, name="classes")(nn.LayerNorm(name="norm")(x).mean(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageViT(PatchClassifier):
    """Trains a `ViT` on square patches. Instead of a class token, the classifier reads the mean over the tokens.

    Attributes:
      patch_size: pixels along the side of a patch; divides `size`.
      width: size of a token.
      depth: number of blocks of attention and MLP.
      num_heads: heads of the attention; divides `width`.
      mlp_ratio: hidden width of the MLP over `width`.
      batch_size: images per batch.

    Reference: Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, https://arxiv.org/abs/2010.11929.
    """

    head: ClassVar[str] = "image_vit"
    num_heads: int = 4
    mlp_ratio: int = 2
    batch_size: int = 64

    def _check(self) -> None:
        check_patches(self.size, self.patch_size)
        check_whole(self, width=1, num_heads=1, mlp_ratio=1)
        check_whole(self, depth=1, most=MOST_LAYERS)
        if self.width % self.num_heads:
            raise InputError(f"num_heads must divide width={self.width}, not be {self.num_heads}")
        tokens, values = patches_shape(self.size, self.channels, self.patch_size)
        mlp_width = self.mlp_ratio * self.width
        check_memory(
            self,
            parameters=self.width * (values + self.depth * (4 * self.width + 2 * mlp_width)),
            activations=self.batch_size * tokens * max(self.width, mlp_width, self.num_heads * tokens),
        )

    @property
    def _net(self) -> ViT:
        return ViT(self.width, self.depth, self.num_heads, self.mlp_ratio * self.width, self.num_classes)
