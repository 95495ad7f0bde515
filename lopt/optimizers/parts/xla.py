"""What XLA is told about a rule: where a function ends, what to compute once, and what to wait for.

Nothing here changes a number. It changes how much memory an update takes, how long it runs and how long it compiles:
`python -m benchmarks.memory` and the tests of working memory show what is lost without it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental.xla_metadata import set_xla_metadata

from lopt.types import PyTree


def apart(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function`, traced and lowered once under jit, and on a CPU a call of its own in the compiled program.

    Otherwise XLA copies its code to every place that calls it and into whatever reads its results. The time and memory
    of compiling then grow with the square of the number of tensors, and some results are computed twice.
    """
    jitted = jax.jit(function)

    def call(*args: PyTree) -> PyTree:
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args)):
            return function(*args)  # outside of jit each new function would compile anew
        results = jitted(*args)
        if jax.default_backend() != "cpu":
            return results
        (first, *others), structure = jax.tree.flatten(results)
        return structure.unflatten([set_xla_metadata(first, inlineable="false"), *others])  # one result marks the call

    return call


def once(tree: PyTree) -> PyTree:
    """The same arrays, computed once and kept.

    Without it, XLA may fuse what computes them into every pass that reads them, and compute it once per pass.
    """
    return jax.lax.optimization_barrier(tree)


def after(known: jax.Array, value: jax.Array | float) -> jax.Array:
    """The same number, which XLA cannot use before it has computed `known`.

    On a CPU, XLA removes optimization barriers before it decides the order of operations, so a wait has to be computed:
    the comparison below is never true, and XLA cannot know that. What reads `value` then runs after what reads the
    inputs of `known`; arrays that are needed by only one of the two can share their memory, or be updated in place.

    Args:
      known: numbers above -1e38, or NaN.
      value: a number.
    """
    return jnp.where(jnp.max(known) < -1e38, jnp.float32(0), jnp.asarray(value, jnp.float32))
