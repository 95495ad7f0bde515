"""What every task family does: one table, one row a family."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.testing.tasks import TaskTrials
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


@functools.cache
def trials(name):
    """The checks of a family; its data are read once for all tests."""
    (family,) = parse_tasks(name, optimizers=OPTIMIZERS)
    return TaskTrials(family, ROWS[name][0])


every_row = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_ROWS)) for name in ROWS]
)


def test_every_family_and_augmentation_has_a_row():
    text = " ".join([*FAMILY_ROWS, *AUGMENTATION_ROWS])
    assert all(text.startswith(name) or f" {name}" in text for name in FAMILIES)
    assert all(f"+{name}" in text for name in AUGMENTATIONS)


@every_row
def test_it_is_a_value_with_a_name_that_gives_it_back(name):
    family = trials(name).family
    assert parse_tasks(family.name, optimizers=OPTIMIZERS) == (family,)
    assert len({family, parse_tasks(family.name, optimizers=OPTIMIZERS)[0]}) == 1
    assert family.streams is False


@every_row
def test_batches_are_functions_of_their_key_and_differ_by_split(name):
    trials(name).check_batches()


@every_row
def test_adam_trains_it_from_about_1_in_one_trace(name):
    trials(name).check_training(ROWS[name][1])
    assert trials(name).trained[2] == 1


@every_row
def test_loss_and_gradient_at_the_start(name):
    """Finite, of the params' shapes, and the gradient is the slope of the loss along itself, by differences."""
    trials(name).check_start()
    assert {x.dtype for x in jax.tree.leaves(trials(name).started.params)} == {np.dtype(np.float32)}


@every_row
def test_vmapped_tasks_are_single_ones(name):
    trials(name).check_vmap()


@every_row
def test_it_trains_under_x64(name):
    """Data stay float32 and parameters become float64; the program is traced and not run."""
    trials(name).check_x64()


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
