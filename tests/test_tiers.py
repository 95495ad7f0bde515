"""The rows of tables that `make test` runs: every value of every axis, by a rule that needs no list."""

import itertools

import pytest

from tests.tiers import cover


@pytest.mark.parametrize("sizes", [(12,), (12, 3, 2), (2, 3, 4), (5, 5), (1, 7), (2, 1, 2)])
def test_every_value_of_every_axis_is_kept_once_in_as_few_rows_as_there_can_be(sizes):
    rows = list(itertools.product(*(range(100 * i, 100 * i + size) for i, size in enumerate(sizes))))
    kept = [rows[i] for i in cover(rows)]
    assert len(kept) == max(sizes)
    assert {value for row in kept for value in row} == {value for row in rows for value in row}


def test_variants_meet_in_every_combination_where_there_are_rules_enough():
    rows = list(itertools.product(range(12), ("float32", "float64", "both"), ("bare", "guarded")))
    assert len({rows[i][1:] for i in cover(rows)}) == 6


def test_rows_that_are_missing_are_made_up_for():
    rows = [(i, j) for i in range(4) for j in range(4) if i != j]  # nothing of the diagonal
    kept = [rows[i] for i in cover(rows)]
    assert {i for i, _ in kept} == {j for _, j in kept} == set(range(4))


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("right", [0, 1])
def test_the_diagonal_alone_is_run_by_make_test(request, left, right):
    assert (left == right) != bool(request.node.get_closest_marker("thorough"))
