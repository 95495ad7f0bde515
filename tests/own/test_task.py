"""A task of a person's own functions: what it computes, how data are cut, whose models it takes, what it refuses."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lopt
from lopt.names import InputError
from lopt.own.splits import Splits
from lopt.types import SPLITS

ROWS = np.random.default_rng(0).normal(size=(100, 3))
DATA = {"x": ROWS, "y": ROWS @ np.array([1.0, -2.0, 0.5]) + 3}


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def other_init(key):
    return jax.tree.map(lambda x: 2 * x, init(key))


def loss(params, key, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def line(**changes: Any) -> Any:
    return lopt.task(**{"init": init, "loss": loss, "data": DATA, "name": "line", "batch_size": 8, **changes})


def test_it_is_a_value():
    assert line() == line()
    assert hash(line()) == hash(line())
    assert line() == line(data={name: x.copy() for name, x in DATA.items()})
    for other in ({"data": {**DATA, "y": DATA["y"] + 1}}, {"batch_size": 9}, {"name": "other"}, {"trivial_loss": 1.0}):
        assert line() != line(**other)
        assert line().spelling != line(**other).spelling
    assert line().spelling != line(init=other_init).spelling


def test_rows_are_cut_into_four_splits_without_a_row_twice():
    data = line().load()
    assert {split: len(data[split]["x"]) for split in SPLITS} == {"train": 80, "meta": 5, "valid": 5, "test": 10}
    together = np.concatenate([data[split]["x"] for split in SPLITS])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(ROWS.astype(np.float32), axis=0))
    assert not np.array_equal(data["train"]["x"], ROWS[:80].astype(np.float32))  # shuffled, as rows may be sorted
    for split in SPLITS:  # rows of x and y stay together
        x, y = data[split]["x"], data[split]["y"]
        np.testing.assert_allclose(x @ np.array([1, -2, 0.5], np.float32) + 3, y, rtol=1e-4, atol=1e-5)


def test_splits_that_are_given_are_kept():
    data: Any = Splits.of({"train": ROWS[:60], "test": ROWS[60:]}).arrays
    np.testing.assert_array_equal(data["test"], ROWS[60:].astype(np.float32))
    assert [len(data[split]) for split in SPLITS] == [53, 4, 3, 40]
    whole = {split: ROWS[i : i + 1] for i, split in enumerate(SPLITS)}
    np.testing.assert_array_equal(Splits.of(whole).arrays["train"], ROWS[:1].astype(np.float32))


def test_the_loss_of_fresh_params_counts_as_1():
    family = line(batch_size=1000)
    task, data = family.task({}), family.load()
    losses = []
    for i in range(64):
        batch = family.sample_batch(data, jax.random.key(i), {}, "train")
        losses.append(task.loss(task.init(jax.random.key(100 + i)), jax.random.key(0), batch))
    spread = np.std(losses) / np.sqrt(8)  # of the mean of 8
    assert abs(np.mean(losses) - family.start) < 4 * spread
    np.testing.assert_allclose(task.normalize(jnp.asarray(family.start)), 1, rtol=1e-6)
    np.testing.assert_allclose(task.normalize(jnp.asarray(0.0)), 0, atol=1e-6)
    np.testing.assert_allclose(line(trivial_loss=-2.0).task({}).normalize(jnp.asarray(-3.0)), 0.5, rtol=1e-6)


def test_a_batch_has_rows_of_its_split():
    family = line()
    data = family.load()
    for split in SPLITS:
        batch = family.sample_batch(data, jax.random.key(3), {}, split)
        assert batch["x"].shape == (8, 3)
        assert all(any(np.array_equal(row, other) for other in data[split]["x"]) for row in np.asarray(batch["x"]))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


LINEN = nn.Sequential([nn.Dense(8), jnp.tanh, nn.Dense(1)])
MODELS = {
    "plain": (
        lambda key: {"w": jnp.zeros((3, 1)), "b": jnp.zeros((1, 1))},
        lambda model, x: x @ model["w"] + model["b"],
    ),
    "linen": (lambda key: LINEN.init(key, jnp.zeros((1, 3))), lambda model, x: LINEN.apply(model, x)),
    "nnx": (lambda key: NNX(nnx.Rngs(key)), lambda model, x: model(x)),
    "equinox": (lambda key: eqx.nn.MLP(3, 1, 8, 1, key=key), lambda model, x: jax.vmap(model)(x)),
}


def model_task(library, **changes) -> Any:
    start, apply = MODELS[library]
    error = lambda model, key, batch: jnp.mean((apply(model, batch["x"])[:, 0] - batch["y"]) ** 2)  # noqa: E731
    return line(init=start, loss=error, name=library, **changes)


ROWS_OF_MODELS = [pytest.param(x, marks=[pytest.mark.thorough] * (x in ("plain", "linen"))) for x in MODELS]


@pytest.mark.parametrize("library", ROWS_OF_MODELS)
def test_modules_are_params_by_name_and_train(library):
    """The loss of the params is that of the model, and so is the gradient; Adam trains it."""
    start, apply = MODELS[library]
    family = model_task(library)
    task, data = family.task({}), family.load()
    params, model = task.init(jax.random.key(1)), start(jax.random.key(1))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    batch = family.sample_batch(data, jax.random.key(2), {}, "train")
    expected = np.mean((np.asarray(apply(model, batch["x"]))[:, 0] - batch["y"]) ** 2)
    value, grads = jax.value_and_grad(task.loss)(params, jax.random.key(0), batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert optax.tree.norm(grads) > 0
    tx = optax.adam(0.2)

    @jax.jit
    def train(params):
        def step(carry, key):
            batch = family.sample_batch(data, key, {}, "train")
            value, grads = jax.value_and_grad(task.loss)(carry[0], key, batch)
            updates, state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), task.normalize(value)

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(4), 60))[1]

    losses = train(params)
    assert losses[-5:].mean() < 0.3 * losses[:5].mean()


def test_names_of_a_modules_params():
    assert sorted(model_task("equinox").task({}).init(jax.random.key(0))) == [
        "layers/0/bias", "layers/0/weight", "layers/1/bias", "layers/1/weight",
    ]  # fmt: skip
    assert sorted(model_task("nnx").task({}).init(jax.random.key(0)))[0] == "hidden/bias/value"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a,b"}, "name must be letters"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"trivial_loss": 0.0}, "trivial_loss must be a finite number other than 0"),
        ({"data": {"x": ROWS, "y": ROWS[:50]}}, r"must share their first axis, .*x \[100\], y \[50\]"),
        ({"data": {"meta": ROWS}}, "data must have the split train"),
        ({"data": {"train": ROWS, "valdi": ROWS}}, "'valdi' is no split; they are train, meta, valid, test"),
        ({"data": {"train": ROWS, "test": {"x": ROWS}}}, "all splits must have arrays of the same names"),
        ({"data": ROWS[:6]}, "6 rows are too few to cut"),
        ({"data": {"x": np.array(["a"] * 100)}}, "train x must be numbers, not <U1"),
        ({"data": {"x": np.full((100, 3), np.nan)}}, "train x has numbers that are not finite"),
        ({"data": {"x": np.full((100, 3), 2**40)}}, "whole numbers beyond 2,147,483,647"),
        ({"data": {"x": ROWS}}, "loss fails on fresh params: KeyError: 'y'"),
        ({"loss": lambda params, key, batch: params["w"]}, r"loss must return one number, .* returns float32\[3\]"),
        ({"init": lambda key: {"w": 1}}, "at least one array of floating-point numbers"),
        ({"init": lambda key: {"w": jnp.ones(3), "key": key}}, "a random key, key, which would be the same"),
        ({"init": lambda key: key.no}, "init\\(key\\) fails: AttributeError"),
    ],
)
def test_what_is_refused_says_what_to_do(changes, message):
    with pytest.raises(InputError, match=message):
        line(**changes)


def test_a_loss_that_is_not_finite_is_refused_when_the_data_are_loaded():
    family = line(loss=lambda params, key, batch: loss(params, key, batch) / 0)
    with pytest.raises(InputError, match="loss of fresh params must be a finite number, not inf"):
        family.load()


SMALL: Any = {"num_pairs": 2, "sigma": 0.1, "truncation": 5, "horizon": "10:20", "outer_steps": 2}


@pytest.mark.thorough
def test_it_is_meta_trained_and_gone_on_with(tmp_path):
    family = model_task("equinox", metrics=lambda model, key, batch: {"error": jnp.abs(model(batch["x"][0])[0])})
    run = lopt.meta_train("learnable_sgd", family, workdir=tmp_path / "run", **SMALL)
    assert run.pretrained.card["tasks"] == family.spelling
    assert family.spelling.startswith(f"{__name__}:lopt.task:name='equinox':init='")
    assert lopt.meta_train("learnable_sgd", family, workdir=tmp_path / "run", **SMALL) == run
    with pytest.raises(InputError, match="config of another run"):
        lopt.meta_train("learnable_sgd", line(name="equinox"), workdir=tmp_path / "run", **SMALL)


@pytest.mark.thorough
def test_tune_takes_it_and_models(capsys):
    """The history and the progress are in the person's own unit."""
    x = np.random.default_rng(1).normal(size=(4000, 3))
    family = model_task("equinox", batch_size=256, data={"x": x, "y": np.full(4000, 5.0)})
    settings: Any = {"num_steps": 10, "num_updates": 3, "num_pairs": 2, "estimator": "full_es"}
    tunables = {"learning_rate": lopt.Tunable(1e-6)}
    tuned = lopt.tune(optax.adam, tunables, task=family, **settings)
    np.testing.assert_allclose(tuned.history, 25, rtol=0.2)  # such steps train nothing
    shown = capsys.readouterr().err
    assert f"objective {tuned.history[-1]:.4g} (at first {tuned.history[0]:.4g})" in shown
    start, _ = MODELS["equinox"]
    by_hand = lopt.tune(
        optax.adam,
        tunables,
        init=start,
        loss=lambda m, key, data: jnp.mean(jax.vmap(m)(data) ** 2),
        data=ROWS,
        **settings,
    )
    assert np.isfinite(by_hand.history).all()
    for wrong, message in (
        ({"task": family, "init": start}, "leave them out, or the task"),
        ({"task": "image_mlp/digits"}, "task must be what lopt.task returns"),
        ({"init": start}, "give init and loss, or a task"),
    ):
        with pytest.raises(InputError, match=message):
            lopt.tune(optax.adam, tunables, **wrong, **settings)
