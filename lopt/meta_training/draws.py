"""How an outer step draws its families, and how much each draw counts, so that the mean stays that over all of them.

A family is drawn with probability p_i, and its estimate g_i counts r_i = v_i / p_i, with v_i = w_i / sum_j w_j its
share in the objective: E[r g] = sum_i p_i r_i g_i = sum_i v_i g_i for any p. With `weight`, p_i = v_i and r_i = 1. With
`cost`, p_i is proportional to v_i / sqrt(c_i), with c_i the cost of an inner step: of all p it has the least variance
for its cost, (sum_i v_i^2 s_i / p_i) (sum_i p_i c_i), where the mean squares s_i of the families' estimates are equal
(Neyman 1934).

The cost is counted in the program and not measured: processes have to draw alike, and a run has to draw again what it
drew before it was stopped. c = FLOPs + 10,000 x operations, with an operation for each equation that is run: what is
small or sequential costs by its number of operations, and FLOPs alone miss it. `python -m benchmarks.draws` compares
both with the clock. A cost that is wrong makes the draws less efficient, and nothing else.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

DRAWS = ("weight", "cost")
OPERATION = 1e4  # FLOPs in the time of an operation that has next to none


class Count(NamedTuple):
    """What a program runs.

    Attributes:
      flops: 2 for each product of a matrix product or convolution, 1 for each other floating-point number computed.
      operations: equations.
    """

    flops: float
    operations: float

    @property
    def cost(self) -> float:
        """The time that it stands for, in FLOPs."""
        return self.flops + OPERATION * self.operations


def count(jaxpr: Any) -> Count:
    """Counts a jaxpr: the body of a scan as often as it runs, of several branches the most expensive, and the body of a
    loop whose length is known at run time once."""
    total = Count(0.0, 0.0)
    for equation in jaxpr.eqns:
        inner = [count(sub) for sub in jaxprs_in_params(equation.params)]
        if not inner:
            one = Count(_flops(equation), 1.0)
        elif equation.primitive.name == "cond":
            one = max(inner, key=lambda x: x.cost)
        else:
            times = equation.params.get("length", 1)
            one = Count(times * sum(x.flops for x in inner), times * sum(x.operations for x in inner))
        total = Count(total.flops + one.flops, total.operations + one.operations)
    return total


def _flops(equation: Any) -> float:
    """FLOPs of an equation that has no jaxpr of its own."""
    outs = sum(math.prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape"))
    name = equation.primitive.name
    if name == "dot_general":
        ((contracted, _), _) = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * outs * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        return 2 * outs * math.prod(kernel) / kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return outs if jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating) else 0.0


class Odds(NamedTuple):
    """How often each family of a mixture is drawn, and what it counts; arguments of programs, float32 `[families]`.

    Attributes:
      chances: p, probabilities of a draw.
      ratios: r, how much the estimate of a family counts where it is drawn.
    """

    chances: np.ndarray | jax.Array
    ratios: np.ndarray | jax.Array


def odds(weights: list[float], costs: list[float]) -> Odds:
    """Odds of draws by weight over the square root of the cost.

    Args:
      weights: w, of any sum.
      costs: c, above 0.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    chances = shares / np.sqrt(np.asarray(costs, np.float64))
    chances /= chances.sum()
    return Odds(chances.astype(np.float32), (shares / chances).astype(np.float32))
