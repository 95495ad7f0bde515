"""What estimators carry and reserve, against the theory that docs/estimators.md shows."""

import functools
import re

import pytest

from benchmarks.estimators import THEORY, Sizes, carried_numbers, working_bytes
from lopt.estimators import ESTIMATORS

SIZES = Sizes(horizon=8, truncation=2, theta=12, state=60)
cached_bytes = functools.cache(working_bytes)  # tests of one name share the base


def test_every_estimator_is_in_the_table():
    assert set(THEORY) == set(ESTIMATORS)


@pytest.mark.parametrize("name", THEORY)
def test_carried_numbers(name):
    formula = re.sub(r"(?<=[\dSP]) (?=[SP])", " * ", THEORY[name][0])
    assert carried_numbers(name, SIZES) == eval(formula, {"S": SIZES.state, "P": SIZES.theta})


@pytest.mark.parametrize(
    ("name", "field", "least", "most"),
    [
        ("pes", "horizon", 1, 1),
        ("pes", "truncation", 1, 1),
        ("tbptt", "horizon", 1, 1),
        ("tbptt", "truncation", 3, 4.1),
        ("bptt", "horizon", 3, 4.1),
        ("rtrl", "theta", 3, 5),
    ],
)
def test_working_memory_grows_as_it_should(name, field, least, most):
    base = Sizes(horizon=32, truncation=8, theta=32, state=1024)
    ratio = cached_bytes(name, base._replace(**{field: 4 * getattr(base, field)})) / cached_bytes(name, base)
    assert least <= ratio <= most
