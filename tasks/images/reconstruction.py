"""What the families that reconstruct images from a short code share: no labels, and the unit of the pixels."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from lopt.names import check_known
from lopt.types import Batch, Params

from ..checks import check_memory, check_whole, check_widths, mlp_numbers
from ..networks import ACTIVATIONS
from .family import ImageFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageReconstruction(ImageFamily):
    """A task on images alone."""

    ignores_labels: ClassVar[bool] = True  # so that label_noise and permute_labels refuse it

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """There are none: `{}`."""
        del params, key, batch
        return {}


def check_code(family: Any) -> None:
    """Raises InputError unless a family's code, and the MLPs around it, have sizes and an activation that exist."""
    check_widths(family)
    check_whole(family, latent_size=1)
    check_known("activation", family.activation, ACTIVATIONS)
    encoder = (family.size**2 * family.channels, *family.hidden_sizes, family.latent_size)
    check_memory(family, **mlp_numbers((*encoder, *encoder[-2::-1]), family.batch_size))


def code_gains(activation: str) -> dict[str, Any]:
    """For `init_params`: the activation's gain / fan-in, and small last kernels, so that outputs start near 0."""
    return {"gain": ACTIVATIONS[activation][1], "gains": {"output": 0.1}}


def pixel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, h, w, c] -> the mean image, float32 [F], and s, float32 [1]: s^2 is the mean over the pixels of the
    variance about it, so that the squared error of guessing the mean image is 1 per standardised pixel."""
    flat = images.reshape(len(images), -1)
    spread = math.sqrt(flat.var(0, dtype=np.float64).mean())
    return flat.mean(0, dtype=np.float64).astype(np.float32), np.array([max(spread, 1)], np.float32)
