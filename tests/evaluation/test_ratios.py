"""Ratios of losses against values worked out by hand."""

import math

import numpy as np
import pytest

from lopt.evaluation.ratios import Losses, Ratios, geometric_mean, ratio, task_ratios


def losses(train, valid):
    return Losses(np.array(train, float), np.array(valid, float))


def test_two_seeds_have_their_geometric_mean_and_are_clipped_one_by_one():
    reference = losses([1, 2], [3, 3])
    score = task_ratios(losses([0.5, 8], [3e-9, 12]), reference)
    np.testing.assert_allclose(score.train, math.sqrt(0.5 * 4))
    np.testing.assert_allclose(score.valid, math.sqrt(0.1 * 4))  # not 1e-9 * 4
    np.testing.assert_allclose(task_ratios(reference, reference), (1, 1))


@pytest.mark.parametrize("reference", [1.0, math.inf])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_run_that_diverged_has_the_ratio_10_whatever_the_reference_did(bad, reference):
    score = task_ratios(losses([bad, 1], [bad, 1]), losses([reference, 1], [reference, 1]))
    np.testing.assert_allclose(score, (math.sqrt(10), math.sqrt(10)))


def test_losses_of_zero_have_a_ratio():
    score = task_ratios(losses([0, 1], [0, 0]), losses([1, 0], [0, 0]))
    np.testing.assert_allclose(score.train, math.sqrt(0.1 * 10))
    np.testing.assert_allclose(score.valid, 1)
    assert task_ratios(losses([1], [1]), losses([math.inf], [1])).train == pytest.approx(0.1)


def test_of_many_seeds_the_one_in_the_middle_counts():
    losses = np.array([[3.0, 0.5, np.inf, 4.0, 1.0], [np.nan, np.inf, np.inf, 1.0, 1.0]])
    np.testing.assert_allclose(ratio(losses, np.full(5, 2.0)), [1.5, 10])


def test_means_are_geometric():
    assert geometric_mean(x for x in (0.5, 8.0)) == pytest.approx(2)
    assert Ratios(0.5, 8.0).both == pytest.approx(2)
