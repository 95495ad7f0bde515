"""The training function against optax in a plain loop; what an evaluation keeps equal between optimizers; the cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import as_optax
from lopt.distributed import PairLayout
from lopt.evaluation import cache as evaluation_cache
from lopt.evaluation import runs as training
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.contestants import as_pretrained, contestants
from lopt.evaluation.evaluate import evaluate
from lopt.evaluation.measures import MEASURES, diverged
from lopt.evaluation.plan import make_plan, num_steps
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.runs import Learned, Runner
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from tests.toy_family import Bowl

RATE = 0.02
LAYOUTS = [PairLayout(2, sequential=True), PairLayout(1, sequential=False)]


def adam(*rates):
    return (dataclasses.replace(BASELINES["adam"], rates=rates),)


def learnable_adam(rate=RATE):
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=rate)
    return optimizer, optimizer.init_theta(jax.random.key(0))


def plan_of(evaluation, trained, family):
    return make_plan(evaluation, contestants(as_pretrained(trained), evaluation.baselines), {family: family.load()})


def run(evaluation, trained, family):
    (result,) = plan_of(evaluation, trained, family).run(lambda line: None).values()
    return result


def plain_loop(transformation, family, data, key, num_steps):
    """Trains one task as anybody would."""
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = family.sample(config_key)
    task = family.task(config)
    params = task.init(params_key)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, key):
        batch_key, loss_key = jax.random.split(key)
        batch = family.sample_batch(data, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        updates, state = transformation.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for t in range(num_steps):
        params, state, value = step(params, state, jax.random.fold_in(steps_key, t))
        losses.append(float(value))
    loss = jax.jit(lambda key: task.loss(params, key, family.sample_batch(data, key, config, "valid")))
    return losses, np.mean([loss(key) for key in jax.random.split(jax.random.key(0), training.VALID_BATCHES)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_equal_a_plain_loop(layout):
    family = Bowl()
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=RATE, schedule_terms=1)  # a rule that reads the horizon
    initial_theta = optimizer.init_theta(jax.random.key(0))
    theta = {**initial_theta, "schedule": jnp.array([1.5])}
    result = run(Evaluation(20, 2, seed=3, baselines=adam(1e-3, RATE), layout=layout), (optimizer, theta), family)
    entries = result.entries
    assert (result.num_params, result.horizon, list(entries)) == (
        8,
        20,
        ["learned", "untrained", "adam_default", "adam"],
    )
    best = entries["adam"].chosen["final_loss"]
    assert entries["adam"].best == dict.fromkeys(MEASURES, 1)
    for runs, transformation, i, seed in [
        (entries["adam"].tuning, optax.with_extra_args_support(optax.adam(1e-3)), (0, 1), 3),
        (best, optax.with_extra_args_support(optax.adam(RATE)), 1, 1),
        (entries["learned"].chosen["mean_loss"], as_optax(optimizer, theta, num_steps=20), 0, 0),
        (entries["untrained"].chosen["mean_loss"], as_optax(optimizer, initial_theta, num_steps=20), 1, 1),
    ]:
        key = jax.random.fold_in(jax.random.key(3), seed)
        losses, valid_loss = plain_loop(transformation, family, family.load(), key, 20)
        np.testing.assert_allclose(runs.loss[i], losses, rtol=1e-5)
        np.testing.assert_allclose(runs.valid_loss[i], valid_loss, rtol=1e-5)
    assert entries["adam"].long is not None
    np.testing.assert_allclose(entries["adam"].long.loss[:, :20], best.loss, rtol=1e-6)
    assert np.isfinite(entries["adam"].long.valid_accuracy).all()
    assert entries["learned"].tuning.loss.shape == (0, 2, 20)
    assert all(entry.step_seconds.shape == (training.TURNS, 2) for entry in entries.values())
    assert all((entry.step_seconds > 0).all() for entry in entries.values())


def test_adam_in_disguise_is_adam():
    """Curve for curve, and in every score; on a straight slope, and no grid can be below its best rate."""
    family = Bowl(power=1, start=100.0)
    settings = {"horizon": 100, "num_seeds": 2, "baselines": adam(RATE / 4, RATE), "say": None}
    report = evaluate(learnable_adam(), family, **settings)
    learned, tuned = (report.results["bowl"].entries[name] for name in ("learned", "adam"))
    assert tuned.best == dict.fromkeys(MEASURES, 1)
    for ours, theirs in zip(learned.chosen["final_loss"], tuned.chosen["final_loss"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    scores = report.scores["bowl"]
    assert scores.speed_up == scores.rows["adam"].speed_up == 1
    assert scores.rows["learned"].speed_up_envelope == 1
    assert scores.ratios["best_adam_by_mean_loss"] == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(scores.run_scores["learned"], scores.run_scores["adam"], rtol=1e-5)


@pytest.fixture
def small():
    """An evaluation whose programs the tests below share, and what it takes."""
    return Evaluation(20, 2, baselines=adam(1e-3, 0.1, 1e30), layout=LAYOUTS[0]), learnable_adam(), Bowl(start=2.0)


def test_one_program_for_each_task_and_kind_of_optimizer(small):
    evaluation, trained, family = small
    run(evaluation, trained, family)  # compiled here, or in another test
    Bowl.traces.clear()
    first = run(evaluation, trained, Bowl(start=2.0)).entries
    again = run(dataclasses.replace(evaluation, seed=1, baselines=adam(1e-4, 0.1, 1e30)), trained, family).entries
    assert not Bowl.traces  # Adam, with its grid, both sets of seeds and the long runs; and the learned rule
    assert not np.isclose(first["learned"].chosen["mean_loss"].loss, again["learned"].chosen["mean_loss"].loss).any()
    # A rate that overflows has diverged, and does not disturb the rest.
    assert diverged(first["adam"].tuning.loss).tolist() == [[False] * 2, [False] * 2, [True] * 2]


def test_the_order_of_runs_does_not_matter(small):
    evaluation, _, family = small
    (rule,) = evaluation.baselines
    runner = Runner(
        rule=rule,
        hypers=np.asarray(rule.rates, np.float32),
        family=family,
        data=family.load(),
        seed=0,
        split="valid",
        layout=evaluation.layout,
        max_steps=80,
        capacity=6,
    )
    plan = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]])  # rates and seeds
    order = np.array([3, 0, 4, 2, 1])
    for ours, theirs in zip(runner(plan, 20), runner(plan[:, order], 20), strict=True):
        np.testing.assert_array_equal(ours[order], theirs)


def test_operations_are_counted():
    family = Bowl(noise=0.25)
    adam_flops, sgd_flops = (
        training.flops_per_step(BASELINES[name], np.ones(2, np.float32), family, family.load())
        for name in ("adam", "sgdm")
    )
    assert 8 * 5 < adam_flops - sgd_flops < 8 * 30  # Adam's ~12 a parameter, less the 2 or 3 of momentum


def test_rules_are_equal_by_value():
    assert Learned(learnable_adam()[0]) == Learned(learnable_adam()[0])
    assert hash(adam(0.1, 1.0)[0]) == hash(BASELINES["adam"])
    assert adam(0.1, 1.0)[0] == BASELINES["adam"]
    assert len({*BASELINES.values()}) == len(BASELINES)


def test_runs_are_made_once(small, tmp_path, monkeypatch):
    """An interrupted evaluation goes on; a second one makes no runs; a change of a source makes them all again."""
    evaluation, trained, family = small
    evaluation = dataclasses.replace(evaluation, cache=EvaluationCache(tmp_path / "cache"))
    plan = plan_of(evaluation, trained, family)
    assert len(plan.flops) == 4
    assert plan.describe().startswith("tasks: 1; optimizers: 4; devices: 2; training steps to make: 520, about ")
    assert [num_steps(evaluation, x) for x in plan.contestants] == [40, 40, 40, (3 + 3 + 4) * 40]

    make, made = Evaluation.run, []

    def counted(self, contestant, *rest):
        if made == ["learned", "untrained"]:
            raise KeyboardInterrupt
        made.append(contestant.name)
        return make(self, contestant, *rest)

    monkeypatch.setattr(Evaluation, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        plan.run(lambda line: None)
    made.clear()
    plan = plan_of(evaluation, trained, family)
    first = plan.run(lambda line: None)["bowl"].entries
    assert made == ["adam_default", "adam"]
    plan = plan_of(evaluation, trained, family)
    assert not plan.flops
    assert "of 4 entries 4 are in the cache; training steps to make: 0, about 0 s" in plan.describe()
    again = plan.run(lambda line: None)["bowl"].entries
    assert (made, list(again)) == (["adam_default", "adam"], list(first))
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    read = evaluation_cache.read_source
    monkeypatch.setattr(
        evaluation_cache, "read_source", lambda file: read(file) + b"#" if "learnable_adam" in file else read(file)
    )
    plan = plan_of(evaluation, trained, family)
    assert [name for _, name in plan.flops] == ["learned", "untrained"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 19}, "horizon"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"split": "train"}, "split"),
        ({"baselines": ()}, "'adam' must be among"),
        ({"baselines": adam(0.1)}, "at least two"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Evaluation(**{"horizon": 100, **settings})


def test_a_task_without_the_split_is_refused():
    family = Bowl()
    Evaluation(20).check_split(family, family.load())
    with pytest.raises(InputError, match="bowl has no split 'test': it has train, meta, valid"):
        Evaluation(20, split="test").check_split(family, family.load())
