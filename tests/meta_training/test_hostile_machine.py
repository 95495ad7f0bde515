"""What a machine may do to a run: a disk that fills up, folders without permission, a clock that jumps."""

import itertools
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lopt.distributed import PairLayout
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.folder import open_folder
from lopt.meta_training.attempt import Invocation
from lopt.meta_training.checkpoint import CheckpointError
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.loop import train
from lopt.meta_training.stopwatch import KEYS
from lopt.meta_training.validation import SCORE
from lopt.meta_training.workdir import finished_steps
from lopt.names import InputError
from lopt.trained.pretrained import load_pretrained
from lopt.types import TaskMixture
from tasks import datasets
from tests.meta_training.test_recovery import rows_of
from tests.meta_training.times import without_times
from tests.toy_family import Quadratic

pytestmark = pytest.mark.xdist_group("loop")  # the tests share a program
TASKS = TaskMixture((Quadratic(),), (1.0,))
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20", outer_steps=6,
    outer_schedule="constant", valid_tasks="made up", valid_every=2,
)  # fmt: skip


class AtStep:
    """A validator whose scores fall, and which does something at an outer step first."""

    def __init__(self, step=None, action=lambda: None):
        self.step, self.action, self.scores = step, action, itertools.count(0)

    def prepare(self, thetas, stopped):
        pass

    def score(self, thetas):
        number = next(self.scores)
        if self.step == 2 * (number + 1):
            self.action()
        return [{SCORE: 9.0 - number}] * len(thetas)


def run(workdir, validator=None, **options):
    return train(CONFIG.build(TASKS, PairLayout(2)), CONFIG, Invocation(workdir, **options), validator or AtStep())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder).finished
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 4 MiB; only the superuser may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place: Path) -> None:
    with open(place / "full", "wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


# What orbax was writing when it failed is collected later, and complains of its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_costs_what_was_not_saved_and_nothing_else(small_disk, whole):
    workdir = small_disk / "run"
    with pytest.raises((CheckpointError, OSError), match="No space left on device"):
        run(workdir, AtStep(6, lambda: fill(small_disk)))
    # On a busy machine the checkpoint of step 4 may still be on its way to the disk, or its export may.
    done = sorted(finished_steps(workdir / "checkpoints"))
    assert done in ([2], [2, 4])
    assert load_pretrained(workdir).card["outer_steps"] in done
    with pytest.raises(InputError, match=r"0\.0 MiB free|No space left"):
        run(workdir)
    (small_disk / "full").unlink()
    validator = AtStep()
    for _ in range(done[-1] // 2):  # validations that were before it
        next(validator.scores)
    assert run(workdir, validator).finished
    assert list(map(without_times, rows_of(workdir))) == list(map(without_times, rows_of(whole)))
    for name in ("export", "export-best"):
        theta, wanted = ((folder / name / "theta.safetensors").read_bytes() for folder in (workdir, whole))
        assert theta == wanted
    assert not any(path.name.startswith(".") for path in workdir.iterdir())


@pytest.fixture
def closed_folder(monkeypatch, tmp_path):
    """A folder that this process may read and not write, whoever runs it."""
    entry, root = datasets.BUILTIN["wine"], os.geteuid() == 0
    datasets.prepare("wine", tmp_path / "before")  # imports, from folders that the other user may not read
    splits = entry.read(entry.split_sizes)  # likewise
    monkeypatch.setitem(datasets.BUILTIN, "wine", entry._replace(read=lambda sizes: splits))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "closed")
        folder.mkdir()
        (folder / "mine").write_text("mine")
        for path in (Path(place), folder):
            path.chmod(0o555)
        if root:  # to whom permissions mean nothing
            os.seteuid(65534)
        yield folder
        if root:
            os.seteuid(0)
        for path in (Path(place), folder):
            path.chmod(0o755)


WRITERS = {
    "a run": (lambda folder: run(folder), "cannot use the workdir .*Permission denied"),
    "a run in a new folder": (lambda folder: run(folder / "new"), "cannot use the workdir .*Permission denied"),
    "an evaluation": (lambda folder: open_folder(folder, {}).__enter__(), "cannot use .*Permission denied"),
    "a cache": (lambda folder: EvaluationCache(folder).check(), "cannot write to the cache .*Permission denied"),
    "data": (lambda folder: datasets.prepare("wine", folder), "cannot write data set 'wine' .*Permission denied"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_folder_without_permission_is_refused_before_anything_is_paid_for(closed_folder, what):
    write, message = WRITERS[what]
    with pytest.raises(InputError, match=message) as error:
        write(closed_folder)
    assert "\n" not in str(error.value)
    assert [path.name for path in closed_folder.iterdir()] == ["mine"]


def test_a_clock_that_jumps_changes_no_number(tmp_path, whole, monkeypatch):
    """By hours, forward and backward, at every look: durations come from a clock that cannot be set."""
    jumps, real, real_ns = itertools.cycle((0, 7200, -86_400, 3600)), time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + next(jumps) * 10**9)
    run(tmp_path, stop_after=2)
    validator = AtStep()
    next(validator.scores)
    assert run(tmp_path, validator).finished
    rows = rows_of(tmp_path)
    assert list(map(without_times, rows)) == list(map(without_times, rows_of(whole)))
    assert all(0 <= row[key] < 3600 for row in rows for key in KEYS[:-1] if key in row)
