"""What every task family does: one table, one row a family."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.types import SPLITS
from tasks import AUGMENTATIONS, FAMILIES, parse_tasks
from tasks.page import adam_losses

# What is trained, and a bound for its normalised loss after 50 steps of Adam at 1e-2, the mean of the last ten: about
# twice what was seen, or half of the way from 1. The augmented rows vary the units or the labels, so theirs are looser.
FAMILY_ROWS = {
    "image_mlp/digits": 0.15,
    "image_conv/digits:widths=(4,8):batch_size=32": 0.97,
    "image_vit/digits:width=16:depth=1": 0.8,
    "image_mixer/digits:width=16:depth=1": 0.5,
    "image_autoencoder/digits": 0.6,
    "image_vae/digits": 0.9,
    "random_mlp": 0.8,
    "text_rnn/python_docs:width=32": 0.8,
    "text_transformer/python_docs:width=16:depth=1": 0.85,
    "sequence:length=4": 0.95,
    "table_mlp/breast_cancer": 0.3,
    "table_mlp/autompg:hidden_sizes=()": 0.7,
    "matrix_factorization/breast_cancer:rank=2": 1.15,
    "quadratic": 0.75,
    "test_function": 0.7,
    "least_squares": 0.5,
    "train_optimizer[learnable_adam][quadratic]": 1.0,
}
VARIANT_ROWS = {  # more ways through the same families: in the slow tests
    "image_mlp/digits:layer_norm=True:activation=gelu": 0.15,
    "image_conv/digits:widths=(4,8):batch_size=32:residual=True:norm=group": 0.95,
    "text_rnn/python_docs:width=32:cell=gru": 0.8,
    "sequence:problem=parity:model=transformer:length=4:depth=1": 1.05,
}
AUGMENTATION_ROWS = {
    "image_mlp/digits+reparametrize:level=parameter:low=0.5:high=2": 0.5,
    "image_mlp/digits+scale_loss": 0.15,
    "image_mlp/digits+reduce_batch": 0.9,
    "image_mlp/digits+label_noise": 0.9,
    "image_mlp/digits+permute_labels": 0.2,
    "image_mlp/digits+noisy_gradient": 0.9,
    "image_mlp/digits+delay_gradient": 0.9,
}
ROWS = {**FAMILY_ROWS, **VARIANT_ROWS, **AUGMENTATION_ROWS}
LOADED: dict[str, tuple] = {}


def load(name):
    """A family with its data, read once for all tests."""
    if name not in LOADED:
        (family,) = parse_tasks(name, optimizers=OPTIMIZERS)
        LOADED[name] = family, jax.tree.map(jnp.asarray, family.load())
    return LOADED[name]


def rows(*tables):
    """One test a row; those of variants are slow ones. All of a row in one worker, which reads its data once."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.xdist_group(name), *[pytest.mark.slow] * (name in VARIANT_ROWS)])
            for table in tables
            for name in table
        ],
    )


every_row = rows(FAMILY_ROWS, VARIANT_ROWS, AUGMENTATION_ROWS)
every_family = rows(FAMILY_ROWS, VARIANT_ROWS)


def plain(tree):
    """The tree with typed keys as numbers, which numpy can compare."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def test_every_family_and_augmentation_has_a_row():
    text = " ".join(ROWS)
    assert all(text.startswith(name) or f" {name}" in text for name in FAMILIES)
    assert all(f"+{name}" in text for name in AUGMENTATIONS)


@every_row
def test_it_is_a_value_with_a_name_that_gives_it_back(name):
    family, _ = load(name)
    assert parse_tasks(family.name, optimizers=OPTIMIZERS) == (family,)
    assert len({family, parse_tasks(family.name, optimizers=OPTIMIZERS)[0]}) == 1
    assert family.streams is False


@every_row
def test_batches_are_functions_of_their_key_and_differ_by_split(name):
    family, data = load(name)
    config = family.sample(jax.random.key(0))
    draw = jax.jit(family.sample_batch, static_argnames="split")
    batches = {split: plain(draw(data, jax.random.key(1), config, split)) for split in SPLITS}
    again = plain(draw(data, jax.random.key(1), config, "train"))
    jax.tree.map(np.testing.assert_array_equal, batches["train"], again)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), batch) for batch in batches.values()]
    assert all(shape == shapes[0] for shape in shapes)
    if not jax.tree.leaves(batches["train"]):
        return  # a function without data or noise
    flat = [b"".join(x.tobytes() for x in jax.tree.leaves(batch)) for batch in batches.values()]
    assert len(set(flat)) == len(SPLITS)
    other = plain(draw(data, jax.random.key(2), config, "train"))
    assert b"".join(x.tobytes() for x in jax.tree.leaves(other)) != flat[0]


@every_row
def test_adam_trains_it_from_about_1_in_one_trace(name):
    family, data = load(name)
    programs: Any = adam_losses
    before = programs._cache_size()
    losses = np.stack([adam_losses(family, data, jax.random.key(i), jnp.asarray(1e-2), 50) for i in range(3)])
    assert programs._cache_size() == before + 1
    assert losses.shape == (3, 50)
    assert np.isfinite(losses).all()
    assert 0.5 < losses[:, 0].mean() < 1.7
    assert losses[:, -10:].mean() < ROWS[name]


@every_family
def test_loss_and_gradient_at_the_start(name):
    """Finite, of the params' shapes, and the gradient is the slope of the loss along itself, by differences."""
    family, data = load(name)

    @jax.jit
    def at_start(key, step):
        config = family.sample(key)
        task = family.task(config)
        batch = family.sample_batch(data, key, config, "train")
        params = task.init(key)
        value, grads = jax.value_and_grad(task.loss)(params, key, batch)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
        moved = [jax.tree.map(lambda p, g, s=s: p + s * step / norm * g, params, grads) for s in (1, -1)]
        slope = (task.loss(moved[0], key, batch) - task.loss(moved[1], key, batch)) / (2 * step)
        return params, grads, task.normalize(value), norm, slope, task.metrics(params, key, batch)

    params, grads, value, norm, _, metrics = at_start(jax.random.key(3), 1e-2)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, grads)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert all(np.isfinite(x) and jnp.shape(x) == () for x in metrics.values())
    slopes = [float(at_start(jax.random.key(3), step)[4]) for step in (1e-3, 1e-2)]
    assert min(abs(slope / norm - 1) for slope in slopes) < 0.05


@every_family
def test_vmapped_tasks_are_single_ones(name):
    family, data = load(name)
    keys = jax.random.split(jax.random.key(5), 3)

    def loss_and_norm(data, key):
        config = family.sample(key)
        task = family.task(config)
        value, grads = jax.value_and_grad(task.loss)(
            task.init(key), key, family.sample_batch(data, key, config, "meta")
        )
        return task.normalize(value), jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))

    together = jax.jit(jax.vmap(loss_and_norm, in_axes=(None, 0)))(data, keys)
    single = jax.jit(loss_and_norm)
    alone = [single(data, key) for key in keys]
    for i, column in enumerate(together):
        np.testing.assert_allclose(column, [row[i] for row in alone], rtol=2e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no task is named"),
        ("image_mlpp", "Did you mean 'image_mlp'"),
        ("image_mlp/digits,image_mlp/digits", "more than once.*2\\*image_mlp/digits"),
        ("image_mlp/kjv", "a text, not labelled images"),
        ("text_rnn/digits", "labelled images, not a text"),
        ("table_mlp/digits", "labelled images, not a table"),
        ("quadratic/digits", "write quadratic, not quadratic/digits"),
        ("quadratic:dim=3", "Did you mean 'dimension'"),
        ("x*quadratic", "weight 'x'.*2\\*quadratic"),
        ("0*quadratic", "above 0"),
        ("quadratic+reparam", "Did you mean 'reparametrize'"),
        ("quadratic+permute_labels", "quadratic is none"),
        ("quadratic+reparametrize:low=2:high=1", "0 < low <= high"),
        ("train_optimizer[adam][quadratic]", "unknown optimizer 'adam'"),
        ("train_optimizer[mlp]", "write train_optimizer\\[OPTIMIZER\\]\\[FAMILY"),
        ("train_optimizer[mlp][image_mlp]", "name a data set"),
    ],
)
def test_errors_for_people(text, message):
    with pytest.raises(InputError, match=message):
        parse_tasks(text, optimizers=OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [("quadratic+label_noise", "a task with labels"), ("quadratic+reduce_batch", "several examples")],
)
def test_augmentations_that_do_not_fit_say_so_when_a_batch_is_drawn(text, message):
    (family,) = parse_tasks(text)
    config = family.sample(jax.random.key(0))
    with pytest.raises(InputError, match=message):
        family.sample_batch({}, jax.random.key(0), config, "train")


def test_loss_of_guessing_is_1():
    """ln C, ln 97, the variance: what `normalize` divides by, for families whose loss is not relative already."""
    for name, guess in (
        ("image_mlp/digits", math.log(10)), ("text_rnn/kjv", math.log(97)), ("table_mlp/wine", math.log(3)),
        ("table_mlp/autompg", 1.0),
    ):  # fmt: skip
        (family,) = parse_tasks(name)
        normalize = family.task(family.sample(jax.random.key(0))).normalize
        np.testing.assert_allclose(normalize(jnp.asarray(guess)), 1.0, rtol=1e-6)
