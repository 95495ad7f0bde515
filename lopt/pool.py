"""The one door from the library to the package `tasks`: task names become families here, and nowhere else in lopt.

`tasks` is imported when a name is read, so that `import lopt` stays light and your own families need no pool.
"""

import importlib
import types
from collections.abc import Sequence

from lopt.checkout import module_name
from lopt.extras import explained
from lopt.names import InputError, check_known, spell
from lopt.own import foreign
from lopt.own.task import OwnTask
from lopt.types import TaskFamily, TaskMixture


def read_mixture(
    tasks: str | TaskFamily | TaskMixture | Sequence[str | TaskFamily], data_dir: str | None = None
) -> TaskMixture:
    """Task families with their weights, from whatever form a person gives them in.

    Args:
      tasks: text as for `--tasks`, `[WEIGHT*]FAMILY[/DATASET][:setting=value]...[+AUGMENTATION...]` separated by
        commas, where a family may be one of a file or module (`lopt.own.foreign`); one family; a sequence of texts and
        families, each family with the weight 1; or a finished mixture.
      data_dir: where data sets are looked for; None for the default.

    Raises:
      InputError: no task, two tasks of one name, an object that is no task family, or a text that cannot be read.
    """
    if isinstance(tasks, TaskMixture):
        parts = [tasks]
    elif isinstance(tasks, Sequence) and not isinstance(tasks, str):
        parts = [_read_one(item, data_dir) for item in tasks]
    else:
        parts = [_read_one(tasks, data_dir)]
    families = tuple(family for part in parts for family in part.families)
    if not families:
        raise InputError("no task is named: give at least one, by name or as an object")
    names = [family.name for family in families]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two tasks have the name {twice[0]!r}: results are kept by name, so give each its own")
    return TaskMixture(families, tuple(weight for part in parts for weight in part.weights))


def spell_mixture(mixture: TaskMixture) -> str:
    """The text that stands for task families: `2*image_mlp/digits,my_tasks:Spiral:turns=3`.

    Families of lopt have the name that `--tasks` takes, and those of other people their module, class and settings.
    """
    pairs = zip(mixture.weights, mixture.families, strict=True)
    return ",".join(
        _spell_one(family) if weight == 1 else f"{weight:g}*{_spell_one(family)}" for weight, family in pairs
    )


def _spell_one(family: TaskFamily) -> str:
    if isinstance(family, OwnTask):
        return family.spelling
    inner = getattr(family, "family", None)  # of an augmented one
    if not f"{type(family).__module__}.".startswith(f"{module_name('lopt.tasks')}."):
        return spell(family, {})
    return family.name if inner is None else f"{_spell_one(inner)}{family.name.removeprefix(inner.name)}"


def sweep_axes() -> tuple[str, ...]:
    """The axes along which `task_variants` can vary a task."""
    return tuple(_pool().sweeps.AXES)


def task_variants(family: TaskFamily, axis: str, data_dir: str | None = None) -> dict[str, TaskFamily]:
    """The task at every value along an axis of `sweep_axes`, by a label for each: see `tasks.sweeps.variants`."""
    check_known("axis of a sweep", axis, sweep_axes())
    return _pool().sweeps.variants(family, axis, data_dir=data_dir)


def _read_one(item: str | TaskFamily, data_dir: str | None) -> TaskMixture:
    if isinstance(item, str):
        from lopt.optimizers import OPTIMIZERS  # here, as it imports Flax

        return _pool().parse_mixture(item, data_dir=data_dir, optimizers=OPTIMIZERS)
    foreign.check_members("task family", item, f"{item!r:.200}")
    return TaskMixture((item,), (1.0,))


def _pool() -> types.ModuleType:
    """The package `tasks`. Raises InputError where it, or a package that it needs, cannot be imported."""
    try:
        importlib.import_module(module_name("lopt.tasks.sweeps"))
        return importlib.import_module(module_name("lopt.tasks"))
    except ModuleNotFoundError as error:
        told = explained("reading the names of tasks", error)
        if told is error:
            told = InputError(
                f"task names are read by the package `tasks` of lopt, which cannot be imported here ({error}): install "
                "lopt, or run from a checkout without a tasks.py of your own, or give task families as objects"
            )
        raise told from error
