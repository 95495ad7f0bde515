"""A function of every tensor of a model."""

import functools
from collections.abc import Callable, Hashable, Sequence

import jax
from jax.core import Tracer

from lopt.types import Params, PyTree


def path_name(path: Sequence) -> str:
    """`layer/kernel`, of a path of `jax.tree_util`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


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
    # Outside of jit each call would compile anew.
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, trees)))
    functions: dict[Hashable, Callable[..., tuple]] = {}
    outputs = []
    for (path, param), *rest in zip(leaves, *parts, strict=True):
        what = kind(path_name(path), param)
        if what not in functions:
            bound = functools.partial(function, what)
            functions[what] = jax.jit(bound) if traced else bound
        outputs.append(functions[what](param, *rest))
    return tuple(treedef.unflatten([output[i] for output in outputs]) for i in range(num_results))
