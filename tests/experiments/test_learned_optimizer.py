"""Learned optimizer: the budget, the measure by numpy, the comparison, and the weaker finding of a short run."""

import json

import jax
import numpy as np
import pytest

from experiments import learned_optimizer
from experiments.learned_optimizer import FAMILY, FULL, OPTIMIZER, TRUNCATION, findings, judge, mean_loss, num_updates


@pytest.mark.parametrize("method", FULL.methods)
def test_every_method_pays_the_same_inner_steps(method):
    trajectories = FULL.num_pairs * (3 if method == "truncated_es" else 2)
    left = FULL.inner_steps - num_updates(method, FULL) * TRUNCATION * trajectories
    assert 0 <= left < TRUNCATION * trajectories  # less than one update


def test_mean_loss_caps_what_diverged():
    losses = np.log(10) * np.asarray([[0.5, 1.5, 1.0, 0.0], [np.nan, np.inf, 7.0, 1.0]])
    np.testing.assert_allclose(mean_loss(losses), [0.75, 1.75], rtol=1e-12)


def test_judge_of_an_optimizer_that_does_nothing():
    """With theta 0 the parameters stay, and the loss of a step is that of the initial network on its batch."""
    size = FULL._replace(horizon=3, num_trainings=2)
    theta = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), OPTIMIZER.init_theta(jax.random.key(0)))
    data = FAMILY.load()
    expected = []
    for i in range(2):
        key = jax.random.fold_in(jax.random.key(12345), i)
        _, params_key, steps_key = jax.random.split(key, 3)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), FAMILY.task({}).init(params_key))
        for t in range(3):
            batch_key = jax.random.split(jax.random.fold_in(steps_key, t))[0]
            batch = FAMILY.sample_batch(data, batch_key, {}, "train")
            x = np.asarray(batch["image"], np.float64)
            x = np.maximum(x @ params["layer_0"]["w"] + params["layer_0"]["b"], 0)
            logits = x @ params["layer_1"]["w"] + params["layer_1"]["b"]
            right = logits[np.arange(len(x)), np.asarray(batch["label"])]
            expected.append(min(np.mean(np.log(np.exp(logits).sum(1)) - right) / np.log(10), 2))
    np.testing.assert_allclose(judge(theta, size, data), [np.mean(expected)], rtol=1e-5)


def test_nres_and_pes_must_be_below_truncated_es():
    reached = {"pes": 0.3, "nres": 0.2, "truncated_es": 0.4, "tbptt": 0.25}
    losses = {method: np.asarray([[1.0, x], [1.0, x], [1.0, 9.0]]) for method, x in reached.items()}
    assert all(rows[0].holds for rows in findings(False, losses).values())
    losses["truncated_es"][:, 1] = 0.25
    assert not findings(False, losses)["pes"][0].holds
    assert findings(False, losses)["nres"][0].holds


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert learned_optimizer.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    methods = json.loads((tmp_path / "numbers.json").read_text())["methods"]
    for method in ("pes", "tbptt"):
        [losses] = methods[method]["losses"]
        assert losses[-1] < losses[0]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
