"""Bringing images to the size and the channels of a family, in numpy."""

import numpy as np

# Weights of red, green and blue in the grey level (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

IMAGES_AT_ONCE = 1024  # bounds the float copies


def resize_images(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """uint8 [n, h, w, 1 or 3] -> uint8 [n, size, size, channels], by linear interpolation, antialiased.

    A grey image becomes a colour image of three equal channels. An image that is not square is squeezed.
    """
    n, height, width, depth = images.shape
    if depth == channels and (height, width) == (size, size):
        return images
    rows, columns = _resize_weights(height, size), _resize_weights(width, size)
    result = np.empty((n, size, size, channels), np.uint8)
    for start in range(0, n, IMAGES_AT_ONCE):
        x = images[start : start + IMAGES_AT_ONCE].astype(np.float32)
        if depth == 3 and channels == 1:
            x = x @ LUMA[:, None]
        x = np.einsum("yh,nhwc,xw->nyxc", rows, x, columns, optimize=True)
        result[start : start + IMAGES_AT_ONCE] = np.rint(x)  # also copies one channel into three
    return result


def _resize_weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old], rows summing to 1: the share of each old pixel in each new one, along one axis.

    As `jax.image.resize(..., "linear", antialias=True)`, but in numpy, which compiles nothing and uses no device.
    The triangle is as wide as the coarser of the two grids.
    """
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centres - np.arange(old)[None, :]) / max(scale, 1))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
