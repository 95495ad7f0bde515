"""The command `lopt launch N -- VERB ...`: N processes on this machine that do one run together.

lopt launch 2 -- train --workdir=runs/x --num_pairs=16

Each gets its share of the cores. When one of them ends, all do. It is for a machine of several sockets, and to
try a cluster's command at home: on one socket, a single process with a device per core does the same.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from lopt.names import InputError

USAGE = "usage: lopt launch N -- train ...   or   lopt launch N -- eval ..."
VERBS = ("train", "eval")
MOST_PER_CORE = 8  # processes; a mistyped number would take all of the machine's memory before anybody could stop it
GRACE_SECONDS = 10.0  # after one has ended: for the others to end by themselves, and again after they are asked to
POLL_SECONDS = 0.05


def read_arguments(argv: Sequence[str]) -> tuple[int, list[str]]:
    """The number of processes and the command that each runs. Raises InputError."""
    text, *command = argv or [""]
    if command[:1] == ["--"]:
        del command[0]
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"say how many processes: {USAGE}")
    if int(text) > MOST_PER_CORE * (cores := len(_own_cores())):
        raise InputError(
            f"{text} processes are too many for the {cores} cores here: start at most {MOST_PER_CORE} per core"
        )
    if not command or command[0] not in VERBS:
        raise InputError(f"after the number and -- comes one of {', '.join(VERBS)}: {USAGE}")
    if given := [word for word in command if word.lstrip("-").startswith(("distributed", "nodistributed"))]:
        raise InputError(f"{given[0]} is what this command tells its processes: leave it out")
    return int(text), command


def cores_of(index: int, number: int, cores: Sequence[int]) -> set[int]:
    """The cores of one of several processes: neighbours, as equally many as can be; all share where they are fewer."""
    first, last = (len(cores) * i // number for i in (index, index + 1))
    return set(cores[first:last]) or {cores[index % len(cores)]}


def run(number: int, command: Sequence[str]) -> int:
    """Runs the processes, and returns the status of the first that failed; 0 if none did."""
    address = f"127.0.0.1:{_free_port()}"
    processes = []
    asked: list[int] = []

    def pass_on(signum: int, frame: Any) -> None:
        del frame
        asked.append(signum)
        _signal_all(processes, signum)

    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        for index in range(number):
            words = [*command, f"--distributed={address},{number},{index}"]
            # In a session of its own, so that Ctrl-C comes once, through `pass_on`.
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "lopt", *words], start_new_session=True, preexec_fn=_on_cores(index, number)
                )
            )
        return wait_for(processes, asked)
    finally:
        _signal_all(processes, signal.SIGKILL)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def wait_for(processes: Sequence[subprocess.Popen], asked: Sequence[int]) -> int:
    """Waits for all; once one has ended and the others do not follow, they are asked to, and then killed."""
    failed, ended_at, sent = 0, None, None
    while any(process.poll() is None for process in processes):
        statuses = [process.returncode for process in processes if process.returncode is not None]
        failed = failed or next((status for status in statuses if status), 0)
        now = time.monotonic()
        if ended_at is None and not asked and len(statuses) > 0:
            ended_at = now
        if ended_at is not None and sent is None and now - ended_at > GRACE_SECONDS:
            sent = signal.SIGTERM
            _signal_all(processes, sent)
        if ended_at is not None and now - ended_at > 2 * GRACE_SECONDS:
            _signal_all(processes, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    statuses = [process.returncode for process in processes]
    failed = failed or next((status for status in statuses if status), 0)
    killed = [i for i, status in enumerate(statuses) if status and status < 0 and -status != sent]
    for index in killed:
        name = signal.Signals(-statuses[index]).name
        print(f"launch: process {index} of {len(processes)} was ended by {name}", file=sys.stderr)
    return 128 - failed if failed < 0 else failed


def _own_cores() -> Sequence[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _on_cores(index: int, number: int) -> Callable[[], None] | None:
    """What a process does before it starts, where the system can bind it to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = cores_of(index, number, _own_cores())
    return lambda: os.sched_setaffinity(0, cores)


def _signal_all(processes: Sequence[subprocess.Popen], signum: int) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signum)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Reads the command line and runs the processes."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(f"{__doc__}\n{USAGE}")
        return 0
    try:
        return run(*read_arguments(sys.argv[1:]))
    except InputError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
