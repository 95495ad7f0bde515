"""Which runs make an entry, with a runner whose losses are written down."""

from typing import Any

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.evaluation import tuning
from lopt.evaluation.contestants import as_pretrained, contestants
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.plan import make_plan
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.results import Curves
from lopt.optimizers import OPTIMIZERS
from tests.toy_family import Bowl

T = 20
# By trial, in the first half and after it, and in validation: each is best by another measure.
LEVELS = {0: (1.0, 1.0, 7.0), 1: (4.0, 0.5, 6.0), 2: (8.0, 8.0, 5.0)}


class Runner:
    """Losses by (trial, seed): a level in the first half, another after it, and a hundredth for each seed."""

    def __init__(self, **settings):
        self.settings = settings

    def step_seconds(self, other):
        return np.full((5, 2), other)

    def __call__(self, plan, num_steps, *, num_points=1):
        first, last, after = np.array([LEVELS[trial] for trial in plan[0]]).T
        halves = np.where(np.arange(num_steps)[None] < T // 2, first[:, None], last[:, None])
        loss = halves + 0.01 * plan[1][:, None]
        valid = np.full((len(loss), 20), np.nan)
        valid[:, 20 - num_points :] = after[:, None] + 0.01 * plan[1][:, None]
        return Curves(loss, valid, loss[:, -1])


@pytest.fixture
def entry(monkeypatch):
    monkeypatch.setattr(tuning, "Runner", Runner)

    def make(rates, long):
        settings: dict[str, Any] = {"horizon": T, "num_seeds": 3, "seed": 0, "split": "valid", "layout": PairLayout()}
        hypers = np.zeros(len(rates))
        nobody: Any = None  # the runner above asks neither rule nor task
        clock: Any = 0.25
        settings |= {"long": long, "max_steps": T, "flops": 1.0}
        return tuning.make_entry(nobody, hypers, rates, clock, nobody, {}, **settings)

    return make


def test_each_measure_gets_its_own_trial_and_the_long_run_that_of_the_final_loss(entry):
    found = entry((0.1, 0.2, 0.3), True)
    assert found.best == {"mean_loss": 0, "final_loss": 1, "valid_loss": 2}
    # Seeds 3, 4, 5 tune, and 0, 1, 2 evaluate.
    np.testing.assert_allclose(found.tuning.loss[2], np.full((3, T), 8) + 0.01 * np.arange(3, 6)[:, None])
    np.testing.assert_allclose(found.chosen["mean_loss"].loss, np.full((3, T), 1) + 0.01 * np.arange(3)[:, None])
    for runs, steps in ((found.chosen["final_loss"], T), (found.long, 4 * T)):
        halves = np.where(np.arange(steps) < T // 2, 4, 0.5)
        np.testing.assert_allclose(runs.loss, halves[None] + [[0], [0.01], [0.02]])
    # The validation loss is measured along those runs alone that are shown.
    for runs, measured in ((found.tuning, 1), (found.chosen["final_loss"], 20), (found.long, 1)):
        assert (np.isfinite(runs.valid_losses).sum(-1) == measured).all()
    found.check()


def test_what_is_not_tuned_runs_once(entry):
    found = entry((np.nan,), False)
    assert found.best == dict.fromkeys(MEASURES, 0)
    assert found.tuning.loss.shape == (0, 3, T)
    assert found.chosen["mean_loss"] is found.chosen["final_loss"]
    assert (found.long, found.tuned, found.step_seconds.tolist()) == (None, False, [[0.25, 0.25]] * 5)
    found.check()


def test_arrays_of_other_shapes_are_refused(entry):
    found = entry((0.1, 0.2, 0.3), True)
    lost = Curves(*(x[:2] for x in found.long))
    for changes in (
        {"long": lost},
        {"tuning": found.long},
        {"rates": np.ones(2)},
        {"best": {"mean_loss": 0, "final_loss": 3, "valid_loss": 0}},
        {"settings": np.full(2, "")},
        {"step_seconds": np.ones((5, 3))},
        {"best": {"mean_loss": 0}},
        {"chosen": {**found.chosen, "mean_loss": lost}},
    ):
        with pytest.raises(ValueError, match=r"shapes|indices"):
            found._replace(**changes).check()


def test_adam_untuned_has_the_rate_of_its_textbook():
    optimizer = OPTIMIZERS["learnable_adam"]()
    trained = as_pretrained((optimizer, optimizer.init_theta(jax.random.key(0))))
    default = contestants(trained, Evaluation(T).baselines)[2]
    assert (default.name, default.label, default.rates) == ("adam_default", "Adam at 0.001", (0.001,))
    np.testing.assert_allclose(default.hypers, np.full(15, 0.001), rtol=1e-6)


def test_results_are_kept_after_every_task(entry):
    """What is done is given away task by task, so that whatever happens later costs the rest only."""
    optimizer = OPTIMIZERS["learnable_adam"]()
    trained = as_pretrained((optimizer, optimizer.init_theta(jax.random.key(0))))
    evaluation = Evaluation(T, 3)
    who = [contestants(trained, evaluation.baselines)[0]]
    families = [Bowl(), Bowl(start=2.0)]
    plan = make_plan(evaluation, who, {family: family.load() for family in families})
    kept = []
    plan.run(lambda line: None, keep=lambda results: kept.append(list(results)))
    assert kept == [["bowl"], ["bowl"]]
