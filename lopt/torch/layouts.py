"""Which axis of a parameter is which: PyTorch's layouts, and the one of Flax, in which rules were meta-trained.

| layout | in PyTorch | as a rule sees it |
|---|---|---|
| `kernel`, the default: Linear, Conv and all others of two axes or more | `[out, in, *window]` | `[*window, in, out]` |
| `transposed_kernel`: ConvTranspose | `[in, out, *window]` | `[*window, in, out]` |
| `embedding`: Embedding, EmbeddingBag | `[number, width]` | the same |
| `as_is`: Conv1D of the library transformers, and any other | any | the same |
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

LAYOUTS = ("kernel", "transposed_kernel", "embedding", "as_is")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Known by name, as it need not be installed: the linear layer of GPT-2, whose kernel is [in, out].
_AS_IS = ("transformers.pytorch_utils", "Conv1D")


def flax_axes(layout: str, num_axes: int) -> tuple[int, ...]:
    """PyTorch's axes in the order of Flax."""
    if num_axes < 2 or layout in ("embedding", "as_is"):
        return tuple(range(num_axes))
    return (*range(2, num_axes), 0, 1) if layout == "transposed_kernel" else (*range(2, num_axes), 1, 0)


def torch_axes(axes: Sequence[int]) -> tuple[int, ...]:
    """The way back: Flax's axes in the order of PyTorch, given `flax_axes`."""
    return tuple(sorted(range(len(axes)), key=lambda axis: axes[axis]))


def flax_path(name: str | None, layout: str, num_axes: int) -> str:
    """The path of a parameter as Flax would write it, `layers/0/kernel`; only its last part if it has no name."""
    module, _, last = (name or "weight").rpartition(".")
    if last == "weight":
        last = "embedding" if layout == "embedding" else "kernel" if num_axes > 1 else "scale"
    return "/".join([*module.split("."), last]) if module else last


def layout_of(module: nn.Module, num_axes: int) -> str:
    """The layout of a module's own parameters."""
    if num_axes < 2:
        return "kernel"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if any((kind.__module__, kind.__qualname__) == _AS_IS for kind in type(module).__mro__):
        return "as_is"
    return "transposed_kernel" if isinstance(module, _TRANSPOSED) else "kernel"


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a model, a group per layout, with their names: what `Learned` takes for `params`.

    A parameter that several modules share has the layout that it has in the first of them. Frozen parameters are left
    out.
    """
    groups: dict[str, list[tuple[str, torch.Tensor]]] = {}
    seen: set[torch.Tensor] = set()
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if param.requires_grad and param not in seen:
                seen.add(param)
                full = f"{prefix}.{name}" if prefix else name
                groups.setdefault(layout_of(module, param.ndim), []).append((full, param))
    return [{"params": params, "layout": layout} for layout, params in groups.items()]
