"""Orthogonalized directions: what Muon does to a momentum."""

import torch

from lopt.torch.parts.sums import like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(x: torch.Tensor, num_steps: int = 5) -> torch.Tensor:
    """Brings the singular values of matrices near 1 by Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X.

    A matrix that is on several devices is gathered on each of them, and each computes all of it.

    Args:
      x: `[..., rows, columns]`, divided by its Frobenius norm before the first step.
      num_steps: number of steps.
    """
    sharded, x = x, whole(x)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x * torch.rsqrt(x.square().sum(dim=(-2, -1), keepdim=True) + 1e-16)
    a, b, c = NEWTON_SCHULZ
    shape, x = x.shape, x.reshape(-1, *x.shape[-2:])
    for _ in range(num_steps):  # the sums are part of the products
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(shape)
    return like(x.mT if tall else x, sharded)
