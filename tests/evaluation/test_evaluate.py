"""The front door: the forms in which it takes things, what it refuses before it trains anything, and its report."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lopt.evaluation import folder, plan
from lopt.evaluation.baselines import BASELINES, Baseline
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.contestants import as_pretrained
from lopt.evaluation.evaluate import evaluate
from lopt.evaluation.folder import FILES, load_results
from lopt.evaluation.report import Report
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import save_export
from lopt.trained.pretrained import load_pretrained
from tests.tasks.odd_paths import ODD_NAMES
from tests.toy_family import Bowl, Quadratic

ADAM = Baseline("adam", BASELINES["adam"].constructor, label="Adam", rates=(0.01, 0.1))
CARD = {"tasks": "quadratic", "horizon": [10, 20], "seed": 0, "meta_loss": "train", "estimator": "pes"}
CARD |= {"outer_steps": 0, "command": "none"}
SMALL = {"horizon": 20, "num_seeds": 2, "baselines": [ADAM], "devices": 2, "say": None}


def pair(rate=0.05):
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=rate)
    return optimizer, optimizer.init_theta(jax.random.key(0))


@pytest.fixture
def export(tmp_path):
    return save_export(tmp_path / "run" / "export", *pair(), card=CARD)


SAID = []


@pytest.fixture(scope="module")
def report():
    return evaluate(pair(), [Bowl(), Quadratic()], **{**SMALL, "say": SAID.append})


class Run:
    """As the front door of the meta-training returns it."""

    def __init__(self, pretrained):
        self.pretrained = pretrained


def test_a_trained_optimizer_in_every_form(export):
    loaded = load_pretrained(export)
    for form in (str(export), export, export.parent, loaded, Run(loaded), Run(export)):
        found = as_pretrained(form)
        assert (found.optimizer, found.name, found.card["horizon"]) == (loaded.optimizer, "run", [10, 20])
    optimizer, theta = pair()
    found = as_pretrained((optimizer, theta))
    assert (found.optimizer, found.theta, list(found.card)) == (optimizer, theta, ["theta_sha256"])


@pytest.fixture
def untrainable(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("something was trained")

    monkeypatch.setattr(plan.Plan, "run", refuse)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": 3}, "3 is no trained optimizer"),
        ({"trained": "absent"}, "unknown path or trained optimizer 'absent'"),
        ({"trained": (pair()[0], {"w": np.zeros(3)})}, "theta does not belong to"),
        ({"tasks": None}, "give tasks"),
        ({"tasks": []}, "no task is named"),
        ({"horizon": None}, "give a horizon"),
        ({"horizon": 19}, "at least 20"),
        ({"num_seeds": 0}, "at least 1"),
        ({"split": "train"}, "split must be one of"),
        ({"split": "test"}, "bowl has no split 'test'"),
        ({"baselines": "adaam"}, "Did you mean 'adam'"),
        ({"baselines": [ADAM, "adam"]}, "name each baseline once"),
        ({"learned": "absent"}, "unknown path or trained optimizer 'absent'"),
        ({"learned": [pair(0.1)]}, "another optimizer of the name"),
        ({"learned": [pair()]}, "is the optimizer that is evaluated"),
        ({"horizon": 20.5}, "horizon must be a whole number"),
        ({"horizon": float("nan")}, "horizon must be a whole number"),
        ({"num_seeds": float("inf")}, "num_seeds must be a whole number"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**32}, "seed must be from 0"),
        ({"horizon": 10**9}, r"training steps need about .* GB of memory and at least .* days; this machine has"),
        ({"horizon": 10**30}, r"training steps need about .* GB of memory and at least .* days; this machine has"),
        ({"num_seeds": 10**9}, r"training steps need about .* GB of memory and at least .* days; this machine has"),
        ({"baselines": [dataclasses.replace(ADAM, rates=(0.1, float("inf")))]}, "finite and above 0"),
        ({"sweep": "widht"}, "unknown axis of a sweep 'widht'"),
        ({"protocol": "untuned"}, "unknown protocol 'untuned'"),
        ({"protocol": "both:qaudratic"}, "Did you mean 'quadratic'"),
        ({"devices": 0}, "0 devices asked for, 2 there"),
        ({"devices": 3}, "3 devices asked for, 2 there"),
        ({"out": "taken"}, "holds another evaluation"),
    ],
)
def test_refused_before_anything_is_trained(changes, message, untrainable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "summary.json").write_text('{"configuration": {"horizon": 999}}')
    with pytest.raises(InputError, match=message):
        evaluate(**{"trained": pair(), "tasks": Bowl(), **SMALL, **changes})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_report_holds_prints_and_draws_everything(report, tmp_path):
    assert list(report.results) == list(report.scores) == ["bowl", "quadratic"]
    assert [task["name"] for task in report.summary["tasks"]] == ["bowl", "quadratic"]
    assert list(report.results["bowl"].entries) == ["learned", "untrained", "adam_default", "adam"]
    assert report.table().count("mean of 2 seeds") == 2
    assert str(report) == f"{report.table()}\n\n{report.summary['headline']}"
    assert report.summary["headline"] in repr(report)
    assert "\n" not in repr(report)
    assert [axes.get_title(loc="left").split(" ")[0] for axes in report.plot().axes[::2]] == ["bowl", "quadratic"]
    page = report._repr_html_()
    assert page.startswith("<p><b>After 20 steps")
    assert page.count("data:image/png;base64,iVBOR") == 1

    files = report.write(tmp_path / "out")
    assert set(files) == {*FILES} - {"ratios.png", "trials.png", "targets.png"}  # neither a cosine nor AdamW is there
    assert sorted(files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    again = load_results(tmp_path / "out" / "curves.npz")["quadratic"].entries["adam"]
    np.testing.assert_array_equal(again.tuning.loss, report.results["quadratic"].entries["adam"].tuning.loss)
    configuration = json.loads((tmp_path / "out" / "summary.json").read_text())["configuration"]
    assert configuration["baselines"] == {"adam": [0.01, 0.1]}
    report.write(tmp_path / "out")  # the same evaluation may be replaced
    with pytest.raises(InputError, match="other horizon"):
        evaluate(pair(), [Bowl(), Quadratic()], **{**SMALL, "horizon": 30}, out=tmp_path / "out")


def test_both_protocols_in_one_evaluation():
    """The setting that is best on another task takes part, by the runs of the tuned baseline's program."""
    said = []
    settings = {**SMALL, "num_seeds": 1, "say": said.append, "protocol": "both:least_squares"}
    found = evaluate(pair(), Bowl(), **settings)
    tuned, once = (found.results["bowl"].entries[name] for name in ("adam", "adam_untuned"))
    assert once.rates[0] in tuned.rates
    assert not once.tuned
    if once.rates[0] == tuned.rates[tuned.best["final_loss"]]:
        np.testing.assert_array_equal(once.chosen["final_loss"].loss, tuned.chosen["final_loss"].loss)
    assert f"  Adam (always lr {once.rates[0]:.2g})" in said
    assert said[0].startswith("to choose one setting per baseline: tasks: 1; optimizers: 1; ")
    assert found.configuration["untuned_on"] == found.summary["setting"]["untuned_on"] == ["least_squares"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_folders_of_any_name(name, report, tmp_path, monkeypatch):
    """For the results, the cache and the trained optimizer, relative to the working folder as people type them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Report, "_pictures", lambda self: {})
    files = report.write(name)
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(files)
    assert list(load_results(tmp_path / name / "curves.npz")) == ["bowl", "quadratic"]
    cache = EvaluationCache(Path(name) / name)
    cache.check()
    cache.write(name, {"task": name}, report.results["bowl"].entries["learned"])
    assert cache.read(name, {"task": name}) is not None
    save_export(tmp_path / name / "export", *pair(), card=CARD)
    if name.strip():  # a name of blanks alone cannot be typed
        assert as_pretrained(str(tmp_path / name)).name == name


def test_a_full_disk_costs_no_results(report, tmp_path, monkeypatch):
    """What can be written is; the message names the rest; and what was kept on the way stays."""
    monkeypatch.setattr(Report, "_pictures", lambda self: {"curves.png": bytes(10)})
    real = folder.write_atomic

    def full(path, data):
        if len(data) > 4096:
            raise OSError(28, "No space left on device")
        real(path, data)

    folder.keep_so_far(tmp_path, report.results)
    monkeypatch.setattr(folder, "write_atomic", full)
    with pytest.raises(OSError, match=r"cannot write curves.npz.* report.html to .*: .*No space left on device"):
        report.write(tmp_path)
    assert (tmp_path / "curves.png").exists()
    assert list(load_results(tmp_path / folder.SO_FAR)) == ["bowl", "quadratic"]
    monkeypatch.undo()
    monkeypatch.setattr(Report, "_pictures", lambda self: {})
    assert folder.SO_FAR not in {path.name for path in [*map(Path, report.write(tmp_path, overwrite=True))]}
    assert not (tmp_path / folder.SO_FAR).exists()


def test_what_is_said_on_the_way(report):
    assert SAID[0].startswith("tasks: 2; optimizers: 4; devices: 2; training steps to make: 880, about ")
    kinds = ["LearnableAdam", "LearnableAdam, untrained", "Adam at 0.001", "Adam"]
    assert [line.split(":")[0] for line in SAID[1:]] == [f"  {task}, {x}" for task in report.results for x in kinds]
