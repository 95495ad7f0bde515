"""The commands of the experiments from jobs to figure, with their programs traced and not run."""

import functools
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import common, report

FOLDER = Path(report.__file__).parent
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.py") if "\nEXPERIMENT = " in path.read_text())
# Their problems, or the trainings by which they judge theta, take too long; `make test-slow` has all quick runs.
LONG = {"char_rnn", "lr_schedule", "lstm_variance", "many_hyperparameters", "swimmer"}


def traced_only(function):
    """As `jax.jit(function)`, but what it returns are shapes and types."""

    @functools.cache
    def answer(treedef, types):
        return jax.eval_shape(function, *jax.tree.unflatten(treedef, types))

    def call(*args):
        leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda *args: args, *args))
        return answer(treedef, tuple(leaves))

    return call


@pytest.fixture
def not_run(monkeypatch):
    """The loop of the experiments, in which programs are traced and answer with noise of the right shapes."""
    random = np.random.default_rng(0)

    def noise(tree):
        return jax.tree.map(lambda x: random.normal(scale=0.01, size=x.shape).astype(x.dtype), tree)

    fake = {**vars(jax), "jit": traced_only, "device_get": noise}
    monkeypatch.setattr(common, "jax", SimpleNamespace(**fake))


def test_all_commands_are_here():
    assert len(EXPERIMENTS) >= 9
    for path in FOLDER.glob("*.py"):
        assert ("def main(" in path.read_text()) == (path.stem in {*EXPERIMENTS, "report", "learned_optimizer"})


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in LONG])
def test_the_command_from_jobs_to_figure(name, tmp_path, capsys, not_run):
    module = importlib.import_module(f"experiments.{name}")
    with jax.enable_x64(not module.EXPERIMENT.x64):  # an experiment has its own precision, and not the environment's
        code = module.main(["--quick", "--out", str(tmp_path)])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert code == (0 if numbers["holds"] else 1)
    with jax.enable_x64(module.EXPERIMENT.x64):
        jobs = module.jobs(True)
    assert list(numbers["methods"]) == list(jobs)
    for label, method in numbers["methods"].items():
        assert method["findings"], label
        assert method["settings"]["estimator"] == jobs[label].estimator
    assert {row["required"] for method in numbers["methods"].values() for row in method["findings"]} != {"-"}
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(label in printed for label in jobs)
