"""Runs whose scores are known exactly."""

import numpy as np
import pytest

from lopt.evaluation import summary
from lopt.evaluation.measures import LONG, MEASURES, best_trial, valid_steps
from lopt.evaluation.results import Curves, Entry, TaskResult
from lopt.evaluation.scores import score_task

T = 100
ALL = "mean loss and final loss and valid loss"
IN_TURN = np.array([[4.0, 2.0], [1.0, 0.25], [3.0, 1.0]])  # 2, 4 and 3 times Adam's
ADAM_ALONE = np.array([[1e-3, 1e-3], [2e-3, 1e-3], [1e-3, 2e-3]])


def runs(loss):
    """Curves with the given losses, which are also those after training."""
    loss = np.asarray(loss, np.float32)
    return Curves(loss, loss[..., valid_steps(loss.shape[-1]) - 1], np.full(loss.shape[:-1], np.nan))


def constant(*values):
    """One run for each value: `[S, T]`."""
    return runs(np.repeat(np.array(values)[:, None], T, axis=1))


def untuned(label, curves: Curves, kind="untuned"):
    none = Curves(*(x[None][:0] for x in curves))
    best, chosen = dict.fromkeys(MEASURES, 0), dict.fromkeys(MEASURES, curves)
    return Entry(label, kind, np.array([np.nan]), np.array([""]), none, best, chosen, None, 50, IN_TURN)


def tuned(label, *levels, kind="constant", long=True):
    """Two seeds; rates 0.01, 0.1, 1, ...: their levels, on tuning and on evaluation seeds."""
    grid = runs(np.stack([constant(*pair).loss for pair in levels]))
    best = {measure: best_trial(grid, measure) for measure in MEASURES}
    chosen = {measure: constant(*levels[index]) for measure, index in best.items()}
    steady = runs(np.tile(chosen["final_loss"].loss, LONG)) if long else None
    rates = 10.0 ** np.arange(-2, len(levels) - 2)
    return Entry(label, kind, rates, np.full(len(rates), ""), grid, best, chosen, steady, 40, ADAM_ALONE)


def result(**changes):
    entries = {
        "learned": untuned("learned optimizer", constant(1, 2), "learned"),
        "untrained": untuned("same rule, untrained", constant(12, 12)),
        "adam_default": untuned("Adam at 0.001", constant(6, 6)),
        "adam": tuned("Adam", (4, 4), (1, 2), (3, 3)),
        "adam_cosine": tuned("Adam, cosine", (4, 4), (0.5, 1), (3, 3), kind="scheduled", long=False),
    }
    return TaskResult(7, T, np.arange(2), np.arange(2, 4), (), entries | changes)


def test_ratios():
    scores = score_task(result())
    assert scores.ratios == {
        "adam_default": 0.25,
        "untrained": 0.125,
        "best_adam_by_mean_loss": 1,
        "best_adam_by_final_loss": 1,
    }
    assert not scores.warnings


def test_rows():
    rows = score_task(result()).rows
    learned, adam, cosine = rows["learned"], rows["adam"], rows["adam_cosine"]
    assert (adam.rate_by_mean_loss, adam.rate_by_final_loss, learned.rate_by_final_loss) == (0.1, 0.1, None)
    assert (learned.mean_loss, learned.final_loss, learned.valid_loss) == (1.5, 1.5, 1.5)
    assert learned.valid_accuracy is None
    assert (adam.speed_up, learned.speed_up, learned.speed_up_envelope) == (1, 1, 1)
    assert rows["adam_default"].speed_up == 1 / T
    # What has a schedule is judged at the end.
    assert (cosine.mean_loss, cosine.speed_up, cosine.speed_up_envelope, cosine.rate_by_mean_loss) == (None,) * 4
    assert cosine.final_loss == 0.75
    # 1.5, the mean of tuned Adam, over the loss of each run.
    assert learned.score == pytest.approx((1.5 / 1 + 1.5 / 2) / 2)
    assert cosine.score == pytest.approx((1.5 / 0.5 + 1.5 / 1) / 2)
    assert learned.flops_per_step == 50


def test_step_times_are_quotients_of_turns_with_their_range():
    """The times of the machine come in by Adam's alone: a slow moment that met both leaves no trace."""
    rows = score_task(result()).rows
    learned, adam = rows["learned"], rows["adam"]
    assert (learned.step_time_low, learned.step_time, learned.step_time_high) == (2, 3, 4)
    assert (adam.step_time_low, adam.step_time, adam.step_time_high) == (0.5, 1, 2)
    assert (learned.milliseconds_per_step, adam.milliseconds_per_step) == (3.0, 1.0)
    busy = untuned("learned", constant(1, 2), "learned")._replace(step_seconds=IN_TURN * [[1], [100], [7]])
    assert score_task(result(learned=busy)).rows["learned"] == learned


def test_diverged_runs_are_infinite_never_dropped():
    broken = {name: untuned(name, constant(1, np.nan)) for name in ("learned", "untrained")}
    scores = score_task(result(**broken))
    assert set(scores.ratios.values()) == {np.inf}  # infinity over infinity is no success
    row = scores.rows["learned"]
    assert (row.speed_up, row.diverged, row.num_runs, row.mean_loss, row.valid_loss) == (0, 1, 2, np.inf, np.inf)
    assert scores.run_scores["learned"].tolist() == [1.5, 0]
    assert [w.split(" on ")[0] for w in scores.warnings] == ["learned diverged", "untrained diverged"]
    assert score_task(result(untrained=broken["untrained"])).ratios["untrained"] == 0


def test_warnings():
    first, last = (tuned("Adam", *levels) for levels in ([(1, 2), (4, 4), (3, 3)], [(4, 4), (3, 3), (1, 2)]))
    for edge in (first, last):
        warnings = score_task(result(adam=edge)).warnings
        assert [w.split(", ")[0] for w in warnings] == [f"the best rate of Adam by {ALL}"]
    hopeless = score_task(result(adam=tuned("Adam", (np.nan, 1), (1, np.nan)))).warnings
    assert hopeless[0] == f"Adam diverges at every learning rate: there is no best one by {ALL}"
    scheduled = tuned("Adam, cosine", (1, 2), (4, 4), kind="scheduled", long=False)
    (warning,) = score_task(result(adam_cosine=scheduled)).warnings
    assert warning == "the best rate of Adam, cosine by final loss and valid loss, 0.01, is at the edge of the grid"
    assert score_task(result()._replace(warnings=("beyond",))).warnings == ["beyond"]


@pytest.mark.parametrize("levels", [(0, 1), (-1, -1)])
def test_losses_not_above_zero_have_no_scores(levels):
    scores = score_task(result(learned=untuned("learned", constant(*levels), "learned")))
    assert scores.rows["learned"].score is scores.rows["adam"].score is None
    content = summary.summarize({"bowl": result()}, {"bowl": scores}, {})
    assert content["aggregate"] == []
    assert list(content["profiles"]) == ["threshold"]


def test_the_order_of_seeds_does_not_matter():
    rng = np.random.default_rng(0)
    order = np.array([3, 0, 4, 1, 2])

    def random(order):
        def curves(*shape, scale):
            loss = scale * rng.uniform(size=shape)
            return runs(loss[..., order, :])

        rates = np.array([0.1, 1, 10])
        grid, long = curves(3, 5, T, scale=1), curves(5, LONG * T, scale=0.9)
        best = {measure: best_trial(grid, measure) for measure in MEASURES}
        chosen = {measure: curves(5, T, scale=1) for measure in MEASURES}
        none = np.full(3, "")
        adam = Entry("Adam", "constant", rates, none, grid, best, chosen, long, 1, ADAM_ALONE)
        others = {name: untuned(name, curves(5, T, scale=1)) for name in ("learned", "untrained", "adam_default")}
        return TaskResult(1, T, np.arange(5), np.arange(5, 10), (), others | {"adam": adam})

    first = score_task(random(np.arange(5)))
    rng = np.random.default_rng(0)
    second = score_task(random(order))
    assert first.ratios == pytest.approx(second.ratios, rel=1e-12)
    for name, row in first.rows.items():
        ours, theirs = (np.array([x for x in r if isinstance(x, float | int)]) for r in (row, second.rows[name]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
