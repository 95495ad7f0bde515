"""The command from end to end, in a process of its own, on the digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lopt.evaluation.folder import FILES, load_results
from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import save_export

ROOT = Path(__file__).resolve().parents[1]

# Calls the command once for each list of flags, in one process, and prints exit code and standard error. Adam has two
# rates to choose from, which is enough for all that the command does with them.
MANY = """
import contextlib, dataclasses, io, json, sys
import meta_eval
from absl import flags
from lopt.evaluation.baselines import BASELINES

BASELINES["adam"] = dataclasses.replace(BASELINES["adam"], rates=(0.01, 0.1))
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
    other = jax.tree.map(lambda x: x + 0.1, theta)
    save_export(tmp_path / "other" / "export", optimizer, other, card=card)
    return tmp_path / "run"


def test_end_to_end(run_folder, tmp_path):
    command = ["--checkpoint=run", "--num_seeds=2", "--devices=2", f"--data_dir={tmp_path / 'data'}"]
    command += ["--baselines=adam", "--split=test", "--horizon=24"]
    # Twice: another report over the same task reuses the runs.
    done = python("-c", MANY, json.dumps([command, [*command, "--out=again", "--learned=other"]]), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count('[0, ""]\n') == 2, done.stdout
    first, second, _ = done.stdout.split('[0, ""]\n')
    assert "tasks: 1; optimizers: 4; devices: 2; training steps to make: 528, about" in first
    assert "run / best Adam, mean loss" in first
    beyond = "run was meta-trained on at most 20 steps, and is to train for 24"
    assert first.count(f"warning: {beyond}") == 2
    out = run_folder / "eval-24"
    missing = {"ratios.png", "trials.png", "targets.png"}  # no cosine, no AdamW
    assert {path.name for path in out.iterdir()} == {*FILES} - missing
    assert str(Path("run", "eval-24")) in first

    ((task, result),) = load_results(out / "curves.npz").items()
    assert task == "image_mlp/digits:hidden_sizes=():batch_size=8"
    assert result.num_params == 650
    assert list(result.entries) == ["learned", "untrained", "adam_default", "adam"]
    assert result.entries["adam"].tuning.loss.shape == (2, 2, 24)
    # An initial theta: the same rule twice.
    ours, theirs = (result.entries[name].chosen["final_loss"].loss for name in ("learned", "untrained"))
    np.testing.assert_array_equal(ours, theirs)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"][0]["ratios"]["untrained"] == 1
    assert f"{task}: {beyond}" in summary["failures"]
    card = json.loads((run_folder / "export/card.json").read_text())
    assert summary["configuration"]["theta_sha256"] == card["theta_sha256"]
    assert summary["setting"] == {
        "horizon": 24,
        "num_seeds": 2,
        "seed": 0,
        "split": "test",
        "untuned_on": [],
    }
    for picture in ("curves.png", "aggregate.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")

    assert "of 5 entries 4 are in the cache; training steps to make: 48" in second
    again = json.loads((tmp_path / "again/summary.json").read_text())
    assert again["tasks"][0]["rows"][2:4] == summary["tasks"][0]["rows"][2:]
    assert again["tasks"][0]["rows"][4]["optimizer"] == "other"


def test_bad_input_is_one_line_before_anything_runs(run_folder, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "summary.json").write_text('{"configuration": {"horizon": 999}}')
    card = json.loads((run_folder / "export/card.json").read_text())
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/card.json").write_text(json.dumps({**card, "feature_contract": 99}))
    run = "--checkpoint=run"
    cases = {
        (): "--checkpoint=",
        (run, "extra"): "unexpected argument 'extra'",
        (run, "--horizn=30"): "Did you mean: horizon",
        (run, "--num_seeds=many"): "num_seeds",
        (run, "--nooverwrite=1"): "--nooverwrite=1 does not take an argument",
        (run, "--distributed=2"): "write HOST:PORT,NUM,ID",
        ("--checkpoint=absent",): "unknown path or trained optimizer 'absent'",
        (run, "--tasks=image_mpl/digits"): "Did you mean 'image_mlp'?",
        (run, "--tasks=image_mlp/digist"): "digist",
        (run, "--tasks="): "no task is named",
        ("--checkpoint=newer",): "feature_contract must be",
        (run, "--optimizer=absent.py:Rule"): "unknown file 'absent.py'",
        (run, "--optimizer=learnable_adam"): "theta belongs to learnable_adam:",
        (run, "--learned=newer"): "feature_contract must be",
        (run, "--learned=absent"): "unknown path or trained optimizer 'absent'",
        (run, "--learned=other@absent.py:Rule"): "unknown file 'absent.py'",
        (run, "--learned=other,other"): "another optimizer of the name 'other'",
        (run, "--learned=run"): "'run' is the optimizer that is evaluated",
        (run, "--devices=999"): "999 devices asked for",
        (run, "--horizon=1000000000"): "GB of memory",
        (run, "--num_seeds=1000000000"): "GB of memory",
        (run, f"--horizon={10**23}"): "GB of memory",
        (run, "--horizon=nan"): "horizon",
        (run, "--seed=99999999999999"): "seed",
        (run, "--out=" + "x" * 300): "cannot use",
        (run, "--out=/proc/none"): "free space",
        (run, "--cache=taken/summary.json"): "cannot write to the cache",
        (run, "--baselines=adaam"): "Did you mean 'adam'?",
        (run, "--split=train"): "split",
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
    assert not [path for path in run_folder.iterdir() if path.name.startswith("eval")]


def test_help(tmp_path):
    done = python(str(ROOT / "meta_eval.py"), "--help", cwd=tmp_path)
    assert done.stdout.strip().startswith("Compares a trained optimizer")
    for flag in (
        "baselines",
        "learned",
        "split",
        "cache",
        "checkpoint",
        "tasks",
        "horizon",
        "num_seeds",
        "seed",
        "out",
        "overwrite",
        "data_dir",
        "devices",
    ):
        assert f"--{flag}" in done.stdout.replace("--[no]", "--")
