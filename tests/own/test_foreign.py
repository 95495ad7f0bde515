"""Tasks, rules and estimators of other people: where they are found, what is refused, and that no export runs code."""

import dataclasses
import json
import sys

import pytest

import lopt
from lopt.estimators import ESTIMATORS
from lopt.names import InputError, parse_spec
from lopt.optimizers import OPTIMIZERS
from lopt.own import foreign
from lopt.trained.card import checksum
from tasks import FAMILIES, parse_tasks

OWN = '''
"""One of each kind, all written by somebody else."""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.estimators import PES
from lopt.types import Task


@dataclasses.dataclass(frozen=True)
class Bowl:
    dimension: int = 3
    power: float = 2.0
    streams = False

    @property
    def name(self):
        return f"bowl{self.dimension}"

    def load(self, seed=0, block=0):
        return {}

    def sample(self, key):
        return {}

    def task(self, config):
        loss = lambda params, key, batch: jnp.mean(jnp.abs(params["p"] - 1 - batch) ** self.power)
        start = lambda key: {"p": jax.random.normal(key, (self.dimension,))}
        return Task(start, loss, lambda loss: loss, lambda params, key, batch: {})

    def sample_batch(self, data, key, config, split):
        return 0.1 * jax.random.normal(key, (self.dimension,))


@dataclasses.dataclass(frozen=True)
class MyRule:
    """Update = -rate exp(theta) gradient."""

    width: int = 4
    rate: float = 0.1

    @property
    def requires(self):
        return frozenset()

    def init_theta(self, key):
        return {"log": 0.1 * jax.random.normal(key, (self.width,))}

    def init(self, theta, params, *, num_steps):
        return ()

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g: -self.rate * jnp.exp(theta["log"].mean()) * g, grads), state


@dataclasses.dataclass(frozen=True)
class Doubled(PES):
    """PES, times a factor."""

    factor: float = 2.0

    def estimate(self, problem, theta, state, key, *, step=None):
        answer, state = super().estimate(problem, theta, state, key, step=step)
        return answer._replace(grad=jax.tree.map(lambda g: self.factor * g, answer.grad)), state


class NoDataclass:
    requires, init_theta, init, update = frozenset(), None, None, None


@dataclasses.dataclass
class Mutable:
    requires, init_theta, init, update = frozenset(), None, None, None


@dataclasses.dataclass(frozen=True)
class Half:
    width: int = 1
    requires = frozenset()


bowl = Bowl(5)
estimator = Doubled()
plain = 3
'''
TABLES = {"optimizer": OPTIMIZERS, "estimator": ESTIMATORS, "task family": FAMILIES}
ENTRY_POINTS = """
[lopt.tasks]
my_bowl = NAME:Bowl
[lopt.optimizers]
my_rule = NAME:MyRule
broken = NAME_absent:Rule
[lopt.estimators]
doubled = NAME:Doubled
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file above, under a name that no other test has imported."""
    path = tmp_path_factory.mktemp("own") / "own_for_test_foreign.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def installed(file, tmp_path, monkeypatch):
    """The same as an installed package that has registered them."""
    name = file.stem
    info = tmp_path / "site" / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS.replace("NAME", name))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.syspath_prepend(file.parent)


def make(kind, text):
    return foreign.make(kind, parse_spec(text), TABLES[kind])


def test_a_class_of_a_file_takes_settings(file):
    rule = make("optimizer", f"{file}:MyRule:width=8")
    assert dataclasses.asdict(rule) == {"width": 8, "rate": 0.1}
    assert rule == make("optimizer", f"{file.stem}:MyRule:width=8")  # now also by its module
    assert make("estimator", f"{file}:Doubled:factor=3").factor == 3
    (bowl,) = parse_tasks(f"{file}:Bowl:dimension=2", optimizers=OPTIMIZERS)
    assert bowl.name == "bowl2"
    assert parse_tasks(f"{file}:bowl,quadratic", optimizers=OPTIMIZERS)[0].name == "bowl5"  # an object
    assert parse_tasks(f"2*{file}:Bowl+scale_loss", optimizers=OPTIMIZERS)[0].name == "bowl3+scale_loss"
    (inner,) = parse_tasks(f"train_optimizer[{file}:MyRule:width=2][{file}:Bowl]", optimizers=OPTIMIZERS)
    assert vars(inner)["optimizer"] == dataclasses.replace(rule, width=2)


@pytest.mark.usefixtures("installed")
def test_entry_points_are_names():
    assert make("optimizer", "my_rule:width=8").width == 8
    assert make("estimator", "doubled").factor == 2
    assert parse_tasks("my_bowl:dimension=2")[0].name == "bowl2"
    assert list(foreign.registered("task family")) == ["my_bowl"]
    with pytest.raises(
        InputError, match=r"unknown optimizer 'my_rul'\. Did you mean 'my_rule'\? Known: .*mlp.*my_rule"
    ):
        make("optimizer", "my_rul")
    with pytest.raises(InputError, match=r"'broken', which is \w+:Rule, cannot be loaded: ModuleNotFoundError"):
        make("optimizer", "broken")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("optimizer", "FILE:MyRul", r"unknown optimizer in \S+: 'MyRul'\. Did you mean 'MyRule'\?"),
        ("optimizer", "FILE:MyRule:widht=8", "Did you mean 'width'"),
        ("optimizer", "FILE:MyRule:width=wide", "width must be a whole number, not wide"),
        ("optimizer", "FILE", "say which optimizer of .*own_for_test_foreign.py:NAME"),
        ("optimizer", "FILE:NoDataclass", "must be a frozen dataclass, whose fields are its settings"),
        ("optimizer", "FILE:Half", "is no optimizer: it has no init_theta, init, update"),
        ("optimizer", "FILE:Mutable", "must be hashable"),
        ("optimizer", "FILE:Bowl", "is no optimizer: it has no requires"),
        ("optimizer", "FILE:plain", "is no optimizer: it has no requires"),
        ("task family", "FILE:MyRule", "is no task family: it has no name, streams"),
        ("task family", "FILE:bowl:dimension=3", "is an object, which has its settings already"),
        ("estimator", "FILE:estimator", "name its class"),
        ("optimizer", "FOLDER/own_for_test_foreig.py:MyRule", "Did you mean '.*own_for_test_foreign.py'"),
        ("optimizer", "FOLDER/none/x.py:MyRule", "none in that folder"),
        ("optimizer", "FOLDER/json.py:MyRule", "there is another module 'json', .*: rename the file"),
        ("optimizer", "FOLDER/wrong.py:MyRule", r"wrong.py cannot be run: NameError: .*wrong.py, line 3"),
        ("optimizer", "no.such.module:MyRule", "there is no module 'no.such.module'"),
        ("optimizer", "FOLDER/own_for_test_foreign:MyRule", "is neither a Python file"),
        ("optimizer", "mlp:Hidden", "cannot read 'Hidden' in 'mlp:Hidden': write NAME:setting=value"),
    ],
)
def test_what_is_refused_says_what_to_do(file, kind, text, message):
    (file.parent / "json.py").touch()
    (file.parent / "wrong.py").write_text("\n\nnothing_of_this_name\n")
    with pytest.raises(InputError, match=message):
        make(kind, text.replace("FILE", str(file)).replace("FOLDER", str(file.parent)))


SMALL = {"num_pairs": 2, "sigma": 0.1, "truncation": 5, "horizon": "10:20"}


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """A run of a rule, an estimator and a task of other people, all by their text."""
    texts = {"optimizer": f"{file}:MyRule:width=8", "tasks": f"{file}:Bowl", "estimator": f"{file}:Doubled"}
    return lopt.meta_train(**texts, workdir=tmp_path_factory.mktemp("foreign") / "run", outer_steps=2, **SMALL)


def test_the_config_and_the_card_say_where_classes_come_from(run, file):
    config = json.loads((run.workdir / "config.json").read_text())
    assert config["optimizer"] == f"{file.stem}:MyRule:width=8"
    assert config["tasks"] == f"{file.stem}:Bowl"
    assert config["estimator"] == f"{file.stem}:Doubled:num_pairs=2:sigma=0.1:truncation=5"
    card = run.pretrained.card
    assert (card["architecture"], card["settings"]) == (f"{file.stem}:MyRule", {"width": 8, "rate": 0.1})
    assert (card["tasks"], card["estimator"]) == (config["tasks"], config["estimator"])
    assert (card["config"], card["horizon"]) == (config, [10, 20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "FILE:MyRule:width=7"}, r'optimizer: there "\w+:MyRule:width=8", asked "\w+:MyRule:width=7"'),
        ({"optimizer": "mlp"}, r'optimizer: there "\w+:MyRule:width=8", asked "mlp"'),
        ({"estimator": "FILE:Doubled:factor=3"}, "estimator: there"),
        ({"tasks": "FILE:Bowl:power=4"}, "tasks: there"),
    ],
)
def test_another_class_or_setting_is_refused_when_a_run_goes_on(run, file, change, message):
    texts = {"optimizer": "FILE:MyRule:width=8", "tasks": "FILE:Bowl", "estimator": "FILE:Doubled"} | change
    texts = {name: text.replace("FILE", str(file)) for name, text in texts.items()}
    with pytest.raises(InputError, match=message):
        lopt.meta_train(**texts, workdir=run.workdir, outer_steps=2, **SMALL)


def test_objects_go_on_with_what_texts_began(run, file):
    own = sys.modules[file.stem]
    again = lopt.meta_train(
        own.MyRule(8), own.Bowl(), estimator=f"{file}:Doubled", workdir=run.workdir, outer_steps=2, **SMALL
    )
    assert again == run


def test_an_evaluation_takes_what_is_given_and_never_what_a_card_names(run, file):
    settings = {"horizon": 20, "num_seeds": 1, "baselines": (), "say": None}
    assert list(lopt.evaluate(run, **settings).results) == ["bowl3"]  # the run has its tasks at hand
    trained = lopt.load_pretrained(run.workdir, optimizer=f"{file}:MyRule:width=8")
    with pytest.raises(InputError, match=r"was trained on \w+:Bowl, .* give the tasks yourself"):
        lopt.evaluate(trained, **settings)


def test_another_rule_takes_part_with_the_code_that_is_given(run, file):
    """`--learned=FOLDER@FILE.py:CLASS`; for a folder alone, no code is run."""
    bowl, mine = sys.modules[file.stem].Bowl(), f"{run.workdir}@{file}:MyRule:width=8"
    settings = {"horizon": 20, "num_seeds": 1, "baselines": (), "say": None}
    report = lopt.evaluate("learnable_adam_digits", bowl, learned=mine, **settings)
    assert run.workdir.name in report.results["bowl3"].entries
    for learned, message in (
        (str(run.workdir), r"--learned as FOLDER@FILE\.py:MyRule"),
        ([f"{mine}:depth=3"], "unknown setting of optimizer"),
        (f"{run.workdir}@{file}:MyRule", "theta belongs to"),
    ):
        with pytest.raises(InputError, match=message):
            lopt.evaluate("learnable_adam_digits", bowl, learned=learned, **settings)


@pytest.mark.parametrize(
    "place", ["evil_for_test_foreign", "evil_for_test_foreign.py", "FOLDER/evil_for_test_foreign.py"]
)
def test_no_code_is_run_because_an_export_names_it(run, file, place, tmp_path, monkeypatch):
    """Neither that of its rule, nor that of its tasks, wherever it lies: in the export, here, or on the path."""
    export, proof = tmp_path / "export", tmp_path / "it ran"
    export.mkdir()
    evil = f"__import__('pathlib').Path({str(proof)!r}).touch()\n" + OWN
    for folder in (export, tmp_path):
        (folder / "evil_for_test_foreign.py").write_text(evil)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    card = json.loads((run.export / "card.json").read_text())
    (export / "theta.safetensors").write_bytes((run.export / "theta.safetensors").read_bytes())
    place = place.replace("FOLDER", str(tmp_path))
    card |= {"architecture": f"{place}:MyRule", "tasks": f"{place}:Bowl", "estimator": f"{place}:Doubled"}
    (export / "card.json").write_text(json.dumps({**card, "card_sha256": checksum(card)}))
    with pytest.raises(InputError, match=r"the rule is MyRule from .*evil.*: import it and give it"):
        lopt.load(export)
    trained = lopt.load_pretrained(export, optimizer=f"{file}:MyRule:width=8")
    for tasks in (
        f"{place}:Bowl",
        f"2*quadratic,{place}:Bowl+scale_loss",
        f"train_optimizer[{place}:MyRule][quadratic]",
    ):
        named = trained._replace(card={**trained.card, "tasks": tasks})
        with pytest.raises(InputError, match="give the tasks yourself"):
            lopt.evaluate(named, horizon=20, say=None)
    assert not proof.exists()
    assert not [name for name in sys.modules if "evil" in name]
    lopt.load_pretrained(export, optimizer=f"{tmp_path / 'evil_for_test_foreign.py'}:MyRule:width=8")
    assert proof.exists()  # a person may
    del sys.modules["evil_for_test_foreign"]


@pytest.mark.usefixtures("installed")
def test_a_rule_that_an_installed_package_has_registered_loads_by_itself(run):
    assert lopt.load_pretrained(run.workdir).optimizer == run.optimizer
