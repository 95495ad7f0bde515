"""The score of a validation against values worked out by hand."""

import math

import numpy as np
import pytest

from lopt.validation.scores import Losses, TaskScore, best_of_grid, score_row, task_score


def losses(train, valid):
    return Losses(np.array(train, float), np.array(valid, float))


def test_ratios_are_geometric_means_over_seeds_and_clipped_one_by_one():
    reference = losses([1, 2], [3, 3])
    score = task_score(losses([0.5, 8], [3e-9, 12]), reference)
    np.testing.assert_allclose(score.train, math.sqrt(0.5 * 4))
    np.testing.assert_allclose(score.valid, math.sqrt(0.1 * 4))  # not 1e-9 * 4
    np.testing.assert_allclose(task_score(reference, reference), (1, 1))


@pytest.mark.parametrize("reference", [1.0, math.inf])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_run_that_diverged_has_the_ratio_10_whatever_the_reference_did(bad, reference):
    score = task_score(losses([bad, 1], [bad, 1]), losses([reference, 1], [reference, 1]))
    np.testing.assert_allclose(score, (math.sqrt(10), math.sqrt(10)))


def test_losses_of_zero_have_a_ratio():
    score = task_score(losses([0, 1], [0, 0]), losses([1, 0], [0, 0]))
    np.testing.assert_allclose(score.train, math.sqrt(0.1 * 10))
    np.testing.assert_allclose(score.valid, 1)
    assert task_score(losses([1], [1]), losses([math.inf], [1])).train == pytest.approx(0.1)


def test_the_grid_is_searched_for_training_and_for_validation_separately():
    """By the product over the seeds: the sum would take the first row, and a diverged seed rules a rate out."""
    train = [[1, 1], [0.1, 3], [0.001, math.inf]]
    valid = [[1, 1], [2, 2], [1, 0.9]]
    best = best_of_grid(losses(train, valid))
    np.testing.assert_array_equal(best.train, [0.1, 3])
    np.testing.assert_array_equal(best.valid, [1, 0.9])


def test_the_best_of_the_grid_beats_every_rate_of_it():
    values = np.exp(np.random.default_rng(0).normal(size=(2, 5, 3)) / 5)  # nothing is clipped
    best = best_of_grid(Losses(*values))
    for train, valid in zip(*values, strict=True):
        assert min(task_score(Losses(train, valid), best)) >= 1 - 1e-12


def test_a_row_is_the_geometric_mean_over_tasks():
    row = score_row({"a": TaskScore(0.5, 2.0), "b": TaskScore(8.0, 0.25)})
    wanted = {"valid_score": math.sqrt(2 * math.sqrt(0.5)), "valid_train": 2.0, "valid_valid": math.sqrt(0.5)}
    wanted |= {"valid/a": 1.0, "valid/b": math.sqrt(2)}
    assert row.keys() == wanted.keys()
    np.testing.assert_allclose([row[name] for name in wanted], list(wanted.values()))
