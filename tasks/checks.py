"""Checks of the numbers that people set: finite, in range, and affordable. Each raises InputError in one line.

Families call them when they are made, before anything is read, traced or built. A bound that is not a family's own is
here.
"""

import itertools
from typing import Any

from lopt.distributed import machine_memory
from lopt.names import InputError

LARGEST_WHOLE = 2**31 - 1  # JAX counts in int32
SMALLEST, LARGEST = 1e-18, 1e18  # the squares of numbers in between are float32, neither 0 nor infinite
MOST_LAYERS = 1000  # every layer is traced and compiled by itself


def check_whole(family: Any, *, most: int = LARGEST_WHOLE, **least: int) -> None:
    """Each named setting of a family is a whole number from the given value to `most`."""
    for setting, lowest in least.items():
        value = getattr(family, setting)
        if type(value) is not int or value < lowest:
            raise InputError(f"{setting} must be a whole number of at least {lowest}, not {show(value)}")
        if value > most:
            raise InputError(f"{setting} must be a whole number of at most {most:,}, not {show(value)}")


def check_number(family: Any, **least: float) -> None:
    """Each named setting of a family is a number of at least the given value, and 0 or within float32's range."""
    for setting, lowest in least.items():
        value = getattr(family, setting)
        if type(value) not in (int, float) or not value >= lowest:
            raise InputError(f"{setting} must be a number of at least {lowest:g}, not {show(value)}")
        if value != 0 and not SMALLEST <= value <= LARGEST:
            raise InputError(f"{setting} must lie between {SMALLEST:g} and {LARGEST:g}, not be {show(value)}")


def check_positive(family: Any, *settings: str, most: float = LARGEST) -> None:
    """Each named setting of a family is a number above 0 and at most `most`."""
    for setting in settings:
        value = getattr(family, setting)
        if type(value) not in (int, float) or not value > 0:
            raise InputError(f"{setting} must be a positive number, not {show(value)}")
        if not SMALLEST <= value <= most:
            raise InputError(f"{setting} must lie between {SMALLEST:g} and {most:g}, not be {show(value)}")


def check_range(low: float, high: float, names: str = "low and high") -> None:
    """Numbers can be drawn log-uniformly from `low` to `high`."""
    right = all(type(value) in (int, float) for value in (low, high)) and SMALLEST <= low <= high <= LARGEST
    if not right:
        given = f"{show(low)} and {show(high)}"
        raise InputError(f"{names} must be numbers with 0 < low <= high, within 1e-18 and 1e18, not {given}")


def check_widths(family: Any, setting: str = "hidden_sizes") -> None:
    """The named setting of a family is a tuple of widths, each positive; it may be empty."""
    widths = getattr(family, setting)
    if not isinstance(widths, tuple) or any(type(width) is not int or width < 1 for width in widths):
        raise InputError(f"{setting} must be a tuple of positive whole numbers such as (32,), not {show(widths)}")
    if len(widths) > MOST_LAYERS or any(width > LARGEST_WHOLE for width in widths):
        limits = f"{MOST_LAYERS:,} widths of at most {LARGEST_WHOLE:,}"
        raise InputError(f"{setting} must be at most {limits}, not {show(widths)}")


def check_memory(family: Any, **numbers: int) -> None:
    """The arrays that a family needs at least fit into this machine's memory.

    Args:
      family: named in the message.
      numbers: by what they are, how many float32 numbers one training has at once; a lower bound will do.
    """
    needed, held = 4 * sum(numbers.values()), machine_memory()
    if needed > held:
        most = max(numbers, key=lambda what: numbers[what])
        raise InputError(
            f"{family.name} needs at least {needed / 1e9:,.3g} GB of memory, most of it for {most}, and this machine "
            f"has {held / 1e9:,.3g} GB: choose smaller settings"
        )


def mlp_numbers(sizes: tuple[int, ...], batch_size: int) -> dict[str, int]:
    """For `check_memory`: weights, and the widest layer's outputs, of an MLP from sizes[0] to sizes[-1] numbers."""
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    return {"parameters": weights, "the layers of a batch": batch_size * max(sizes)}


def show(value: Any) -> str:
    """The value as a person would write it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
