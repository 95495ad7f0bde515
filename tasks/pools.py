"""Named sets of tasks, and a mixture of tasks from its text.

Each task of `held_out` has a family or a data set that the pools to train on lack. So `held_out` measures what a
meta-training on them has not seen. Each task of `pool_valid` has a family that no other pool has: what chooses among
the thetas of a run is neither what it trains on nor what it is measured on.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lopt.names import InputError, split_list
from lopt.types import TaskFamily, TaskMixture

from .checks import LARGEST, SMALLEST
from .families import parse_family

POOLS: dict[str, tuple[str, ...]] = {
    # Small enough for a meta-training in minutes on two cores.
    "pool_small": (
        "2*image_mlp/digits",
        "2*image_mlp/mnist_5k",
        "image_mlp/digits:hidden_sizes=(16,16):activation=tanh",
        "image_conv/digits:widths=(8,)",
        "image_autoencoder/digits",
        "table_mlp/breast_cancer",
        "least_squares",
        "test_function",
    ),
    # Wide: sampled architectures, units, label noise and batch sizes, for a meta-training of hours.
    "pool_wide": (
        "4*random_mlp",
        "4*random_mlp+label_noise+reduce_batch+reparametrize",
        "2*random_mlp+reparametrize:level=tensor:low=0.01:high=100",
        "image_mlp/mnist_5k:hidden_sizes=(64,64):layer_norm=True",
        "image_mlp/patches:channels=3+permute_labels+scale_loss",
        "image_mlp/digits:activation=tanh+noisy_gradient",
        "image_mlp/mnist_5k+delay_gradient",
        "2*image_conv/mnist_5k+reparametrize:low=0.01:high=100",
        "image_conv/patches:channels=3:residual=True:norm=group",
        "image_conv/digits:residual=True:norm=layer",
        "image_autoencoder/mnist_5k+reparametrize:low=0.01:high=100",
        "image_autoencoder/patches",
        "text_rnn/python_source",
        "text_rnn/python_source:cell=gru+reparametrize:low=0.1:high=10",
        "table_mlp/breast_cancer+reparametrize",
        "table_mlp/wine:hidden_sizes=()",
        "table_mlp/autompg",
        "least_squares",
        "test_function+scale_loss",
    ),
    # Many kinds of networks, sizes, batches and units, each at 10 to 300 microseconds an inner step: a pool of which a
    # meta-training of minutes sees much.
    "pool_cheap": (
        "image_mlp/digits:hidden_sizes=():batch_size=32",
        "image_mlp/digits:hidden_sizes=(16,):batch_size=16",
        "image_mlp/digits:hidden_sizes=(16,16,16,16):layer_norm=True:batch_size=32",
        "image_mlp/digits:hidden_sizes=(32,16):activation=tanh:batch_size=64+reparametrize:low=0.1:high=10",
        "image_mlp/mnist_5k:hidden_sizes=(32,32):activation=tanh:batch_size=32",
        "image_mlp/mnist_5k:hidden_sizes=(64,):batch_size=8",
        "image_mlp/mnist_5k:hidden_sizes=(24,24):batch_size=32+label_noise",
        "image_mlp/patches:channels=3:hidden_sizes=(32,):batch_size=32",
        "image_conv/digits:widths=(4,8):batch_size=16",
        "image_conv/mnist_5k:widths=(8,):batch_size=16",
        "0.5*image_conv/patches:channels=3:widths=(8,):residual=True:norm=group:batch_size=8",
        "image_autoencoder/digits:hidden_sizes=(32,):batch_size=32",
        "image_autoencoder/patches:hidden_sizes=(32,):latent_size=4:activation=tanh:batch_size=16",
        "text_rnn/python_source:length=8:batch_size=8:width=16",
        "text_rnn/python_source:cell=gru:length=12:batch_size=4:width=16",
        "0.5*text_transformer/python_source:length=12:batch_size=8:width=16:depth=1",
        "table_mlp/breast_cancer:batch_size=32",
        "table_mlp/wine:hidden_sizes=(16,16):activation=tanh:batch_size=16",
        "table_mlp/autompg:hidden_sizes=(32,):batch_size=32",
        "least_squares",
        "test_function",
    ),
    # Cheap tasks of families that are in no other pool, to validate a meta-training on.
    "pool_valid": (
        "forecast",
        "text_bilinear/python_docs:length=16:batch_size=8",
        "image_contrastive/digits",
        "table_denoiser/wine",
        "table_denoiser/mnist1d:batch_size=32",
        "teacher_student:teacher_size=16",
        "poisson:waves=10",
    ),
    # Every family or data set here is missing from the pools to train on.
    "held_out": (
        "image_mlp/glyphs:size=14:hidden_sizes=(128,128)",
        "image_conv/glyphs:size=14",
        "image_conv/glyphs:size=14:residual=True:norm=group",
        "image_vit/mnist_5k:size=14",
        "image_vit/glyphs",
        "image_mixer/mnist_5k",
        "image_autoencoder/glyphs",
        "image_vae/mnist_5k",
        "text_rnn/kjv",
        "text_transformer/kjv",
        "text_transformer/python_docs",
        "sequence",
        "sequence:problem=modular",
        "table_mlp/mnist1d",
        "table_mlp/diabetes",
        "matrix_factorization/autompg",
        "quadratic",
        "train_optimizer",
    ),
}


def parse_mixture(
    text: str, *, data_dir: str | None = None, optimizers: Mapping[str, type[Any]] | None = None
) -> TaskMixture:
    """Reads a list of tasks, `[WEIGHT*]FAMILY[/DATASET][:setting=value]...[+AUGMENTATION...]`, separated by commas.

    A name in `POOLS` stands for all of its tasks, and a weight in front multiplies theirs. If a family has data sets
    and the text names none, it stands for one task on each of its default sets: `image_mlp:size=4` is
    `image_mlp/digits:size=4,image_mlp/mnist_5k:size=4`. The name of a resulting family stands for that family alone.

    Args:
      text: the list.
      data_dir: directory that holds the data sets; None for the default.
      optimizers: the learned optimizers that tasks may train, by name.

    Raises:
      InputError: nothing named, something named twice, an unknown name, a bad setting, or a set that is not prepared.
    """
    families: list[TaskFamily] = []
    weights: list[float] = []
    for weight, item in _items(text, 1.0):
        found = parse_family(item, data_dir, optimizers or {})
        families += found
        weights += [weight] * len(found)
    if not families:
        raise InputError(f"no task is named in {text!r}. python -m lopt tasks list shows what there is.")
    names = [family.name for family in families]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"named more than once: {', '.join(twice)}. To count a task twice, write 2*{twice[0]}")
    return TaskMixture(tuple(families), tuple(weights))


def parse_tasks(
    text: str, *, data_dir: str | None = None, optimizers: Mapping[str, type[Any]] | None = None
) -> tuple[TaskFamily, ...]:
    """The families of `parse_mixture`."""
    return parse_mixture(text, data_dir=data_dir, optimizers=optimizers).families


def _items(text: str, factor: float) -> Iterator[tuple[float, str]]:
    """The items of a list with their weights; pools are opened."""
    for item in split_list(text):
        match = re.fullmatch(r"(?:([^*]*)\*)?(.+)", item)
        assert match is not None  # an item is not empty
        try:
            weight = factor * (1.0 if match[1] is None else float(match[1]))
        except ValueError:
            weight = 0.0
        if not SMALLEST <= weight <= LARGEST:
            raise InputError(f"the weight {match[1]!r} in {item!r} must be a number above 0, as in 2*{match[2]}")
        if match[2] in POOLS:
            yield from _items(",".join(POOLS[match[2]]), weight)
        else:
            yield weight, match[2]
