"""Tables: standardising, the linear models against closed forms, the MLP against numpy, and low-rank factorisation."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks.tables import family as tables
from tasks.tables.matrix_factorization import MatrixFactorization, split_entries
from tasks.tables.table_denoiser import TableDenoiser
from tasks.tables.table_mlp import TableMLP

SIZES = {"train": 40, "meta": 12, "valid": 10, "test": 8}


@pytest.fixture
def made_up(monkeypatch):
    """Stands in for the tables: a function that cuts x [70, d] and y [70] into the four splits."""

    def use(x, y=None, num_classes=0):
        y = np.zeros(len(x), np.float32) if y is None else y
        cuts = np.cumsum(list(SIZES.values()))[:-1]
        parts = zip(SPLITS, np.split(x, cuts), np.split(y, cuts), strict=True)
        table = {split: {"x": part, "y": target} for split, part, target in parts}
        info = SimpleNamespace(num_classes=num_classes, shape=x.shape[1:])
        monkeypatch.setattr(tables.datasets, "describe", lambda name, data_dir: info)
        monkeypatch.setattr(tables.datasets, "load_table", lambda name, data_dir: table)

    return use


def random_table(columns=3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(70, columns)) * 10.0 ** np.arange(columns) + 5).astype(np.float32)


def test_standardised_by_the_train_split(made_up):
    x = random_table()
    x[:, 1] = 0.1  # constant: shifted only
    y = np.linspace(-3, 8, 70).astype(np.float32)
    made_up(x, y)
    family = TableMLP(num_classes=0, num_features=3)
    data = family.load()
    mean, std = x[:40].astype(float).mean(0), x[:40].astype(float).std(0)
    std[1] = 1
    start = 0
    for split, size in SIZES.items():
        rows = slice(start, start + size)
        np.testing.assert_allclose(data[split]["x"], (x[rows] - mean) / std, rtol=1e-4, atol=1e-5)
        expected = (y[rows] - y[:40].mean()) / y[:40].std()
        np.testing.assert_allclose(data[split]["y"], expected, rtol=1e-4, atol=1e-5)
        start += size
    batch = family.sample_batch(data, jax.random.key(0), {}, "meta")
    known = {row.tobytes(): float(y) for row, y in zip(data["meta"]["x"], data["meta"]["y"], strict=True)}
    drawn = list(zip(np.asarray(batch["x"]), np.asarray(batch["y"]), strict=True))
    assert len(drawn) == 64
    assert {row.tobytes() for row, _ in drawn} == set(known)  # 64 draws of 12: one is missed once in 20 times
    assert all(known[row.tobytes()] == y for row, y in drawn)


def test_columns_that_differ_by_rounding_alone_are_constant(made_up):
    """A deviation of 3e-8 of the mean is float32's rounding, one of 5e-6 is a measurement."""
    x = np.tile(np.array([[1e6, 1e3], [1e6 + 0.0625, 1e3 + 0.01]], np.float32), (35, 1))
    made_up(x)
    data = TableMLP(num_classes=0, num_features=2).load()
    sign = np.tile([-1.0, 1.0], 20)
    np.testing.assert_allclose(data["train"]["x"][:, 0], 0.03125 * sign)
    np.testing.assert_allclose(data["train"]["x"][:, 1], sign, rtol=1e-5)


def test_linear_regression_is_the_squared_error(made_up):
    x = random_table()
    made_up(x, (x @ np.array([1, -2, 0.5]) + 3).astype(np.float32))
    family = TableMLP(num_classes=0, num_features=3, hidden_sizes=())
    data, task = family.load(), family.task({})
    key = jax.random.key(0)
    batch = data["train"]
    mean = {"output": {"kernel": np.zeros((3, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    np.testing.assert_allclose(task.normalize(task.loss(mean, key, batch)), 1, rtol=1e-5)
    # The least-squares fit of a linear table is exact, and its gradient there is 0.
    kernel, *_ = np.linalg.lstsq(batch["x"].astype(float), batch["y"].astype(float), rcond=None)
    fit = {"output": {"kernel": kernel[:, None].astype(np.float32), "bias": np.zeros(1, np.float32)}}
    loss, grads = jax.value_and_grad(task.loss)(fit, key, batch)
    np.testing.assert_allclose([loss, *grads["output"]["kernel"][:, 0]], 0, atol=1e-5)
    assert task.metrics(fit, key, batch) == {}
    assert jax.tree.map(jnp.shape, jax.jit(task.init)(key)) == {"output": {"kernel": (3, 1), "bias": (1,)}}


def test_classifier_agrees_with_numpy(made_up):
    rng = np.random.default_rng(1)
    made_up(random_table(5), rng.integers(0, 4, 70).astype(np.int32), num_classes=4)
    family = TableMLP(num_classes=4, num_features=5, hidden_sizes=(6,), activation="tanh", batch_size=9)
    data, task, key = family.load(), family.task({}), jax.random.key(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2, jax.jit(task.init)(key))
    batch = family.sample_batch(data, key, {}, "valid")
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.tanh(np.asarray(batch["x"]) @ w["layer_0"]["kernel"] + w["layer_0"]["bias"][None, :])
    logits = hidden @ w["output"]["kernel"] + w["output"]["bias"][None, :]
    labels = np.asarray(batch["label"])
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(9), labels])
    np.testing.assert_allclose(task.loss(params, key, batch), expected, rtol=1e-5)
    np.testing.assert_allclose(task.normalize(expected), expected / math.log(4))
    assert task.metrics(params, key, batch)["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_what_does_not_fit_is_refused(made_up):
    x = random_table()
    made_up(x)
    with pytest.raises(InputError, match=r"has \(classes, columns\) = \(0, 3\), and the family has \(2, 30\)"):
        TableMLP().load()
    with pytest.raises(InputError, match=r"has \(rows, columns\) = \(70, 3\), and the family has \(392, 7\)"):
        MatrixFactorization().load()
    x[50, 1] = np.nan
    with pytest.raises(InputError, match="missing or infinite values in split 'meta'"):
        TableMLP(num_classes=0, num_features=3).load()
    with pytest.raises(InputError, match="missing or infinite values"):
        MatrixFactorization(num_rows=70, num_features=3).load()
    with pytest.raises(InputError, match="hidden_sizes must be a tuple of positive"):
        TableMLP(hidden_sizes=[3])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rank must be a whole number of at least 1, not 0"):
        MatrixFactorization(rank=0)


def test_names():
    assert TableMLP(dataset="wine", num_classes=3, num_features=13).name == "table_mlp/wine"
    assert TableMLP(hidden_sizes=()).name == "table_mlp/breast_cancer:hidden_sizes=()"
    assert MatrixFactorization(rank=4, num_rows=3).name == "matrix_factorization/autompg:rank=4"


def test_entries_are_split_once_and_in_proportion(made_up):
    x = random_table(20)
    made_up(x)
    data = MatrixFactorization(num_rows=70, num_features=20).load()
    places = [70 * 0 + 20 * part["row"] + part["column"] for part in data.values()]
    np.testing.assert_array_equal(np.sort(np.concatenate(places)), np.arange(70 * 20))
    shares = [len(part) / 1400 for part in places]
    np.testing.assert_allclose(shares, [10 / 16, 2 / 16, 2 / 16, 2 / 16], atol=4 * 0.013)
    for split, part in data.items():
        assert len(np.unique(part["row"])) > 60, split  # no row and no column is of one split alone
        assert len(np.unique(part["column"])) == 20
    train = data["train"]
    for j in range(20):
        values = x[train["row"], train["column"]][train["column"] == j].astype(float)
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(train["value"][train["column"] == j], expected, rtol=1e-3, atol=1e-4)
    assert split_entries(2, 8).tolist() == split_entries(4, 4).reshape(2, 8).tolist()  # of the number of the entry


def test_factorisation_recovers_a_table_of_low_rank(made_up):
    rng = np.random.default_rng(3)
    # Standardising a column adds a constant one to the factors: rank 2 becomes 3.
    made_up((rng.normal(size=(70, 2)) @ rng.normal(size=(2, 20))).astype(np.float32))
    family = MatrixFactorization(num_rows=70, num_features=20, rank=3, batch_size=1000)
    data, task, adam = jax.tree.map(jnp.asarray, family.load()), family.task({}), optax.adam(0.03)

    def step(carry, key):
        params, state = carry
        batch = family.sample_batch(data, key, {}, "train")
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    def train(data, key):
        params = task.init(key)
        (params, _), losses = jax.lax.scan(step, (params, adam.init(params)), jax.random.split(key, 1000))
        return params, losses

    params, losses = jax.jit(train)(data, jax.random.key(0))
    assert {name: factor.shape for name, factor in params.items()} == {"rows": (70, 3), "columns": (20, 3)}
    assert 0.9 < losses[0] < 1.4
    entry = jax.tree.map(lambda x: x[:1], data["test"])
    by_hand = float(np.asarray(params["rows"])[entry["row"][0]] @ np.asarray(params["columns"])[entry["column"][0]])
    loss = task.loss(params, jax.random.key(0), entry)
    np.testing.assert_allclose(loss, (by_hand - entry["value"][0]) ** 2, rtol=1e-3, atol=1e-8)
    for split in SPLITS:  # entries that were never seen come out as well
        assert task.loss(params, jax.random.key(0), data[split]) < 2e-3, split


@pytest.mark.parametrize(("name", "num_classes", "num_features"), [("breast_cancer", 2, 30), ("autompg", 0, 7)])
def test_real_tables_start_near_1(tmp_path, name, num_classes, num_features):
    family = TableMLP(dataset=name, num_classes=num_classes, num_features=num_features, data_dir=str(tmp_path))
    data, task = family.load(), family.task({})
    params = jax.jit(task.init)(jax.random.key(0))
    assert 0.85 < task.normalize(task.loss(params, jax.random.key(1), data["train"])) < 1.15
    if name == "autompg":
        entries = MatrixFactorization(data_dir=str(tmp_path)).load()
        assert sum(len(part["value"]) for part in entries.values()) == 392 * 7


def test_the_denoisers_loss_is_that_of_the_hidden_entries_alone(made_up):
    made_up(random_table())
    family = TableDenoiser(num_classes=0, num_features=3, hidden_sizes=(), hidden=0.3, batch_size=5000)
    data, task = family.load(), family.task({})
    batch = family.sample_batch(data, jax.random.key(0), {}, "train")
    x, hidden = (np.asarray(batch[name], np.float64) for name in ("x", "hidden"))
    np.testing.assert_allclose(hidden.mean(0), 0.3, atol=4 * 0.0065)  # sqrt(0.21 / 5000)
    params = jax.tree.map(lambda p: p + 0.1, task.init(jax.random.key(1)))
    w, b = (np.asarray(params["output"][kind], np.float64) for kind in ("kernel", "bias"))
    predicted = np.concatenate([np.where(hidden, 0, x), hidden], 1) @ w + b
    wanted = np.mean((predicted - x)[hidden == 1] ** 2)
    np.testing.assert_allclose(task.loss(params, jax.random.key(0), batch), wanted, rtol=1e-4)
    # Predicting the mean costs 1, up to which rows were drawn: 4500 squares of deviation 1.2.
    zero = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(task.loss(zero, jax.random.key(0), batch), 1, atol=4 * 1.2 / math.sqrt(4500))
    with pytest.raises(InputError, match="hidden must be below 1"):
        TableDenoiser(hidden=1.0)
