"""Checks of the settings that families share; each raises InputError, naming the setting and what is allowed."""

import math
from typing import Any

from lopt.names import InputError


def check_whole(family: Any, **least: int) -> None:
    """Each named setting of a family is a whole number of at least the given value."""
    for setting, lowest in least.items():
        value = getattr(family, setting)
        if type(value) is not int or value < lowest:
            raise InputError(f"{setting} must be a whole number of at least {lowest}, not {value!r}")


def check_number(family: Any, **least: float) -> None:
    """Each named setting of a family is a finite number of at least the given value."""
    for setting, lowest in least.items():
        value = getattr(family, setting)
        if type(value) not in (int, float) or not (lowest <= value < math.inf):
            raise InputError(f"{setting} must be a number of at least {lowest:g}, not {value!r}")


def check_widths(family: Any, setting: str = "hidden_sizes") -> None:
    """The named setting of a family is a tuple of widths, each positive; it may be empty."""
    widths = getattr(family, setting)
    if not isinstance(widths, tuple) or any(type(width) is not int or width < 1 for width in widths):
        raise InputError(f"{setting} must be a tuple of positive whole numbers such as (32,), not {widths!r}")
