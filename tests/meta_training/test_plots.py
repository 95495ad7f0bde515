"""The picture of runs: which panels there are, and that their lines are the numbers of the runs."""

from typing import Any

import numpy as np
import pytest

from lopt.estimators.pairs import THIRDS
from lopt.meta_training.plots import MOST_FAMILIES, plot_runs, running_mean

RNG, STEPS = np.random.default_rng(0), 40


def history(**columns: Any):
    step = np.arange(1.0, STEPS + 1)
    return {"step": step, "meta_loss": 2 / step + 0.1 * RNG.random(STEPS), **columns}


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def names_of(legend: Any):
    return [text.get_text() for text in legend.get_texts()]


def drawn(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_running_mean_is_over_the_last_values_that_there_are():
    values = RNG.normal(size=12)
    wanted = [values[max(0, i - 3) : i + 1].mean() for i in range(12)]
    np.testing.assert_allclose(running_mean(values, 4), wanted)
    values[[0, 1, 5]] = np.nan
    wanted = [np.nan, *(np.nanmean(values[max(0, i - 1) : i + 1]) if i != 1 else np.nan for i in range(1, 12))]
    np.testing.assert_allclose(running_mean(values, 2), wanted)


def test_a_run_without_more_is_its_meta_loss_before_and_after_smoothing():
    run = history()
    (axes,) = plot_runs({"a run": run}).axes
    mean, trace = (np.asarray(line.get_ydata()) for line in axes.lines)
    np.testing.assert_array_equal(trace, run["meta_loss"])
    np.testing.assert_allclose(mean, running_mean(run["meta_loss"], 3))  # 5 % of 40 steps, and one
    assert axes.get_yscale() == "log"  # from 2 to 0.1
    assert axes.get_ylabel() == "meta-loss (1: trivial predictor)"


def test_every_group_of_numbers_has_its_panel():
    steps = STEPS
    norm, variance = RNG.random(steps) + 1, RNG.random(steps) + 0.1
    columns = {name: RNG.random(steps) for name in (*THIRDS, "meta_loss/a", "meta_loss/b")}
    columns |= {"grad_norm": norm, "grad_variance": variance}
    columns |= {f"update_over_theta/{part}": RNG.random(steps) for part in ("mlp", "lstm")}
    columns["meta_loss/b"][::2] = np.nan  # drawn every second time
    one, two = history(**columns), history(**{**columns, "grad_norm": 2 * norm})
    there = panels(plot_runs({"one": one, "two": two}))
    update = "size of the update, median of the parts of theta"
    noise = "signal to noise of the meta-gradient"
    thirds = [f"{name} third of the trajectory" for name in ("first", "middle", "last")]
    assert list(there) == ["meta-loss, running mean", *thirds, noise, update, "a", "b"]
    assert len({there[third].get_ylim() for third in thirds}) == 1  # to be compared
    ratio = running_mean(norm**2, 3) / running_mean(variance, 3)
    np.testing.assert_allclose(drawn(there[noise], "one")[1], ratio)
    np.testing.assert_allclose(drawn(there[noise], "two")[1], 4 * ratio)
    median = (columns["update_over_theta/mlp"] + columns["update_over_theta/lstm"]) / 2
    np.testing.assert_allclose(drawn(there[update], "two")[1], running_mean(median, 3))
    b = running_mean(columns["meta_loss/b"], 3)
    np.testing.assert_allclose(drawn(there["b"], "one")[1], b[np.isfinite(b)])
    alone = panels(plot_runs({"one": one}))
    parts = alone["size of the update, by part of theta"]
    np.testing.assert_allclose(drawn(parts, "lstm")[1], running_mean(columns["update_over_theta/lstm"], 3))
    assert names_of(parts.get_legend()) == ["mlp", "lstm"]


def test_validation_scores_are_those_of_the_steps_that_have_them():
    score, task = np.full(40, np.nan), np.full(40, np.nan)
    score[[9, 19, 39]], task[[9, 19, 39]] = [3.0, 2.0, 0.5], [4.0, 1.0, 0.4]
    run = history(valid_score=score, valid_train=2 * score, **{"valid/a": task, "valid/b": 3 * task})
    axes = panels(plot_runs({"run": run}))["validation"]
    steps, values = drawn(axes, "valid_score")
    np.testing.assert_array_equal(steps, [10, 20, 40])
    np.testing.assert_array_equal(values, [3, 2, 0.5])
    assert names_of(axes.get_legend()) == ["valid_score", "valid_train", "one task each"]
    several = panels(plot_runs({"run": run, "without": history()}))["validation score"]
    assert [line.get_label() for line in several.lines][:-1] == ["run"]  # and the line that Adam is at


def test_runs_are_told_apart_in_grey_and_named_outside():
    figure = plot_runs({name: history() for name in ("_a", "b$", "c")})
    lines: Any = figure.axes[0].lines
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 3
    (legend,) = figure.legends
    assert names_of(legend) == [" _a", r"b\$", "c"]


@pytest.mark.parametrize("number", [1, MOST_FAMILIES + 1])
def test_one_family_or_many_have_no_panels(number):
    columns = {f"meta_loss/{i}": RNG.random(40) for i in range(number)}
    assert len(plot_runs({"run": history(**columns)}).axes) == 1


def test_short_and_constant_runs_are_drawn():
    nothing = np.full(1, np.nan)
    figure = plot_runs({"run": {"step": np.ones(1), "meta_loss": np.zeros(1), "valid_score": nothing}})
    (axes,) = figure.axes
    assert axes.lines[0].get_marker() == "o"
    stuck = {"step": np.ones(2), "meta_loss": np.full(2, np.nan)}
    assert not plot_runs({"run": stuck}).axes[0].lines
