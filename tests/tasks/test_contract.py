"""What every task family does: one table, one row a family."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.types import SPLITS
from tasks import AUGMENTATIONS, FAMILIES, parse_tasks

# What is trained, Adam's learning rate, and a bound for the normalised loss after 50 steps (mean of the last ten and of
# three tasks): twice what was seen, or half of the way from there to 1, whichever is less.
FAMILY_ROWS = {
    "image_mlp/digits": (0.03, 0.08),
    "image_conv/digits:widths=(4,8):batch_size=32": (0.03, 0.87),
    "image_vit/digits:width=16:depth=1": (0.03, 0.74),
    "image_mixer/digits:width=16:depth=1": (0.03, 0.44),
    "image_autoencoder/digits": (0.01, 0.58),
    "image_vae/digits": (0.01, 0.8),
    "random_mlp": (0.03, 0.25),
    "text_rnn/python_docs:width=32": (0.03, 0.77),
    "text_transformer/python_docs:width=16:depth=1": (0.01, 0.82),
    "sequence:length=4": (0.03, 0.55),
    "table_mlp/breast_cancer": (0.03, 0.08),
    "table_mlp/autompg:hidden_sizes=()": (0.03, 0.43),
    "matrix_factorization/breast_cancer:rank=2": (0.1, 0.82),
    "quadratic": (0.1, 0.04),
    "test_function": (0.03, 0.12),
    "least_squares": (0.03, 0.07),
    "image_contrastive/digits": (0.03, 0.82),
    "text_bilinear/python_docs:length=16:batch_size=8": (0.1, 0.8),
    "forecast": (0.03, 0.12),
    "table_denoiser/wine": (0.03, 0.76),
    "teacher_student": (0.01, 0.41),
    "poisson": (0.01, 0.17),
    "train_optimizer[learnable_adam][quadratic]": (0.1, 0.68),
}
AUGMENTATION_ROWS = {  # together, so that few programs hold all of them
    "image_mlp/digits+reparametrize:level=parameter:low=0.5:high=2+scale_loss+permute_labels": (0.01, 0.13),
    "image_mlp/digits+reduce_batch+label_noise:high=0.2+noisy_gradient+delay_gradient:high=2": (0.01, 0.87),
}
SLOW_ROWS = {  # more ways through the same families, and each augmentation alone
    "image_mlp/digits:layer_norm=True:activation=gelu": (0.03, 0.06),
    "image_conv/digits:widths=(4,8):batch_size=32:residual=True:norm=group": (0.03, 0.89),
    "text_rnn/python_docs:width=32:cell=gru": (0.03, 0.76),
    "sequence:problem=parity:model=transformer:length=4:depth=1": (0.01, 0.76),
    "image_mlp/digits+reparametrize:level=parameter:low=0.5:high=2": (0.01, 0.12),
    "image_mlp/digits+scale_loss": (0.01, 0.13),
    "image_mlp/digits+reduce_batch": (0.01, 0.29),
    "image_mlp/digits+label_noise": (0.01, 0.63),
    "image_mlp/digits+permute_labels": (0.01, 0.13),
    "image_mlp/digits+noisy_gradient": (0.01, 0.13),
    "image_mlp/digits+delay_gradient": (0.01, 0.56),
}
ROWS = {**FAMILY_ROWS, **AUGMENTATION_ROWS, **SLOW_ROWS}
KEYS = jax.random.split(jax.random.key(5), 3)


class Start(NamedTuple):
    """A task before training: batches by split, and what the task makes of that of the train split."""

    batches: Any
    params: Any
    grads: Any
    loss: Any
    norm: Any
    slopes: Any
    metrics: Any


def norm_of(grads):
    return jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))


@functools.partial(jax.jit, static_argnames="family")
def start_together(family, data, keys):
    """The starts of several tasks, vmapped; `slopes` are those of the loss along the gradient, by two differences."""

    def start(key):
        config = family.sample(key)
        task = family.task(config)
        key = jax.random.fold_in(key, 0)
        batches = {split: family.sample_batch(data, key, config, split) for split in SPLITS}
        params = task.init(key)
        loss = lambda params: task.loss(params, key, batches["train"])  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        norm = norm_of(grads)
        steps = jnp.array([1e-3, -1e-3, 1e-2, -1e-2])
        along = jax.lax.map(lambda s: loss(jax.tree.map(lambda p, g: p + s / norm * g, params, grads)), steps)
        metrics = task.metrics(params, key, batches["train"])
        slopes = (along[::2] - along[1::2]) / (2 * steps[::2])
        return Start(batches, params, grads, task.normalize(value), norm, slopes, metrics)

    return jax.vmap(start)(keys)


@functools.partial(jax.jit, static_argnames="family")
def train_alone(family, data, key, learning_rate):
    """50 steps of Adam on one task: normalised losses and norms of the gradients, [50] each."""
    config = family.sample(key)
    task = family.task(config)
    params = task.init(jax.random.fold_in(key, 0))
    optimizer = optax.chain(task.corrupt, optax.adam(learning_rate))

    def step(carry, t):
        params, state = carry
        step_key = jax.random.fold_in(key, t)
        batch = family.sample_batch(data, step_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, step_key, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (task.normalize(value), norm_of(grads))

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(50))[1]


@functools.cache
def load(name):
    """A family with its data, read once for all tests."""
    (family,) = parse_tasks(name, optimizers=OPTIMIZERS)
    return family, jax.tree.map(jnp.asarray, family.load())


@functools.cache
def started(name):
    """`Start` of three tasks, stacked."""
    return plain(start_together(*load(name), KEYS))


@functools.cache
def trained(name):
    """Losses and norms [3, 50] of the same tasks, each alone; and how many programs that compiled."""
    programs: Any = train_alone
    before = programs._cache_size()
    runs = [train_alone(*load(name), key, jnp.asarray(ROWS[name][0])) for key in KEYS]
    losses, norms = (np.stack(column) for column in zip(*runs, strict=True))
    return losses, norms, programs._cache_size() - before


# One test a row. All of a row in one worker, which reads its data and compiles its two programs once.
every_row = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xdist_group(name), *[pytest.mark.slow] * (name in SLOW_ROWS)])
        for name in ROWS
    ],
)


def plain(tree):
    """The tree in numpy, with typed keys as numbers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def as_bytes(batch, i):
    """The batch of task i of a stack."""
    return b"".join(x[i].tobytes() for x in jax.tree.leaves(batch))


def test_every_family_and_augmentation_has_a_row():
    text = " ".join([*FAMILY_ROWS, *AUGMENTATION_ROWS])
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
    batches = started(name).batches
    jax.tree.map(np.testing.assert_array_equal, batches, plain(start_together(*load(name), KEYS)).batches)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), batch) for batch in batches.values()]
    assert all(shape == shapes[0] for shape in shapes)
    if jax.tree.leaves(batches):  # else a function without data or noise
        assert len({as_bytes(batch, i) for batch in batches.values() for i in range(3)}) == 3 * len(SPLITS)


@every_row
def test_adam_trains_it_from_about_1_in_one_trace(name):
    losses, _, programs = trained(name)
    assert programs == 1
    assert losses.shape == (3, 50)
    assert np.isfinite(losses).all()
    assert 0.5 < losses[:, 0].mean() < 1.7
    assert losses[:, -10:].mean() < ROWS[name][1]


@every_row
def test_loss_and_gradient_at_the_start(name):
    """Finite, of the params' shapes, and the gradient is the slope of the loss along itself, by differences."""
    start = started(name)
    assert jax.tree.map(np.shape, start.params) == jax.tree.map(np.shape, start.grads)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(start.params))
    assert np.isfinite(start.loss).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(start.grads))
    assert all(np.isfinite(x).all() and x.shape == (3,) for x in start.metrics.values())
    ratios = start.slopes / start.norm[:, None]
    assert (np.abs(ratios - 1).min(axis=1) < 0.05).all()


@every_row
def test_vmapped_tasks_are_single_ones(name):
    losses, norms, _ = trained(name)
    np.testing.assert_allclose(started(name).loss, losses[:, 0], rtol=2e-3)
    np.testing.assert_allclose(started(name).norm, norms[:, 0], rtol=2e-3)


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
        ("quadratic+permute_labels", "needs a classification task, which quadratic is not"),
        ("image_vae/digits+scale_loss+permute_labels", "image_vae/digits\\+scale_loss is not"),
        ("image_autoencoder/digits+label_noise", "image_autoencoder/digits is not"),
        ("table_mlp/autompg+label_noise", "a classification task"),
        ("quadratic+reduce_batch", "several examples: quadratic has none"),
        ("quadratic+reparametrize:low=2:high=1", "0 < low <= high"),
        ("train_optimizer[adam][quadratic]", "unknown optimizer 'adam'"),
        ("train_optimizer[mlp]", "write train_optimizer\\[OPTIMIZER\\]\\[FAMILY"),
        ("train_optimizer[mlp][image_mlp]", "name a data set"),
    ],
)
def test_errors_for_people(text, message):
    with pytest.raises(InputError, match=message):
        parse_tasks(text, optimizers=OPTIMIZERS)


def test_loss_of_guessing_is_1():
    """ln C, ln 97, the variance: what `normalize` divides by, for families whose loss is not relative already."""
    for name, guess in (
        ("image_mlp/digits", math.log(10)), ("text_rnn/kjv", math.log(97)), ("table_mlp/wine", math.log(3)),
        ("table_mlp/autompg", 1.0),
    ):  # fmt: skip
        (family,) = parse_tasks(name)
        normalize = family.task(family.sample(jax.random.key(0))).normalize
        np.testing.assert_allclose(normalize(jnp.asarray(guess)), 1.0, rtol=1e-6)
