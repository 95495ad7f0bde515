"""Trained optimizers in PyTorch, without JAX.

optimizer = lopt.torch.Learned(model.parameters(), "blend_digits", num_steps=1000)
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("lopt.torch needs PyTorch: pip install 'lopt[torch]'") from error

from lopt.names import InputError
from lopt.torch.layouts import param_groups
from lopt.torch.optimizer import Learned

__all__ = ["InputError", "Learned", "param_groups"]
