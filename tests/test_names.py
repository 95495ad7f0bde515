"""Names and settings as people type them."""

import dataclasses

import pytest

from lopt.names import InputError, Spec, build, check_known, parse_spec, split_list


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("mlp", "mlp", {}),
        ("mlp:hidden_sizes=(4,4):step_scale=1e-2", "mlp", {"hidden_sizes": (4, 4), "step_scale": 0.01}),
        ("image_mlp/digits:activation=tanh", "image_mlp/digits", {"activation": "tanh"}),
        ("pes:staggered=False", "pes", {"staggered": False}),
    ],
)
def test_specs_read_and_write(text, name, settings):
    spec = parse_spec(text)
    assert spec == Spec(name, settings)
    assert parse_spec(str(spec)) == spec


def test_a_word_is_written_bare_and_a_number_in_quotes_is_not():
    assert str(Spec("a", {"b": "tanh", "c": "1"})) == "a:b=tanh:c='1'"


@pytest.mark.parametrize("text", ["mlp:hidden", "mlp:=3", "mlp:a b=3", "mlp:x=(4", "mlp:x=__import__('os')"])
def test_specs_refused(text):
    with pytest.raises(InputError, match="cannot read"):
        parse_spec(text)


def test_lists_split_outside_of_parentheses():
    assert split_list("a:x=(1,2),b , c:y=[3,4],") == ["a:x=(1,2)", "b", "c:y=[3,4]"]


def test_unknown_names_list_the_known_and_the_nearest():
    with pytest.raises(InputError, match=r"unknown optimizer 'mpl'\. Did you mean 'mlp'\? Known: lstm, mlp\."):
        check_known("optimizer", "mpl", ["mlp", "lstm"])
    with pytest.raises(InputError, match=r"unknown optimizer 'zzzzzz'\. Known: lstm, mlp\."):
        check_known("optimizer", "zzzzzz", ["mlp", "lstm"])


@dataclasses.dataclass(frozen=True)
class Thing:
    size: int = 1
    color: str = "red"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError("size must be at least 1")


def test_build_applies_defaults_that_fit_and_settings_over_them():
    table = {"thing": Thing}
    assert build("thing", Spec("thing", {"size": 2}), table, size=5, color="blue", other=1) == Thing(2, "blue")
    with pytest.raises(InputError, match="Known: color, size"):
        build("thing", Spec("thing", {"colour": "blue"}), table)
    with pytest.raises(InputError, match="size must be at least 1"):
        build("thing", Spec("thing", {"size": 0}), table)
