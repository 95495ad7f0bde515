"""Kills a command at random moments, again and again, and compares what it leaves with a run that nobody killed.

    python -m benchmarks.soak --what=train --kills=200 --seconds=7200

A small `lopt train`, `lopt eval` or `lopt tasks prepare` (`benchmarks/killed.py`) runs once undisturbed. Then it starts
again and again in another folder, and SIGKILL ends it: one time in four at any moment between its start and its end,
else as soon as one of its writes has begun, or a moment later. After every kill, what the folder offers to readers must
be readable; where the command gets to its end, its result must equal the undisturbed one, and a new folder begins. The
last lines say how many kills there were, how many of them have cut a write, and what differed: then the status is 1.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import collections
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.killed import COMMANDS, Command, begun_writes, cut_writes
from lopt.__main__ import main as lopt_main

WATCH_SECONDS = 0.002  # between two looks at the folder
ANYWHERE = 0.25  # share of the kills that are not aimed at a write
MOST_WRITES = 12  # which of the writes of a command an aimed kill hits, at most
MOST_DELAY = 0.03  # seconds from the beginning of that write to the kill
LOG = "log.txt"
LIBRARIES = (  # that the commands load
    *("benchmarks.killed", "absl.app", "filelock", "matplotlib.figure", "rich.logging", "scipy", "sklearn.datasets"),
    *("tensorflow_datasets", "lopt.meta_training.sweep", "lopt.evaluation.evaluate", "lopt.validation.validator"),
)
STUCK_SECONDS = 1800.0  # after which a command counts as one that hangs; seconds on a machine that has time for it


class Moment(NamedTuple):
    """When a command is to be killed.

    Attributes:
      seconds: after its start, at the latest.
      writes: writes that must have begun; 0 where only the time counts.
      delay: seconds from the last of them to the kill.
    """

    seconds: float
    writes: int = 0
    delay: float = 0.0


class Life(NamedTuple):
    """How a command has ended.

    Attributes:
      status: its exit status, negative where a signal has ended it.
      writes: that were seen to begin.
      seconds: from its start to its end.
      hung: whether it was killed because it did not end by itself, and not at its moment.
    """

    status: int
    writes: int
    seconds: float
    hung: bool = False


class Outcome(NamedTuple):
    """What a soak has found.

    Attributes:
      kills: processes that SIGKILL has ended.
      cut: how many kills have cut which kind of write, by `killed.cut_writes`; "any" counts each kill once.
      starts: processes started, without the undisturbed one.
      folders: folders in which the command has got to its end.
      seconds: of all of it.
      differing: what was not as in the undisturbed run, or could not be read, with the folder; empty if all is well.
    """

    kills: int
    cut: dict[str, int]
    starts: int
    folders: int
    seconds: float
    differing: list[str]


def draw_moment(rng: random.Random, undisturbed: Life) -> Moment:
    """When to kill a command that lives like this when nobody does."""
    if rng.random() < ANYWHERE or not undisturbed.writes:
        return Moment(rng.uniform(0, undisturbed.seconds))
    # At once as often as later, as a write that has just begun and one that is nearly complete are different things.
    delay = rng.choice((0.0, rng.uniform(0, MOST_DELAY)))
    return Moment(STUCK_SECONDS, rng.randint(1, min(MOST_WRITES, undisturbed.writes)), delay)


def live(command: Command, place: Path, moment: Moment | None) -> Life:
    """Starts a command and kills it at a moment, or never; what it prints goes to the file `log.txt` beside `place`."""
    # Python loads the libraries once, and a fork of it is each start: that takes a second instead of several.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(LIBRARIES))
    process = server.Process(target=_work, args=(command.arguments(place), place.parent / LOG))
    process.start()
    started, seen, begun, hung = time.monotonic(), begun_writes(place), 0, False
    last = STUCK_SECONDS if moment is None else moment.seconds
    while process.is_alive():
        now = begun_writes(place)
        begun, seen = begun + len(now - seen), now
        aimed = moment is not None and 0 < moment.writes <= begun
        if aimed or time.monotonic() - started > last:
            hung = not aimed and last == STUCK_SECONDS
            time.sleep(moment.delay if moment is not None and aimed else 0)
            process.kill()
        time.sleep(WATCH_SECONDS)
    process.join()
    return Life(process.exitcode or 0, begun, time.monotonic() - started, hung)


def _work(arguments: list[str], log: Path) -> None:
    """What a fork does: `python -m lopt` with these arguments."""
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(log.parent)
    sys.argv[:] = ["lopt", *arguments]
    sys.exit(interrupts.run(lopt_main))


def soak(command: Command, kills: int, seconds: float, root: Path, seed: int = 0) -> Outcome:
    """Kills a command `kills` times, or for about as many seconds, and compares its results.

    Args:
      command: one of `killed.COMMANDS`.
      kills: at most.
      seconds: after the undisturbed run, from which on nothing is killed any more.
      root: a folder for all of it.
      seed: of the moments.
    """
    rng, started = random.Random(seed), time.monotonic()
    whole, differing, cut = root / "whole", list[str](), collections.Counter[str]()
    undisturbed = live(command, whole, None)
    if undisturbed.status:
        return Outcome(0, {}, 0, 0, undisturbed.seconds, [f"the undisturbed run: {_end_of(undisturbed, root)}"])
    wanted = command.result(whole)
    done, starts, folders, first = 0, 0, 0, time.monotonic()
    place = root / "killed-1"
    while True:
        more = done < kills and time.monotonic() - first < seconds
        life = live(command, place, draw_moment(rng, undisturbed) if more else None)
        starts += 1
        if life.status == -signal.SIGKILL and more and not life.hung:
            done += 1
            kinds = cut_writes(place)
            cut.update({*kinds, "any"} if kinds else {})
            differing += [f"{place.name}, kill {done}: {problem}" for problem in command.problems(place)]
            if done % 10 == 0:
                print(f"{done} kills, {cut['any']} of them in a write, {time.monotonic() - started:.0f} s", flush=True)
            continue
        if life.status:
            differing.append(f"{place.name}: {_end_of(life, root)}")
            break
        try:
            found = command.result(place)
        except (OSError, ValueError, KeyError) as error:  # InputError is a ValueError
            found = {}
            differing.append(f"{place.name}: {error!r}")
        differing += [f"{place.name}: {name}" for name in wanted if found.get(name) != wanted[name]]
        folders += 1
        if not more:
            break
        place = root / f"killed-{folders + 1}"
    return Outcome(done, dict(cut), starts, folders, time.monotonic() - started, differing)


def report(what: str, outcome: Outcome) -> str:
    """The last lines."""
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(outcome.cut.items()) if kind != "any")
    lines = [
        f"{what}: {outcome.kills} kills in {outcome.seconds / 60:.1f} minutes, {outcome.starts} starts, "
        f"{outcome.folders} folders",
        f"kills that have cut a write: {outcome.cut.get('any', 0)} ({kinds or 'none'})",
        "equal to a run that nobody killed: " + ("no" if outcome.differing else "yes"),
    ]
    return "\n".join([*lines, *(f"  {line}" for line in outcome.differing)])


def _end_of(life: Life, root: Path) -> str:
    lines = (root / LOG).read_text(errors="replace").splitlines()
    how = f"not at its end after {life.seconds:.0f} s" if life.hung else f"status {life.status}"
    return f"{how}, {' / '.join(lines[-5:])}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills a command again and again; see the module's docstring.")
    parser.add_argument("--what", choices=COMMANDS, default="train", help="the command")
    parser.add_argument("--kills", type=int, default=200, help="how often it is killed, at most")
    parser.add_argument("--seconds", type=float, default=1800, help="after which nothing is killed any more")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    command = COMMANDS[args.what]
    with tempfile.TemporaryDirectory(prefix="lopt-soak-") as place:
        # A cache of compiled programs of its own, as a kill may damage what it is writing; and jax_enable_x64 is off.
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["JAX_ENABLE_X64"] = "0"
        os.environ |= {"XDG_CACHE_HOME": str(Path(place, "cache")), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        live(command, Path(place, "compiled"), None)
        outcome = soak(command, args.kills, args.seconds, Path(place), args.seed)
    print(report(args.what, outcome))
    return 1 if outcome.differing or not outcome.kills else 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
