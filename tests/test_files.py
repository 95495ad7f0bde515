"""Files are replaced in one step, and what killed writers have left behind goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lopt import files
from lopt.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
SLOW_WRITER = """
import os, sys, time
from lopt.files import write_atomic

def wait(descriptor):
    print("writing", flush=True)
    time.sleep(100)

os.fsync = wait
write_atomic(sys.argv[1], "half")
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_goes_and_nothing_else(tmp_path):
    """The file of a writer that is at work stays, and so do those of other targets."""
    path = tmp_path / "runs[1].npz"
    others = [".runs[1].npz.x.tmp", ".runs1.npz.12.tmp", ".other.npz.12.tmp", "runs[1].npz.12.tmp"]
    for name in (*others, ".runs[1].npz.12.tmp"):
        (tmp_path / name).touch()
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        at_work = f".runs[1].npz.{writer.pid}.tmp"
        write_atomic(path, "whole")
        assert names(tmp_path) == sorted([*others, at_work, path.name])
        writer.send_signal(signal.SIGKILL)
    write_atomic(path, "again")
    assert names(tmp_path) == sorted([*others, path.name])
    assert path.read_text() == "again"


def test_a_file_that_is_taken_for_a_left_over_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    path, lock, taken = tmp_path / "card.json", files._lock, []

    def slow_lock(file):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(files, "_lock", slow_lock)
    write_atomic(path, "whole")
    assert taken
    assert (names(tmp_path), path.read_text()) == (["card.json"], "whole")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    write_atomic(path, "old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert (names(tmp_path), path.read_text()) == (["card.json"], "old")
