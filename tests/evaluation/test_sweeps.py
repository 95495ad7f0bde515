"""Evaluations along an axis, and the pictures of scores."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.contestants import as_pretrained, contestants
from lopt.evaluation.measures import final_loss
from lopt.evaluation.plan import make_plan
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.runs import train_all
from lopt.evaluation.score_plots import draw_aggregate, draw_sweep
from lopt.evaluation.sweeps import Point, horizon_points, points, run_sweep
from lopt.evaluation.uses import USES
from lopt.optimizers import OPTIMIZERS
from tests.evaluation.test_protocol import Bowl

ADAM = dataclasses.replace(BASELINES["adam"], rates=(0.01, 0.1))


def test_scores_at_every_point_refer_to_adam_tuned_there():
    evaluation = Evaluation(40, 2, baselines=(ADAM,), layout=PairLayout(1, sequential=True))
    stops = {"near": Point(evaluation, Bowl(start=0.0)), "far": Point(evaluation, Bowl(start=5.0))}
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=0.01)
    trained = as_pretrained((optimizer, optimizer.init_theta(jax.random.key(0))))
    taking_part, said = contestants(trained, evaluation.baselines), []
    sweep = run_sweep("start", "bowl", stops, taking_part, said.append)
    assert (sweep["axis"], sweep["task"], sweep["values"]) == ("start", "bowl", ["near", "far"])
    assert sweep["rows"]["learned"] == pytest.approx(sweep["rows"]["untrained"])
    assert len(said) == 2
    assert train_all._cache_size() == 0  # pyright: ignore  # a point's programs are of no use for the next one
    for i, (_, family, _) in enumerate(stops.values()):
        (result,) = make_plan(evaluation, taking_part, {family: family.load()}).run(said.append).values()
        ours, adams = (final_loss(result.entries[name].chosen["final_loss"].loss) for name in ("learned", "adam"))
        assert sweep["rows"]["learned"][i] == pytest.approx((adams.mean() / ours).mean())
    assert sweep["rows"]["learned"][1] < 0.5  # a small rate does not get there


def test_horizons_are_multiples_and_never_too_short():
    evaluation = Evaluation(60, 1, baselines=(ADAM,))
    stops = horizon_points(evaluation, Bowl())
    assert list(stops) == ["20", "30", "60", "120", "300", "600", "1,200"]
    assert [stop.evaluation.horizon for stop in stops.values()] == [20, 30, 60, 120, 300, 600, 1200]
    assert [stop.use for stop in points("use", evaluation, Bowl()).values()] == list(USES.values())


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


OPTIMIZER_LABELS = {"learned": {"label": "ours"}, "adam": {"label": "Adam"}}


def test_heat_map_says_scores_divergence_and_what_there_is_not():
    rows = {"learned": [2.0, 0, None], "adam": [1.0, 1.0, 1.0]}
    figure = draw_sweep({"axis": "batch_size", "task": "t", "values": ["a", "b", "c"], "rows": rows}, OPTIMIZER_LABELS)
    assert texts(figure) == ["2.00", "diverged", "-", "1.00", "1.00", "1.00"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "Adam"]
    assert axes.get_xlabel() == "batch size"


def test_intervals_stand_where_the_numbers_are_best_on_top():
    interval = {"iqm_low": 0.5, "iqm_high": 1.5, "improvement_low": 0.2, "improvement_high": 0.9}
    content = {
        "optimizers": OPTIMIZER_LABELS,
        "aggregate": [
            {"optimizer": "learned", "iqm": 0.8, "worst": 0.1, "improvement": None, **interval},
            {"optimizer": "adam", "iqm": 1.0, "worst": 0.3, "improvement": 0.4, **interval},
        ],
        "profiles": {"threshold": [0.1, 1, 10], "learned": [1, 0.5, 0], "adam": [1, 1, 0]},
    }
    left, right, _ = draw_aggregate(content).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["ours", "Adam"]  # from below

    def marked(axes, marker):
        return [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == marker]

    points = {axes: marked(axes, "o") for axes in (left, right)}
    assert points[left] == [0.8, 1.0]
    assert marked(left, "|") == [0.1, 0.3]
    assert right.get_xlabel() == "P(ours is better)"
    assert math.isnan(points[right][0])
    assert points[right][1] == 0.4
