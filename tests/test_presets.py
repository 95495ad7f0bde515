"""The presets and the optimizers that ship: what their docstrings and the README promise."""

import importlib

import jax
import pytest

from lopt.distributed import PairLayout
from lopt.evaluate import Evaluation
from lopt.loop import Run, train
from lopt.outer import initial_theta
from lopt.pretrained import load_pretrained, shipped
from lopt.scores import COMPARISONS, score_task
from presets import PRESETS
from tasks import parse_mixture, parse_tasks

SHIPPED = {"mlp_digits": "demo_mlp", "lstm_digits": "demo_lstm"}


def check_promise(pretrained, tasks, data_dir, *, num_seeds):
    """At T = 500: half of default Adam's mean loss, half of the untrained rule's, 3 times that of the best Adam."""
    evaluation = Evaluation(500, num_seeds, seed=12345, layout=PairLayout(2))
    untrained = initial_theta(pretrained.optimizer, pretrained.card["seed"])
    for family in parse_tasks(tasks, data_dir=data_dir):
        data = jax.tree.map(jax.numpy.asarray, family.load())
        scores = score_task(evaluation.task_curves(pretrained.optimizer, pretrained.theta, untrained, family, data))
        for name, comparison in COMPARISONS.items():
            if comparison.wanted is not None:
                assert scores.ratios[name] <= comparison.wanted, (family.name, name)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_their_command_time_and_score(name):
    text = importlib.import_module(f"presets.{name}").__doc__ or ""
    assert f"python meta_train.py --preset={name}" in text
    assert "minutes" in text
    assert "over best Adam" in text


@pytest.mark.parametrize("preset", PRESETS)
def test_shipped_optimizers_are_small_and_of_their_preset(preset):
    pretrained = load_pretrained(SHIPPED[preset])
    assert sum(file.stat().st_size for file in pretrained.path.iterdir()) < 200_000
    assert f"--preset={preset}" in pretrained.card["command"]
    assert pretrained.card["config"] == {name: getattr(PRESETS[preset], name) for name in pretrained.card["config"]}
    assert set(shipped()) == set(SHIPPED.values())


def test_the_shipped_mlp_keeps_its_promise_on_one_task(tmp_path):
    check_promise(load_pretrained("demo_mlp"), "image_mlp/digits", str(tmp_path), num_seeds=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED.values())
def test_shipped_optimizers_keep_their_promise(name, tmp_path):
    pretrained = load_pretrained(name)
    check_promise(pretrained, pretrained.card["tasks"], str(tmp_path), num_seeds=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_presets_reach_their_promise(name, tmp_path):
    config, layout = PRESETS[name], PairLayout(2)
    training = config.build(parse_mixture(config.tasks, data_dir=str(tmp_path / "data")), layout)
    train(training, config, Run(workdir=tmp_path / "run"))
    check_promise(load_pretrained(tmp_path / "run"), config.tasks, str(tmp_path / "data"), num_seeds=5)
