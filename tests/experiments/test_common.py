"""The loop of the experiments, what counts as holding, and the exit status."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import report
from experiments.common import Job, run, run_all
from experiments.report import Experiment, Finding
from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem

ESTIMATOR = {"num_pairs": 2, "sigma": 0.1, "truncation": 1, "horizon": Horizon(4, 4), "staggered": False}


def parabola() -> InnerProblem:
    """No memory: the loss of every step is (theta - 3)^2."""
    return InnerProblem(lambda theta, key, horizon: jnp.zeros(()), lambda theta, state, key: (state, (theta - 3) ** 2))


def job(**changes) -> Job:
    made = Job(parabola(), "pes", ESTIMATOR, optax.sgd, {"learning_rate": 0.1}, jnp.zeros(2), 40, 4)
    return made._replace(**changes)


def experiment(limit: float, **changes) -> Experiment:
    def draw(quick, runs):
        figure = report.new_figure(2, 2)
        figure.subplots().plot(runs["pes"].theta[0])
        return figure

    return Experiment(
        "parabola",
        lambda quick: {"pes": job(**changes)},
        lambda quick, runs: {"pes": [Finding("distance", float(abs(runs["pes"].theta[0, -1] - 3)), below=limit)]},
        draw,
        {"optimum": 3},
        x64=False,
    )


def test_run_is_the_loop_written_out():
    problem, key = parabola(), jax.random.key(1)
    estimator = ESTIMATORS["pes"](**ESTIMATOR, layout=PairLayout(1, sequential=False))
    told = []
    got = run(problem, estimator, jnp.zeros(1), optax.adam(0.1), 12, key, 4, on_progress=told.append)

    (run_key,) = jax.random.split(key, 1)
    init_key, steps_key = jax.random.split(run_key)
    theta = jnp.zeros(())
    optimizer = optax.adam(0.1)
    optimizer_state, state = optimizer.init(theta), estimator.init(problem, theta, init_key)
    estimate_once = jax.jit(lambda theta, state, key: estimator.estimate(problem, theta, state, key))
    thetas, grads = [theta], []
    for i in range(12):
        estimate, state = estimate_once(theta, state, jax.random.fold_in(steps_key, i))
        updates, optimizer_state = optimizer.update(estimate.grad, optimizer_state)
        theta = jnp.asarray(optax.apply_updates(theta, updates))
        thetas.append(theta)
        grads.append(estimate.grad)
    np.testing.assert_allclose(got.theta[0], np.asarray(thetas)[::4], rtol=1e-5)
    np.testing.assert_allclose(got.grad[0], np.asarray(grads).reshape(3, 4).mean(1), rtol=1e-5)
    assert got.steps.tolist() == [0, 4, 8, 12]
    assert told[-1] == 12


def test_runs_are_independent_and_repeat():
    first = run_all({"a": job()}, jax.random.key(0))["a"]
    again = run_all({"a": job()}, jax.random.key(0))["a"]
    np.testing.assert_array_equal(first.theta, again.theta)
    assert first.theta.shape == (2, 11)
    assert np.all(first.theta[0, 1:] != first.theta[1, 1:])


def test_many_numbers_are_described_by_their_shape():
    assert job(theta=jnp.zeros(16)).describe()["theta"] == [0.0] * 16
    assert job(theta=jnp.zeros((2, 17))).describe()["theta"] == "float32[2, 17]"


def test_records_must_fit():
    with pytest.raises(ValueError, match="41 steps cannot be recorded every 4"):
        run_all({"a": job(num_steps=41)}, jax.random.key(0))


def test_a_missing_method_fails_before_anything_runs():
    with pytest.raises(InputError, match="unknown estimator 'psychic'"):
        run_all({"a": job(num_steps=10**9), "b": job(estimator="psychic")}, jax.random.key(0))


@pytest.mark.parametrize(
    ("finding", "required", "holds"),
    [
        (Finding("x", 1.0), "-", True),
        (Finding("x", 1.0, below=2), "< 2", True),
        (Finding("x", 2.0, below=2), "< 2", False),
        (Finding("x", 1.0, above=0.5, below=2), "> 0.5 and < 2", True),
        (Finding("x", 1.0, above=1), "> 1", False),
        (Finding("x", math.nan, below=2), "< 2", False),
        (Finding("x", -math.inf, below=2), "< 2", False),
        (Finding("x", math.inf, above=2), "> 2", True),
        (Finding("x", math.nan, above=2), "> 2", True),
        (Finding("x", math.nan), "-", True),
    ],
)
def test_what_holds(finding, required, holds):
    assert finding.required == required
    assert finding.holds is holds


def test_the_command_writes_and_succeeds(tmp_path, capsys):
    assert report.main(experiment(0.5), "", ["--out", str(tmp_path / "a"), "--seed", "7"]) == 0
    numbers = json.loads((tmp_path / "a" / "numbers.json").read_text())
    assert numbers["holds"]
    assert (numbers["seed"], numbers["quick"], numbers["precision"]) == (7, False, "float32")
    assert numbers["versions"]["jax"] == jax.__version__
    settings = numbers["methods"]["pes"]["settings"]
    assert settings["estimator"] == "pes"
    assert (settings["sigma"], settings["horizon"], settings["learning_rate"]) == (0.1, "4", 0.1)
    (row,) = numbers["methods"]["pes"]["findings"]
    assert row["reached"] < 0.5
    assert row["required"] == "< 0.5"
    assert (tmp_path / "a" / "figure.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "holds" in out
    assert "DOES NOT HOLD" not in out


def test_the_command_fails_when_a_finding_does_not_hold(tmp_path, capsys):
    assert report.main(experiment(1e-9), "", ["--out", str(tmp_path)]) == 1
    assert "DOES NOT HOLD" in capsys.readouterr().out
    assert json.loads((tmp_path / "numbers.json").read_text())["holds"] is False


def test_the_command_fails_for_a_missing_method(tmp_path, capsys):
    assert report.main(experiment(1.0, estimator="psychic"), "", ["--out", str(tmp_path)]) == 2
    assert "unknown estimator 'psychic'" in capsys.readouterr().err
    assert not (tmp_path / "numbers.json").exists()
