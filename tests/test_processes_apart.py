"""Processes that see different files: each has a working directory of its own, and all paths are relative."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import lopt
from tasks import datasets
from tests.test_imports import ROOT
from tests.test_processes import PLAIN, SET_UP, ended, flags, free_port, rows_of, start, theta_of

pytestmark = pytest.mark.thorough  # two processes take seconds to start

# The front door in Python: an optimizer trained, from a theta that the first process has, and evaluated.
FRONT_DOOR = """
import json, sys, jax
address, index, settings = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(address, 2, int(index))
import lopt
run = lopt.meta_train(**json.loads(settings), init_from="start", workdir="run", cache="cache")
report = lopt.evaluate("learnable_adam_digits", "quadratic", horizon=20, num_seeds=2, baselines="adam", out="out",
                       cache="cache")
if index == "0":
    report.write("out")
jax.distributed.shutdown()
print("at the end:", run.step)
"""


def test_only_the_first_process_has_files(tmp_path):
    """The working directory of the other one stays empty.

    Called a second time, with more outer steps, it goes on from a checkpoint, a record and a cache of the first alone.
    """
    settings = {**PLAIN, "valid_tasks": "test_function", "valid_every": 0, "outer_schedule": "constant"}
    shutil.copytree(ROOT / "checkpoints" / "demonstrations" / "learnable_adam_digits", tmp_path / "0" / "start")
    (tmp_path / "1").mkdir()
    for steps in (120, 125):
        settings["outer_steps"] = steps
        port, pipes = free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", FRONT_DOOR, f"127.0.0.1:{port}"]
        words = [[*command, str(i), json.dumps(settings)] for i in range(2)]
        both = [subprocess.Popen(words[i], cwd=tmp_path / str(i), env=SET_UP, **pipes) for i in range(2)]
        with ended(both):
            said = [process.communicate(timeout=500) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert all(f"at the end: {steps}\n" in out for out, _ in said), said
        assert list((tmp_path / "1").iterdir()) == []
    assert {path.name for path in (tmp_path / "0").iterdir()} == {"start", "run", "cache", "out"}
    assert json.loads((tmp_path / "0" / "run" / "run.json").read_text())["valid_every"] >= 1
    assert "training steps to make: 0" in said[0][0]
    settings |= {"init_from": str(tmp_path / "0" / "start"), "valid_tasks": ""}
    lopt.meta_train(**settings, workdir=tmp_path / "alone", devices=1)
    np.testing.assert_allclose(theta_of(tmp_path / "0" / "run"), theta_of(tmp_path / "alone"), rtol=1e-4)
    assert len(rows_of(tmp_path / "0" / "run")) == 125


@pytest.mark.parametrize("verb", ["train", "eval"])
@pytest.mark.whole_table
def test_other_data_in_one_of_them_is_refused(verb, tmp_path):
    """A data set of the same name, with one number that is another in the second process."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    for i in range(2):
        arrays = {"x": x, "y": np.arange(60) % 2}
        datasets.write_set("mine", {"train": arrays}, tmp_path / str(i) / "data")
        x[7, 1] += 1
    settings = {**PLAIN, "workdir": "run"}
    if verb == "eval":
        settings = {"checkpoint": "learnable_adam_digits", "horizon": 20, "num_seeds": 1, "cache": "", "out": "out"}
    words, port = flags(settings, tasks="table_mlp/mine"), free_port()
    both = [start(i, port, *words, "--data_dir=data", verb=verb, cwd=tmp_path / str(i)) for i in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert all("process 1 of this run has other data than process 0" in text for text in said)
    assert [[path.name for path in (tmp_path / str(i)).iterdir()] for i in range(2)] == [["data"]] * 2
