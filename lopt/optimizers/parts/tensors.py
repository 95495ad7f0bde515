"""A function of every tensor of a model."""

import functools
from collections.abc import Callable, Hashable

import jax
from jax.core import Tracer
from jax.experimental.xla_metadata import set_xla_metadata

from lopt.trees import leaf_name
from lopt.types import Params, PyTree


def apart(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function`, traced and lowered once under jit, and on a CPU a call of its own in the compiled program.

    XLA would put it into each place, and into whatever reads its results: compiling takes time and memory in the square
    of the number of tensors then, and some results are computed twice.
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


def map_tensors(
    function: Callable[..., tuple],
    num_results: int,
    params: Params,
    *trees: PyTree,
    kind: Callable[[str, jax.Array], Hashable] = lambda path, param: None,
) -> tuple[PyTree, ...]:
    """`function(kind, param, *parts)` of every tensor, one tree like params for each of its results.

    Tensors of one kind and equal shapes are traced and lowered once.

    Args:
      function: of one tensor; gives a tuple.
      num_results: its length.
      params: the tensors.
      trees: like params, or deeper: what lies below a tensor's place is the part that its function is given.
      kind: of (path, param), the path as `layer/kernel`: what the function must know of the tensor when it is traced.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    parts = (treedef.flatten_up_to(tree) for tree in trees)
    functions: dict[Hashable, Callable[..., tuple]] = {}
    outputs = []
    for (path, param), *rest in zip(leaves, *parts, strict=True):
        what = kind(leaf_name(path), param)
        if what not in functions:
            functions[what] = apart(functools.partial(function, what))
        outputs.append(functions[what](param, *rest))
    return tuple(treedef.unflatten([output[i] for output in outputs]) for i in range(num_results))
