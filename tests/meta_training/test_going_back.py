"""A damaged checkpoint is set aside, and the run goes on from the one before, to the same theta bit for bit."""

import os
import shutil
from pathlib import Path

import pytest

from lopt.distributed import PairLayout
from lopt.files import SEAL
from lopt.meta_training.attempt import Invocation
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.going_back import set_damaged_aside
from lopt.meta_training.loop import train
from lopt.meta_training.workdir import finished_steps
from lopt.names import InputError
from lopt.types import TaskMixture
from tests.meta_training.test_checkpoint import damage, files_under
from tests.meta_training.test_recovery import rows_of
from tests.meta_training.times import without_times
from tests.toy_family import Quadratic

pytestmark = pytest.mark.xdist_group("loop")  # the tests share a program
TASKS = TaskMixture((Quadratic(),), (1.0,))
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20", outer_steps=6,
    outer_schedule="constant",
)  # fmt: skip


def run(workdir, **options):
    options = {"checkpoint_every": 1, "keep_checkpoints": 3, **options}
    return train(CONFIG.build(TASKS, PairLayout(2)), CONFIG, Invocation(workdir, **options))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that has stopped after the steps 1 to 4, of which 2 to 4 are kept, and the same one at its end."""
    place = tmp_path_factory.mktemp("runs")
    run(place / "stopped", stop_after=4)
    shutil.copytree(place / "stopped", place / "whole")
    assert run(place / "whole").finished
    return place


@pytest.fixture
def stopped(made, tmp_path):
    return Path(shutil.copytree(made / "stopped", tmp_path / "run"))


def break_seal(folder: Path, content: str) -> None:
    (folder / SEAL).write_text(content)


DAMAGES = {how: lambda folder, how=how: damage(folder, how) for how in ("truncated", "changed byte", "missing")}
DAMAGES |= {
    f"seal {content[:9]}": lambda folder, content=content: break_seal(folder, content)
    for content in ("", "[1, 2]", '{"a": 1}', '{"a": "bc"}', "[" * 100_000)
}


@pytest.mark.parametrize("how", DAMAGES)
def test_whatever_is_damaged_is_set_aside(stopped, how, caplog):
    checkpoints = stopped / "checkpoints"
    DAMAGES[how](checkpoints / "4")
    damaged = files_under(checkpoints / "4")
    assert set_damaged_aside(stopped) == 3
    assert "the checkpoint of step 4 is damaged: the file" in caplog.text
    assert "the run goes on from step 3" in caplog.text
    assert files_under(checkpoints / "damaged-4") == damaged  # nothing is lost


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(made, stopped):
    damage(stopped / "checkpoints" / "4", "changed byte")
    outcome = run(stopped, stop_after=1)
    assert (outcome.step, outcome.finished) == (4, False)  # one step from step 3 on
    assert run(stopped).finished
    assert list(map(without_times, rows_of(stopped))) == list(map(without_times, rows_of(made / "whole")))
    theta, wanted = ((folder / "export/theta.safetensors").read_bytes() for folder in (stopped, made / "whole"))
    assert theta == wanted


def test_as_many_are_set_aside_as_are_damaged(stopped):
    checkpoints = stopped / "checkpoints"
    for step in ("3", "4"):
        damage(checkpoints / step, "changed byte")
    (checkpoints / "damaged-4").mkdir()  # of an earlier time
    assert set_damaged_aside(stopped) == 2
    assert sorted(os.listdir(checkpoints)) == ["2", "damaged-3", "damaged-4"]
    assert finished_steps(checkpoints) == [2]
    assert set_damaged_aside(stopped) == 2


def test_where_all_are_damaged_nothing_is_changed(stopped):
    for step in ("2", "3", "4"):
        damage(stopped / "checkpoints" / step, "truncated")
    before = files_under(stopped / "checkpoints")
    with pytest.raises(InputError, match=r"every checkpoint .* is damaged: .*checkpoints/4: the file .*start anew"):
        run(stopped)
    assert files_under(stopped / "checkpoints") == before


def test_one_that_cannot_be_read_is_not_called_damaged(stopped, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lopt.files._crc", refuse)
    with pytest.raises(InputError, match=r"cannot read the checkpoint .*4: Permission denied\. Nothing was"):
        set_damaged_aside(stopped)
    assert sorted(os.listdir(stopped / "checkpoints")) == ["2", "3", "4"]


def test_a_folder_without_checkpoints_has_nothing_to_set_aside(tmp_path):
    assert set_damaged_aside(tmp_path) == 0
