"""The command: bad input ends with one message, before anything is compiled; a real run ends with an export."""

import importlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from lopt.trained.pretrained import load_pretrained

BAD = [
    ([], "give a folder"),
    (["--workdir=W", "--optimizer=mpl"], "Did you mean 'mlp'"),
    (["--workdir=W", "--optimizer=mlp:hidden=3"], "Known: hidden_sizes"),
    (["--workdir=W", "--optimizer=tests/toy_famil.py:Rule"], "Did you mean 'tests/toy_family.py'"),
    (["--workdir=W", "--tasks=tests/toy_family.py:Bowls"], "Did you mean 'Bowl'"),
    (["--workdir=W", "--estimator=tests/toy_family.py:Bowl"], "is no estimator: it has no init, estimate"),
    (["--workdir=W", "--tasks=image_mpl"], "Did you mean 'image_mlp'"),
    (["--workdir=W", "--tasks=image_mlp/digit"], "Did you mean 'digits'"),
    (["--workdir=W", "--estimator=gpse"], "Did you mean 'gpes'"),
    (["--workdir=W", "--preset=mlp_digit"], "Did you mean 'mlp_digits'"),
    (["--workdir=W", "--sigma=0"], "sigma"),
    (["--workdir=W", "--sigma=-1"], "sigma"),
    (["--workdir=W", "--num_pairs=0"], "num_pairs must be at least 1"),
    (["--workdir=W", "--truncation=300"], "longer than the shortest horizon, 200"),
    (["--workdir=W", "--horizon=1010"], "take 1000 or 1050"),
    (["--workdir=W", "--horizon=long"], "cannot read horizon 'long'"),
    (["--workdir=W", "--meta_loss=meta"], "Did you mean 'meta_batch'"),
    (["--workdir=W", "--meta_weight=last"], "Did you mean 'late'"),
    (["--workdir=W", "--meta_transform=log:2"], "the floor must be at least 1e-30 and below 1"),
    (["--workdir=W", "--meta_loss=final", "--meta_weight=late"], "only the last step counts"),
    (["--workdir=W", "--outer_steps=0"], "outer_steps"),
    (["--workdir=W", "--outer_optimizer=adm"], "Did you mean 'adam'"),
    (["--workdir=W", "x"], "unexpected argument 'x'"),
    (["--workdir=W", "--num_pair=3"], "Did you mean: num_pairs"),
    (["--workdir=W", "--nodistributed=3"], "--nodistributed=3 does not take an argument"),
    (["--workdir=W", "--sweep=sigma"], "write --sweep=NAME=VALUE,VALUE"),
    (["--workdir=W", "--sweep=seed=0,1", "--seed=1"], "seed is given both as --seed and in --sweep"),
]
# Found after JAX has been told its number of devices, which the tests have told already.
BAD_LATE = [
    (["--workdir=W", "--sweep=sigma=0,-1"], "sigma"),
    (["--workdir=W", "--distributed=localhost:80"], "write HOST:PORT,NUM,ID"),
    (["--workdir=W", "--devices=2", "--num_pairs=3"], "cannot share 3 pairs"),
    (["--workdir=W", "--devices=2", "--estimator=truncated_es", "--meta_loss=final"], "final-loss"),
]


@pytest.fixture(scope="module")
def command():
    """The command within this process, where it takes no start of Python: flags to exit code. The flags go after it."""
    meta_train = importlib.import_module("meta_train")
    own = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[meta_train.__name__]]

    def call(*arguments):
        for flag in flags.FLAGS.flags_by_module_dict()[meta_train.__name__]:
            flag.unparse()
        root, loud = logging.getLogger(), logging.getLogger("jax")
        before = root.handlers[:], root.level, loud.level
        try:
            return meta_train._main(meta_train._parse_flags(["meta_train.py", *arguments]))
        except SystemExit as stop:
            return stop.code
        finally:
            root.handlers[:], root.level, loud.level = before

    yield call
    for name in own:  # those that libraries have defined meanwhile stay
        delattr(flags.FLAGS, name)
    del sys.modules["meta_train"]


@pytest.mark.parametrize(("arguments", "message"), BAD + BAD_LATE)
def test_bad_input(tmp_path, command, capsys, arguments, message):
    workdir = tmp_path / "run"
    start = time.process_time()
    assert command(*(argument.replace("=W", f"={workdir}") for argument in arguments)) == 2
    assert time.process_time() - start < 10
    out, err = capsys.readouterr()
    assert err.startswith("meta_train: ")
    assert message in err
    assert out == ""
    assert not workdir.exists()


def test_help_tells_what_settings_mean():
    done = subprocess.run([sys.executable, "meta_train.py", "--help"], capture_output=True, text=True, timeout=300)
    assert "standard deviation of the perturbations" in done.stdout


def test_the_command_that_is_recommended_names_a_persons_own_code_again(command):
    assert command() != 0  # which reads the flags
    recommended = sys.modules["meta_train"].evaluation_command
    start = "python -m lopt eval --checkpoint=runs/x"
    assert recommended("runs/x", {"optimizer": "mlp:hidden_sizes=(8,)", "tasks": "quadratic:dimension=4,pool"}) == start
    own = {"optimizer": "my_rules.py:MyRule:rate=0.02", "tasks": "2*my_tasks.py:spiral,quadratic"}
    flags_again = " --optimizer=my_rules.py:MyRule:rate=0.02 '--tasks=2*my_tasks.py:spiral,quadratic'"
    assert recommended("runs/x", own) == start + flags_again


SMALL = [
    "--tasks=image_mlp/digits:batch_size=16:hidden_sizes=(4,)", "--optimizer=learnable_adam", "--num_pairs=2",
    "--horizon=20:40", "--truncation=10",
]  # fmt: skip


def test_a_run_on_real_data_stops_at_sigterm_and_goes_on(tmp_path, command, capsys):
    workdir = tmp_path / "run"
    arguments = [f"--workdir={workdir}", "--outer_steps=100000", "--devices=2", *SMALL]
    quick = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as conftest has it
    pipe = subprocess.PIPE
    started = [sys.executable, "meta_train.py", *arguments]
    with subprocess.Popen(started, stderr=pipe, stdout=pipe, text=True, env=quick) as process:
        metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 300
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "The same command goes on" in out
    steps = len(metrics.read_text().splitlines())
    assert command(*arguments, "--stop_after=2") == 0
    assert f"going on from step {steps}" in capsys.readouterr().err
    assert load_pretrained(workdir).card["outer_steps"] == steps + 2


def test_a_sweep_trains_what_can_be_trained_and_goes_on_where_it_stopped(tmp_path, command, capsys):
    root = tmp_path / "sweep"
    shared = ["--tasks=quadratic:dimension=2", "--optimizer=learnable_sgd", "--num_pairs=2", "--horizon=10:20"]
    sweep = [f"--workdir={root}", *shared, "--outer_steps=3", "--sweep=truncation=5,15", "--sweep=seed=0,1"]
    assert command(*sweep, "--stop_after=2") == 4  # a window of 15 steps is longer than a trajectory of 10
    assert capsys.readouterr().out.count("at step 2 of 3") == 2
    assert command(*sweep) == 4
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["truncation", "seed", "meta-loss", "folder", "state"]
    assert [row[:2] for row in sorted(rows)] == [["15", "0"], ["15", "1"], ["5", "0"], ["5", "1"]]
    assert float(rows[0][2]) <= float(rows[1][2])
    for row in rows[:2]:
        assert row[3:] == [str(root / f"truncation=5__seed={row[1]}"), "finished"]
    assert all(row[4] == "refused:" for row in rows[2:])
    assert sorted(path.name for path in root.iterdir()) == ["truncation=5__seed=0", "truncation=5__seed=1"]
    # One of these runs is that of a command of its own, which its card tells.
    card = load_pretrained(root / "truncation=5__seed=1").card
    alone = shlex.split(card["command"])
    assert alone[:4] == ["python", "-m", "lopt", "train"]
    assert command(*alone[4:-1], f"--workdir={tmp_path / 'alone'}") == 0
    theta, other = (load_pretrained(folder).theta for folder in (tmp_path / "alone", root / "truncation=5__seed=1"))
    assert all(theta[name] == other[name] for name in theta)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert command(*sweep) == 4  # finished runs are not opened again
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
