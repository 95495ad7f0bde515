"""What an evaluation needs of the machine, estimated before anything is built: memory, disk and time."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from lopt.distributed import machine_memory
from lopt.evaluation.contestants import Contestant
from lopt.evaluation.measures import LONG
from lopt.evaluation.plan import STEP_SECONDS, num_steps
from lopt.evaluation.protocol import Evaluation
from lopt.names import InputError

MOST_DAYS = 100.0  # the shortest steps there are would still take that long: a slip of the keyboard
MOST_STEPS = 2**31 - 1  # steps and seeds are int32 in the programs
FILES_BYTES = 4e6  # pictures, the page and the rest, beside the runs
GB = 1e9


def check_affordable(
    evaluation: Evaluation,
    contestants: Sequence[Contestant],
    num_tasks: int,
    points: Iterable[Evaluation] = (),
    folders: Iterable[Path] = (),
) -> None:
    """Refuses an evaluation that the machine cannot hold or finish.

    Args:
      evaluation: the protocol.
      contestants: who takes part.
      num_tasks: number of tasks.
      points: the protocol of every point of the sweeps, each for one task.
      folders: where the runs will be written.

    Raises:
      InputError: it needs more memory, disk or time than there is; the message has both figures.
    """
    points = list(points)
    kept = float(num_tasks) * sum(_entry_bytes(evaluation, x) for x in contestants)
    needed = kept + max(_working_bytes(x, contestant) for x in (evaluation, *points) for contestant in contestants)
    advice = "lower the horizon, the number of seeds, of tasks or of baselines"
    there = machine_memory()
    steps = float(num_tasks) * sum(num_steps(evaluation, x) for x in contestants)
    steps += sum(num_steps(point, x) for point in points for x in contestants)
    days = steps * STEP_SECONDS / evaluation.layout.num_devices / 86400
    text = f"{steps:.3g} training steps need about {needed / GB:.3g} GB of memory and at least {days:.3g} days"
    if needed > there:
        raise InputError(f"{text}; this machine has {there / GB:.3g} GB: {advice}")
    if evaluation.layout.sequential and days > MOST_DAYS:
        raise InputError(f"{text}; the most that is begun is {MOST_DAYS:g} days: {advice}")
    if max(x.horizon for x in (evaluation, *points)) * LONG > MOST_STEPS or 2 * evaluation.num_seeds > MOST_STEPS:
        raise InputError(f"steps ({LONG} times the horizon) and seeds must be at most {MOST_STEPS:,}")
    for folder in folders:
        _check_disk(folder, kept + FILES_BYTES)


def _entry_bytes(evaluation: Evaluation, contestant: Contestant) -> float:
    """Float32 losses of all runs of one entry."""
    return 4.0 * num_steps(evaluation, contestant)


def _working_bytes(evaluation: Evaluation, contestant: Contestant) -> float:
    """What the making of one entry takes: its losses on the device, twice in numpy, and float64 averages of them."""
    return 4.0 * _entry_bytes(evaluation, contestant)


def _check_disk(folder: Path, needed: float) -> None:
    """Raises InputError unless the disk of a folder, which may not exist yet, has room for so many bytes."""
    try:
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise InputError(f"cannot use {folder}: {error}") from error
    if free < needed:
        raise InputError(f"{folder} has {free / 1e6:.3g} MB of free space, and the results need {needed / 1e6:.3g} MB")
