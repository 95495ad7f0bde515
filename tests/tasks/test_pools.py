"""The named sets: what is in them, that nothing held out leaks, how weights add up."""

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.learnable_adam import LearnableAdam
from tasks import FAMILIES, POOLS, parse_mixture, parse_tasks
from tasks.augmentations.augmented import Augmented
from tasks.images.random_mlp import RandomMLP

TRAINING = ("pool_small", "pool_wide", "pool_cheap")


def plain(family):
    return plain(family.family) if isinstance(family, Augmented) else family


def read(pool):
    return parse_mixture(pool, optimizers=OPTIMIZERS)


def origin(family) -> tuple[str, set[str]]:
    """The family's name in the table, and the data sets that it reads."""
    family = plain(family)
    (name,) = (name for name, row in FAMILIES.items() if row.constructor is type(family))
    sets = set(family.datasets) if isinstance(family, RandomMLP) else {getattr(family, "dataset", "")} - {""}
    return name, sets


@pytest.mark.parametrize("pool", POOLS)
def test_every_task_of_a_pool_can_be_named_alone(pool):
    mixture = read(pool)
    assert parse_tasks(",".join(f.name for f in mixture.families), optimizers=OPTIMIZERS) == mixture.families
    assert len(mixture.weights) == len(mixture.families)


def test_nothing_held_out_is_trained_on():
    """A held-out task has a family or a data set that no training pool has: not a setting alone."""
    trained = [origin(family) for pool in TRAINING for family in read(pool).families]
    families = {name for name, _ in trained}
    sets = set().union(*(names for _, names in trained))
    for family in read("held_out").families:
        name, own = origin(family)
        assert name not in families or (own and not own & sets), family.name


def test_held_out_has_the_breadth_that_it_claims():
    names = [origin(family)[0] for family in read("held_out").families]
    assert len(names) >= 12
    assert {"image_conv", "image_vit", "image_autoencoder", "quadratic"} <= set(names)
    assert sum(name.startswith("text_") for name in names) >= 2
    assert any(name.startswith("table_") for name in names)


def test_every_task_to_validate_on_has_a_family_that_no_other_pool_has():
    new = {
        "forecast": "a recurrent net on numbers",
        "text_bilinear": "embeddings without a hidden layer, a factorisation",
        "image_contrastive": "a loss over pairs of a batch",
        "table_denoiser": "a denoiser of rows",
        "teacher_student": "a perceptron that is deep and narrow",
        "poisson": "a loss with derivatives of the network",
    }
    others = {origin(family)[0] for pool in POOLS if pool != "pool_valid" for family in read(pool).families}
    found = [origin(family) for family in read("pool_valid").families]
    assert {name for name, _ in found} == new.keys()
    assert new.keys() & others == set()
    assert 6 <= len(found) <= 8
    assert len(set(map(str, found))) == len(found)  # a family that is there twice has two data sets


def test_weights_multiply_through_pools_and_lists():
    mixture = parse_mixture("0.5*pool_small,3*quadratic:dimension=4,table_mlp:hidden_sizes=(4,)", optimizers=OPTIMIZERS)
    small = read("pool_small")
    assert mixture.families[: len(small.families)] == small.families
    assert mixture.weights == (*(w / 2 for w in small.weights), 3.0, 1.0, 1.0)
    assert max(small.weights) == 2.0


@pytest.mark.slow
def test_of_the_wide_pool_each_task_that_is_drawn_is_compiled_once(caplog):
    mixture = read("pool_wide")
    training = MetaTraining(
        LearnableAdam(), mixture.families, PES(num_pairs=1, truncation=2, horizon=Horizon(4, 4)), OuterOptimizer(),
        layout=PairLayout(), weights=mixture.weights, families_per_step=2,
    )  # fmt: skip
    data = tuple(family.load() for family in mixture.families)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        state = training.init(0, data)
        for count in (1, 3):
            state, metrics = outer_steps(training, state, data, count)
            assert np.isfinite(metrics["meta_loss"][:count]).all()
    compiled = [message for message in caplog.messages if "Compiling" in message]
    drawn = {name for name, x in metrics.items() if name.startswith("meta_loss/") and np.isfinite(x[:3]).any()}
    assert sum("jit(_estimate)" in message for message in compiled) >= len(drawn)
    assert sum("jit(_follow)" in message for message in compiled) == 1
