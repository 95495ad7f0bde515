"""Floating-point operations in the matrix products and convolutions of a function, counted in its jaxpr."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """2 operations per multiply-add of every product that is run; everything else counts nothing.

    A loop counts as often as it runs, and of the branches of a condition the largest counts. A loop whose length is
    known at run time only counts once.

    Args:
      function: a function of JAX.
      *arguments: arrays, or their shapes.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval, parameters["dimension_numbers"]
        return 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]
    inner = [_flops(jaxpr) for jaxpr in _jaxprs(parameters)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's parameters."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _jaxprs(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item)
