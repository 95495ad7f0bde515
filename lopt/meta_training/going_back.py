"""Going back to an earlier checkpoint: in a recovery, and where the newest one is damaged.

The state after an outer step is a function of the config. So a run that goes on from an earlier checkpoint gets to the
same theta, and what a damaged one costs is the time to make its steps again.
"""

import logging
import os
import shutil
from pathlib import Path

from lopt.files import check_seal
from lopt.meta_training.workdir import CHECKPOINTS, finished_steps
from lopt.names import InputError

DAMAGED = "damaged-"  # what the name of a checkpoint that is set aside begins with


def go_back(workdir: str | os.PathLike, step: int | None) -> int:
    """Deletes the checkpoints of steps after `step`, unless there is none before; nothing may have them open.

    Args:
      workdir: the run's folder.
      step: where to go back to; None for the latest checkpoint.

    Returns:
      The latest step that there is now, and that is intact; 0 without a checkpoint.

    Raises:
      InputError: as `set_damaged_aside`.
    """
    directory = Path(workdir) / CHECKPOINTS
    finished = sorted(finished_steps(directory))
    if step is not None and finished and finished[0] <= step:
        while finished[-1] > step:  # from the end, so that what is left is always the latest
            shutil.rmtree(directory / str(finished.pop()))
    return set_damaged_aside(workdir)


def set_damaged_aside(workdir: str | os.PathLike) -> int:
    """Renames the newest checkpoints of a run as far as they are damaged, and says so; nothing is deleted.

    Args:
      workdir: the run's folder; nothing may have its checkpoints open.

    Returns:
      The newest step whose checkpoint is intact; 0 without a checkpoint.

    Raises:
      InputError: all of them are damaged, or one cannot be read. Nothing was changed.
    """
    directory = Path(workdir) / CHECKPOINTS
    damaged: dict[int, str] = {}
    for step in sorted(finished_steps(directory), reverse=True):
        reason = _damage(directory / str(step))
        if reason is None:
            for other, why in damaged.items():
                _set_aside(directory, other, why, step)
            return step
        damaged[step] = reason
    if damaged:
        reasons = "; ".join(f"{directory / str(step)}: {reason}" for step, reason in damaged.items())
        raise InputError(
            f"every checkpoint of this run is damaged: {reasons}. Nothing was changed; put an intact copy back, delete "
            f"{directory} and the exports to start anew, or choose another workdir."
        )
    return 0


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is."""
    try:
        check_seal(folder)
    except OSError as error:  # another time, or with other permissions, it may be read
        raise InputError(
            f"cannot read the checkpoint {folder}: {error.strerror or error}. Nothing was changed; "
            "make it readable, or choose another workdir."
        ) from error
    except ValueError as error:
        return str(error)
    return None


def _set_aside(directory: Path, step: int, reason: str, back_to: int) -> None:
    place = directory / f"{DAMAGED}{step}"
    shutil.rmtree(place, ignore_errors=True)  # the same step, damaged at an earlier time
    (directory / str(step)).rename(place)
    logging.warning(
        "the checkpoint of step %d is damaged: %s. It is now %s, which can be deleted; "
        "the run goes on from step %d and makes the steps after it again",
        step, reason, place, back_to,
    )  # fmt: skip
