"""The door from the library to the tasks: every form in which a person gives them, and what is refused."""

import sys

import pytest

from lopt.names import InputError
from lopt.pool import read_mixture, sweep_axes, task_variants
from lopt.types import TaskMixture
from tasks.functions.quadratic import Quadratic
from tests.toy_family import Bowl


def test_every_form_is_read():
    bowl, deep = Bowl(), Quadratic(dimension=7)
    assert read_mixture(bowl) == TaskMixture((bowl,), (1.0,))
    assert read_mixture([bowl, deep]) == TaskMixture((bowl, deep), (1.0, 1.0))
    assert read_mixture("3*quadratic:dimension=7") == TaskMixture((deep,), (3.0,))
    assert read_mixture(["3*quadratic:dimension=7", bowl]) == TaskMixture((deep, bowl), (3.0, 1.0))
    mixture = TaskMixture((bowl, deep), (2.0, 0.5))
    assert read_mixture(mixture) == mixture


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "no task is named"),
        ([], "no task is named"),
        ([Bowl(), Bowl(start=2.0)], "two tasks have the name 'bowl'"),
        (TaskMixture((Bowl(), Bowl()), (1.0, 1.0)), "two tasks have the name 'bowl'"),
        ("image_mpl/digits", "Did you mean 'image_mlp'"),
        (Bowl, "give an instance of the class"),
        ([Bowl(), 3], "3 is no task family: it has no name, streams, load, sample, task, sample_batch"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        read_mixture(given)


def test_without_the_package_of_tasks_objects_still_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "tasks", None)
    assert read_mixture(Bowl()).families == (Bowl(),)
    with pytest.raises(InputError, match="give task families as objects"):
        read_mixture("quadratic")


def test_axes_of_sweeps():
    assert {"width", "dataset"} <= set(sweep_axes())
    wide = task_variants(read_mixture("image_mlp/digits:hidden_sizes=(8,)").families[0], "width")
    assert [vars(family)["hidden_sizes"] for family in wide.values()] == [(2,), (4,), (8,), (16,), (32,), (64,), (128,)]
    with pytest.raises(InputError, match="unknown axis of a sweep 'widht'"):
        task_variants(Bowl(), "widht")
