"""The front door to meta-training: objects and names give the same run, and a run shows what came out."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.names import InputError, parse_spec
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.types import TaskMixture
from tests.toy_family import Quadratic

SETTINGS = {"num_pairs": 2, "sigma": 0.1, "truncation": 5, "horizon": "10:20"}
OBJECT = PES(num_pairs=2, sigma=0.1, truncation=5, horizon=Horizon(10, 20))


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("front") / "run"
    return lopt.meta_train("learnable_sgd", Quadratic(), workdir=folder, outer_steps=4, **SETTINGS)


def test_objects_and_names_give_the_same_run(run, tmp_path):
    other = lopt.meta_train(LearnableSGD(), [Quadratic()], workdir=tmp_path, estimator=OBJECT, outer_steps=4)
    assert equal(run.theta, other.theta)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (run.workdir, tmp_path)]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"estimator"}
    assert parse_spec(configs[1]["estimator"]) == ("pes", {"num_pairs": 2, "sigma": 0.1, "truncation": 5})
    assert configs[1]["tasks"] == "tests.toy_family:Quadratic"  # not lopt's quadratic
    assert run.pretrained.card["horizon"] == other.pretrained.card["horizon"] == [10, 20]


def test_a_run_goes_on_where_it_stopped(run, tmp_path):
    settings = {"workdir": tmp_path, "outer_steps": 4, **SETTINGS}
    first = lopt.meta_train("learnable_sgd", Quadratic(), stop_after=1, **settings)
    assert (first.step, first.finished) == (1, False)
    assert "not finished, outer step 1 of 4" in str(first)
    again = lopt.meta_train("learnable_sgd", Quadratic(), **settings)
    assert again.finished
    assert again.signal is None
    assert equal(again.theta, run.theta)
    assert lopt.Run.open(tmp_path) == again


def test_a_run_shows_its_numbers(run):
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    history = run.history
    np.testing.assert_array_equal(history["meta_loss"], [row["meta_loss"] for row in rows])
    np.testing.assert_array_equal(history["step"], [1, 2, 3, 4])
    (line, dots) = run.plot().axes[0].lines
    np.testing.assert_array_equal(dots.get_ydata(), history["meta_loss"])
    np.testing.assert_allclose(line.get_ydata(), history["meta_loss"])  # of four steps, the mean is over one
    assert f"meta-loss {history['meta_loss'][-1]:.4g}" in str(run)
    page = run._repr_html_()
    assert page.count("data:image/png;base64,iVBOR") == 1


def test_the_trained_optimizer_is_at_hand(run):
    assert run.optimizer == LearnableSGD()
    tx, again = run.load(), lopt.load(run.workdir)
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.arange(3.0)}
    ours, theirs = (t.update(grads, t.init(params), params, value=jnp.asarray(1.0))[0] for t in (tx, again))
    assert equal(ours, theirs)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_weights_of_a_mixture_are_part_of_the_run(tmp_path):
    mixture = TaskMixture((Quadratic(), Quadratic(dim=2)), (2.0, 1.0))
    done = lopt.meta_train("learnable_sgd", mixture, workdir=tmp_path, outer_steps=1, **SETTINGS)
    assert done.pretrained.card["tasks"] == "2*tests.toy_family:Quadratic,tests.toy_family:Quadratic:dim=2"
    titles = [axes.get_title(loc="left") for axes in done.plot().axes]
    assert titles[-2:] == ["quadratic", "quadratic:dim=2:noise=0.1"]  # a panel for each family


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outer_step": 3}, "Did you mean 'outer_steps'"),
        ({"estimator": OBJECT, "sigma": 0.2}, "sigma is a setting of the estimator"),
        ({"estimator": "pse"}, "Did you mean 'pes'"),
        ({"optimizer": "mpl"}, "Did you mean 'mlp'"),
        ({"tasks": []}, "no task"),
        ({"tasks": object()}, "no task family"),
        ({"outer_steps": 0}, "at least 1"),
        ({"devices": 99}, "99 devices"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        lopt.meta_train(**{"optimizer": "learnable_sgd", "tasks": Quadratic(), "workdir": tmp_path / "x", **settings})
    assert not (tmp_path / "x").exists()


@dataclasses.dataclass(frozen=True)
class Own:
    """A rule that is not part of lopt: update = -rate exp(theta) gradient."""

    rate: Any = 0.01

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def init_theta(self, key):
        return {"log": 0.1 * jax.random.normal(key, ())}

    def init(self, theta, params, *, num_steps):
        return ()

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g: -self.rate * jnp.exp(theta["log"]) * g, grads), state


def test_a_rule_of_ones_own_is_trained_saved_continued_loaded_and_compared(tmp_path):
    settings = {"workdir": tmp_path / "run", "outer_steps": 3, **SETTINGS}
    lopt.meta_train(Own(), Quadratic(), stop_after=1, **settings)
    run = lopt.meta_train(Own(), Quadratic(), **settings)
    assert lopt.Run.open(run.workdir, optimizer=Own()) == run
    assert run.optimizer == Own()
    params = {"w": jnp.asarray([3.0])}
    for tx in run.load(), lopt.load(run.workdir, optimizer=Own()):
        updates: Any = tx.update(params, tx.init(params))[0]
        np.testing.assert_allclose(updates["w"], -0.03 * np.exp(run.theta["log"]), rtol=1e-6)
    with pytest.raises(InputError, match=r"the rule is Own from .*: import it and give it, optimizer=Own\(\.\.\.\)"):
        lopt.load(run.workdir)
    with pytest.raises(InputError, match="config of another run"):
        lopt.meta_train(Own(rate=0.02), Quadratic(), **settings)
    went_on = lopt.meta_train(
        Own(), Quadratic(), **{**settings, "workdir": tmp_path / "other", "init_from": str(run.workdir)}
    )
    assert went_on.theta["log"] != run.theta["log"]
    report = lopt.evaluate(run, Quadratic(), horizon=20, num_seeds=1, baselines=(), cache=tmp_path / "cache", say=None)
    assert report.configuration["optimizer"] == "Own(rate=0.01)"
    entries = report.results["quadratic"].entries
    assert entries["learned"].label == "run"
    assert not np.array_equal(
        entries["learned"].chosen["final_loss"].loss, entries["untrained"].chosen["final_loss"].loss
    )


@pytest.mark.parametrize("there", [False, True])
def test_a_rule_that_cannot_be_saved_is_refused_before_anything_is_made(there, tmp_path):
    """Also where a run is gone on with, or something else lies in its export folder."""
    folder = tmp_path / "run"
    if there:
        (folder / "export").mkdir(parents=True)
        (folder / "export" / "notes.txt").touch()
    rule, message = (Own(), "holds something else") if there else (Own(rate=jnp.tanh), "cannot be exported")
    with pytest.raises(InputError, match=message):
        lopt.meta_train(rule, Quadratic(), workdir=folder, **SETTINGS)
    assert sorted(p.name for p in folder.rglob("*")) == (["export", "notes.txt"] if there else [])


def test_a_folder_without_a_run_is_none(tmp_path):
    with pytest.raises(InputError, match="not the folder of a run"):
        lopt.Run.open(tmp_path)


def test_another_run_is_not_overwritten(run):
    with pytest.raises(InputError, match="config of another run"):
        lopt.meta_train(
            "learnable_sgd", dataclasses.replace(Quadratic(), dim=5), workdir=run.workdir, outer_steps=4, **SETTINGS
        )
