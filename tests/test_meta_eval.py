"""The command from end to end, in a process of its own, on the digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lopt.optimizers import OPTIMIZERS
from lopt.pretrained import save_export
from lopt.results import FILES, load_curves

ROOT = Path(__file__).resolve().parents[1]

# Calls the command once for each list of flags, in one process, and prints exit code and standard error.
MANY = """
import contextlib, io, json, sys
import meta_eval
from absl import flags

for arguments in json.loads(sys.argv[1]):
    for flag in flags.FLAGS.flags_by_module_dict()[meta_eval.__name__]:
        flag.unparse()
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            code = meta_eval._main(meta_eval._parse_flags(["meta_eval.py", *arguments]))
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, error.getvalue()]))
"""


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(cwd)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def run_folder(tmp_path):
    """A run directory with the export of a small rule."""
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=0.01)
    theta = optimizer.init_theta(jax.random.key(0))
    card = {"tasks": "image_mlp/digits:hidden_sizes=():batch_size=8", "horizon": [10, 20], "seed": 0}
    card |= {"meta_loss": "train", "estimator": "pes", "outer_steps": 0, "command": "none"}
    save_export(tmp_path / "run" / "export", optimizer, theta, card=card)
    return tmp_path / "run"


def test_end_to_end(run_folder, tmp_path):
    command = ("--checkpoint=run", "--num_seeds=2", "--devices=2", f"--data_dir={tmp_path / 'data'}")
    done = python(str(ROOT / "meta_eval.py"), *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "66 runs of 20 steps and 2 of 80" in done.stdout
    assert "learned / best Adam, mean loss" in done.stdout
    out = run_folder / "eval-20"
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert str(Path("run", "eval-20")) in done.stdout

    ((task, curves),) = load_curves(out / "curves.npz").items()
    assert task == "image_mlp/digits:hidden_sizes=():batch_size=8"
    assert curves.num_params == 650
    assert curves.adam_grid.loss.shape == (15, 2, 20)
    np.testing.assert_array_equal(curves.learned.loss, curves.untrained.loss)  # an initial theta: the same rule twice
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"][task]["ratios"]["untrained"] == 1
    assert (
        summary["configuration"]["theta_sha256"]
        == json.loads((run_folder / "export/card.json").read_text())["theta_sha256"]
    )
    assert summary["command"].endswith(f"--data_dir={tmp_path / 'data'}")
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_one_line_before_anything_runs(run_folder, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "summary.json").write_text('{"configuration": {"horizon": 999}}')
    run = "--checkpoint=run"
    cases = {
        (): "--checkpoint=",
        (run, "extra"): "unexpected argument 'extra'",
        (run, "--horizn=30"): "Did you mean: horizon",
        (run, "--num_seeds=many"): "num_seeds",
        ("--checkpoint=absent",): "unknown path or trained optimizer 'absent'",
        (run, "--tasks=image_mpl/digits"): "Did you mean 'image_mlp'?",
        (run, "--tasks=image_mlp/digist"): "digist",
        (run, "--horizon=19"): "at least 20",
        (run, "--num_seeds=0"): "at least 1",
        (run, "--devices=0"): "devices",
        (run, "--out=taken"): "--overwrite",
    }
    done = python("-c", MANY, json.dumps([[*case] for case in cases]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]  # and no line that says what will be run
    for (case, expected), (code, error) in zip(cases.items(), answers, strict=True):
        assert code == 2, case
        assert error.startswith("meta_eval: "), case
        assert expected in error, case
        assert error.count("\n") == 1, case
    assert not (run_folder / "eval-20").exists()


def test_help(tmp_path):
    done = python(str(ROOT / "meta_eval.py"), "--help", cwd=tmp_path)
    assert done.stdout.strip().startswith("Compares a trained optimizer")
    for flag in ("checkpoint", "tasks", "horizon", "num_seeds", "seed", "out", "overwrite", "data_dir", "devices"):
        assert f"--{flag}" in done.stdout.replace("--[no]", "--")
