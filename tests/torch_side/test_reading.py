"""Exports and published weights as PyTorch reads them, and the example."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

from lopt.names import InputError
from lopt.torch.reading import read_trained
from lopt.trained.export import save_export
from lopt.trained.pretrained import load_pretrained
from lopt.trees import by_name
from tests.optimizers.velo_in_numpy import velo_tree
from tests.test_imports import ROOT
from tests.trained.small_export import CARD, MLP, replace_theta, theta_of


@pytest.fixture
def export(tmp_path):
    return save_export(tmp_path / "run" / "export", MLP, theta_of(MLP), card=CARD)


def test_an_export_and_its_run_are_read(export):
    for place in (export, export.parent):
        trained = read_trained(place)
        pretrained = load_pretrained(place)
        assert trained.card == pretrained.card
        assert getattr(trained.rule, "hidden_sizes", None) == (3, 2)
        wanted = by_name(pretrained.theta)
        assert trained.theta.keys() == wanted.keys()
        for name, x in trained.theta.items():
            np.testing.assert_array_equal(x, wanted[name])


def test_what_is_damaged_is_refused(export):
    arrays = {name: np.asarray(x) for name, x in by_name(theta_of(MLP)).items()}
    for changed, match in (
        ({"bias_0": np.zeros(4, np.float32)}, "theta does not fit this architecture: look at bias_0"),
        ({"bias_0": np.full(3, np.nan, np.float32)}, "theta must be finite float32, and bias_0 is not"),
        ({"bias_0": np.zeros(3, np.float16)}, "theta must be finite float32, and bias_0 is not"),
    ):
        replace_theta(export, safetensors.numpy.save({**arrays, **changed}))
        with pytest.raises(InputError, match=match):
            read_trained(export)
    (export / "theta.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"the SHA-256 differs"):
        read_trained(export)


def test_published_weights_of_a_rule_that_pytorch_lacks_are_refused(tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(serialization.msgpack_serialize(velo_tree(np.random.default_rng(0), 8, 2)))
    with pytest.raises(InputError, match="PyTorch lacks the rule velo; it has adafac_mlp, blend"):
        read_trained(path)


@pytest.mark.thorough
def test_the_example_trains():
    command = [sys.executable, "examples/pytorch_loop.py"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # two wait for each other where other tests run
    done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, timeout=120)
    losses = re.fullmatch(r"first loss (\S+), last loss (\S+)\n", done.stdout)
    assert losses, done.stderr
    assert float(losses[2]) < 0.5 * float(losses[1])
