"""The table of baselines against optax with plain numbers, and schedules against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lopt.evaluation.baselines import BASELINES, DEFAULT, in_words, parse_baselines
from lopt.evaluation.schedules import cosine, slow_decay, slow_weight, warmup_cosine
from lopt.evaluation.soap import soap
from lopt.names import InputError

STEPS, RATE = 10, 0.05


def half_life(decay):
    """Updates after which a moving average has forgotten a half."""
    return math.log(0.5) / math.log(decay)


COSINE = optax.cosine_decay_schedule(RATE, STEPS)
# Of 10 updates, at least one is warm-up.
WARMUP = optax.join_schedules([optax.constant_schedule(RATE), optax.cosine_decay_schedule(RATE, STEPS - 1)], [1])
# The same optimizers as anybody would write them.
PLAIN = {
    "adam": optax.adam(RATE),
    "adam_cosine": optax.adam(COSINE),
    "adam_warmup_cosine": optax.adam(WARMUP),
    "adamw": optax.adamw(RATE, weight_decay=0.01),
    "adamw_cosine": optax.adamw(COSINE, weight_decay=0.01),
    "adamw_grid": optax.adamw(COSINE),
    "nadamw": optax.nadamw(RATE, weight_decay=0.01),
    "sgdm": optax.sgd(RATE, momentum=0.9),
    "rmsprop": optax.rmsprop(RATE),
    "adagrad": optax.adagrad(RATE),
    "lion": optax.lion(RATE, weight_decay=0.1),
    "adafactor": optax.adafactor(RATE),
    "lamb": optax.lamb(RATE, weight_decay=0.01),
    "muon": contrib.muon(RATE, consistent_rms=0.2),
    "muon_cosine": contrib.muon(COSINE, consistent_rms=0.2),
    "soap": soap(RATE, weight_decay=0.01),
    "soap_cosine": soap(WARMUP, weight_decay=0.01),
    "ademamix_cosine": contrib.ademamix(
        COSINE,
        b3=lambda t: 0.5 ** (1 / (half_life(0.9) + t / STEPS * (half_life(0.999) - half_life(0.9)))),
        alpha=optax.linear_schedule(0, 5, STEPS),
        weight_decay=0.01,
    ),
    "schedule_free_adamw": contrib.schedule_free_adamw(RATE, weight_decay=0.01),
    "prodigy_cosine": contrib.prodigy(COSINE),
    "mechanic_cosine": contrib.mechanize(optax.adam(COSINE)),
    "dowg": contrib.dowg(RATE),
}


def descend(transformation, eval_params):
    """Ten steps down a bowl: its value at the start, and the parameters to be judged."""
    target = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    params = {"matrix": jnp.ones((3, 4)), "bias": jnp.ones(4)}

    def loss(params):
        return jnp.mean((params["matrix"] + params["bias"][None] - target) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = transformation.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (after, state), _ = jax.lax.scan(step, (params, transformation.init(params)), length=STEPS)
    after = eval_params(state, after)
    return after, loss(after) / loss(params)


def test_baselines_are_those_of_optax():
    """With the rate and the number of steps as traced arrays, as in an evaluation."""
    assert PLAIN.keys() == BASELINES.keys()

    @jax.jit
    def ours(rate, steps):
        return {
            name: descend(baseline.transformation(rate, steps), baseline.eval_params)
            for name, baseline in BASELINES.items()
        }

    @jax.jit
    def theirs():
        averaging = {"schedule_free_adamw": contrib.schedule_free_eval_params}
        return {name: descend(x, averaging.get(name, lambda state, params: params)) for name, x in PLAIN.items()}

    found, wanted = ours(jnp.float32(RATE), jnp.int32(STEPS)), theirs()
    for name in BASELINES:
        for leaf, other in zip(*(jax.tree.leaves(x[name][0]) for x in (found, wanted)), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6, err_msg=name)
        assert found[name][1] < 1, name


def test_schedules():
    steps = np.arange(200)
    np.testing.assert_allclose(
        cosine(jnp.asarray(steps), jnp.int32(200)), np.cos(np.pi * steps / 400) ** 2, rtol=1e-4, atol=1e-6
    )
    warm = np.asarray(warmup_cosine(jnp.asarray(steps), jnp.int32(200)))
    np.testing.assert_allclose(warm[:10], np.arange(1, 11) / 10, rtol=1e-6)  # 5 % of 200
    np.testing.assert_allclose(warm[10:], np.cos(np.pi * np.arange(190) / 380) ** 2, rtol=1e-4, atol=1e-6)
    for schedule, end in ((cosine, 0), (warmup_cosine, 0), (slow_weight, 5), (slow_decay, 0.999)):
        ends = schedule(jnp.array([200, 201, 500]), jnp.int32(200))  # longer than it was made for
        np.testing.assert_allclose(ends, np.full(3, end), atol=1e-6)


def test_a_grid_over_more_than_the_rate_has_every_combination():
    """28 trials of AdamW by one program, each that of optax with plain numbers."""
    baseline = BASELINES["adamw_grid"]
    trials, hypers = baseline.trials, baseline.hypers
    assert len(trials) == 28 == len({tuple(trial.values()) for trial in trials})
    assert in_words(trials[0]) == "weight decay 0.01, constant"
    assert in_words({"learning_rate": 0.1}) == ""
    run = jax.jit(lambda hyper: descend(baseline.transformation(hyper, jnp.int32(STEPS)), lambda state, x: x)[0])
    for i in (0, 13, 27):
        trial = trials[i]
        rate = trial["learning_rate"]
        schedule = optax.cosine_decay_schedule(rate, STEPS) if trial["schedule"] else rate
        wanted, _ = descend(optax.adamw(schedule, weight_decay=trial["weight_decay"]), lambda state, x: x)
        found = run({name: values[i] for name, values in hypers.items()})
        for leaf, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)


def test_grids_have_the_same_budget():
    """But for the one that has a larger one in its name, and for those that find their rate themselves."""
    other = {"adamw_grid": 28, "prodigy_cosine": 1, "mechanic_cosine": 1, "dowg": 1}
    for name, baseline in BASELINES.items():
        assert len(baseline.trials) == other.get(name, 15), name
        assert (np.diff(baseline.rates) > 0).all(), name
        if name not in other:
            assert baseline.rates[-1] / baseline.rates[0] == pytest.approx(1e5), name
        assert baseline.label, name
        assert (baseline.kind == "scheduled") == ("cosine" in name or name == "adamw_grid")
    assert len({baseline.describe() for baseline in BASELINES.values()}) == len(BASELINES)


def test_lists_of_baselines():
    assert [x.name for x in parse_baselines(DEFAULT)] == ["adam", "adam_cosine", "adamw"]
    assert [x.name for x in parse_baselines("lion")] == ["adam", "lion"]  # the reference is always there
    assert parse_baselines("all") == tuple(BASELINES.values())
    assert [x.name for x in parse_baselines("")] == ["adam"]
    with pytest.raises(InputError, match=r"unknown baseline 'adaam'. Did you mean 'adam'\?"):
        parse_baselines("adaam")
    with pytest.raises(InputError, match="once"):
        parse_baselines("lion,lion")
    with pytest.raises(InputError, match="alone"):
        parse_baselines("all,lion")
