"""The files of an evaluation: read back as they were, and never over another's."""

import csv
import json

import jax
import numpy as np
import pytest

from lopt.evaluation import folder as results
from lopt.evaluation import summary
from lopt.evaluation.scores import score_task
from lopt.names import InputError
from tests.evaluation.test_scores import constant, result, untuned

CONFIGURATION = {"horizon": 100, "tasks": ("bowl",)}


def enter(folder, configuration, **options):
    with results.open_folder(folder, configuration, **options):
        pass


def write(folder, task):
    enter(folder, CONFIGURATION)
    about = {"title": "x", "optimizer": "y", "checkpoint": "z", "theta_sha256": "0", "command": "c"}
    about |= {"created": "2026-01-01", "versions": {}, "hardware": "2 x cpu"}
    about |= {"setting": {"horizon": 100, "num_seeds": 2, "seed": 0, "split": "valid"}}
    content = summary.summarize({"bowl": task}, {"bowl": score_task(task)}, about)
    pictures = {results.PICTURE: b"png"}
    return results.write_results(folder, {"bowl": task}, content, configuration=CONFIGURATION, pictures=pictures)


def test_curves_are_read_back(tmp_path):
    task = result()._replace(warnings=("beyond",))
    write(tmp_path, task)
    (name, again), *others = results.load_results(tmp_path / results.CURVES).items()
    assert (name, others, again.num_params, again.warnings) == ("bowl", [], 7, ("beyond",))
    assert list(again.entries) == list(task.entries)
    ours, theirs = score_task(task), score_task(again)
    assert ours._replace(run_scores={}) == theirs._replace(run_scores={})
    for name, scores in ours.run_scores.items():
        np.testing.assert_array_equal(scores, theirs.run_scores[name])
    for one, other in zip(*(jax.tree.leaves(x.entries["adam"].long) for x in (task, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_row_for_each_run(tmp_path):
    lost = untuned("learned", constant(1, np.nan), "learned")
    write(tmp_path, result(learned=lost))
    rows = list(csv.DictReader((tmp_path / results.SCORES).read_text().splitlines()))
    # Adam's two tuned entries: three rates and the best one, two seeds; three more entries.
    assert len(rows) == 2 * (3 + 1) * 2 + 3 * 2
    columns = ("task", "optimizer", "purpose", "learning_rate", "settings", "seed")
    values = ["mean_loss", "final_loss", "valid_loss", "valid_accuracy", "train_ratio", "valid_ratio"]
    assert list(rows[0]) == [*columns, *values]
    assert len({tuple(row[column] for column in columns) for row in rows}) == len(rows)
    assert [row["mean_loss"] for row in rows].count("inf") == 1  # kept, and said
    assert {row["seed"] for row in rows if row["purpose"] == "tuning"} == {"2", "3"}
    cosine = [row for row in rows if (row["optimizer"], row["purpose"]) == ("adam_cosine", "evaluation")]
    assert [(row["learning_rate"], row["final_loss"]) for row in cosine] == [("0.1", "0.5"), ("0.1", "1.0")]
    # Ratios run by run, over Adam with the cosine on the same seed: 0.5 and 1.
    ratios = {row["seed"]: row for row in rows if (row["optimizer"], row["purpose"]) == ("learned", "evaluation")}
    assert [float(ratios[seed]["train_ratio"]) for seed in "01"] == pytest.approx([2, 10])
    assert [float(ratios[seed]["valid_ratio"]) for seed in "01"] == pytest.approx([2, 10])
    assert {row["train_ratio"] for row in rows if row["purpose"] == "tuning"} == {""}


def test_the_summary_is_strict_json(tmp_path):
    lost = untuned("learned", constant(1, np.nan), "learned")
    files = write(tmp_path, result(learned=lost))
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((tmp_path / results.SUMMARY).read_text(), parse_constant=refuse)
    (task,) = content["tasks"]
    assert task["ratios"]["adam_default"] == "inf"
    assert task["rows"][0]["valid_accuracy"] is None
    assert content["configuration"]["tasks"] == ["bowl"]


def test_another_evaluation_is_not_overwritten(tmp_path):
    folder = tmp_path / "made" / "here"
    write(folder, result())
    write(folder, result())  # the same one may be
    other = {**CONFIGURATION, "horizon": 30}
    with pytest.raises(InputError, match=r"other horizon.*--overwrite"):
        enter(folder, other)
    enter(folder, other, overwrite=True)
    enter(folder, {**CONFIGURATION, "setting_of_a_later_version": 1})

    (folder / results.SUMMARY).unlink()
    with pytest.raises(InputError, match=r"curves\.npz"):  # whose they are is not known
        enter(folder, CONFIGURATION)


class Killed(BaseException):
    """What ends a write in the middle of it."""


@pytest.mark.parametrize("written", range(5))
def test_a_kill_between_two_files_leaves_a_folder_to_the_same_evaluation_alone(tmp_path, monkeypatch, written):
    real, names = results.write_atomic, []

    def write_some(path, data):
        if path.parent == tmp_path and len(names) == written:
            raise Killed
        names.append(path.name)
        real(path, data)

    monkeypatch.setattr(results, "write_atomic", write_some)
    with pytest.raises(Killed):
        write(tmp_path, result())
    assert len(names) == written
    monkeypatch.undo()
    if written:
        with pytest.raises(InputError, match="other horizon"):
            enter(tmp_path, {**CONFIGURATION, "horizon": 30})
    assert len(write(tmp_path, result())) == 5


def test_a_place_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use"):
        enter(tmp_path / "file", CONFIGURATION)


@pytest.mark.parametrize("keep", [0, 100])
def test_damaged_curves_are_refused(tmp_path, keep):
    path = tmp_path / results.CURVES
    path.write_bytes(results.pack_results({"bowl": result()})[:keep])
    with pytest.raises(InputError, match="cannot read"):
        results.load_results(path)
