"""Times to a target, profiles and scores from validation losses that are written down."""

import numpy as np
import pytest

from lopt.evaluation.budget_plots import draw_targets
from lopt.evaluation.measures import valid_steps
from lopt.evaluation.results import Curves, TaskResult
from lopt.evaluation.targets import score, steps_to, to_targets
from tests.evaluation.test_scores import T, constant, untuned

STEPS = valid_steps(T)  # 5, 10, ..., 100


def reaching(*moments, lost=()):
    """A run for each number: above 1 before that moment, of 20, and 0.5 from it on; None for never."""
    valid = np.full((len(moments), 20), 2.0)
    for run, moment in enumerate(moments):
        if moment is not None:
            valid[run, moment:] = 0.5
    losses = constant(*[np.nan if i in lost else 1 for i in range(len(moments))]).loss
    return Curves(losses, valid, np.zeros(len(moments)))


def test_an_optimizer_is_there_when_half_of_its_runs_are():
    assert steps_to(reaching(3, 0, 19), STEPS, 1.0) == 20
    assert steps_to(reaching(3, None, 0), STEPS, 1.0) == 20
    assert steps_to(reaching(3, None, None), STEPS, 1.0) == np.inf
    assert steps_to(reaching(3, 0, 0, lost=(1, 2)), STEPS, 1.0) == np.inf  # what diverged is nowhere
    assert steps_to(reaching(1, 4), STEPS, 1.0) == 25
    assert steps_to(reaching(3), STEPS, 0.5) == 20  # the target itself counts


def test_the_score_is_the_area_under_the_profile():
    ratios = np.array([1.0, 2.5, 4.0, 9.0, np.inf])
    taus = np.linspace(1, 4, 300_001)
    profile = np.mean(ratios[:, None] <= taus, axis=0)
    assert score(ratios) == pytest.approx(profile.mean(), abs=1e-5)
    assert score(np.ones(3)) == 1
    assert score(np.full(2, np.inf)) == 0


def task(**moments):
    entries = {name: untuned(name, reaching(moment)) for name, moment in moments.items()}
    return TaskResult(1, T, np.arange(1), np.arange(1, 2), (), entries)


RESULTS = {"a": task(learned=1, adamw=7, slow=None), "b": task(learned=19, adamw=9, slow=9)}
TIMES = {name: {"learned": 2.0, "adamw": 1.0, "slow": 1.0} for name in RESULTS}


def test_steps_and_seconds_are_divided_by_the_fastest():
    found = to_targets(RESULTS, TIMES, STEPS)
    # a: 10 and 40 steps, or 20 and 40 seconds; b: 100, 50 and 50, or 200, 50 and 50.
    assert found["ratios"]["learned"] == {"steps": [1, 2], "seconds": [1, 4]}
    assert found["ratios"]["adamw"] == {"steps": [4, 1], "seconds": [2, 1]}
    assert found["ratios"]["slow"] == {"steps": [np.inf, 1], "seconds": [np.inf, 1]}
    learned, adamw, slow = found["rows"]
    assert (learned["steps"], learned["seconds"]) == (pytest.approx((1 + 2 / 3) / 2), 0.5)
    assert (adamw["steps"], adamw["seconds"]) == (0.5, pytest.approx((2 / 3 + 1) / 2))
    assert (slow["steps"], slow["reached"], slow["num_tasks"]) == (0.5, 1, 2)


def test_without_adamw_there_is_no_target():
    assert to_targets({"a": task(learned=1)}, TIMES, STEPS) == {}


def test_profiles_rise_where_a_task_is_done():
    optimizers = {name: {"label": name} for name in ("learned", "adamw", "slow")}
    steps, seconds = draw_targets(to_targets(RESULTS, TIMES, STEPS), optimizers).axes
    for axes, wanted in ((steps, [1, 1, 2, 4]), (seconds, [1, 1, 4, 4])):
        line = next(line for line in axes.lines if str(line.get_label()).startswith("learned"))
        assert np.asarray(line.get_xdata()).tolist() == wanted
        np.testing.assert_allclose(np.asarray(line.get_ydata()), [0, 0.5, 1, 1], atol=0.02)
