"""Names and settings as people type them."""

import dataclasses
from typing import Literal, get_type_hints

import pytest

from benchmarks.apply import parse_arguments
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.meta_training.config import MetaTrainConfig
from lopt.names import InputError, Spec, build, check_known, check_settings, fits, parse_spec, split_list
from lopt.optimizers import OPTIMIZERS
from tasks.augmentations import AUGMENTATIONS
from tasks.families import FAMILIES
from tasks.naming import settings


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


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (int, [0, -3], [1.0, True, "1", None, (1,)]),
        (float, [0.5, 1, 1e-3], [True, "x", None, 1j]),
        (bool, [True, False], [0, 1, 3, "maybe", None]),
        (str, ["", "tanh"], [3, True, None, ("a",)]),
        (float | None, [None, 2, 0.5], ["None", True]),
        (tuple[int, ...], [(), (4,), (4, 4)], [3, [4, 4], (4.5, 4), (True,), "44"]),
        (tuple[str, ...], [(), ("a", "b")], ["a", (1,), ["a"]]),
        (tuple[int, float], [(8, 64), (8, 0.5)], [(8,), (8, 64, 1), (0.5, 8)]),
        (Literal["normal", "uniform"], ["normal"], ["other", 1, None]),
        (Literal[1], [1], [True, 1.0]),
        (Horizon, [], [Horizon(1, 1), 1, "1:1"]),
    ],
)
def test_values_fit_types(annotation, right, wrong):
    assert [fits(value, annotation) for value in right] == [True] * len(right)
    assert [fits(value, annotation) for value in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adafac_mlp:magnitude_scale=x", "magnitude_scale must be a number, not x"),
        ("adafac_mlp:mup_keys=3", "mup_keys must be words in quotes in brackets, as ('bias','scale'), not 3"),
        ("celo2:adam_keys=norm", "adam_keys must be words in quotes in brackets, as ('embedding',), not norm"),
        ("velo:lstm_size=2.5", "lstm_size must be a whole number, not 2.5"),
        ("mlp:hidden_sizes=3", "hidden_sizes must be whole numbers in brackets, as (32,32), not 3"),
        ("mlp:hidden_sizes=(4.5,4)", "hidden_sizes must be whole numbers in brackets, as (32,32), not (4.5,4)"),
        ("mlp:step_scale=abc", "step_scale must be a number, not abc"),
        ("learnable_adam:schedule_terms=1.5", "schedule_terms must be a whole number, not 1.5"),
        ("star:precondition=maybe", "precondition must be True or False, not maybe"),
        ("celo:scheduled=3", "scheduled must be True or False, not 3"),
    ],
)
def test_optimizers_refuse_settings_of_the_wrong_type(text, message):
    with pytest.raises(InputError) as error:
        build("optimizer", parse_spec(text), OPTIMIZERS)
    assert str(error.value) == f"optimizer {text.partition(':')[0]}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pes:horizon=1000", "estimator pes: horizon is not set here; the flag --horizon sets it"),
        ("bptt:layout=1", "estimator bptt: layout is not set here; the flag --devices sets it"),
        ("pes:sigma_last=x", "estimator pes: sigma_last must be a number or None, not x"),
        ("forward:tangent=up", "estimator forward: tangent must be normal or rademacher, not up"),
        ("nres:sed=1", "unknown setting of estimator 'nres': 'sed'."),
    ],
)
def test_estimators_refuse_what_other_flags_set_and_the_wrong_type(text, message):
    with pytest.raises(InputError) as error:
        MetaTrainConfig(estimator=text)
    assert str(error.value).startswith(message)
    assert "layout," not in str(error.value)  # it is not offered either


def test_the_number_of_values_and_the_fields_without_a_text_are_told():
    with pytest.raises(InputError, match=r"widths must be 2 whole numbers in brackets, as \(8,64\), not \(8,64,3\)"):
        build("family", parse_spec("random_mlp:widths=(8,64,3)"), {"random_mlp": FAMILIES["random_mlp"].constructor})
    meta_task = {"train_optimizer": FAMILIES["train_optimizer"].constructor}
    with pytest.raises(InputError, match="task_family is not set here; it cannot be written as text"):
        build("family", parse_spec("train_optimizer:task_family=quadratic"), meta_task)


TABLES = {
    "optimizer": OPTIMIZERS,
    "estimator": ESTIMATORS,
    "augmentation": AUGMENTATIONS,
    "family": {name: row.constructor for name, row in FAMILIES.items()},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in TABLES.items() for name in table])
def test_every_default_is_of_its_type_and_may_be_typed(kind, name):
    constructor = TABLES[kind][name]
    annotations = get_type_hints(constructor)
    unwritten = {"horizon", "layout"} if kind == "estimator" else set()
    typed = {field.name: field.default for field in settings(constructor) if field.name not in unwritten}
    assert [key for key, value in typed.items() if not fits(value, annotations[key])] == []
    spec = parse_spec(str(Spec(name, typed)))
    assert spec.settings == typed
    check_settings(kind, spec, constructor)


def test_the_costs_of_updates_are_asked_for_by_what_was_typed():
    args = parse_arguments(["adam", "mlp:hidden_sizes=(4,)", "--sizes=1e3,2000", "--models=MLP"])
    assert (args.names, args.sizes, args.models) == (["adam", "mlp:hidden_sizes=(4,)"], ["1e3", "2000"], ["MLP"])
    args = parse_arguments([])
    assert {"adam", "mlp", "velo"} < set(args.names)
    assert args.models == ["MLP", "transformer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes=abc"], "--sizes takes numbers of parameters of at least 1000, such as 1e6, not abc"),
        (["--sizes=1e5,0"], "--sizes takes .* not 0"),
        (["--sizes=inf"], "--sizes takes .* not inf"),
        (["--sizes="], "--sizes and --models must not be empty"),
        (["--models=cnn"], r"unknown model 'cnn'\. Known: MLP, transformer\."),
        (["--blocks=0"], "--blocks must be at least 1, not 0"),
        (["--rows=missing/rows.jsonl"], "--rows must be a file in an existing folder, not missing/rows.jsonl"),
        (["--rows=."], "--rows must be a file"),
        (["adm"], r"unknown rule 'adm'\. Did you mean 'adam'\?"),
        (["mlp:hidden_sizes=3"], "hidden_sizes must be whole numbers in brackets"),
    ],
)
def test_the_costs_of_updates_refuse_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_arguments(arguments)
