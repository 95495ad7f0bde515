"""What is seen of runs: where they are found, what is read while they write, and what state they are in."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lopt.monitor import runs as module
from lopt.names import InputError
from tests.monitor.example import row, rows, seen, touch, watcher, write


def test_a_run_is_named_as_far_up_as_it_takes(tmp_path):
    folders = [write(tmp_path / name / "run", rows(3)) for name in "ab"]
    assert [run.name for run in watcher(*folders).look()] == ["a/run", "b/run"]
    assert [run.name for run in watcher(folders[0]).look()] == ["run"]
    assert [run.name for run in watcher(folders[0], folders[0], tmp_path / "a").look()] == ["run"]  # each once


def test_runs_are_found_below_a_folder_as_they_come(tmp_path):
    first = write(tmp_path / "sweep" / "seed=0", rows(3))
    write(first / "checkpoints", rows(1))  # within a run nothing is looked for
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model": "of something else"}')
    write(tmp_path / ".hidden" / "run", rows(1))
    watched = watcher(tmp_path)
    assert [run.name for run in watched.look()] == ["seed=0"]
    write(tmp_path / "sweep" / "seed=1", [])
    assert [(run.name, run.state) for run in watched.look()] == [("seed=0", "running"), ("seed=1", "starting")]


def test_runs_are_found_three_folders_down_and_no_further(tmp_path):
    for depth in range(1, 5):
        write(tmp_path.joinpath(*"abcd"[: depth - 1], f"run-{depth}"), rows(1))
    assert [run.name for run in watcher(tmp_path).look()] == ["run-3", "run-2", "run-1"]


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path):
    """What a run writes is short: anything longer than a megabyte is something else."""
    folder = write(tmp_path / "run", rows(2))
    (folder / "run.json").write_text(json.dumps({"recoveries": [{"at": 2, "back_to": 1}]}))
    assert len(watcher(folder).look()[0].recoveries) == 1
    for name in ("run.json", "config.json"):
        (folder / name).write_text(" " * 2**20 + (folder / name).read_text())
    (run,) = watcher(folder).look()
    assert (run.recoveries, run.state) == ([], "unreadable")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent", "absent is no folder: give what was --workdir"),
        ("empty", "is not the folder of a run, and holds none"),
    ],
)
def test_where_there_is_no_run(tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        watcher(tmp_path / place).look()


def test_no_more_runs_than_can_be_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_RUNS", 1)
    folders = [write(tmp_path / name, []) for name in "ab"]
    with pytest.raises(InputError, match=r"at most 1 runs can be told apart, and there are 2: name some of them"):
        watcher(*folders).look()


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    folder = write(tmp_path / "run", rows(2))
    text = json.dumps(row(3))
    with open(folder / "metrics.jsonl", "a") as file:
        watched = watcher(folder)
        for part, steps in ((text[:20], 2), (text[20:], 2), ("\n", 3), (text[:1], 3)):
            file.write(part)
            file.flush()
            (run,) = watched.look()
            assert (run.step, run.problem) == (steps, "")
    np.testing.assert_allclose(run.history["meta_loss"], [1, 1 / 2, 1 / 3])


def test_what_cannot_be_read_is_said_of_that_run_alone(tmp_path):
    good, bad, foreign = (write(tmp_path / name, rows(2)) for name in ("good", "bad", "foreign"))
    (bad / "metrics.jsonl").write_text('{"step": 1, "meta_loss": 1}\nhello\n')
    (foreign / "metrics.jsonl").write_text('{"epoch": 1}\n')
    found = watcher(good, bad, foreign).look()
    assert [run.state for run in found] == ["running", "unreadable", "unreadable"]
    assert [run.problem for run in found][2] == "metrics.jsonl has rows without a step and a meta_loss"
    (bad / "metrics.jsonl").write_text('{"step": 1, "meta_loss": 1}\n')
    assert watcher(bad).look()[0].problem == ""
    (bad / "config.json").write_text("[")
    (run,) = watcher(bad).look()
    assert (run.state, run.total) == ("unreadable", None)
    assert f"cannot read {bad / 'config.json'}" in run.problem


@pytest.mark.parametrize(
    ("steps", "age", "process", "state"),
    [
        (0, 60.0, None, "starting"),
        (0, 1900.0, None, "stopped"),
        (10, 60.0, None, "running"),  # perhaps on another machine
        (10, 119.0, None, "running"),
        (10, 121.0, None, "stopped"),
        (10, 121.0, "gone", "stopped"),
        (10, 121.0, "here", "silent"),
        (100, 1e6, "here", "finished"),
    ],
)
def test_states(tmp_path, steps, age, process, state):
    folder = write(tmp_path / "run", rows(steps))
    if process:
        number = os.getpid()
        if process == "gone":
            done = subprocess.Popen([sys.executable, "-c", ""])
            done.wait()
            number = done.pid
        (folder / ".lock").write_text(str(number))
    touch(folder, age)
    (run,) = watcher(folder).look()
    assert run.state == state
    assert run.silent == pytest.approx(age)


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "9" * 30, "\0"])
def test_a_lock_that_names_no_process_is_of_none(tmp_path, text):
    """0 and -1 mean groups of processes to the system, and would always be there."""
    folder = write(tmp_path / "run", rows(10))
    (folder / ".lock").write_text(text)
    touch(folder, 121.0)
    assert watcher(folder).look()[0].state == "stopped"


def test_the_process_of_another_person_is_there(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", rows(10))
    (folder / ".lock").write_text("12345")
    touch(folder, 121.0)

    def refuse(number, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert watcher(folder).look()[0].state == "silent"


def test_a_run_of_long_blocks_may_be_silent_for_longer(tmp_path):
    long = [row(5, seconds_validating=500.0)]
    assert seen(tmp_path / "run", long, age=2000.0).state == "running"  # 4 blocks of 510 s
    assert seen(tmp_path / "run", long, age=2041.0).state == "stopped"


def test_a_clock_that_was_set_back_is_no_silence(tmp_path):
    assert seen(tmp_path / "run", rows(2), age=-1e6).silent == 0


def test_nothing_is_written_into_a_run(tmp_path):
    folder = write(tmp_path / "run", rows(2))
    (folder / "run.json").write_text("damaged")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    watcher(tmp_path).look()
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()} == before
