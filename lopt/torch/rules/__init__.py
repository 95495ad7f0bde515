"""The rules that PyTorch has, one per file: each computes what the rule of this name in `lopt/optimizers/` computes.

Their settings come from exports, where they were checked. A new rule needs its file and a row here;
`tests/torch_side/test_parity.py` then compares it with the one in JAX.
"""

from collections.abc import Callable

from lopt.torch.rules.adafac_mlp import AdafacMLP
from lopt.torch.rules.blend import Blend
from lopt.torch.rules.celo import Celo
from lopt.torch.rules.celo2 import Celo2
from lopt.torch.rules.celo_adam import CeloAdam
from lopt.torch.rules.mlp import MLPOptimizer
from lopt.torch.rules.star import Star
from lopt.torch.types import Rule

RULES: dict[str, Callable[..., Rule]] = {
    "adafac_mlp": AdafacMLP,
    "blend": Blend,
    "celo": Celo,
    "celo2": Celo2,
    "celo_adam": CeloAdam,
    "mlp": MLPOptimizer,
    "star": Star,
}
