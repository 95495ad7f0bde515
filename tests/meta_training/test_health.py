"""A run that learns nothing says so, stops, and keeps what it had learned."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lopt
from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.health import PATIENCE, Health, StuckError, ailment
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.types import Estimate
from tests.toy_family import Quadratic

WELL = {"meta_loss": 0.5, "left_out": 0.5, "capped": 0.9, "grad_norm": 1.0, "update_norm": 0.1}
ILL = {
    "left out": ({"left_out": 1.0}, "no pair gave a finite estimate"),
    "no estimate": ({"grad_norm": float("nan")}, "no pair gave a finite estimate"),
    "capped": ({"capped": 1.0}, "at the cap"),
    "no gradient": ({"grad_norm": 0.0}, "exactly zero"),
}


def rows(first, number, **changes):
    return [{"step": first + i, **WELL, **changes} for i in range(number)]


@pytest.mark.parametrize("what", ILL)
def test_an_ill_run_is_told_at_once_and_stopped_in_time(what, caplog):
    changes, message = ILL[what]
    health = Health()
    health.observe(rows(1, 10))
    assert not health.ill
    health.observe(rows(11, 1, **changes))
    assert health.ill
    assert [record.message.startswith("outer step 11: ") for record in caplog.records] == [True]
    assert message in caplog.text
    with pytest.raises(StuckError, match=f"since outer step 11, .*{message}"):
        health.observe(rows(12, PATIENCE - 1, **changes))


def test_a_run_that_recovers_goes_on(caplog):
    health = Health()
    for first in range(1, 10 * PATIENCE, PATIENCE):
        health.observe(rows(first, PATIENCE - 1, capped=1.0))
        health.observe(rows(first + PATIENCE - 1, 1))
    assert not health.ill
    assert caplog.text.count("has recovered") == 10
    health.end()
    assert ailment(WELL) is None


def test_a_theta_that_is_not_finite_ends_the_run():
    with pytest.raises(StuckError, match="not finite after outer step 3"):
        Health().observe(rows(3, 1, update_norm=float("inf")))


@dataclasses.dataclass(frozen=True)
class Broken:
    """An estimator that is asked twice for something usable, and then gives none."""

    def init(self, problem, theta, key):
        return jnp.zeros((), jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        broken = state >= 2
        grad = jax.tree.map(lambda x: jnp.where(broken, jnp.nan, jnp.ones_like(x)), theta)
        return Estimate(grad, jnp.where(broken, jnp.nan, 1.0), {"left_out": broken.astype(jnp.float32)}), state + 1


def test_without_an_estimate_theta_does_not_move_and_momentum_neither():
    training = MetaTraining(LearnableSGD(), (Quadratic(),), Broken(), OuterOptimizer("adam", 0.1), layout=PairLayout())
    state = training.init(0, ({},))
    seen = []
    for _ in range(4):
        state, metrics = outer_steps(training, state, ({},), 1)
        seen.append(jax.tree.map(np.asarray, (state.theta, state.optimizer_state)))
    equal = [jax.tree.all(jax.tree.map(np.array_equal, a, b)) for a, b in itertools.pairwise(seen)]
    assert equal == [False, True, True]
    assert metrics["update_norm"][0] == 0
    assert np.isnan(metrics["meta_loss"][0])


def test_a_sigma_too_small_for_float32_ends_in_a_message_and_keeps_the_checkpoint(tmp_path):
    estimator = PES(num_pairs=2, sigma=1e-30, truncation=5, horizon=Horizon(5, 5))
    with pytest.raises(StuckError, match="since outer step 1, "):
        lopt.meta_train(
            "learnable_sgd", Quadratic(), workdir=tmp_path, estimator=estimator, outer_steps=2 * PATIENCE,
            checkpoint_every=10,
        )  # fmt: skip
    assert not (tmp_path / "export").exists()
