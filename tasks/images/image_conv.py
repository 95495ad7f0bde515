"""Image classification with a convolutional network: plain, or residual; no batch statistics."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from lopt.names import InputError, check_known
from lopt.types import Params

from ..checks import check_memory, check_whole, check_widths
from ..networks import apply, init_params
from .classifier import ImageClassifier
from .convolution import Conv

NORMS = ("none", "group", "layer")


class Norm(nn.Module):
    """Brings [B, h, w, c] to mean 0 and variance 1 over pixels and the channels of a group, then to a learned scale
    and bias per channel.

    Attributes:
      kind: one of `NORMS`: none; group, groups of channels; layer, one group.
      num_groups: number of groups if the kind is `group`.

    Reference: Wu & He, Group Normalization, 2018, https://arxiv.org/abs/1803.08494.
    """

    kind: str
    num_groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "none":
            return x
        return nn.GroupNorm(self.num_groups if self.kind == "group" else 1, name="norm")(x)


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))): [B, h, w, c] -> [B, h / stride, w / stride, width].

    If the shape changes, a 1x1 convolution called `shortcut` brings x to it.

    Reference: He et al., Identity Mappings in Deep Residual Networks, 2016, https://arxiv.org/abs/1603.05027.
    """

    width: int
    stride: int
    norm: str
    num_groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(Norm(self.norm, self.num_groups, name="norm_0")(x))
        y = Conv(self.width, 3, self.stride, name="conv_0")(y)
        y = jax.nn.relu(Norm(self.norm, self.num_groups, name="norm_1")(y))
        y = Conv(self.width, name="conv_1")(y)
        if x.shape != y.shape:
            x = Conv(self.width, 1, self.stride, name="shortcut")(x)
        return x + y


class ConvNet(nn.Module):
    """[B, h, w, c] -> logits [B, num_classes]: one stage per width, then the mean over pixels and a linear layer.

    The first stage keeps the resolution, each later one halves it. A stage is relu(norm(conv3x3)), or a residual block;
    before the residual blocks a 3x3 convolution, `stem`, gives the first width.
    """

    widths: tuple[int, ...]
    num_classes: int
    residual: bool
    norm: str
    num_groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.residual:
            x = Conv(self.widths[0], name="stem")(x)
        for stage, width in enumerate(self.widths):
            stride = 1 if stage == 0 else 2
            if self.residual:
                x = ResidualBlock(width, stride, self.norm, self.num_groups, name=f"stage_{stage}")(x)
            else:
                x = Conv(width, 3, stride, name=f"stage_{stage}")(x)
                x = jax.nn.relu(Norm(self.norm, self.num_groups, name=f"norm_{stage}")(x))
        if self.residual:
            x = jax.nn.relu(Norm(self.norm, self.num_groups, name="norm")(x))
        return nn.Dense(self.num_classes, name="output")(x.mean((1, 2)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConv(ImageClassifier):
    """Trains a `ConvNet` on images [B, size, size, channels].

    Attributes:
      widths: number of channels of each stage.
      residual: whether stages are residual blocks.
      norm: normalisation of each image before each activation, one of `NORMS`.
      num_groups: number of groups of channels that norm=group standardises separately.
      batch_size: images per batch.
    """

    head: ClassVar[str] = "image_conv"
    widths: tuple[int, ...] = (16, 32)
    residual: bool = False
    norm: str = "none"
    num_groups: int = 4
    batch_size: int = 128

    def _check(self) -> None:
        check_widths(self, "widths")
        if not self.widths:
            raise InputError("widths must name at least one stage, such as (16, 32)")
        if type(self.residual) is not bool:
            raise InputError(f"residual must be True or False, not {self.residual!r}")
        check_known("norm", self.norm, NORMS)
        check_whole(self, num_groups=1)
        if self.norm == "group" and any(width % self.num_groups for width in self.widths):
            raise InputError(f"norm=group needs widths that num_groups={self.num_groups} divides, not {self.widths}")
        inputs = (self.channels, *self.widths[:-1])
        pixels = [self.batch_size * -((-self.size // 2**stage) ** 2) for stage in range(len(self.widths))]
        check_memory(
            self,
            parameters=9 * sum(a * b for a, b in zip(inputs, self.widths, strict=True)),
            activations=max(n * width for n, width in zip(pixels, self.widths, strict=True)),
        )

    @property
    def _net(self) -> ConvNet:
        return ConvNet(self.widths, self.num_classes, self.residual, self.norm, self.num_groups)

    def _init(self, key: jax.Array) -> Params:
        """Normal kernels [3, 3, in, out] of variance 2 / (9 in), zero biases.

        The last kernel of each residual branch is smaller, so that many blocks keep the size of x.
        """
        gains = {"output": 1.0, "stem": 1.0, "shortcut": 1.0, "conv_1": 0.5}
        return init_params(self._net, key, (1, self.size, self.size, self.channels), gain=2.0, gains=gains)

    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        """float32 [B, F] -> [B, C]."""
        shape = (-1, self.size, self.size, self.channels)
        return apply(self._net, params, images.reshape(shape))
