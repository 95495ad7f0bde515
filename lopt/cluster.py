"""How a command becomes one process of a run over several: what it is told, what it sees, how it starts and ends."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from lopt import processes
from lopt.names import InputError

HELP = (
    "be one process of a run over several: bare, it finds the others as jax.distributed does (Slurm, Open MPI, "
    "Kubernetes, Cloud TPU); HOST:PORT,NUM,ID names the first process, their number, and which one this is, from 0 "
    "(docs/cluster.md)"
)
TIMEOUT_HELP = "seconds that processes of a run wait for one that has not started, or that gives no sign of life"
TIMEOUT = 120
DETECT, ALONE = "true", "false"  # what bare --distributed and --nodistributed stand for
LOST = 75  # status of a process whose peer is gone: as in sysexits.h, the same command may work later


class Place(NamedTuple):
    """Which process this is: address of the first one, number of them, and its own number from 0."""

    address: str
    number: int
    index: int


class Sight(NamedTuple):
    """A launcher that this process seems to be started by: its name, what tells, and the number of processes."""

    launcher: str
    variables: tuple[str, ...]
    number: str | None
    start: str


# In this order: a Slurm job may run mpirun. The last of `variables` are there only for what the launcher has started.
_SIGHTS = (
    Sight("Open MPI", ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_SIZE", "mpirun "),
    Sight("MPI", ("PMI_SIZE", "PMI_RANK"), "PMI_SIZE", "mpirun "),
    Sight("Slurm", ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID"), "SLURM_NTASKS", "srun "),
    Sight("a Kubernetes Indexed Job", ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"), None, ""),
    Sight("jax.distributed", ("JAX_COORDINATOR_ADDRESS",), None, ""),
)


def read_place(text: str) -> Place | None:
    """Reads what `--distributed` was given; None for what is to be found. Raises InputError."""
    if text == DETECT:
        return None
    address, *numbers = text.split(",")
    host, _, port = address.rpartition(":")
    try:
        number, index = map(int, numbers)
        if not host or not 0 < int(port) < 65536 or not 0 <= index < number:
            raise ValueError
    except ValueError:
        raise InputError(
            f"cannot read --distributed={text}: write HOST:PORT,NUM,ID with the address of the first process, the "
            "number of processes, and the number of this one, from 0 to NUM - 1, such as 10.0.0.1:6721,4,0; or "
            "--distributed alone"
        ) from None
    return Place(address, number, index)


def check_alone(environ: Mapping[str, str]) -> None:
    """Raises InputError where a process seems to be started as one of several, and has not been told of it."""
    for sight in _SIGHTS:
        values = [environ.get(name) for name in sight.variables]
        if None in values or (sight.number and environ[sight.number] in ("0", "1")):
            continue
        seen = ", ".join(f"{name}={environ[name]}" for name in sight.variables)
        raise InputError(
            f"this process seems to be one of several that {sight.launcher} has started ({seen}), and they would each "
            f"do all of the work: write {sight.start}... --distributed to make one run of them, or --nodistributed if "
            "this process is to work alone"
        )


def connect(told: str | None, timeout: int, command: str) -> bool:
    """Joins the other processes, if it is asked for; afterwards `processes` knows them. JAX must be set up already.

    Args:
      told: what `--distributed` was given; None without it.
      timeout: seconds; see `TIMEOUT_HELP`.
      command: the name that messages begin with.

    Returns:
      Whether there are other processes.

    Raises:
      InputError: it cannot be told which process this is, or nobody has said that it is one of several.
    """
    if told is None:
        check_alone(os.environ)
    if told in (None, ALONE):
        return False
    place = read_place(told)
    where = {} if place is None else {"coordinator_address": place.address, "num_processes": place.number}
    before = signal.getsignal(signal.SIGTERM)
    with _patience(timeout, lambda: _missing(command, place, timeout)):
        try:
            # It waits longer than `_patience`, as it would end the process without a word of what to do.
            jax.distributed.initialize(
                **where,
                process_id=None if place is None else place.index,
                initialization_timeout=2 * timeout + 10,
                heartbeat_timeout_seconds=timeout,
            )
        except (ValueError, RuntimeError) as error:
            hint = "" if place else ": where it finds no others, write --distributed=HOST:PORT,NUM,ID"
            raise InputError(f"cannot join the other processes{hint} ({' '.join(str(error).split())})") from error
        signal.signal(signal.SIGTERM, before)  # JAX catches it, and does nothing with it
        with _quiet_output():
            processes.gather(np.zeros(1, np.int32))  # connects all with all
            processes.connect_devices()
    if not processes.is_first():
        logging.getLogger().setLevel(logging.ERROR)
    return processes.number() > 1


def part() -> None:
    """Ends this process's part in a run that all have come to the end of; waits for the others."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def leave(status: int) -> int:
    """Ends this process after a failure, of which the others hear at once; returns if it is the only one."""
    if not jax.distributed.is_initialized():
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    if processes.is_first():
        time.sleep(1)  # JAX kills the others when this one ends: a failure that all know of lets them end themselves
    os._exit(status)


@contextmanager
def _patience(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _missing(command: str, place: Place | None, timeout: int) -> None:
    which = "this process" if place is None else f"process {place.index} of {place.number}"
    where = "" if place is None else f" at {place.address}"
    print(
        f"{command}: {which} has waited {timeout} s for the others{where}, and not all have come. Start all of them "
        "with the same address and number, where they reach each other; --peer_timeout=SECONDS waits longer.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)


@contextmanager
def _quiet_output() -> Iterator[None]:
    """Standard output goes nowhere: XLA tells there of each connection, amid what the command prints."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
