"""The ratios that decide, from runs whose losses are written down: which reference, which trial, which mean."""

import numpy as np
import pytest

from lopt.evaluation.deciding import over_tasks, ratios_of, sentence
from lopt.evaluation.measures import MEASURES, best_trial
from lopt.evaluation.ratios import Ratios
from lopt.evaluation.results import Curves, Entry
from tests.evaluation.test_scores import ADAM_ALONE, LONG, T, constant, result, untuned


def runs(train, valid):
    """One run for each pair of a training loss and a validation loss, both constant."""
    losses = constant(*train).loss
    return Curves(losses, np.repeat(np.array(valid, np.float32)[:, None], 20, axis=1), np.zeros(len(train)))


def tuned(label, tuning, evaluation, long=False):
    """An entry from (training losses, validation losses) of each trial, on the tuning and on the evaluation seeds."""
    grid = Curves(*map(np.stack, zip(*(runs(*trial) for trial in tuning), strict=True)))
    best = {measure: best_trial(grid, measure) for measure in MEASURES}
    chosen = {measure: runs(*evaluation[index]) for measure, index in best.items()}
    steady = runs(*evaluation[best["final_loss"]])
    steady = steady._replace(loss=np.tile(steady.loss, LONG)) if long else None
    rates, settings = np.arange(1.0, len(tuning) + 1), np.full(len(tuning), "")
    kind = "constant" if long else "scheduled"
    return Entry(label, kind, rates, settings, grid, best, chosen, steady, 1.0, ADAM_ALONE)


# Adam is better in validation on the tuning seeds (2 against 3), and worse on those that count: the choice is kept.
ADAM = tuned("Adam", [([5, 5], [2, 2]), ([4, 4], [9, 9])], [([5, 5], [6, 12]), ([4, 4], [1, 1])], long=True)
COSINE = tuned("Adam, cosine", [([1, 1], [8, 8]), ([3, 3], [3, 3])], [([2, 1], [7, 7]), ([3, 3], [0.1, 0.1])])
TASK = result(adam=ADAM, adam_cosine=COSINE, learned=untuned("learned", runs([1, 4], [3, 3]), "learned"))


def test_each_loss_faces_the_adam_that_was_tuned_for_it():
    found = ratios_of(TASK)
    # Training: 1 / 2 and 4 / 1. Validation: 3 / 6 and 3 / 12, over Adam at its first rate.
    assert found["learned"] == pytest.approx((np.sqrt(2), np.sqrt(1 / 8)))
    assert found["adam_cosine"] == pytest.approx((1, np.sqrt(0.1 * 0.1)))  # 0.1 / 6 and 0.1 / 12 are clipped
    assert found["adam"] == pytest.approx((np.sqrt(2 * 4), 1))  # 4 over 2 and over 1: at its own best rate


def test_a_run_that_diverged_counts_as_ten():
    lost = untuned("learned", runs([np.nan, 2], [0.01, 6]), "learned")
    assert ratios_of(TASK._replace(entries=TASK.entries | {"learned": lost}))["learned"] == pytest.approx(
        (np.sqrt(10 * 2), np.sqrt(10 * 0.5))
    )


@pytest.mark.parametrize(
    "changes", [{"adam_cosine": None}, {"learned": untuned("learned", runs([-1, 1], [1, 1]), "learned")}]
)
def test_no_reference_or_a_loss_below_zero_have_no_ratios(changes):
    entries = {name: entry for name, entry in (TASK.entries | changes).items() if entry is not None}
    assert ratios_of(TASK._replace(entries=entries)) == {}


def test_a_loss_of_zero_counts_as_a_tenth_and_leaves_the_others_alone():
    """Small data sets are fitted exactly."""
    exact = untuned("Muon", runs([0, 0], [3, 3]), "learned")
    found = ratios_of(TASK._replace(entries=TASK.entries | {"exact": exact}))
    assert found["exact"].train == pytest.approx(0.1)
    assert {name: x for name, x in found.items() if name != "exact"} == ratios_of(TASK)


def test_one_setting_for_all_tasks_is_another_comparison():
    once = {
        f"{name}_untuned": untuned(name, runs([level, level], [8, 8]), "scheduled")
        for name, level in (("adam_cosine", 10), ("adam", 20))
    }
    both = TASK._replace(entries=TASK.entries | once)
    assert ratios_of(both) == ratios_of(TASK)
    found = ratios_of(both, "untuned")
    assert set(found) == {"learned", "untrained", "adam_default", *once}
    assert found["learned"] == pytest.approx((np.sqrt(0.1 * 0.4), 3 / 8))
    assert found["adam_untuned"] == pytest.approx((2, 1))


def test_over_tasks_the_mean_is_geometric_and_the_worst_task_stands_beside_it():
    ratios = {"a": (0.5, 2.0), "b": (9.0, 0.5), "c": (6.0, 1.0)}
    (row,) = over_tasks({**{task: {"learned": Ratios(*pair)} for task, pair in ratios.items()}, "none": {}})
    wanted = {"optimizer": "learned", "num_tasks": 3, "both": pytest.approx(np.sqrt(3))}
    wanted |= {"train": pytest.approx(3), "train_below": 1, "train_worst": 9.0, "train_worst_task": "b"}
    wanted |= {"valid": pytest.approx(1), "valid_below": 1, "valid_worst": 2.0, "valid_worst_task": "a"}
    assert row == wanted | {"train_median": pytest.approx(6), "valid_median": pytest.approx(1)}
    assert "training loss is 3.00 times that of Adam" in sentence([row], "tuned")
    assert "(below 1 on 1 of 3; median 6.00; worst: 9.00, b)" in sentence([row], "tuned")
    assert over_tasks({"none": {}}) == []
    assert sentence([], "tuned") == ""


def test_the_runs_are_as_long_as_the_others():
    assert TASK.horizon == T
    TASK.check()
