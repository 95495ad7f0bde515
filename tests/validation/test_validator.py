"""Whole trainings of a theta, against some made step by step; the reference comes from the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.ratios import Losses, task_ratios
from lopt.evaluation.runs import VALID_BATCHES
from lopt.names import InputError
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.validation.reference import REFERENCE, SEED, Trainings
from lopt.validation.validator import TaskValidator
from tests.toy_family import Bowl

pytestmark = pytest.mark.xdist_group("validation")
HORIZON, SEEDS, FAMILY, RULE = 40, 2, Bowl(), LearnableSGD()
SOME = [{"log_learning_rate": jnp.log(rate), "logit_momentum": jnp.float32(-40)} for rate in (0.1, 1e-4)]


@functools.cache
def draws(seed):
    """What is random in a training: scale, initial w [8], batches [T, 8], and batches to validate on [16, 8]."""
    key = jax.random.fold_in(jax.random.key(SEED), seed)
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = FAMILY.sample(config_key)
    normal = jax.vmap(lambda key: jax.random.normal(key, (8,)))
    batch_keys = jax.vmap(lambda t: jax.random.split(jax.random.fold_in(steps_key, t))[0])(jnp.arange(HORIZON))
    valid_keys = jax.random.split(jax.random.key(0), VALID_BATCHES)
    start = FAMILY.task(config).init(params_key)["w"]
    train, valid = (FAMILY.noise * np.asarray(normal(keys), np.float64) for keys in (batch_keys, valid_keys))
    return float(config["scale"]), np.asarray(start, np.float64), 1 + train, 1.5 + valid


def by_hand(seed, update, state):
    """One training of the bowl, in numpy: mean of the last two losses, validation loss."""
    scale, w, train, valid = draws(seed)
    losses = []
    for t, batch in enumerate(train):
        losses.append(scale * np.mean((w - batch) ** 2))
        step, state = update(scale * 2 * (w - batch) / 8, state, t)
        w = w + step
    return np.mean(losses[-2:]), scale * np.mean((w - valid) ** 2)


def sgd(rate):
    return lambda grads, state, t: (-rate * grads, state)


def adam_cosine(rate):
    def update(grads, state, t):
        m, v = 0.9 * state[0] + 0.1 * grads, 0.999 * state[1] + 0.001 * grads**2
        direction = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        return -rate * (1 + np.cos(np.pi * t / HORIZON)) / 2 * direction, (m, v)

    return update


def table(update, state=None):
    pairs = [by_hand(seed, update, state) for seed in range(SEEDS)]
    return Losses(*np.array(pairs).T)


def test_scores_are_those_of_trainings_made_step_by_step_in_one_trace(tmp_path):
    Bowl.traces.clear()
    validator = TaskValidator(RULE, [FAMILY], horizon=HORIZON, num_seeds=SEEDS, layout=PairLayout(1), cache=tmp_path)
    validator.prepare(SOME)
    traces = len(Bowl.traces)
    rows = validator.score(SOME)
    grid = [table(adam_cosine(rate), (np.zeros(8), np.zeros(8))) for rate in REFERENCE.rates]
    best = Losses(*(min((x[kind] for x in grid), key=lambda v: np.log(v).sum()) for kind in range(2)))
    for row, theta in zip(rows, SOME, strict=True):
        score = task_ratios(table(sgd(float(jnp.exp(theta["log_learning_rate"])))), best)
        np.testing.assert_allclose((row["valid_train"], row["valid_valid"]), score, rtol=2e-3)
        np.testing.assert_allclose(row["valid_score"], np.sqrt(score.train * score.valid), rtol=2e-3)
        assert row["valid/bowl"] == pytest.approx(row["valid_score"])
    assert rows[1]["valid_score"] > 2 * rows[0]["valid_score"]
    assert validator.score(SOME[::-1]) == rows[::-1]
    assert len(Bowl.traces) == traces > 0  # theta is an argument of the one program


def test_other_trainings_have_another_reference(tmp_path, monkeypatch):
    """The cache tells data, horizons, seeds and rules apart; a damaged file is made again."""
    data, cache = jax.tree.map(jnp.asarray, FAMILY.load()), EvaluationCache(tmp_path)
    trainings = Trainings(FAMILY, data, HORIZON, SEEDS, PairLayout(1))
    first = trainings.reference(cache)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Trainings, "run", None)
        np.testing.assert_array_equal(trainings.reference(cache), first)  # nothing runs
    descriptions = [
        str(each._description(baseline))
        for each, baseline in (
            (trainings, REFERENCE),
            (Trainings(FAMILY, data, 50, SEEDS, PairLayout(1)), REFERENCE),
            (Trainings(FAMILY, data, HORIZON, 3, PairLayout(1)), REFERENCE),
            (Trainings(Bowl(noise=0.1), data, HORIZON, SEEDS, PairLayout(1)), REFERENCE),
            (Trainings(FAMILY, jax.tree.map(lambda x: x + 1, data), HORIZON, SEEDS, PairLayout(1)), REFERENCE),
            (trainings, BASELINES["adam"]),
        )
    ]
    assert len(set(descriptions)) == len(descriptions) - 1  # the name of a Bowl does not tell of its noise
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="damaged, so it is made again"):
        np.testing.assert_array_equal(trainings.reference(cache), first)


def test_a_theta_that_diverges_scores_10():
    validator = TaskValidator(RULE, [FAMILY], horizon=HORIZON, num_seeds=SEEDS, layout=PairLayout(1))
    (row,) = validator.score([{**SOME[0], "log_learning_rate": jnp.log(1e30)}])
    assert row["valid_score"] == row["valid_train"] == row["valid_valid"] == pytest.approx(10)


def test_what_cannot_be_validated_is_refused():
    with pytest.raises(InputError, match="at least one task"):
        TaskValidator(RULE, [], horizon=HORIZON, num_seeds=SEEDS, layout=PairLayout(1))
    with pytest.raises(InputError, match="at least 20 steps, not 5"):
        TaskValidator(RULE, [FAMILY], horizon=5, num_seeds=SEEDS, layout=PairLayout(1))
