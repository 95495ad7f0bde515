"""The settings of every estimator: where they are written, what they may be, and that nothing is overridden."""

import dataclasses
import inspect
import re
from typing import Any

import pytest

from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.names import InputError, Spec, build
from tests.estimators import toys

FIELDS = {name: {field.name: field for field in dataclasses.fields(kind)} for name, kind in ESTIMATORS.items()}


def with_field(field):
    return [name for name in ESTIMATORS if field in FIELDS[name]]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_final_and_lists_its_settings(name):
    """In its own file, in the order of the fields, each with a line of documentation."""
    kind = ESTIMATORS[name]
    assert kind.__final__
    assert kind.__module__ == f"lopt.estimators.{name}"
    assert list(kind.__annotations__) == list(FIELDS[name])
    documented = re.search(r"Attributes:\n(.*)", inspect.getdoc(kind) or "", re.DOTALL)
    assert documented
    assert re.findall(r"^  (\w+): ", documented[1], re.MULTILINE) == list(FIELDS[name])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_base_implements_is_not_overridden(name):
    own, *bases = [kind for kind in ESTIMATORS[name].__mro__ if kind.__module__.startswith("lopt.")]
    for base in bases:
        concrete = {key for key, value in vars(base).items() if inspect.isfunction(value)} - base.__abstractmethods__
        assert not concrete & vars(own).keys()
        assert base.__abstractmethods__  # nobody can make one of it


@pytest.mark.parametrize("field", sorted({field for fields in FIELDS.values() for field in fields}))
def test_a_setting_has_one_default(field):
    assert len({FIELDS[name][field].default for name in with_field(field)}) == 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_settings_are_equal(name):
    """So that jit, which knows a run by its settings, does not compile it again."""
    assert toys.make(name) == toys.make(name)
    assert hash(toys.make(name)) == hash(toys.make(name))
    assert toys.make(name, num_pairs=3) != toys.make(name, num_pairs=4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_pairs", 0),
        ("truncation", 0),
        ("sigma", 0.0),
        ("sigma", -1.0),
        ("sigma", float("nan")),
        ("sigma", float("inf")),
    ],
)
def test_settings_out_of_range(field, value):
    for name in with_field(field):
        with pytest.raises(InputError, match=field):
            toys.make(name, **{field: value})


@pytest.mark.parametrize("name", with_field("truncation"))
def test_windows_must_fit_the_horizon(name):
    with pytest.raises(InputError, match=r"take 3 or 6 instead of 4"):
        toys.make(name, truncation=3)
    with pytest.raises(InputError, match="longer than the shortest"):
        toys.make(name, truncation=5)


@pytest.mark.parametrize("name", with_field("horizon"))
def test_defaults_are_allowed(name):
    assert ESTIMATORS[name]().horizon == Horizon(200, 2000)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(with_field("pair_shaping"))))
def test_what_has_no_pairs_has_no_shaping(name):
    with pytest.raises(InputError, match=rf"unknown setting of estimator '{name}': 'pair_shaping'\..* Known: .*\.$"):
        build("estimator", Spec(name, {"pair_shaping": "rank"}), ESTIMATORS)


def test_refusals():
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("pes", {"sigma_last": 0.1}, "both sigma_last and sigma_steps"),
        ("pes", {"sigma_steps": 3}, "both sigma_last and sigma_steps"),
        ("full_es", {"sigma_last": 0.0, "sigma_steps": 3}, "above 0"),
        ("pes_analytic", {"pair_shaping": "rank"}, "needs their size"),
        ("nres", {"pair_shaping": "ranks"}, r"unknown pair_shaping 'ranks'. Did you mean 'rank'"),
        ("gpes", {"noise_period": 3}, "multiple of the truncation"),
        ("forward", {"tangent": "norml"}, r"unknown tangent 'norml'.*'normal'"),
    ]
    for name, settings, message in refused:
        with pytest.raises(InputError, match=message):
            toys.make(name, **settings)
