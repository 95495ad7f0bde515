"""Going back to a good checkpoint instead of stopping, and what a run remembers of that."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from lopt import processes
from lopt.files import write_atomic
from lopt.meta_training.health import StuckError
from lopt.meta_training.workdir import RECORD
from lopt.names import InputError

RATE_FACTOR = 0.5  # what each recovery multiplies the outer learning rate by


@dataclasses.dataclass
class Record:
    """What a run has decided by itself, and keeps to when it goes on: `run.json` in its folder.

    Attributes:
      path: the file; it is there once there is something in it.
      valid_every: outer steps between validations, where the run has found the number itself.
      recoveries: for each, `{"at": outer step, "back_to": outer step, "reason": text}`.
    """

    path: Path
    valid_every: int | None = None
    recoveries: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @staticmethod
    def read(workdir: Path) -> "Record":
        """The record in a folder, an empty one for a new run. Raises InputError if it cannot be used."""
        path = workdir / RECORD
        return Record(path, *processes.first_does(lambda: _read(path)))

    def write(self) -> None:
        """Writes the file; every process of a run calls this, and the first one does it."""
        if not processes.is_first():
            return
        content = {"valid_every": self.valid_every, "recoveries": self.recoveries}
        write_atomic(self.path, json.dumps(content, indent=2) + "\n")

    def keep_interval(self, every: int) -> None:
        """Remembers how often the run validates."""
        self.valid_every = every
        self.write()

    @property
    def rate_scale(self) -> float:
        """What the outer learning rate is multiplied by."""
        return RATE_FACTOR ** len(self.recoveries)

    def row(self) -> dict[str, float]:
        """What every row of a run that has recovered says of it."""
        return {"recovered": len(self.recoveries), "outer_rate_scale": self.rate_scale} if self.recoveries else {}

    def check_may_go_back(self, error: StuckError, most: int) -> None:
        """Raises StuckError, with the reason, if the run has gone back to a checkpoint `most` times already."""
        if len(self.recoveries) >= most:
            tried = f"; going back to a checkpoint, times {most}, has not helped" if most else ""
            raise StuckError(f"{error}{tried}", error.step) from error

    def note(self, error: StuckError, back_to: int) -> None:
        """Remembers why a run goes back to a step, 0 for its start: from then on, its outer rate is lower."""
        self.recoveries.append({"at": error.step, "back_to": back_to, "reason": str(error)})
        self.write()
        logging.warning(
            "%s. Going back to outer step %d, with %g times the outer learning rate", error, back_to, self.rate_scale
        )


def _read(path: Path) -> tuple[int | None, list[dict[str, Any]]]:
    """Interval of the validations and recoveries."""
    if not path.exists():
        return None, []
    try:
        content = json.loads(path.read_text())
        every, recoveries = content["valid_every"], content["recoveries"]
        if not (every is None or (isinstance(every, int) and every >= 1)):
            raise ValueError(f"valid_every is {every!r}")
        if not all(isinstance(item["back_to"], int) for item in recoveries):
            raise ValueError(f"recoveries is {recoveries!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {path}, in which a run keeps how often it validates and how often it has gone back to a "
            f"checkpoint: {error}. Repair the file or choose another workdir."
        ) from error
    return every, recoveries
