"""The launcher: what it is told, whose cores are whose, and that all end when one fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lopt import launch
from lopt.names import InputError

# JAX warns of forks, which the launcher makes, and which has not loaded it; another test here may have.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


def test_arguments():
    assert launch.read_arguments(["2", "--", "train", "--seed=1"]) == (2, ["train", "--seed=1"])
    assert launch.read_arguments(["3", "eval"]) == (3, ["eval"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "how many processes"),
        (["0", "--", "train"], "how many processes"),
        (["train"], "how many processes"),
        (["1000000", "--", "train"], "1000000 processes are too many for the .* at most 8 per core"),
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
        (["raise SystemExit(75)", STAYS, STAYS_DEAF], 75, 5),
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


# What each process does in the place of `python -m lopt`: it says what it was given, and `BODY` follows.
PROGRAM = """#!{python}
import json, os, pathlib, signal, sys, time
index = int(sys.argv[-1].split(",")[-1])
folder = pathlib.Path({folder!r})
known = {{"words": sys.argv[1:], "leads": os.getsid(0) == os.getpid(), "cores": sorted(os.sched_getaffinity(0))}}
caught = []
signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
(folder / f"new-{{index}}").write_text(json.dumps(known))
(folder / f"new-{{index}}").rename(folder / f"{{index}}.json")
{body}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Sets what the processes do after they have said what they were given; returns their folder."""

    def made(body):
        path = tmp_path / "python"
        path.write_text(PROGRAM.format(python=sys.executable, folder=str(tmp_path), body=body))
        path.chmod(0o755)
        monkeypatch.setattr(launch.sys, "executable", str(path))
        return tmp_path

    return made


def test_each_process_is_told_which_one_it_is_and_has_its_cores(program, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 60.0)  # the machine may be busy
    folder = program("")
    assert launch.run(3, ["train", "--seed=1"]) == 0
    cores = sorted(os.sched_getaffinity(0))
    addresses = set()
    for index in range(3):
        told = json.loads((folder / f"{index}.json").read_text())
        *words, place = told["words"]
        assert words == ["-m", "lopt", "train", "--seed=1"]
        address, *numbers = place.removeprefix("--distributed=").split(",")
        assert numbers == ["3", str(index)]
        assert set(told["cores"]) == launch.cores_of(index, 3, cores)
        assert told["leads"]  # a session: else the terminal would send Ctrl-C a second time
        addresses.add(address)
    assert len(addresses) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_the_processes_have_their_time(program, number, monkeypatch):
    """One ends at once, and the other saves for longer than a failure of the first would leave it."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)
    folder = program(
        f"signal.signal({int(number)}, lambda number, frame: caught.append(number))\n"
        "(folder / f'ready-{index}').touch()\n"
        "until = time.monotonic() + 60\n"
        "while not caught and time.monotonic() < until: time.sleep(0.01)\n"
        "until = time.monotonic() + index * 1.2\n"
        "while time.monotonic() < until: time.sleep(0.01)\n"
        "(folder / f'saved-{index}').write_text(str(len(caught)))\n"
        "sys.exit(128 + caught[0])"
    )
    before = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]

    def when_both_run():
        while not all((folder / f"ready-{index}").exists() for index in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=when_both_run, daemon=True).start()
    assert launch.run(2, ["train"]) == 128 + number
    assert [(folder / f"saved-{index}").read_text() for index in range(2)] == ["1", "1"]
    assert [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)] == before


def test_no_process_outlives_the_launcher(program, monkeypatch):
    """Whatever ends it, such as a second Ctrl-C."""
    program("time.sleep(60)")
    seen = []

    def fail(processes, asked):
        seen.extend(processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "wait_for", fail)
    with pytest.raises(KeyboardInterrupt):
        launch.run(2, ["train"])
    assert [process.wait(timeout=30) for process in seen] == [-signal.SIGKILL] * 2


def test_the_command_ends_with_the_status_of_what_failed(program, monkeypatch, capsys):
    program("sys.exit(7 * index)")
    monkeypatch.setattr(launch, "GRACE_SECONDS", 60.0)
    for words, status, said in ((["2", "--", "train"], 7, ""), (["2", "plot"], 2, "launch: after the number")):
        monkeypatch.setattr(sys, "argv", ["launch", *words])
        assert launch.main() == status
        assert capsys.readouterr().err.startswith(said)
