"""Runs over several processes, which this file starts on the loopback: the numbers, the files, and lost peers."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import lopt
from lopt import processes
from lopt.cluster import LOST
from lopt.trained.pretrained import load_pretrained
from tests.meta_training.times import without_times
from tests.test_imports import ROOT

pytestmark = pytest.mark.thorough  # two processes take seconds to start

SETTINGS = {"optimizer": "learnable_adam", "tasks": "quadratic,table_mlp/wine", "num_pairs": 4, "truncation": 5,
            "horizon": "10:20", "outer_steps": 20, "valid_tasks": "test_function", "valid_every": 10,
            "valid_horizon": 20, "tasks_per_step": 1, "theta_ema": 0.9}  # fmt: skip
PLAIN = {**SETTINGS, "tasks": "quadratic", "tasks_per_step": 0, "valid_tasks": "", "theta_ema": 0}
# As tests/conftest.py sets it for this process.
SET_UP = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}


def flags(settings, **others):
    return [f"--{name}={value}" for name, value in {**settings, **others}.items()]


def launched(number, verb, *words):
    """`number` processes that do one run: their statuses' summary, what they printed, and their messages."""
    command = [sys.executable, "-m", "lopt", "launch", str(number), "--", verb, "--devices=1", *words]
    done = subprocess.run(command, cwd=ROOT, env=SET_UP, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


def trained(number, settings, workdir, **others):
    status, output, messages = launched(number, "train", *flags(settings, workdir=workdir, **others))
    assert status == 0, messages
    return output, messages


def theta_of(workdir, name="export"):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(load_pretrained(workdir / name).theta)])


def rows_of(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [without_times(row) for row in rows]


def assert_same_numbers(workdir, other):
    for name in ("export", "export-ema"):
        if (other / name).exists():
            np.testing.assert_allclose(theta_of(workdir, name), theta_of(other, name), rtol=1e-5)
    for row, wanted in zip(rows_of(workdir), rows_of(other), strict=True):
        assert row.keys() == wanted.keys()
        numbers = [[x[k] if x[k] is not None else np.nan for k in wanted] for x in (row, wanted)]
        np.testing.assert_allclose(*numbers, rtol=2e-4, atol=1e-6)  # those of metrics are differences of sums


def test_all_layouts_have_the_same_numbers(tmp_path):
    """Two processes, two devices, one: tasks with data and a staggered start, an average, and validations."""
    output, messages = trained(2, SETTINGS, tmp_path / "two")
    for devices in (2, 1):
        lopt.meta_train(**SETTINGS, workdir=tmp_path / str(devices), devices=devices)
        assert_same_numbers(tmp_path / "two", tmp_path / str(devices))
    assert "valid_score" in rows_of(tmp_path / "two")[9]
    # One process has talked and written.
    assert output.count("finished, step 20 of 20") == 1
    assert output.count("\n") == 2
    assert messages.count("compiling;") == 1
    assert not list(tmp_path.rglob("*process_1*"))


def test_any_layout_goes_on_from_any_other(tmp_path):
    """Two processes, then one, then two; and their files are those of a run that was never stopped."""
    lopt.meta_train(**PLAIN, workdir=tmp_path / "whole")
    trained(2, PLAIN, tmp_path / "parts", stop_after=6)
    half = lopt.meta_train(**PLAIN, workdir=tmp_path / "parts", stop_after=7, devices=1)
    assert (half.step, half.finished) == (13, False)
    trained(2, PLAIN, tmp_path / "parts")
    assert_same_numbers(tmp_path / "parts", tmp_path / "whole")
    kept = [sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir()) for run in ("parts", "whole")]
    assert kept == [["13", "20"], ["20"]]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def ended(started):
    """Whatever happens, the processes end with the block, and their pipes are closed."""
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def start(index, port, *words, verb="train", cwd=ROOT):
    command = [sys.executable, "-m", "lopt", verb, "--devices=1", f"--distributed=127.0.0.1:{port},2,{index}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *words], cwd=cwd, env=SET_UP, **pipes)


@pytest.mark.parametrize("lost", [1, 0])
@pytest.mark.whole_table
def test_a_killed_peer_ends_the_run_and_costs_no_checkpoint(lost, tmp_path):
    words, port = (
        flags(PLAIN, workdir=tmp_path / "run", outer_steps=10**6, checkpoint_every=5, outer_schedule="constant"),
        free_port(),
    )
    both = [start(index, port, *words) for index in range(2)]
    with ended(both):
        began = time.monotonic()
        while not any((tmp_path / "run").glob("checkpoints/*/checksums.json")):
            assert time.monotonic() < began + 1000
            assert all(process.poll() is None for process in both)
            time.sleep(0.1)
        both[lost].send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, messages = both[1 - lost].communicate(timeout=100)
        assert time.monotonic() - began < 60  # a second or two where the machine is idle
    # Where the first one is lost, JAX may be quicker than this process's own message.
    if lost == 1:
        assert both[0].returncode == LOST, messages
        assert messages.count("another process of this run has ended") == 1
        assert "the same command, also with fewer processes, goes on from there" in messages
        assert "Traceback" not in messages
    else:
        assert both[1].returncode in (LOST, -signal.SIGABRT), messages
    done = max(int(path.parent.name) for path in (tmp_path / "run").glob("checkpoints/*/checksums.json"))
    settings = {**PLAIN, "outer_schedule": "constant", "outer_steps": done + 4}
    run = lopt.meta_train(**settings, workdir=tmp_path / "run", stop_after=2)
    assert run.step == done + 2
    if lost == 1:
        trained(2, settings, tmp_path / "run")
        settings = {**settings, "workdir": tmp_path / "whole"}
        lopt.meta_train(**settings)
        assert_same_numbers(tmp_path / "run", tmp_path / "whole")


# A loop that says something to all, again and again, as the one of a training does; without a training, which compiles.
LOOP = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 1)
from lopt import cluster, processes
cluster.connect(sys.argv[1], 60, "loop")
print("connected", flush=True)
try:
    with processes.noticing_lost_peers("All is well."):
        while True:
            assert processes.of_first({"a": [processes.number(), -0.0]}) == {"a": [2, -0.0]}
except processes.PeerError as error:
    print(f"loop: {error}", file=sys.stderr)
    cluster.leave(cluster.LOST)
"""


@pytest.mark.parametrize("lost", [1, 0])
@pytest.mark.whole_table
def test_a_killed_peer_is_noticed_at_once(lost):
    port, pipes = free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-c", LOOP, f"127.0.0.1:{port},2,{i}"] for i in range(2)]
    both = [subprocess.Popen(command, cwd=ROOT, env=SET_UP, **pipes) for command in commands]
    with ended(both):
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
        both[lost].send_signal(signal.SIGKILL)
        _, messages = both[1 - lost].communicate(timeout=100)
    said = "loop: another process of this run has ended: what it says, or its machine, tells why. All is well.\n"
    if lost == 1:
        assert (both[0].returncode, messages) == (LOST, said)
    else:  # JAX may be quicker, with lines of its own
        assert both[1].returncode in (LOST, -signal.SIGABRT), messages


def test_what_they_tell_each_other():
    """Every function by itself: a training that misses one goes on for long, with numbers that are nearly right."""
    port, pipes = free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-m", "tests.told_between_processes", f"127.0.0.1:{port},2,{i}"] for i in range(2)]
    both = [subprocess.Popen(command, cwd=ROOT, env=SET_UP, **pipes) for command in commands]
    with ended(both):
        said = [process.communicate(timeout=200) for process in both]
    # XLA tells of its connections where a layout leaves out a device.
    own = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in said]
    assert own == [["all is told"]] * 2, said
    assert [process.returncode for process in both] == [0, 0], said


def test_a_peer_that_never_comes(tmp_path):
    process = start(0, free_port(), *flags(PLAIN, workdir=tmp_path / "run", peer_timeout=2))
    output, messages = process.communicate(timeout=200)
    assert (process.returncode, output) == (LOST, "")
    assert re.fullmatch(r"meta_train: process 0 of 2 has waited 2 s for the others at 127\.0\.0\.1:\d+, .*\n", messages)
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_stops_all_and_saves(tmp_path):
    words, port = flags(PLAIN, workdir=tmp_path / "run", outer_steps=10**6), free_port()
    both = [start(index, port, *words) for index in range(2)]
    with ended(both):
        began = time.monotonic()
        while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
            assert time.monotonic() < began + 1000
            time.sleep(0.1)
        both[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2, said
    step = len(rows_of(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / str(step) / "checksums.json").exists()


def test_what_only_one_process_finds_wrong_ends_both(tmp_path):
    """Other settings in one of them, and a folder that the first cannot use: one message each."""
    port = free_port()
    both = [start(i, port, *flags(PLAIN, workdir=tmp_path / "run", seed=i)) for i in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert all("process 1 of this run has other settings than process 0" in text for text in said)
    (tmp_path / "file").write_text("")
    status, output, messages = launched(2, "train", *flags(PLAIN, workdir=tmp_path / "file"))
    assert (status, output) == (2, "")
    assert messages.count("meta_train:") == 1
    assert "file" in messages


def test_an_evaluation_by_two_processes(tmp_path):
    words = shlex.split(
        "--checkpoint=demo_mlp --tasks=quadratic,test_function --horizon=20 --num_seeds=3 --baselines=adam"
    )
    words += ["--baselines=adam", f"--out={tmp_path / 'two'}", f"--cache={tmp_path / 'cache'}"]
    status, output, messages = launched(2, "eval", *words)
    assert status == 0, messages
    report = lopt.evaluate("demo_mlp", "quadratic,test_function", horizon=20, num_seeds=3, baselines="adam", devices=1,
                           say=None)  # fmt: skip
    from lopt.evaluation.folder import load_results

    found = load_results(tmp_path / "two" / "curves.npz")
    for task, result in report.results.items():
        for name, entry in result.entries.items():
            assert found[task].entries[name].best == entry.best
            for measure, runs in entry.chosen.items():
                np.testing.assert_allclose(
                    found[task].entries[name].chosen[measure].loss, runs.loss, rtol=1e-4, atol=1e-7
                )
    assert output.count("report.html") == 1
    status, output, messages = launched(2, "eval", *words)  # from the cache, which the first process reads for both
    assert status == 0, messages
    assert "training steps to make: 0" in output


def test_in_one_process_they_are_ordinary_calls():
    array = np.arange(3.0)
    assert processes.number() == 1
    assert processes.is_first()
    assert processes.of_first((1, 2)) == (1, 2)
    assert processes.largest(3) == 3
    assert processes.array_of_first(array) is array
    assert processes.first_does(lambda: array) is array
    assert processes.all_do(lambda: array) is array
    processes.check_same({"x": array})
    with pytest.raises(ValueError, match="Gloo"), processes.noticing_lost_peers(""):
        raise ValueError("Gloo")
