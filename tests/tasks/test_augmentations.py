"""Each augmentation against what it claims, computed from the plain task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.types import Task
from tasks import AUGMENTATIONS, parse_tasks
from tasks.augmentations.augmented import Augmented
from tasks.augmentations.examples import LabelNoise, PermuteLabels, ReduceBatch
from tasks.augmentations.gradients import DelayGradient, NoisyGradient
from tasks.augmentations.units import Reparametrize, ScaleLoss
from tasks.functions.quadratic import Quadratic
from tasks.images.random_mlp import RandomMLP

KEY = jax.random.key(11)
PLAIN = Quadratic(dimension=6)


@pytest.fixture(scope="module")
def table():
    (family,) = parse_tasks("table_mlp/wine:hidden_sizes=(4,):batch_size=40")
    return family, family.load()


def both(family, augmentation, key=KEY):
    """The augmented family, a config of it, the augmented and the plain task of that config."""
    augmented = Augmented(family, augmentation)
    config = augmented.sample(key)
    return augmented, config, augmented.task(config), family.task(config["task"])


def leaf(tree):
    """The only array of a tree, whatever optax calls its type."""
    (array,) = jax.tree.leaves(tree)
    return array


def scales(draw):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(draw)])


@pytest.mark.parametrize(("level", "number"), [("global", 1), ("tensor", 4), ("parameter", 13 * 4 + 4 + 4 * 3 + 3)])
def test_reparametrize_is_the_same_task_in_other_units(table, level, number):
    family, data = table
    augmented, config, task, plain = both(family, Reparametrize(level=level, low=0.1, high=10))
    draw = config["draw"]
    assert len(np.unique(scales(draw))) == number
    params, original = task.init(KEY), plain.init(KEY)
    jax.tree.map(lambda w, s, p: np.testing.assert_allclose(w * s, p, rtol=1e-6), params, draw, original)
    batch = augmented.sample_batch(data, KEY, config, "valid")
    value, grads = jax.jit(jax.value_and_grad(task.loss))(params, KEY, batch)
    plain_value, plain_grads = jax.jit(jax.value_and_grad(plain.loss))(original, KEY, batch)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5)
    np.testing.assert_allclose(task.normalize(value), plain.normalize(plain_value), rtol=1e-5)
    assert task.metrics(params, KEY, batch) == plain.metrics(original, KEY, batch)
    # The chain rule: d loss(s w) / d w = s loss'(s w).
    jax.tree.map(lambda g, s, p: np.testing.assert_allclose(g, s * p, rtol=1e-3, atol=1e-6), grads, draw, plain_grads)


def test_scales_are_log_uniform_and_tasks_vmap():
    augmented = Augmented(PLAIN, Reparametrize(low=1e-2, high=1e2))
    draws = jax.jit(jax.vmap(augmented.sample))(jax.random.split(KEY, 4000))["draw"]
    logs = np.log10(scales(draws))
    assert -2 <= logs.min() < -1.9 < 1.9 < logs.max() <= 2
    # The standard error of the mean of 4,000 uniforms of width 4 is 0.018.
    np.testing.assert_allclose(logs.mean(), 0, atol=4 * 0.018)
    assert draws["x"].shape == (4000,)


def test_scaled_loss_has_the_plain_normalised_one():
    _, config, task, plain = both(PLAIN, ScaleLoss(low=10, high=1000))
    params, batch = plain.init(KEY), {"noise": jnp.zeros(6)}
    np.testing.assert_allclose(task.loss(params, KEY, batch), config["draw"] * plain.loss(params, KEY, batch))
    assert 10 <= config["draw"] <= 1000
    np.testing.assert_allclose(task.normalize(task.loss(params, KEY, batch)), 1.0, rtol=1e-5)


def test_a_reduced_batch_repeats_its_first_examples(table):
    family, data = table
    augmented, config, _, _ = both(family, ReduceBatch(low=0.1))
    kept = round(float(config["draw"]) * 40)
    assert 4 <= kept < 40
    batch = augmented.sample_batch(data, KEY, config, "train")
    rows = np.asarray(batch["x"])
    np.testing.assert_array_equal(rows, np.resize(rows[:kept], rows.shape))
    np.testing.assert_array_equal(batch["label"], np.resize(np.asarray(batch["label"])[:kept], 40))
    full = augmented.sample_batch(data, KEY, config, "meta")
    jax.tree.map(np.testing.assert_array_equal, full, family.sample_batch(data, KEY, config["task"], "meta"))


def test_label_noise_replaces_its_share_in_training_alone(table):
    family, data = table
    augmented = Augmented(family, LabelNoise(high=1.0))
    key, _ = jax.random.split(KEY)  # what the family draws its batch with
    plain = family.sample_batch(data, key, {}, "train")
    share = []
    for draw in (0.0, 1.0):
        batch = augmented.sample_batch(data, KEY, {"task": {}, "draw": jnp.asarray(draw)}, "train")
        np.testing.assert_array_equal(batch["x"], plain["x"])
        assert set(np.asarray(batch["label"]).tolist()) <= {0, 1, 2}
        share.append(np.mean(batch["label"] != plain["label"]))
    assert share[0] == 0
    # A label of a random other is another class with probability 1 - sum p^2, about 2/3; se 0.075.
    np.testing.assert_allclose(share[1], 2 / 3, atol=4 * 0.075)
    draws = jax.jit(jax.vmap(augmented.sample))(jax.random.split(KEY, 500))["draw"]
    np.testing.assert_allclose(np.mean(draws), 0.5, atol=4 * 0.29 / np.sqrt(500))


def test_permuted_labels_are_a_renaming_in_every_split(table):
    family, data = table
    augmented, config, task, plain = both(family, PermuteLabels())
    draw = np.asarray(config["draw"])
    assert sorted(draw.tolist()) == [0, 1, 2]
    params = plain.init(KEY)
    for split in ("train", "test"):
        batch = augmented.sample_batch(data, KEY, config, split)
        renamed = {**batch, "label": jnp.asarray(draw[np.asarray(batch["label"])])}
        assert task.loss(params, KEY, batch) == plain.loss(params, KEY, renamed)
        assert task.metrics(params, KEY, batch) == plain.metrics(params, KEY, renamed)


def test_accuracy_of_permuted_labels_is_that_of_the_new_names():
    """Guesses of the new names are all right, and guesses of the old ones all wrong: no class keeps its name."""

    def accuracy(guess):
        task = Task(
            lambda key: {}, lambda *_: jnp.zeros(()), lambda loss: loss,
            lambda params, key, batch: {"accuracy": jnp.mean(guess == batch["label"])},
        )  # fmt: skip
        return float(PermuteLabels().task(task, jnp.array([1, 2, 0])).metrics({}, KEY, batch)["accuracy"])

    batch = {"label": jnp.array([0, 0, 1, 2])}
    assert accuracy(jnp.array([1, 1, 2, 0])) == 1
    assert accuracy(jnp.array([0, 0, 1, 2])) == 0
    assert accuracy(jnp.array([1, 0, 2, 1])) == 0.5


def test_labels_of_a_set_of_fewer_classes_keep_to_its_classes():
    """A set has 3 of 4 classes: the loss sees 0, 1, 2 renamed among themselves, in all 6 ways equally often."""
    task = Task(lambda key: {}, lambda params, key, batch: batch["label"], lambda loss: loss, lambda *_: {})
    batch = {"label": jnp.arange(3), "num_classes": jnp.full(3, 3)}

    def renamed(key):
        draw = PermuteLabels().sample(RandomMLP(num_classes=4), key, {})
        return PermuteLabels().task(task, draw).loss({}, key, batch)

    names = np.asarray(jax.jit(jax.vmap(renamed))(jax.random.split(KEY, 600)))
    _, counts = np.unique(names, axis=0, return_counts=True)
    np.testing.assert_array_equal(np.sort(names), np.tile(np.arange(3), (600, 1)))
    np.testing.assert_allclose(counts, [100] * 6, atol=4 * np.sqrt(600 * 5 / 36))


def test_noise_is_relative_to_the_gradient_and_new_at_every_step():
    _, config, task, _ = both(PLAIN, NoisyGradient(low=0.5, high=0.5))
    grads = {"x": 3.0 * jnp.ones(20_000)}
    state, noises = task.corrupt.init(grads), []
    for _ in range(2):
        noisy, state = task.corrupt.update(grads, state, grads)
        noises.append((np.asarray(leaf(noisy)) - 3.0) / 3.0)
    np.testing.assert_allclose([n.std() for n in noises], 0.5, rtol=4 / np.sqrt(2 * 20_000))
    np.testing.assert_allclose([n.mean() for n in noises], 0.0, atol=4 * 0.5 / np.sqrt(20_000))
    assert abs(np.corrcoef(noises)[0, 1]) < 4 / np.sqrt(20_000)
    assert config["draw"]["scale"] == pytest.approx(0.5)


@pytest.mark.parametrize("delay", [1, 3])
def test_a_delayed_gradient_is_that_of_d_steps_ago(delay):
    task = DelayGradient(high=3).task(PLAIN.task(PLAIN.sample(KEY)), jnp.asarray(delay))
    zero = {"x": jnp.zeros(())}
    state, seen, update = task.corrupt.init(zero), [], jax.jit(task.corrupt.update)
    for step in range(10):
        grads, state = update({"x": jnp.asarray(float(step))}, state, zero)
        seen.append(float(leaf(grads)))
    assert seen == [max(step - delay, 0) for step in range(10)]


def test_delays_are_of_1_to_the_highest():
    sample = Augmented(PLAIN, DelayGradient(high=3)).sample
    draws = jax.jit(jax.vmap(sample))(jax.random.split(KEY, 200))["draw"]
    assert set(np.asarray(draws).tolist()) == {1, 2, 3}


def test_the_optimizer_sees_the_corrupted_gradient_and_evaluation_too():
    """A training with delayed gradients is gradient descent by hand on the gradients of d steps ago."""
    family = Augmented(Quadratic(dimension=4, noise=0.0), DelayGradient(high=2))
    problem = inner_training(LearnableAdam(learning_rate=0.1), family, {}, objective=Objective("train"))
    theta = LearnableAdam(learning_rate=0.1).init_theta(KEY)
    state = problem.init(theta, KEY, jnp.asarray(5))
    task, delay = family.task(state.config), int(state.config["draw"])
    params, adam = state.params, optax.adam(0.1)
    adam_state, past = adam.init(params), []
    batch = {"noise": jnp.zeros(4)}
    for step in range(5):
        state, loss = problem.step(theta, state, jax.random.fold_in(KEY, step))
        np.testing.assert_allclose(loss, task.normalize(task.loss(params, KEY, batch)), rtol=1e-4)
        past.append(jax.grad(task.loss)(params, KEY, batch))
        updates, adam_state = adam.update(past[max(step - delay, 0)], adam_state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state.params["x"], leaf(params), rtol=1e-4, atol=1e-6)


def test_augmentations_stack_in_the_order_that_they_are_written():
    name = "quadratic+scale_loss:low=2.0:high=2.0+reparametrize:low=3.0:high=3.0+delay_gradient:high=1"
    (family,) = parse_tasks(name, optimizers=OPTIMIZERS)
    assert family.name == name
    config = family.sample(KEY)
    plain_config = config["task"]["task"]["task"]
    task, plain = family.task(config), Quadratic().task(plain_config)
    params, batch = plain.init(KEY), {"noise": jnp.zeros(32)}
    w = {"x": params["x"] / 3}
    np.testing.assert_allclose(task.loss(w, KEY, batch), 2 * plain.loss(params, KEY, batch), rtol=1e-5)
    assert len(jax.tree.leaves(task.corrupt.init(w))) == 2  # the ring of gradients and its step


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("reparametrize", {"level": "tensors"}), ("reparametrize", {"low": 0.0}), ("scale_loss", {"low": 2, "high": 1}),
        ("reduce_batch", {"low": 0}), ("label_noise", {"high": 1.5}), ("noisy_gradient", {"low": -1}),
        ("delay_gradient", {"high": 0}),
    ],
)  # fmt: skip
def test_settings_out_of_range(name, settings):
    with pytest.raises(InputError):
        AUGMENTATIONS[name](**settings)
