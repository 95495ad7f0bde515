"""The files of an evaluation: read back as they were, and never over another's."""

import csv
import json

import numpy as np
import pytest

from lopt import results
from lopt.names import InputError
from lopt.scores import Curves, TaskCurves, score_task

T, S, RATES = 20, 2, (0.01, 0.1, 1.0)
CONFIGURATION = {"horizon": T, "tasks": ("bowl",)}


@pytest.fixture
def curves():
    rng = np.random.default_rng(0)

    def runs(*shape):
        loss = rng.uniform(1, 2, size=shape).astype(np.float32)
        return Curves(loss, loss[..., 0], np.full(shape[:-1], np.nan, np.float32))

    grid, tuning = runs(3, S, T), runs(3, S, T)
    grid.loss[2, 1, 5] = np.nan
    tuning.loss[1] -= 0.5
    seeds = np.arange(S)
    return TaskCurves(
        9, np.array(RATES), seeds, S + seeds, runs(S, T), runs(S, T), runs(S, T), grid, tuning, runs(S, 4 * T)
    )


def write(folder, curves):
    results.check_folder(folder, CONFIGURATION)
    scores = {"bowl": score_task(curves)}
    about = {"command": "x"}
    results.write_results(folder, {"bowl": curves}, scores, b"png", configuration=CONFIGURATION, about=about)


def test_curves_are_read_back(tmp_path, curves):
    write(tmp_path, curves)
    (name, again), *others = results.load_curves(tmp_path / results.CURVES).items()
    assert (name, others) == ("bowl", [])
    assert again.num_params == 9
    for field, value in curves._asdict().items():
        arrays = value if isinstance(value, Curves) else [value]
        read = getattr(again, field) if isinstance(value, Curves) else [getattr(again, field)]
        for ours, theirs in zip(arrays, read, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert score_task(again) == score_task(curves)


def test_one_row_for_each_run(tmp_path, curves):
    write(tmp_path, curves)
    rows = list(csv.DictReader((tmp_path / results.SCORES).read_text().splitlines()))
    assert len(rows) == (2 * len(RATES) + 3) * S
    assert list(rows[0]) == [
        *("task", "optimizer", "learning_rate", "seed", "mean_loss", "final_loss", "valid_loss", "valid_accuracy")
    ]
    assert len({(row["optimizer"], row["learning_rate"], row["seed"]) for row in rows}) == len(rows)
    assert [row["mean_loss"] for row in rows].count("inf") == 1  # kept, and said
    tuning = [row for row in rows if row["optimizer"] == "adam_tuning"]
    assert {row["seed"] for row in tuning} == {"2", "3"}
    learned = [float(row["mean_loss"]) for row in rows if row["optimizer"] == "learned"]
    np.testing.assert_allclose(learned, curves.learned.loss.mean(1), rtol=1e-6)


def test_the_summary_is_strict_json(tmp_path, curves):
    curves.learned.loss[0, 0] = np.nan
    write(tmp_path, curves)

    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((tmp_path / results.SUMMARY).read_text(), parse_constant=refuse)
    task = summary["tasks"]["bowl"]
    assert task["ratios"]["adam_default"] == "inf"
    assert task["optimizers"]["learned optimizer"]["valid_accuracy"] is None
    assert task["optimizers"]["learned optimizer"]["diverged"] == 1
    assert task["adam_rate_by"] == {"mean_loss": 0.1, "final_loss": 0.1}
    assert summary["configuration"]["tasks"] == ["bowl"]


def test_another_evaluation_is_not_overwritten(tmp_path, curves):
    folder = tmp_path / "made" / "here"
    write(folder, curves)
    write(folder, curves)  # the same one may be
    assert sorted(path.name for path in folder.iterdir()) == sorted(results.FILES)
    other = {**CONFIGURATION, "horizon": 30}
    with pytest.raises(InputError, match=r"other horizon.*--overwrite"):
        results.check_folder(folder, other)
    results.check_folder(folder, other, overwrite=True)

    (folder / results.SUMMARY).unlink()
    with pytest.raises(InputError, match=r"curves\.npz"):  # whose they are is not known
        results.check_folder(folder, CONFIGURATION)


def test_a_place_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use"):
        results.check_folder(tmp_path / "file", CONFIGURATION)


@pytest.mark.parametrize("keep", [0, 100])
def test_damaged_curves_are_refused(tmp_path, curves, keep):
    path = tmp_path / results.CURVES
    path.write_bytes(results.pack_curves({"bowl": curves})[:keep])
    with pytest.raises(InputError, match="cannot read the curves"):
        results.load_curves(path)
