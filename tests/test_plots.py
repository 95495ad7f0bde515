"""The picture has what it should have, whatever the curves do."""

import numpy as np
import pytest

from lopt import plots
from lopt.scores import Curves, TaskCurves, score_task

T, S = 60, 3
PNG = b"\x89PNG\r\n\x1a\n"


def runs(*levels, steps=T, offset=0.0):
    """Decaying curves that end at about the given levels."""
    decay = 2 * np.exp(-np.arange(steps) / 10)
    spread = np.linspace(0.9, 1.1, S)[:, None]
    loss = np.stack([spread * (level + decay) + offset for level in levels])
    loss = loss[0] if len(levels) == 1 else loss
    return Curves(loss, loss[..., -1], loss[..., -1])


def curves(offset=0.0):
    grid = runs(0.9, 0.05, 0.3, 5, offset=offset)
    grid.loss[3, :, 20:] = np.nan
    tuning = grid._replace(loss=grid.loss.copy())
    return TaskCurves(
        num_params=1234,
        learning_rates=np.array([1e-4, 1e-2, 0.1, 1]),
        seeds=np.arange(S),
        tuning_seeds=np.arange(S, 2 * S),
        learned=runs(0.1, offset=offset),
        untrained=runs(2, offset=offset),
        adam_default=runs(0.5, offset=offset),
        adam_grid=grid,
        adam_tuning=tuning,
        adam_long=runs(0.05, steps=4 * T, offset=offset),
    )


def draw(*tasks):
    by_name = {f"task_{i}": task for i, task in enumerate(tasks)}
    return plots.draw(by_name, {name: score_task(task) for name, task in by_name.items()})


def labels(axes):
    return [text.get_text().replace("\n", " ") for text in axes.get_legend().get_texts()]


def test_every_curve_is_there_and_labelled():
    figure = draw(curves())
    (axes,) = figure.axes
    assert labels(axes) == [
        "learned optimizer",
        "Adam, lr 0.01 (best by mean and final loss)",
        "Adam, lr 0.001 (default)",
        "same rule, untrained",
        "Adam, 3 other rates, 0.0001 to 1",
    ]
    assert len(axes.lines) == 4 + 3
    assert len(axes.collections) == 4  # bands
    assert len({(line.get_linestyle(), line.get_linewidth()) for line in axes.lines}) == 5  # readable without colours
    assert axes.get_title(loc="left") == "task_0  (1,234 parameters)"
    assert axes.get_yscale() == "log"


def test_two_best_rates_are_told_apart():
    task = curves()
    task.adam_tuning.loss[2] = runs(0.01).loss
    task.adam_tuning.loss[2, :, :30] += 1  # slow at first, lowest at the end
    names = labels(draw(task).axes[0])
    assert names[1:3] == ["Adam, lr 0.01 (best by mean loss)", "Adam, lr 0.1 (best by final loss)"]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_file_is_a_picture_of_sane_size(number):
    png = plots.to_png(draw(*[curves()] * number))
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    assert png.startswith(PNG)
    assert 10_000 < len(png) < 2_000_000
    assert 900 < width < 3000
    assert 500 < height < 2500


def test_the_legend_covers_no_curve():
    figure = draw(curves())
    plots.to_png(figure)  # lays out
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_diverging_curves_do_not_set_the_scale():
    task = curves()
    task.learned.loss[:, 10:] = 1e9
    task.untrained.loss[:] = np.nan
    axes = draw(task).axes[0]
    assert axes.get_ylim()[1] < 20
    assert axes.get_ylim()[0] < 0.1


def test_losses_below_zero_get_a_linear_axis():
    assert draw(curves(offset=-1.0)).axes[0].get_yscale() == "linear"


def test_nothing_finite_is_drawn_empty():
    task = curves()
    for group in (task.learned, task.untrained, task.adam_default, task.adam_grid, task.adam_tuning, task.adam_long):
        group.loss[:] = np.nan
    assert plots.to_png(draw(task)).startswith(PNG)
