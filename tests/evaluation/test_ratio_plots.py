"""The picture of the ratios that decide: where its marks lie, and whose they are."""

import numpy as np
import pytest

from lopt.evaluation.page import render
from lopt.evaluation.ratio_plots import MARKERS, MEANS, MOST_OPTIMIZERS, draw_ratios
from tests.evaluation.page_example import example

LABELS = {"learned": "Learned (lopt)", "muon": "Muon", "adam_default": "Adam at 0.001"}


def content(**ratios):
    """Tasks with these training ratios of the learned optimizer; its validation ratios are twice as large."""
    found = example()
    (task, *_) = found["tasks"]
    tasks = []
    for name, ratio in ratios.items():
        rows = [row | {"train_ratio": 3.0, "valid_ratio": 4.0} for row in task["rows"]]
        rows[0] |= {"train_ratio": ratio, "valid_ratio": None if ratio is None else 2 * ratio}
        tasks.append(task | {"name": name, "rows": rows})
    means = [row | {"train": 0.5, "valid": 0.7, "both": 0.6} for row in found["deciding"]["tuned"]]
    return found | {"tasks": tasks, "deciding": {"tuned": means}}


def points(axes):
    """x and y of what has a mark for every row, which the line at 1 has not; and whose it is."""
    found = [(line, np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in axes.lines]
    return [(str(line.get_marker()), str(line.get_label()), x, y) for line, x, y in found if len(x) > 2]


def marks(axes):
    """x of every optimizer's marks, from the lowest row up."""
    return {label: x for _, label, x, _ in points(axes)}


def test_marks_are_the_ratios_and_the_best_task_is_on_top():
    train, valid = draw_ratios(content(a=0.9, b=0.2, c=5.0)).axes
    assert [text.get_text() for text in train.get_yticklabels()] == ["c", "a", "b", MEANS]
    assert marks(train)["Learned (lopt)"] == pytest.approx([5.0, 0.9, 0.2, 0.5])
    assert marks(valid)["Learned (lopt)"] == pytest.approx([10.0, 1.8, 0.4, 0.7])
    assert marks(train)["Muon"] == pytest.approx([3, 3, 3, 0.5])
    assert marks(valid)["Muon"] == pytest.approx([4, 4, 4, 0.7])


def test_adam_is_the_line_at_1():
    train, _ = draw_ratios(content(a=0.9, b=0.2)).axes
    assert set(marks(train)) == set(LABELS.values())  # neither Adam, nor the same rule untrained
    assert sum(np.array_equal(line.get_xdata(), [1, 1]) for line in train.lines) == 1


def test_each_optimizer_has_a_mark_of_its_own_and_hides_no_other():
    drawn = points(draw_ratios(content(a=0.9, b=0.2)).axes[0])
    assert len({marker for marker, *_ in drawn}) == len(drawn)
    heights = np.sort([y[0] for *_, y in drawn])
    assert (np.diff(heights) > 0.05).all()
    assert heights[-1] - heights[0] < 0.6  # and the rows are apart


def test_no_more_optimizers_than_can_be_told_apart_and_the_best_of_them():
    found = content(a=0.9, b=0.2)
    for i in range(9):
        found["optimizers"] |= {f"other{i}": {"label": f"Other {i}", "kind": "constant"}}
        found["deciding"]["tuned"].append(
            found["deciding"]["tuned"][0] | {"optimizer": f"other{i}", "both": 1 - i / 10}
        )
        for task in found["tasks"]:
            task["rows"].append(task["rows"][-1] | {"optimizer": f"other{i}"})
    shown = set(marks(draw_ratios(found).axes[0]))
    assert shown == {"Learned (lopt)", "Adam at 0.001", "Other 8", "Other 7", "Other 6", "Other 5"}
    assert len(shown) == MOST_OPTIMIZERS == len(MARKERS)


def test_a_task_without_ratios_has_no_row_and_one_task_no_mean():
    axes = draw_ratios(content(a=0.9, b=None)).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a"]


def test_the_page_shows_it():
    assert render(example(), {"ratios.png": b"one"}).count('src="data:image/png;base64,b25l"') == 1
