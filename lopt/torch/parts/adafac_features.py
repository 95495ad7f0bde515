"""Inputs of the per-parameter rules that read momenta, mean squares and factored second moments of the gradient.

The same numbers as in `lopt/optimizers/parts/adafac_features.py`. A feature has the shape of the tensors, or length 1
along an axis on which it is constant.
"""

import torch

from lopt.torch.parts.accumulators import Statistics

NUM_ADAFAC_FEATURES = 28
NUM_VELO_FEATURES = 30


def adafac_features(s: Statistics) -> list[torch.Tensor]:
    """The 28 inputs of `adafac_mlp` and `star`, not yet normalized.

    g, p, m[3], rms, m / sqrt(rms)[3], 1 / sqrt(rms), factored g[3], rows[3], columns[3], 1 / sqrt of both[6],
    factored m[3].
    """
    rsqrt = torch.rsqrt(s.rms + 1e-6)
    momenta = [m * rsqrt for m in s.momenta]
    return [s.grad, s.param, *s.momenta, s.rms, *momenta, rsqrt, *_factored_grad(s), *_factored(s)]


def velo_features(s: Statistics, *, epsilon: float = 1e-6) -> list[torch.Tensor]:
    """The 30 inputs of `celo` and `celo2`, not yet normalized.

    g, g clipped to +-0.1, p, m[3], rms, m / sqrt(rms)[3], 1 / sqrt(rms), factored g[3], g / sqrt(rms), rows[3],
    columns[3], 1 / sqrt of both[6], factored m[3].
    """
    rsqrt = torch.rsqrt(s.rms + epsilon)
    momenta = [m * rsqrt for m in s.momenta]
    start = [s.grad, s.grad.clamp(-0.1, 0.1), s.param, *s.momenta, s.rms, *momenta, rsqrt]
    return [*start, *_factored_grad(s), s.grad * rsqrt, *_factored(s)]


def _factored_grad(s: Statistics) -> list[torch.Tensor]:
    return [s.grad * r * c for r, c in zip(s.row_factor, s.column_factor, strict=True)]


def _factored(s: Statistics) -> list[torch.Tensor]:
    """Rows, columns, their reciprocal roots, and the momenta divided by the factored root."""
    if s.grad.ndim < 3:  # the first axis holds the tensors
        momenta = [m * torch.rsqrt(v + 1e-6) for m, v in zip(s.momenta, s.row, strict=True)]
    else:
        momenta = [m * r * c for m, r, c in zip(s.momenta, s.row_factor, s.column_factor, strict=True)]
    roots = [torch.rsqrt(v + 1e-8) for v in (*s.row, *s.column)]
    return [*s.row, *s.column, *roots, *momenta]
