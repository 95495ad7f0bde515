"""The table of task families, and one family from its text."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lopt.names import InputError, build, check_known, parse_spec
from lopt.own import foreign
from lopt.types import TaskFamily

from . import datasets
from .augmentations import AUGMENTATIONS
from .augmentations.augmented import Augmentation, Augmented
from .functions.least_squares import LeastSquares
from .functions.poisson import Poisson
from .functions.quadratic import Quadratic
from .functions.teacher_student import TeacherStudent
from .functions.test_function import TestFunction
from .images.image_autoencoder import ImageAutoencoder
from .images.image_contrastive import ImageContrastive
from .images.image_conv import ImageConv
from .images.image_mixer import ImageMixer
from .images.image_mlp import ImageMLP
from .images.image_vae import ImageVAE
from .images.image_vit import ImageViT
from .images.random_mlp import RandomMLP
from .naming import settings
from .sequences.forecast import Forecast
from .sequences.sequence import Sequence
from .sequences.text_bilinear import TextBilinear
from .sequences.text_rnn import TextRNN
from .sequences.text_transformer import TextTransformer
from .tables.matrix_factorization import MatrixFactorization
from .tables.table_denoiser import TableDenoiser
from .tables.table_mlp import TableMLP
from .train_optimizer import TrainOptimizer


class Family(NamedTuple):
    """A row of the table of families.

    Attributes:
      constructor: a frozen dataclass that implements `TaskFamily`.
      description: one line on what is trained.
      kind: what the data sets that people choose for it hold: image, text or table; empty if there is no choice.
      datasets: the data sets that the bare name of the family stands for.
    """

    constructor: type[Any]
    description: str
    kind: str = ""
    datasets: tuple[str, ...] = ()


_IMAGES = ("digits", "mnist_5k")
_TEXTS = ("python_docs",)

FAMILIES: dict[str, Family] = {
    "image_mlp": Family(ImageMLP, "multi-layer perceptron on images", "image", _IMAGES),
    "image_conv": Family(ImageConv, "convnet on images, plain or residual", "image", _IMAGES),
    "image_vit": Family(ImageViT, "vision transformer on images", "image", _IMAGES),
    "image_mixer": Family(ImageMixer, "MLP-mixer on images", "image", _IMAGES),
    "image_autoencoder": Family(ImageAutoencoder, "MLP autoencoder of images", "image", _IMAGES),
    "image_vae": Family(ImageVAE, "variational autoencoder of images", "image", _IMAGES),
    "image_contrastive": Family(ImageContrastive, "contrastive metric learning of images", "image", _IMAGES),
    "random_mlp": Family(RandomMLP, "perceptrons of sampled width, depth, activation, scale and data set"),
    "text_rnn": Family(TextRNN, "character language model, LSTM or GRU", "text", _TEXTS),
    "text_transformer": Family(TextTransformer, "character language model, transformer decoder", "text", _TEXTS),
    "text_bilinear": Family(TextBilinear, "character language model, embeddings alone", "text", _TEXTS),
    "sequence": Family(Sequence, "copying, addition, parity, modular arithmetic, by a recurrent net or transformer"),
    "forecast": Family(Forecast, "chaotic series, forecast by a recurrent net"),
    "table_mlp": Family(TableMLP, "perceptron or linear model on a table", "table", ("breast_cancer", "autompg")),
    "table_denoiser": Family(TableDenoiser, "denoising autoencoder of a table", "table", ("wine",)),
    "matrix_factorization": Family(MatrixFactorization, "low-rank factorisation of a table", "table", ("autompg",)),
    "quadratic": Family(Quadratic, "quadratics of sampled spectrum, with noisy gradients"),
    "test_function": Family(TestFunction, "Rosenbrock and other test functions"),
    "least_squares": Family(LeastSquares, "ill-conditioned least squares with sparse weights"),
    "teacher_student": Family(TeacherStudent, "deep narrow perceptron that fits a random network"),
    "poisson": Family(Poisson, "differential equation solved by a perceptron"),
    "train_optimizer": Family(TrainOptimizer, "meta-training of a learned optimizer: train_optimizer[OPTIMIZER][TASK]"),
}


def parse_family(text: str, data_dir: str | None, optimizers: Mapping[str, type[Any]]) -> list[TaskFamily]:
    """Reads `FAMILY[/DATASET][:setting=value]...[+AUGMENTATION[:setting=value]...]...`.

    If a family has data sets and the text names none, the result has one family for each of its default sets. The
    meta-task is `train_optimizer[OPTIMIZER][FAMILY...]`, with the specifications of both in brackets. A family may be
    other people's, `my_tasks.py:Spiral:turns=3` (`lopt.own.foreign`), and their code is then run.

    Args:
      optimizers: the learned optimizers that tasks may train, by name.

    Raises:
      InputError: an unknown name, a bad setting, a set that is not prepared, or an augmentation that does not fit.
    """
    head, *augmentations = re.split(r"\+(?![^\[]*\])", text)  # those outside of brackets
    families = _parse_plain(head.strip(), data_dir, optimizers)
    for augmentation in (build("augmentation", parse_spec(item), AUGMENTATIONS) for item in augmentations):
        families = [_augment(family, augmentation) for family in families]
    return families


def _augment(family: TaskFamily, augmentation: Augmentation) -> TaskFamily:
    return Augmented(family, augmentation)


def _parse_plain(text: str, data_dir: str | None, optimizers: Mapping[str, type[Any]]) -> list[TaskFamily]:
    text, inner = _take_inner(text, data_dir, optimizers)
    spec = parse_spec(text)
    if foreign.is_place(spec.name):
        return [foreign.make("task family", spec, FAMILIES, data_dir=data_dir)]
    name, slash, dataset = spec.name.partition("/")
    if name not in FAMILIES:
        return [foreign.make("task family", spec._replace(name=name), FAMILIES, data_dir=data_dir)]
    row = FAMILIES[name]
    for key in spec.settings:
        check_known(f"setting of task family {name!r}:", key, [field.name for field in settings(row.constructor)])
    table, spec = {name: row.constructor}, spec._replace(name=name)
    if row.datasets:
        sets = (dataset,) if slash else row.datasets
        return [build("task family", spec, table, **_found(chosen, row.kind, data_dir)) for chosen in sets]
    if slash:
        raise InputError(f"task family {name!r} takes no data set behind its name: write {name}, not {name}/{dataset}")
    return [build("task family", spec, table, data_dir=data_dir, **inner)]


_META_TASK = re.compile(r"(train_optimizer)(?:\[(?P<optimizer>[^\[\]]+)\]\[(?P<task>[^\[\]]+)\])?(?P<settings>:.*)?")


def _take_inner(text: str, data_dir: str | None, optimizers: Mapping[str, type[Any]]) -> tuple[str, Mapping[str, Any]]:
    """Splits the meta-task's text into the text without brackets, and the fields that the brackets stand for."""
    if not text.startswith("train_optimizer"):
        return text, {}
    match = _META_TASK.fullmatch(text)
    if match is None:
        raise InputError(f"cannot read {text!r}: write train_optimizer[OPTIMIZER][FAMILY/DATASET]:setting=value")
    optimizer, task = match["optimizer"] or "learnable_adam", match["task"] or "quadratic"
    families = _parse_plain(task, data_dir, optimizers)
    if len(families) > 1:
        raise InputError(f"{text!r} trains on one task: name a data set, such as {families[0].name}")
    inner = {
        "optimizer": foreign.make("optimizer", parse_spec(optimizer), optimizers),
        "optimizer_name": optimizer,
        "task_family": families[0],
    }
    return f"train_optimizer{match['settings'] or ''}", inner


def _found(dataset: str, kind: str, data_dir: str | None) -> dict[str, Any]:
    """The fields that a data set decides; `build` passes on those that the family has."""
    info = datasets.describe(dataset, data_dir)
    datasets.check_kind(info, kind)
    found = {"dataset": dataset, "num_classes": info.num_classes, "data_dir": data_dir}
    if info.kind == "table":
        found |= {"num_features": info.shape[0], "num_rows": sum(info.split_sizes.values())}
    return found
