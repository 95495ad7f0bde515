"""One command at a time writes to a folder, whichever command it is."""

import errno
import os
import shutil
import subprocess
import sys

import jax
import pytest

from experiments import ridge_l2
from lopt.evaluation import plan
from lopt.evaluation.evaluate import evaluate
from lopt.inspect import __main__ as inspect
from lopt.locks import LOCK, FolderLock
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from tests.meta_training.test_loop import run as train
from tests.toy_family import Quadratic

HOLD = """
import sys
from lopt.locks import FolderLock
lock = FolderLock(sys.argv[1], "")
lock.take()
print("taken", flush=True)
input()
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which uses the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def report():
    return evaluate(trained(), Quadratic(), horizon=20, num_seeds=1, baselines=(), devices=1, say=None)


def trained():
    rule = OPTIMIZERS["learnable_adam"]()
    return rule, rule.init_theta(jax.random.key(0))


def evaluated(folder):
    evaluate(trained(), Quadratic(), horizon=20, devices=1, say=None, out=folder)


# Everything that writes several files to a folder, or over some time, by what it is.
USERS = {
    "a run": lambda folder, report: train(folder),
    "an evaluation": lambda folder, report: evaluated(folder),
    "a report": lambda folder, report: report.write(folder),
    "pictures of an optimizer": lambda folder, report: inspect.main(["blend_digits", f"--out={folder}"]),
    "an experiment": lambda folder, report: ridge_l2.main(["--quick", f"--out={folder}"]),
}


@pytest.mark.parametrize("user", USERS)
def test_a_second_user_of_a_folder_is_refused_before_anything_is_done(
    user, tmp_path, other, report, monkeypatch, capsys
):
    def refuse(*arguments):
        raise AssertionError("something was computed")

    monkeypatch.setattr(plan.Plan, "run", refuse)
    monkeypatch.setattr(inspect, "_write_pictures", refuse)
    monkeypatch.setattr("experiments.report._measure", refuse)
    before = (tmp_path / LOCK).stat().st_ino
    try:
        said = f"status {USERS[user](tmp_path, report)} {capsys.readouterr().err}"
        assert said.startswith("status 2 ")
    except InputError as error:
        said = str(error)
    assert f"another command is using {tmp_path} (process {other.pid}): wait for its end, or " in said
    # The first one has its lock still, under its own number.
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert ((tmp_path / LOCK).read_text(), (tmp_path / LOCK).stat().st_ino) == (str(other.pid), before)


def test_a_killed_user_keeps_nobody_out(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).exists()
    with FolderLock(tmp_path, "") as lock:
        lock.take()
        lock.take()  # its own already
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
        assert os.fspath(lock) == str(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_one_part_of_a_process_keeps_out_another(tmp_path):
    """Two evaluations in two threads are as bad as in two processes."""
    with FolderLock(tmp_path, "do this") as one, FolderLock(tmp_path, "do that") as two:
        one.take()
        with pytest.raises(InputError, match=rf"\(process {os.getpid()}\): wait for its end, or do that"):
            two.take()
    with FolderLock(tmp_path, "") as two:
        two.take()


def test_a_lock_whose_owner_deletes_it_meanwhile_is_made_again(tmp_path, monkeypatch):
    """Between the opening and the locking: a lock on a deleted file would keep nobody out."""
    with FolderLock(tmp_path, "") as old, FolderLock(tmp_path, "") as new:
        old.take()
        real = os.open

        def opened(path, *arguments):
            descriptor = real(path, *arguments)
            monkeypatch.undo()
            old.__exit__()
            return descriptor

        monkeypatch.setattr(os, "open", opened)
        new.take()
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
        with pytest.raises(InputError, match="another command is using"):
            FolderLock(tmp_path, "").take()


def test_a_lock_is_deleted_while_it_is_still_locked(tmp_path, monkeypatch):
    """Deleted afterwards, it would be that of the next user, whom a third one would then not see."""
    with FolderLock(tmp_path, "") as old, FolderLock(tmp_path, "") as new:
        old.take()
        real = os.close

        def closed(descriptor):
            monkeypatch.undo()
            real(descriptor)
            new.take()

        monkeypatch.setattr(os, "close", closed)
        old.__exit__()
        with pytest.raises(InputError, match=rf"\(process {os.getpid()}\)"):
            FolderLock(tmp_path, "").take()


def test_the_number_of_a_killed_user_is_replaced_as_a_whole(tmp_path):
    (tmp_path / LOCK).write_text("12345678901")
    with FolderLock(tmp_path, "") as lock:
        lock.take()
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_who_waits_by_asking_again_keeps_no_file_open(tmp_path):
    with FolderLock(tmp_path, "") as lock, FolderLock(tmp_path, "") as other:
        lock.take()
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            with pytest.raises(InputError, match="another command is using"):
                other.take()
        assert len(os.listdir("/dev/fd")) == before


def test_the_end_of_a_lock_is_no_failure_where_its_folder_is_gone(tmp_path):
    """What was done in it is done; in its place there may be nothing, or a file."""
    for in_its_place in (None, "a file"):
        folder = tmp_path / "folder"
        folder.mkdir()
        with FolderLock(folder, "") as lock:
            lock.take()
            shutil.rmtree(folder)
            if in_its_place:
                folder.write_text(in_its_place)
        assert folder.exists() == bool(in_its_place)


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        FolderLock(tmp_path, "") as lock,
        pytest.warns(UserWarning, match="cannot be locked .*see to it"),
    ):
        lock.take()


def test_an_evaluation_keeps_others_out_from_its_first_training_to_its_end(tmp_path):
    refused = []

    def say(line):
        try:
            evaluated(tmp_path)
        except InputError as error:
            refused.append(str(error))

    found = evaluate(trained(), Quadratic(), horizon=20, num_seeds=1, baselines=(), devices=1, say=say, out=tmp_path)
    assert len(refused) == len([line for line in refused if "another command is using" in line]) >= 2
    assert not (tmp_path / LOCK).exists()
    with FolderLock(tmp_path, "") as lock:
        found_lock = evaluate(
            trained(), Quadratic(), horizon=20, num_seeds=1, baselines=(), devices=1, say=None, out=lock
        )
        assert (tmp_path / LOCK).exists()  # until the results are written
        assert "report.html" in found_lock.write(lock)
        assert (tmp_path / LOCK).exists()
    assert "report.html" in found.write(tmp_path)


# The command, which waits for a line before it writes its results.
SLOW = """
import runpy, sys
from lopt.evaluation.report import Report
write = Report.write

def wait(self, *arguments, **options):
    print("writing", flush=True)
    sys.stdin.readline()
    return write(self, *arguments, **options)

Report.write = wait
sys.argv[0] = "meta_eval.py"
runpy.run_module("meta_eval", run_name="__main__")
"""


@pytest.mark.thorough  # two processes take seconds to start
def test_two_commands_at_once(tmp_path):
    """The second ends with status 2 and one line; the first ends as if there had been no second."""
    out = tmp_path / "out"
    words = "--checkpoint=learnable_adam_digits --tasks=quadratic --horizon=20 --num_seeds=1 --cache= --devices=1"
    flags, pipe = [*words.split(), f"--out={out}"], {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SLOW, *flags], stdin=subprocess.PIPE, **pipe) as first:
        assert first.stdout is not None
        assert "writing\n" in first.stdout
        second = subprocess.run([sys.executable, "-m", "lopt", "eval", *flags], **pipe)
        assert "report.html" in first.communicate("\n")[0]
    advice = "wait for its end, or choose another folder with --out"
    assert second.stderr == f"meta_eval: another command is using {out} (process {first.pid}): {advice}\n"
    assert (first.returncode, second.returncode) == (0, 2)
    files = {path.name for path in out.iterdir()}
    assert {"curves.npz", "report.html"} <= files
    assert not {LOCK, "curves.so_far.npz"} & files
