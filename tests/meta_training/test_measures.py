"""The numbers of an outer step, against numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.estimators.pairs import THIRDS
from lopt.horizons import Horizon
from lopt.meta_training import mixture
from lopt.meta_training.measures import relative_norms
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.optimizers.celo import Celo
from lopt.types import Estimate
from tests.estimators import toys
from tests.toy_family import Quadratic

FAMILIES, DATA = (Quadratic(), Quadratic(dim=5)), ({}, {})


def test_the_update_of_each_part_over_the_part():
    updates = {"mlp": {"w": jnp.asarray([3.0, 0.0]), "b": jnp.asarray(4.0)}, "rate": jnp.asarray(0.5)}
    theta = {"mlp": {"w": jnp.asarray([6.0, 8.0]), "b": jnp.asarray(0.0)}, "rate": jnp.asarray(-2.0)}
    assert relative_norms(updates, theta) == {"mlp": 0.5, "rate": 0.25}
    assert relative_norms(jnp.asarray(1.0), jnp.asarray(4.0)) == {"theta": 0.25}
    frozen = {"mlp/w": jnp.asarray([3.0, 4.0]), "mlp/b": jnp.zeros(1)}  # as a trained part is named
    assert relative_norms(frozen, jax.tree.map(lambda x: 2 * x, frozen)) == {"mlp": 0.5}


def test_windows_of_a_trajectory_lie_in_its_thirds():
    """Three windows of two steps; losses of the linear toy are 0, 1 | 2, 3 | 4, 5 times theta."""
    estimator = PES(num_pairs=2, sigma=1e-3, truncation=2, horizon=Horizon(6, 6), staggered=False, layout=PairLayout(1))
    info = toys.three_estimates(estimator)(1.0).info
    wanted = np.where(np.eye(3), [0.5, 2.5, 4.5], np.nan)
    np.testing.assert_allclose(np.stack([info[name] for name in THIRDS]), wanted, atol=0.05)
    np.testing.assert_array_equal(info["inner_steps"], 2 * 2 * 2)


def test_thirds_are_means_over_the_families_that_have_them_and_steps_are_a_sum():
    third, steps = jnp.asarray([2.0, jnp.nan, 5.0]), jnp.asarray([10.0, 20.0, 30.0])
    info = {THIRDS[0]: third, THIRDS[1]: jnp.full(3, jnp.nan), "inner_steps": steps, "capped": steps}
    mean = mixture.mean(Estimate(jnp.ones((3, 2)), jnp.ones(3), info), [1.5, 1.0, 0.5]).info
    np.testing.assert_allclose(mean[THIRDS[0]], (1.5 * 2 + 0.5 * 5) / 2, rtol=1e-6)
    assert np.isnan(mean[THIRDS[1]])
    assert mean["inner_steps"] == 60
    np.testing.assert_allclose(mean["capped"], (1.5 * 10 + 20 + 15) / 3, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Told:
    """Gradients of ones, five times as large for dim 5; their variance is 0.5."""

    def init(self, problem, theta, key):
        return jnp.zeros((), jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        size = problem.init(theta, key, jnp.asarray(10)).params["p"].size
        grad = jax.tree.map(lambda x: jnp.full_like(x, 5.0 if size == 5 else 1.0), theta)
        return Estimate(grad, jnp.ones(()), {"grad_variance": jnp.asarray(0.5)}), state + 1


@pytest.mark.parametrize("drawn", [0, 1])
def test_norms_of_families_and_signal_to_noise(drawn):
    """Only the scheduler is trained, and its n numbers have the norm sqrt(n) g for a gradient of g in each."""
    optimizer = OuterOptimizer("sgd", learning_rate=0.01, clip_norm=0.0)
    training = MetaTraining(
        Celo(), FAMILIES, Told(), optimizer, families_per_step=drawn, frozen=("mlp",), family_scale="normalised"
    )
    state = training.init(0, DATA)
    theta = jax.tree.map(np.asarray, state.theta["scheduler"])
    size = sum(x.size for x in jax.tree.leaves(theta))
    norm = np.sqrt(sum((x.astype(float) ** 2).sum() for x in jax.tree.leaves(theta)))
    _, metrics = outer_steps(training, state, DATA, 1)
    row = {name: float(x[0]) for name, x in metrics.items()}
    norms = np.array([row[f"grad_norm/{family.name}"] for family in FAMILIES])
    seen = np.isfinite(norms)
    assert seen.sum() == (drawn or 2)
    np.testing.assert_allclose(norms[seen], np.sqrt(size) * np.array([1, 5])[seen], rtol=1e-5)
    # Each estimate counts as one of norm 1, and all of them have the same direction.
    np.testing.assert_allclose(row["grad_norm"], 1, rtol=1e-5)
    variance = (0.5 / norms[seen] ** 2).sum() / seen.sum() ** 2
    np.testing.assert_allclose(row["grad_variance"], variance, rtol=1e-5)
    np.testing.assert_allclose(row["grad_snr"], 1 / variance, rtol=1e-5)
    np.testing.assert_allclose(row["update_over_theta/scheduler"], 0.01 / norm, rtol=1e-4)
    assert "update_over_theta/mlp" not in row
