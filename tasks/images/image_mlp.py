"""Image classification with a multi-layer perceptron: small images, one task per data set."""

import dataclasses
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from lopt.names import InputError, check_known
from lopt.types import Params

from ..checks import check_memory, check_positive, check_widths, mlp_numbers
from ..networks import ACTIVATIONS
from .classifier import ImageClassifier

LAYER_NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMLP(ImageClassifier):
    """x <- act(norm(x W + b)) for each hidden layer, then logits = x W + b.

    Attributes:
      hidden_sizes: width of each hidden layer; empty for a linear classifier.
      activation: activation of the hidden layers, one of `ACTIVATIONS`.
      batch_size: images per batch.
      init_scale: multiplies the standard deviation of all initial weights.
      layer_norm: whether each hidden layer brings its sums to mean 0 and variance 1, and then to a learned scale and
        shift, before the activation.

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450.
    """

    head: ClassVar[str] = "image_mlp"
    hidden_sizes: tuple[int, ...] = (32,)
    activation: str = "relu"
    batch_size: int = 128
    init_scale: float = 1.0
    layer_norm: bool = False

    def _check(self) -> None:
        check_widths(self)
        check_known("activation", self.activation, ACTIVATIONS)
        check_positive(self, "init_scale")
        if type(self.layer_norm) is not bool:
            raise InputError(f"layer_norm must be True or False, not {self.layer_norm!r}")
        sizes = (self.size**2 * self.channels, *self.hidden_sizes, self.num_classes)
        check_memory(self, **mlp_numbers(sizes, self.batch_size))

    def _init(self, key: jax.Array) -> Params:
        """`{"layer_0": {"w": [F, h], "b": [h]}, ...}`: normal weights of variance init_scale^2 gain / fan-in, zero
        biases. With layer norm a hidden layer also has `"scale"` [h], one, and `"shift"` [h], zero."""
        sizes = (self.size**2 * self.channels, *self.hidden_sizes, self.num_classes)
        shapes = list(itertools.pairwise(sizes))
        # One draw for all layers, as each call of normal costs a third of a second of compile time.
        flat = jax.random.normal(key, (sum(math.prod(shape) for shape in shapes),))
        params, start = {}, 0
        for layer, (fan_in, fan_out) in enumerate(shapes):
            hidden = layer < len(self.hidden_sizes)
            gain = ACTIVATIONS[self.activation][1] if hidden else 1.0
            std = self.init_scale * math.sqrt(gain / fan_in)
            w = flat[start : start + fan_in * fan_out].reshape(fan_in, fan_out) * std
            params[f"layer_{layer}"] = {"w": w, "b": jnp.zeros(fan_out)}
            if hidden and self.layer_norm:
                params[f"layer_{layer}"] |= {"scale": jnp.ones(fan_out), "shift": jnp.zeros(fan_out)}
            start += fan_in * fan_out
        return params

    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        """float32 [B, F] -> [B, C]."""
        x = images
        for layer in range(len(self.hidden_sizes) + 1):
            leaves = params[f"layer_{layer}"]
            x = x @ leaves["w"] + leaves["b"][None, :]
            if layer < len(self.hidden_sizes):
                if self.layer_norm:
                    x = jax.nn.standardize(x, epsilon=LAYER_NORM_EPSILON)
                    x = x * leaves["scale"][None, :] + leaves["shift"][None, :]
                x = ACTIVATIONS[self.activation][0](x)
        return x
