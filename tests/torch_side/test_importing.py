"""Neither side loads the other: lopt needs no PyTorch, and lopt.torch loads no JAX."""

import importlib.util

import pytest

from tests.test_imports import run, sources, within

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: make test-torch installs it"
)
HEAVY = {"jax", "jaxlib", "flax", "optax", "wandb", "matplotlib", "orbax", "tensorflow"}


def test_lopt_and_a_rule_load_without_pytorch():
    program = "import sys, lopt; lopt.load('demo_mlp', num_steps=5); print(*sys.modules)"
    assert "torch" not in run(program).split()


def test_without_pytorch_the_message_says_what_to_install():
    program = """
import sys
sys.modules["torch"] = None
try:
    import lopt.torch
except ImportError as error:
    print(error)
"""
    assert run(program) == "lopt.torch needs PyTorch: pip install 'lopt[torch]'\n"


@needs_torch
def test_a_training_in_pytorch_loads_no_jax():
    program = """
import sys, torch
from lopt.torch import Learned
param = torch.nn.Parameter(torch.ones(3, 2))
param.grad = torch.ones(3, 2)
Learned([param], "blend_digits", num_steps=10).step(loss=1.0)
print(*{name.partition(".")[0] for name in sys.modules}, param.min().item() < 1)
"""
    *packages, moved = run(program).split()
    assert HEAVY & set(packages) == set()
    assert moved == "True"


@pytest.mark.parametrize("source", [x for x in sources("lopt") if not x.startswith("lopt/torch/")])
def test_only_one_room_knows_pytorch(source):
    from tests.test_imports import imported

    assert [name for name in imported(source) if within(name, "torch", "lopt.torch")] == []
