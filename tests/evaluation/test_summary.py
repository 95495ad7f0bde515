"""The words and plain values of an evaluation."""

import json

import numpy as np
import pytest

from lopt.evaluation import summary
from lopt.evaluation.measures import LONG
from lopt.evaluation.scores import score_task
from lopt.evaluation.table import table
from tests.evaluation.test_scores import T, constant, result, runs, tuned, untuned


def summarize(**tasks):
    return summary.summarize(tasks, {name: score_task(task) for name, task in tasks.items()}, {"title": "x"})


def test_the_content_is_complete_and_plain():
    content = summarize(bowl=result(), bowl_2=result(learned=untuned("learned", constant(2, 4), "learned")))
    json.dumps(content, allow_nan=False)
    assert set(content) >= {"title", "headline", "optimizers", "tasks", "aggregate", "profiles", "sweeps", "failures"}
    assert content["optimizers"]["adam_cosine"] == {
        "label": "Adam, cosine",
        "kind": "scheduled",
        "tuning": "3 learning rates from 0.01 to 1 on 2 tuning seeds, once per measure",
    }
    assert content["optimizers"]["learned"]["tuning"] == "none"
    assert content["failures"] == ["bowl_2: learned has the final loss 3, 2 times that of tuned Adam, 1.5"]

    ours = content["aggregate"][0]
    # The scores of the learned optimizer: 1.5 over 1, 2, 2, 4; the middle two count. From 2 seeds there is no more.
    assert (ours["optimizer"], ours["iqm"], ours["iqm_low"]) == ("learned", pytest.approx(0.75), None)
    assert {row["improvement"] for row in content["aggregate"]} == {None}
    assert content["caution"] == "2 seeds: too few for intervals and probabilities."
    assert content["headline"] == (
        "After 100 steps learned optimizer has a lower final loss than tuned Adam on 0 of 2 tasks: score 0.75, where "
        "tuned Adam has 1. Its final training loss is 2.83 times that of Adam with a cosine schedule, tuned on each "
        "task (below 1 on 0 of 2; median 2.83; worst: 4.00, bowl_2), and its validation loss is 2.83 times that of the "
        "best tuned Adam (below 1 on 0 of 2; median 2.83; worst: 4.00, bowl_2). By score, its worst task is bowl_2, "
        "with 0.56. Speed-up over the best single Adam 0.51, over its envelope 0.51. 2 seeds: too few for intervals "
        "and probabilities."
    )


def test_diverged_runs_and_what_there_is_not():
    lost = untuned("learned", constant(np.nan, 1), "learned")
    content = summarize(bowl=result(learned=lost)._replace(warnings=("beyond",)))
    (task,) = content["tasks"]
    learned = task["rows"][0]
    assert (learned["mean_loss"], learned["valid_accuracy"], learned["diverged"]) == ("inf", None, 1)
    assert task["ratios"]["adam_default"] == "inf"
    assert task["curves"]["learned"]["median"] == [None] * T
    assert task["curves"]["adam"]["median"] == [1.5] * T
    assert content["failures"] == ["bowl: learned diverged on 1 of 2 seeds", "bowl: beyond"]


def test_curves_are_thinned_to_points_that_were_there():
    long = untuned("learned", runs(np.tile(np.arange(1000.0), (3, 1))))
    curve = summary._curve(long)
    assert (curve["step"][0], curve["step"][-1], len(curve["step"])) == (1, 1000, 200)
    assert curve["low"] == curve["median"] == curve["high"]
    # Decay 0.9: behind a straight line by 9 steps.
    assert curve["median"][-1] == pytest.approx(999 - 9, abs=0.1)


def test_table_says_it_all():
    text = table("bowl", result(), score_task(result()))
    assert "bowl: 7 parameters, 100 steps, mean of 2 seeds" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "learned optimizer / Adam at 0.001, mean loss 0.25" in lines
    assert "learned optimizer / best Adam, final loss 1" in lines
    assert all(label in text for label in ("Adam, cosine", "learned optimizer", "same rule, untrained"))
    worse = tuned("Adam", (4, 4), (9, 9), (9, 9))
    ahead = result(adam=worse)
    assert score_task(ahead).speed_up == LONG
    assert ">= 4" in table("bowl", ahead, score_task(ahead))
