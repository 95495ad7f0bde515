"""The picture has what it should have, whatever the curves do."""

import numpy as np
import pytest

from lopt.evaluation import curve_plots as plots
from lopt.evaluation.measures import MEASURES, best_trial, valid_steps
from lopt.evaluation.results import Curves, Entry, TaskResult
from lopt.evaluation.score_plots import draw_aggregate
from lopt.evaluation.scores import score_task
from lopt.evaluation.summary import summarize
from lopt.figures import to_png

T, S = 60, 3
PNG = b"\x89PNG\r\n\x1a\n"


def runs(*levels, steps=T, offset=0.0):
    """Decaying curves that end at about the given levels."""
    decay = 2 * np.exp(-np.arange(steps) / 10)
    spread = np.linspace(0.9, 1.1, S)[:, None]
    loss = np.stack([spread * (level + decay) + offset for level in levels])
    loss = loss[0] if len(levels) == 1 else loss
    return Curves(loss, 1 + loss[..., valid_steps(steps) - 1], loss[..., -1])


def entry(label, kind, curves: Curves, rates=(np.nan,), tuning=None, long=None):
    tuning = tuning or Curves(*(x[None][:0] for x in curves))
    best = {measure: best_trial(tuning, measure) if len(tuning.loss) else 0 for measure in MEASURES}
    chosen = dict.fromkeys(MEASURES, curves)
    none = np.full(len(rates), "")
    return Entry(label, kind, np.array(rates), none, tuning, best, chosen, long, 1.0, np.ones((1, 2)))


def task(offset=0.0):
    tuning = runs(0.9, 0.05, 0.3, 5, offset=offset)
    tuning.loss[3, :, 20:] = np.nan
    rates = (1e-4, 1e-2, 0.1, 1)
    best, long = runs(0.05, offset=offset), runs(0.05, steps=4 * T, offset=offset)
    entries = {
        "learned": entry("learned optimizer", "learned", runs(0.1, offset=offset)),
        "untrained": entry("same rule, untrained", "untuned", runs(2, offset=offset)),
        "adam_default": entry("Adam at 0.001", "untuned", runs(0.5, offset=offset)),
        "adam": entry("Adam", "constant", best, rates, tuning, long),
        "adam_cosine": entry("Adam, cosine", "scheduled", best, rates, tuning),
    }
    return TaskResult(1234, T, np.arange(S), np.arange(S, 2 * S), (), entries)


def draw(*tasks):
    return plots.draw({f"task_{i}": task for i, task in enumerate(tasks)})


def labels(axes):
    return [text.get_text().replace("\n", " ") for text in axes.get_legend().get_texts()]


def test_every_curve_is_there_and_labelled():
    figure = draw(task())
    axes, valid = figure.axes
    assert labels(valid) == [
        "learned optimizer",
        "Adam, lr 0.01 (best by mean and final loss)",
        "Adam at 0.001 (default)",
        "same rule, untrained",
        "Adam, cosine, lr 0.01",
        "Adam, 3 other rates, 0.0001 to 1 (tuning seeds)",
    ]
    assert len(axes.lines) == 5 + 3
    assert len(axes.collections) == 4  # bands, of the four that are always there
    assert len({looks(line)[1:] for line in axes.lines}) == 6  # readable without colours
    assert [looks(line) for line in valid.lines] == [looks(line) for line in axes.lines[:5]]
    np.testing.assert_array_equal(valid.lines[0].get_xdata(), np.arange(3, 61, 3))
    np.testing.assert_allclose(
        np.asarray(valid.lines[0].get_ydata()), 1.1 + 2 * np.exp(-np.arange(2, 60, 3) / 10), rtol=1e-6
    )
    assert (axes.get_ylabel(), valid.get_ylabel()) == ("training loss", "validation loss")
    assert axes.get_title(loc="left") == "task_0  (1,234 parameters)"
    assert axes.get_yscale() == "log"


def test_two_best_rates_are_told_apart():
    one = task()
    one.entries["adam"].best["final_loss"] = 2
    names = labels(draw(one).axes[1])
    assert names[1:3] == ["Adam, lr 0.1 (best by final loss)", "Adam, lr 0.01 (best by mean loss)"]


def looks(line):
    return line.get_color(), str(line._unscaled_dash_pattern), line.get_linewidth()


def test_an_optimizer_looks_the_same_in_every_panel_and_picture():
    """Whichever of its rates is best, and in whatever order the others end."""
    one, other = task(), task()
    rates, tuning = one.entries["adam"].rates, one.entries["adam"].tuning
    other.entries["adam"].best["mean_loss"] = 2  # here, Adam has two lines
    for name, level in (("lion", 0.01), ("muon", 0.4)):
        one.entries[name] = other.entries[name] = entry(name, "constant", runs(level), rates, tuning)
    other.entries["lion"] = entry("lion", "constant", runs(1.0), rates, tuning)
    panels = []
    for axes in draw(one, other).axes[::2]:
        handles, names = axes.get_legend_handles_labels()
        panels.append({name.split(",")[0]: looks(line) for line, name in zip(handles, names, strict=True)} | {})
    first, second = ({name: look for name, look in panel.items() if not name.startswith("Adam")} for panel in panels)
    assert first == second
    assert {"lion", "muon", "learned optimizer", "same rule"} <= first.keys()
    results = {"one": one, "other": other}
    scores = {name: score_task(result) for name, result in results.items()}
    content = summarize(results, scores, {})
    aggregate = draw_aggregate(content).axes[-1]
    lines = {line.get_label(): looks(line) for line in aggregate.lines}
    assert all(lines[name] == first[name] for name in ("lion", "muon", "learned optimizer"))
    by_final = [looks(line) for line in draw(one, other).axes[2].lines if "best by final" in str(line.get_label())]
    assert by_final == [lines["Adam"]]


def test_names_are_drawn_as_they_stand():
    """No formula between dollars, no label left out for an underscore, no failure for letters that a font lacks."""
    one = task()
    for name, label in (("learned", "$\\x$ and $"), ("untrained", "_hidden"), ("adam_cosine", "\N{GRINNING FACE}")):
        one.entries[name] = one.entries[name]._replace(label=label)
    figure = plots.draw({"a_$\\b{$": one})
    assert to_png(figure).startswith(PNG)
    assert len(labels(figure.axes[1])) == 6


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_file_is_a_picture_of_sane_size(number):
    png = to_png(draw(*[task()] * number))
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    assert png.startswith(PNG)
    assert 10_000 < len(png) < 2_000_000
    assert 900 < width < 4000
    assert 500 < height < 2500


def test_the_legend_covers_no_curve():
    one = task()
    cosine = one.entries["adam_cosine"]
    figure = draw(one._replace(entries=one.entries | {f"other_{i}": cosine for i in range(13)}))
    to_png(figure)  # lays out
    axes = figure.axes[1]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert legend.get_window_extent().y0 >= 0


def test_diverging_curves_do_not_set_the_scale():
    one = task()
    one.entries["learned"].chosen["final_loss"].loss[:, 10:] = 1e9
    one.entries["untrained"].chosen["final_loss"].loss[:] = np.nan
    axes = draw(one).axes[0]
    assert axes.get_ylim()[1] < 20
    assert axes.get_ylim()[0] < 0.1


def test_losses_below_zero_get_a_linear_axis():
    assert draw(task(offset=-1.0)).axes[0].get_yscale() == "linear"


def test_nothing_finite_is_drawn_empty():
    one = task()
    for x in one.entries.values():
        for curves in (x.tuning, *x.chosen.values()):
            curves.loss[:] = curves.valid_losses[:] = np.nan
    assert to_png(draw(one)).startswith(PNG)
