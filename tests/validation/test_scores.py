"""The score of a validation against values worked out by hand."""

import math

import numpy as np

from lopt.evaluation.ratios import Losses, Ratios, task_ratios
from lopt.validation.scores import best_of_grid, score_row


def losses(train, valid):
    return Losses(np.array(train, float), np.array(valid, float))


def test_the_grid_is_searched_for_training_and_for_validation_separately():
    """By the product over the seeds: the sum would take the first row, and a diverged seed rules a rate out."""
    train = [[1, 1], [0.1, 3], [0.001, math.inf]]
    valid = [[1, 1], [2, 2], [1, 0.9]]
    best = best_of_grid(losses(train, valid))
    np.testing.assert_array_equal(best.train, [0.1, 3])
    np.testing.assert_array_equal(best.valid, [1, 0.9])


def test_the_best_of_the_grid_beats_every_rate_of_it():
    values = np.exp(np.random.default_rng(0).normal(size=(2, 5, 2)) / 5)  # nothing is clipped
    best = best_of_grid(Losses(*values))
    for train, valid in zip(*values, strict=True):
        assert min(task_ratios(Losses(train, valid), best)) >= 1 - 1e-12


def test_a_row_is_the_geometric_mean_over_tasks():
    row = score_row({"a": Ratios(0.5, 2.0), "b": Ratios(8.0, 0.25)})  # of which 0.25 counts as 0.5
    wanted = {"valid_score": math.sqrt(2), "valid_train": 2.0, "valid_valid": 1.0}
    wanted |= {"valid/a": 1.0, "valid/b": math.sqrt(2)}
    assert row.keys() == wanted.keys()
    np.testing.assert_allclose([row[name] for name in wanted], list(wanted.values()))
