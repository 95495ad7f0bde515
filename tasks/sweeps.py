"""One task along an axis: how does an optimizer do on wider, deeper, otherwise scaled versions of a task?"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from lopt.names import InputError, check_known
from lopt.types import TaskFamily

from . import datasets
from .augmentations.augmented import Augmented
from .families import FAMILIES, parse_family

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
DEPTHS = (1, 2, 3, 4, 8)


def variants(family: TaskFamily, axis: str, *, data_dir: str | None = None) -> dict[str, TaskFamily]:
    """The task at every value along `axis`, by a label for each: `{"0.25 x": ..., "0.5 x": ...}`.

    Args:
      axis: one of `AXES`. Widths, batch sizes and initial scales are multiples of the task's own; depths are numbers of
        layers; data sets are the built-in ones of the same kind.

    Raises:
      InputError: an unknown axis, or a task that has no such setting.
    """
    check_known("axis of a sweep", axis, AXES)
    if isinstance(family, Augmented):
        inner = variants(family.family, axis, data_dir=data_dir)
        return {label: dataclasses.replace(family, family=found) for label, found in inner.items()}
    return AXES[axis](family, data_dir)


def _scaled(
    setting: tuple[str, ...], minimum: float, factors: tuple[float, ...] = FACTORS
) -> Callable[[Any, str | None], dict[str, TaskFamily]]:
    """Multiples of the first of these settings that the family has; whole numbers stay whole."""

    def scale(value: Any, factor: float) -> Any:
        if isinstance(value, tuple):
            return tuple(scale(x, factor) for x in value)
        return max(type(value)(round(value * factor, 9)), minimum) if isinstance(value, float | int) else value

    def along(family: Any, data_dir: str | None) -> dict[str, TaskFamily]:
        del data_dir
        name = _setting_of(family, setting)
        value = getattr(family, name)
        return {f"{factor:g} x": dataclasses.replace(family, **{name: scale(value, factor)}) for factor in factors}

    return along


def _depths(family: Any, data_dir: str | None) -> dict[str, TaskFamily]:
    del data_dir
    name = _setting_of(family, ("depth", "hidden_sizes"))
    value = getattr(family, name)
    return {
        str(depth): dataclasses.replace(family, **{name: depth if name == "depth" else value[:1] * depth})
        for depth in DEPTHS
    }


def _datasets(family: Any, data_dir: str | None) -> dict[str, TaskFamily]:
    head = re.match(r"(\w+)/([^:]+)", family.name)
    if head is None or head[1] not in FAMILIES:
        raise InputError(f"{family.name} reads no data set of one's choice: it cannot be swept over data sets")
    name, own = head.groups()
    kind = FAMILIES[name].kind
    names = [entry.info.name for entry in datasets.list_builtin(data_dir) if entry.info.kind == kind]
    found = {}
    for other in dict.fromkeys([own, *names]):
        (found[other],) = parse_family(f"{name}/{other}{family.name[head.end() :]}", data_dir, {})
    return found


def _setting_of(family: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if getattr(family, name, ()) != ():
            return name
    raise InputError(f"{family.name} has no {' or '.join(names)}: it cannot be swept along this axis")


AXES: dict[str, Callable[[Any, str | None], dict[str, TaskFamily]]] = {
    "width": _scaled(("hidden_sizes", "widths", "width"), 1, WIDTHS),
    "depth": _depths,
    "batch_size": _scaled(("batch_size",), 1),
    "init_scale": _scaled(("init_scale", "init_scales"), 0.0),
    "dataset": _datasets,
}
