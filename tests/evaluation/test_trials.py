"""The expected best of k trials against the enumeration of all subsets; curves over tasks; what a baseline needs."""

import itertools

import numpy as np
import pytest

from lopt.evaluation.budget_plots import draw_trials
from lopt.evaluation.trials import expected_best, over_trials
from tests.evaluation.test_deciding import TASK
from tests.evaluation.test_scores import constant, untuned


def test_expected_best_is_the_mean_over_all_subsets():
    values = np.random.default_rng(0).normal(size=7)
    wanted = [np.mean([min(subset) for subset in itertools.combinations(values, k)]) for k in range(1, 8)]
    np.testing.assert_allclose(expected_best(values), wanted, rtol=1e-12)


def test_curves_are_ratios_to_the_best_of_the_references_grid():
    found = over_trials({"a": TASK, "b": TASK})
    # Training losses on the tuning seeds: the cosine's 1 and 3, over its 1; Adam's 5 and 4, over that.
    assert found["train"]["curves"]["adam_cosine"] == pytest.approx([np.sqrt(3), 1])
    assert found["train"]["curves"]["adam"] == pytest.approx([np.sqrt(20), 4])
    # Validation losses: 8 and 3, and 2 and 9, over Adam's 2.
    assert found["valid"]["curves"]["adam_cosine"] == pytest.approx([np.sqrt(4 * 1.5), 1.5])
    assert found["valid"]["curves"]["adam"] == pytest.approx([np.sqrt(4.5), 1])
    # What is learned has the ratios of the evaluation seeds.
    assert found["train"]["learned"] == pytest.approx(np.sqrt(2))
    assert found["train"]["needed"] == {"adam": None, "adam_cosine": 2}
    assert found["valid"]["needed"] == {"adam": None, "adam_cosine": None}


def test_several_tasks_have_the_geometric_mean():
    worse = untuned("learned", constant(4, 16), "learned")
    other = TASK._replace(entries=TASK.entries | {"learned": worse})
    found = over_trials({"a": TASK, "b": other})["train"]
    assert found["learned"] == pytest.approx(np.sqrt(np.sqrt(2) * np.sqrt(2 * 10)))
    assert found["needed"]["adam_cosine"] == 1


def test_no_ratios_no_curves():
    entries = {name: entry for name, entry in TASK.entries.items() if name != "adam_cosine"}
    assert over_trials({"a": TASK._replace(entries=entries)}) == {}


def test_the_learned_rule_is_a_flat_line():
    optimizers = {name: {"label": entry.label} for name, entry in TASK.entries.items()}
    train, valid = draw_trials(over_trials({"a": TASK}), optimizers).axes
    for axes, level in ((train, np.sqrt(2)), (valid, np.sqrt(1 / 8))):
        (flat,) = (line for line in axes.lines if "nothing to tune" in str(line.get_label()))
        assert np.asarray(flat.get_ydata()) == pytest.approx(level)
    _, labels = valid.get_legend_handles_labels()
    assert labels[0] == "learned (nothing to tune)"
