"""The command: bad input ends with one message, before anything is compiled; a real run ends with an export."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lopt.trained.pretrained import load_pretrained

BAD = [
    ([], "give a folder"),
    (["--workdir=W", "--optimizer=mpl"], "Did you mean 'mlp'"),
    (["--workdir=W", "--optimizer=mlp:hidden=3"], "Known: hidden_sizes"),
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
    (["--workdir=W", "--outer_steps=0"], "outer_steps"),
    (["--workdir=W", "--outer_optimizer=adm"], "Did you mean 'adam'"),
    (["--workdir=W", "x"], "unexpected argument 'x'"),
]
# These are found after JAX has been told its number of devices, which can be done once in a process.
BAD_LATE = [
    (["--workdir=W", "--devices=3"], "cannot share 16 pairs"),
    (["--workdir=W", "--estimator=truncated_es", "--meta_loss=final"], "final-loss"),
]

# Many in one process: each would spend seconds on imports alone.
DRIVER = """
import json, sys, time
from absl import flags
import meta_train
for args in json.loads(sys.argv[1]):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    rest = flags.FLAGS(["meta_train.py", *args])
    start = time.monotonic()
    code = meta_train._main(rest)
    print(f"#end {code} {time.monotonic() - start}", file=sys.stderr, flush=True)
"""


QUICK = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles more than it runs


def python(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=300, env=QUICK)


@pytest.mark.parametrize("bad", [BAD, *([case] for case in BAD_LATE)], ids=["early", "devices", "final"])
def test_bad_input(tmp_path, bad):
    workdir = tmp_path / "run"
    cases = [[arg.replace("=W", f"={workdir}") for arg in args] for args, _ in bad]
    result = python("-c", DRIVER, json.dumps(cases))
    outputs = result.stderr.split("#end ")
    assert len(outputs) == len(bad) + 1, result.stderr
    for i, (args, message) in enumerate(bad):
        text = outputs[i].partition("\n")[2] if i else outputs[i]
        assert message in text, args
        assert text.startswith("meta_train: "), text
        assert "Traceback" not in text
        code, seconds = outputs[i + 1].split()[:2]
        assert code == "2", args
        assert float(seconds) < 20
    assert not workdir.exists()


def test_help_and_unknown_flags():
    assert "standard deviation of the perturbations" in python("meta_train.py", "--help").stdout
    unknown = python("meta_train.py", "--num_pair=3")
    assert unknown.returncode == 2
    assert "Did you mean: num_pairs" in unknown.stderr
    assert "Traceback" not in unknown.stderr


SMALL = [
    "--tasks=image_mlp/digits:batch_size=16:hidden_sizes=(4,)", "--optimizer=learnable_adam", "--num_pairs=2",
    "--horizon=20:40", "--truncation=10",
]  # fmt: skip


def test_a_run_on_real_data_stops_at_sigterm_and_goes_on(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "meta_train.py", f"--workdir={workdir}", "--outer_steps=100000", *SMALL]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True, env=QUICK) as process:
        metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "The same command goes on" in out
    steps = len(metrics.read_text().splitlines())
    again = python("meta_train.py", f"--workdir={workdir}", "--outer_steps=100000", "--stop_after=2", *SMALL)
    assert again.returncode == 0, again.stderr
    assert f"going on from step {steps}" in again.stderr
    assert load_pretrained(workdir).card["outer_steps"] == steps + 2
