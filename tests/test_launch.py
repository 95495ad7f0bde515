"""The launcher: what it is told, whose cores are whose, and that all end when one fails."""

import signal
import subprocess
import sys
import time

import pytest

from lopt import launch
from lopt.names import InputError


def test_arguments():
    assert launch.read_arguments(["2", "--", "train", "--seed=1"]) == (2, ["train", "--seed=1"])
    assert launch.read_arguments(["3", "eval"]) == (3, ["eval"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "how many processes"),
        (["0", "--", "train"], "how many processes"),
        (["train"], "how many processes"),
        (["2"], "one of train, eval"),
        (["2", "--", "plot"], "one of train, eval"),
        (["2", "--", "train", "--distributed=a:1,2,0"], "leave it out"),
        (["2", "--", "train", "--nodistributed"], "leave it out"),
    ],
)
def test_bad_arguments_are_refused(argv, said):
    with pytest.raises(InputError, match=said):
        launch.read_arguments(argv)


@pytest.mark.parametrize("number", [1, 2, 3, 8, 11])
def test_cores_are_shared_out(number):
    cores = range(10, 18)
    shares = [launch.cores_of(i, number, cores) for i in range(number)]
    assert set().union(*shares) == set(cores)
    if number <= len(cores):
        assert sum(map(len, shares)) == len(cores)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 1


def started(*programs):
    return [subprocess.Popen([sys.executable, "-c", program]) for program in programs]


STAYS, STAYS_DEAF = (
    "import time; time.sleep(60)",
    ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"),
)


@pytest.mark.parametrize(
    ("programs", "status", "seconds"),
    [
        (["", ""], 0, 5),
        (["raise SystemExit(75)", STAYS], 75, 5),
        (["raise SystemExit(75)", STAYS_DEAF], 75, 5),
        (["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", STAYS], 128 + signal.SIGKILL, 5),
        (["", "raise SystemExit(3)"], 3, 5),
        (["", STAYS], 128 + signal.SIGTERM, 5),
    ],
)
def test_all_end_when_one_does(programs, status, seconds, monkeypatch, capsys):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)
    processes = started(*programs)
    began = time.monotonic()
    assert launch.wait_for(processes, []) == status
    assert time.monotonic() - began < seconds + 5  # and not the 60 s of those that stay
    assert all(process.poll() is not None for process in processes)
    assert ("was ended by SIGKILL" in capsys.readouterr().err) == ("SIGKILL" in programs[0] or STAYS_DEAF in programs)
