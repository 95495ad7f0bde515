"""The pool of inner tasks: task families by name."""

import dataclasses
from typing import Any, NamedTuple

from lopt.names import InputError, build, check_known, parse_spec, split_list
from lopt.types import TaskFamily
from tasks import datasets
from tasks.image_mlp import ImageMLP

__all__ = ["FAMILIES", "Family", "parse_tasks"]


class Family(NamedTuple):
    """A row of the table of families.

    Attributes:
      constructor: a frozen dataclass that implements `TaskFamily`.
      datasets: the data sets that the family's name alone stands for; empty for a family that reads none.
    """

    constructor: type[Any]
    datasets: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "image_mlp": Family(ImageMLP, datasets=("digits", "mnist_5k")),
}

# Fields that are not written as settings: the data set stands in the name, and decides the number of classes.
_NOT_SETTINGS = frozenset({"dataset", "num_classes", "data_dir"})


def parse_tasks(text: str, *, data_dir: str | None = None) -> tuple[TaskFamily, ...]:
    """Reads a list of task families, `family[/dataset][:setting=value...]`, separated by commas.

    A family that has data sets but names none stands for one family on each of its default sets:
    `image_mlp:size=4` is `image_mlp/digits:size=4,image_mlp/mnist_5k:size=4`. For each family of the result,
    `parse_tasks(family.name)` gives it back.

    Args:
      text: the list.
      data_dir: where data sets are looked for; None for the default.

    Raises:
      InputError: nothing named, something named twice, an unknown name, a bad setting, or a set that is not prepared.
    """
    families = [family for item in split_list(text) for family in _parse_item(item, data_dir)]
    if not families:
        raise InputError(f"no task is named in {text!r}. Families: {', '.join(sorted(FAMILIES))}.")
    names = [family.name for family in families]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"named more than once: {', '.join(twice)}")
    return tuple(families)


def _parse_item(item: str, data_dir: str | None) -> list[TaskFamily]:
    spec = parse_spec(item)
    name, slash, dataset = spec.name.partition("/")
    check_known("task family", name, FAMILIES)
    row = FAMILIES[name]
    settings = {field.name for field in dataclasses.fields(row.constructor)} - _NOT_SETTINGS
    for key in spec.settings:
        check_known(f"setting of task family {name!r}:", key, settings)
    table = {name: row.constructor}
    if not row.datasets:
        if slash:
            raise InputError(f"task family {name!r} reads no data set: write {name}, not {spec.name}")
        return [build("task family", spec._replace(name=name), table)]
    families = []
    for chosen in [dataset] if slash else row.datasets:
        info = datasets.describe(chosen, data_dir)
        found = {"dataset": chosen, "num_classes": info.num_classes, "data_dir": data_dir}
        families.append(build("task family", spec._replace(name=name), table, **found))
    return families
