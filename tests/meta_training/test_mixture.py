"""The scale of each family's estimates in the mixture, against numpy, and that a run which has one resumes exactly."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.meta_training import mixture
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.loop import Invocation, train
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.trained.pretrained import load_pretrained
from lopt.types import Estimate, TaskMixture
from tests.toy_family import Quadratic

FAMILIES, DATA = (Quadratic(), Quadratic(dim=5)), ({}, {})
DECAY = 0.99


def running(norms):
    """Root mean squares after each of these norms, newest weighted most; numpy in float64, from the definition."""
    squares = [
        sum(DECAY ** (n - j) * norms[j] ** 2 for j in range(n + 1)) / sum(DECAY**j for j in range(n + 1))
        for n in range(len(norms))
    ]
    return np.sqrt(squares)


def test_an_estimate_is_divided_by_its_familys_running_root_mean_square():
    grads = {0: [[3.0, 4.0], [0.0, 0.5], [1.0, -1.0]], 1: [[0.01, 0.0], [0.0, 0.02]]}
    squares = mixture.no_squares("normalised", 2)
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for family in (0, 1, 0, 0, 1):
        grad = np.asarray(grads[family][len(seen[family])])
        estimate = Estimate({"a": jnp.asarray(grad)}, jnp.asarray(2.0), {"grad_variance": jnp.asarray(0.3)})
        scaled, squares = mixture.scale("normalised", squares, family, estimate)
        seen[family].append(grad)
        size = running([np.linalg.norm(g) for g in seen[family]])[-1]
        np.testing.assert_allclose(scaled.grad["a"], grad / size, rtol=1e-5)
        np.testing.assert_allclose(scaled.info["grad_variance"], 0.3 / size**2, rtol=1e-5)
        assert scaled.loss == 2.0
    np.testing.assert_array_equal(squares.count, [3, 2])


def test_what_says_nothing_does_not_count():
    """Zeros stay zeros, an estimate that is not finite leaves the running squares alone, and norms are at most 10."""
    squares = mixture.no_squares("normalised", 1)

    def scaled(x, squares):
        estimate = Estimate(jnp.asarray([x, 0.0]), jnp.asarray(1.0), {})
        return mixture.scale("normalised", squares, 0, estimate)

    zero, squares = scaled(0.0, squares)
    np.testing.assert_array_equal(zero.grad, 0)
    bad, after = scaled(np.nan, squares)
    assert np.isnan(bad.grad[0])
    jax.tree.map(np.testing.assert_array_equal, squares, after)
    for _ in range(2000):
        squares = mixture.RunningSquares(DECAY * squares.sum, squares.count + 1)
    outlier, _ = scaled(1e6, squares)
    np.testing.assert_allclose(outlier.grad[0], 10, rtol=1e-4)


def test_signs_are_those_of_the_coordinates():
    estimate = Estimate({"a": jnp.asarray([3.0, -1e-9, 0.0])}, jnp.asarray(1.0), {"grad_variance": jnp.asarray(2.0)})
    signed, squares = mixture.scale("signed", mixture.no_squares("signed", 1), 0, estimate)
    np.testing.assert_array_equal(signed.grad["a"], [1, -1, 0])
    assert signed.info == {}  # the variance was that of another gradient
    assert squares == ()


@dataclasses.dataclass(frozen=True)
class Sized:
    """An estimator whose gradients are 1 + n in the n-th estimate of a family, a hundred times as large for dim 5."""

    def init(self, problem, theta, key):
        return jnp.zeros((), jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        large = problem.init(theta, key, jnp.asarray(10)).params["p"].shape == (5,)
        sign = -1.0 if large else 1.0
        value = sign * (100.0 if large else 1.0) * (1 + state)
        grad = jax.tree.map(lambda x: jnp.full_like(x, value), theta)
        return Estimate(grad, jnp.ones(()), {}), state + 1


def sized(**settings):
    """Theta follows the mean estimate by sgd with learning rate 1."""
    optimizer = OuterOptimizer("sgd", learning_rate=1.0, clip_norm=0.0)
    return MetaTraining(LearnableAdam(), FAMILIES, Sized(), optimizer, **settings)


def moved(training, *blocks):
    """How far one coordinate of theta has moved, and the state."""
    state = training.init(0, DATA)
    before, rows = float(state.theta["logit_b1"]), []
    for count in blocks:
        state, metrics = outer_steps(training, state, DATA, count)
        rows += [{name: float(x[i]) for name, x in metrics.items()} for i in range(count)]
    return float(state.theta["logit_b1"]) - before, rows, state


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_no_family_dominates(weights):
    """Theta has three equal coordinates: an estimate of norm r, divided by r, is 1 / sqrt(3) in each of them."""
    shares = np.asarray(weights or (1.0, 1.0)) / sum(weights or (1.0, 1.0))
    norms = np.sqrt(3) * np.arange(1, 4)
    small = (np.arange(1, 4) / running(norms)).sum()  # the hundredfold family has the same ratio, and the other sign
    plain, *_ = moved(sized(weights=weights), 3)
    np.testing.assert_allclose(plain, -6 * (shares[0] - 100 * shares[1]), rtol=1e-5)
    normalised, _, state = moved(sized(weights=weights, family_scale="normalised"), 3)
    np.testing.assert_allclose(normalised, -small * (shares[0] - shares[1]), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(state.squares.count, [3, 3])
    signed, *_ = moved(sized(weights=weights, family_scale="signed"), 3)
    np.testing.assert_allclose(signed, -3 * (shares[0] - shares[1]), rtol=1e-5, atol=1e-6)


def test_families_that_are_drawn_have_running_squares_of_their_own_estimates():
    """Blocks do not matter either: the squares go from one dispatch to the next."""
    training = sized(families_per_step=1, family_scale="normalised")
    distance, rows, state = moved(training, 8)
    drawn = [int(np.isnan(row[f"meta_loss/{FAMILIES[0].name}"])) for row in rows]
    visits = [drawn[: i + 1].count(family) for i, family in enumerate(drawn)]
    sizes = {family: running(np.sqrt(3) * np.arange(1, 9)) for family in (0, 1)}
    steps = [(-1) ** family * n / sizes[family][n - 1] for family, n in zip(drawn, visits, strict=True)]
    np.testing.assert_allclose(distance, -sum(steps), rtol=1e-4)
    np.testing.assert_array_equal(state.squares.count, [drawn.count(0), drawn.count(1)])
    assert 0 < sum(drawn) < 8
    in_parts, _, other = moved(training, 3, 5)
    assert in_parts == distance
    jax.tree.map(np.testing.assert_array_equal, state.squares, other.squares)


def test_without_a_scale_the_state_has_no_arrays_for_it():
    """So that checkpoints written before there was one are read."""
    training = MetaTraining(LearnableAdam(), FAMILIES, PES(), OuterOptimizer())
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(training.template(DATA))]
    assert not any("squares" in path for path in paths)
    assert any("squares" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(
        dataclasses.replace(training, family_scale="normalised").template(DATA)))  # fmt: skip


def test_a_run_with_running_squares_resumes_bit_for_bit(tmp_path):
    config = MetaTrainConfig(
        optimizer="learnable_sgd", tasks="toys", estimator="full_es", num_pairs=2, horizon="5", outer_steps=4,
        family_scale="normalised",
    )  # fmt: skip
    training = config.build(TaskMixture(FAMILIES, (1.0, 2.0)), PairLayout(1))
    train(training, config, Invocation(tmp_path / "whole"))
    train(training, config, Invocation(tmp_path / "parts", stop_after=2))
    train(training, config, Invocation(tmp_path / "parts"))
    whole, parts = (load_pretrained(tmp_path / name).theta for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["family_scale"] == "normalised"


def test_an_unknown_scale_is_refused():
    with pytest.raises(InputError, match="Did you mean 'normalised'"):
        MetaTrainConfig(family_scale="normalized")
