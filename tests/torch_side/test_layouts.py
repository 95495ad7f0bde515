"""PyTorch's axes are mapped to those that Flax computes with."""

import re

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

from lopt.torch import param_groups
from lopt.torch.layouts import LAYOUTS, flax_axes, flax_path, torch_axes
from tests.test_imports import ROOT


def flax_kernel(module):
    (group,) = param_groups(module)
    weight = dict(group["params"])["weight"].detach()
    return weight.permute(flax_axes(group["layout"], weight.ndim)).numpy()


def draw(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_a_linear_layer_multiplies_by_the_kernel():
    module, x = torch.nn.Linear(3, 5, bias=False), draw(2, 3)
    np.testing.assert_allclose(x.numpy() @ flax_kernel(module), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_convolution_is_that_of_jax_by_the_kernel():
    module, x = torch.nn.Conv2d(2, 5, (3, 2), bias=False), draw(1, 2, 6, 7)
    dimensions = ("NCHW", "HWIO", "NCHW")
    found = jax.lax.conv_general_dilated(x.numpy(), flax_kernel(module), (1, 1), "VALID", dimension_numbers=dimensions)
    np.testing.assert_allclose(found, module(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_of_one_pixel_multiplies_by_the_kernel():
    module, x = torch.nn.ConvTranspose2d(3, 5, 1, bias=False), draw(1, 3, 1, 1)
    kernel = flax_kernel(module)
    assert kernel.shape == (1, 1, 3, 5)
    wanted = module(x).detach().reshape(5)
    np.testing.assert_allclose(x.numpy().reshape(3) @ kernel[0, 0], wanted, rtol=1e-5, atol=1e-6)


def test_a_table_stays_as_it_is():
    module = torch.nn.Embedding(7, 3)
    np.testing.assert_array_equal(flax_kernel(module), module.weight.detach())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_way_back(layout):
    for num_axes in range(6):
        axes = flax_axes(layout, num_axes)
        assert tuple(axes[i] for i in torch_axes(axes)) == tuple(range(num_axes))


@pytest.mark.parametrize(
    ("name", "layout", "num_axes", "path"),
    [
        ("layers.0.weight", "kernel", 2, "layers/0/kernel"),
        ("norm.weight", "kernel", 1, "norm/scale"),
        ("table.weight", "embedding", 2, "table/embedding"),
        ("layers.0.bias", "kernel", 1, "layers/0/bias"),
        ("weight", "kernel", 2, "kernel"),
        (None, "embedding", 2, "embedding"),
    ],
)
def test_paths_are_those_of_flax(name, layout, num_axes, path):
    assert flax_path(name, layout, num_axes) == path


def test_groups_of_a_model_have_layouts_and_names():
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(5, 2), "out": torch.nn.Linear(2, 5, bias=False)})
    model["out"].weight = model["table"].weight  # tied: the first module decides
    model["up"] = torch.nn.ConvTranspose1d(2, 3, 2)
    model["up"].bias.requires_grad_(False)
    groups = [(group["layout"], [name for name, _ in group["params"]]) for group in param_groups(model)]
    assert groups == [("embedding", ["table.weight"]), ("transposed_kernel", ["up.weight"])]


# ---- The page ----

PAGE = (ROOT / "docs" / "pytorch.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.partition("\n")[0] for block in BLOCKS])
def test_python_in_the_page_compiles(block):
    compile(block, "docs/pytorch.md", "exec")


def test_the_page_names_every_rule_and_what_it_reads():
    from lopt.torch.rules import RULES

    for name, rule in RULES.items():
        row = re.search(rf"^\| .*`{name}`.*\| (yes|no) \| (yes|no) \|$", PAGE, flags=re.MULTILINE)
        assert row, name
        assert [answer == "yes" for answer in row.groups()] == [x in rule().requires for x in ("value", "num_steps")]
