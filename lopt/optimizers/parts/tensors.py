"""A function applied to every tensor of a model."""

import functools
from collections.abc import Callable, Hashable

import jax

from lopt.optimizers.parts.xla import apart
from lopt.trees import leaf_name
from lopt.types import Params, PyTree


def map_tensors(
    function: Callable[..., tuple],
    num_results: int,
    params: Params,
    *trees: PyTree,
    kind: Callable[[str, jax.Array], Hashable] = lambda path, param: None,
) -> tuple[PyTree, ...]:
    """`function(kind, param, *parts)` of every tensor; each of its results becomes a tree like `params`.

    The function is traced and lowered once per kind and shape.

    Args:
      function: takes one tensor and returns a tuple.
      num_results: length of that tuple.
      params: the tensors.
      trees: trees like `params`, or deeper: whatever lies at a tensor's place is passed along with that tensor.
      kind: maps (path, param) to what the function must know about the tensor when it is traced; the path is written
        `layer/kernel`.
    """
    leaves, treedef = jax.tree.flatten_with_path(params)
    parts = (treedef.flatten_up_to(tree) for tree in trees)
    functions: dict[Hashable, Callable[..., tuple]] = {}
    outputs = []
    for (path, param), *rest in zip(leaves, *parts, strict=True):
        what = kind(leaf_name(path), param)
        if what not in functions:
            functions[what] = apart(functools.partial(function, what))
        outputs.append(functions[what](param, *rest))
    return tuple(treedef.unflatten([output[i] for output in outputs]) for i in range(num_results))
