"""What a rule is given at a step: a loss that is the same on all processes, and gradients without NaN."""

from collections.abc import Sequence
from typing import Any

import torch

from lopt.names import InputError
from lopt.torch.parts.sums import added_up, is_sharded, local_part, whole

_norms: Any = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]


def as_loss(loss: Any, rule: str, device: torch.device) -> torch.Tensor:
    """The loss as a float32 scalar, averaged over the processes of a distributed training.

    Replicas see different batches. A rule that read a different loss on each would let their parameters drift apart.

    Raises:
      InputError: there is none, or it is not a real number.
    """
    if loss is None:
        raise InputError(
            f"{rule} reads the loss, which it was not given: call optimizer.step(loss=loss), step(closure) with a "
            "closure that returns it, or, where a framework calls step, optimizer.set_loss(loss) before; "
            "docs/pytorch.md names the rules that need none"
        )
    x = whole(loss.detach()) if isinstance(loss, torch.Tensor) else torch.as_tensor(loss)
    if x.numel() != 1 or x.is_complex() or x.dtype == torch.bool:
        raise InputError(f"loss must be a real number, not {x.dtype}{list(x.shape)}")
    x = x.to(device=device, dtype=torch.float32, copy=True).reshape(())
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x


def clean_gradients(grads: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Copies in float32 with zeros for elements that are not finite, and whether all elements were finite, a bool."""
    parts = [part for grad in grads if (part := local_part(grad)).numel()]
    largest = [x.float() for x in _norms(parts, ord=float("inf"))] if parts else [grads[0].new_zeros(())]
    bad = (~torch.isfinite(torch.stack(largest))).sum().float()
    sharded = next((grad for grad in grads if is_sharded(grad)), bad)
    (bad,) = added_up([bad], sharded)
    return [torch.nan_to_num(grad.float(), nan=0.0, posinf=0.0, neginf=0.0) for grad in grads], bad == 0
