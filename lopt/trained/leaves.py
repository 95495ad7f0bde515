"""Which leaves of params and gradients a rule reads, and how its answer is put back around the others.

Params may hold more than arrays: an Equinox model has functions, integers and settings as leaves, whose gradients are
None, and the leaves of a Flax NNX state are Variables. A rule sees neither. It gets plain trees of float32 arrays, with
None in the place of what has no gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.types import Params, PyTree

Path = tuple[Any, ...]  # JAX's key path of a leaf


class ReadUpdate(NamedTuple):
    """What a rule is given for one update.

    Attributes:
      grads: float32 arrays, with zeros for elements that are not finite.
      params: the parameters, a tree like `grads`; None for a rule that does not read them.
      all_finite: bool scalar, whether every element of the gradients was finite.
      answer: puts the rule's updates into the tree and the dtypes of the gradients.
    """

    grads: Params
    params: Params | None
    all_finite: jax.Array
    answer: Callable[[Params], optax.Updates]


def read_params(params: PyTree) -> Params:
    """The parameters as a rule sees them when a training begins.

    Raises:
      InputError: a leaf is complex, or there are leaves but none can have a gradient.
    """
    leaves, treedef = _flatten(params)
    read = [_as_float32("params", path, leaf) if is_inexact(leaf) else None for path, leaf in leaves]
    if all(leaf is None for leaf in read) and any(leaf is not None for _, leaf in leaves):
        raise _unreadable("params", *next((path, leaf) for path, leaf in leaves if leaf is not None))
    return jax.tree.unflatten(treedef, read)


def read_update(
    updates: optax.Updates, params: PyTree, *, reads_params: bool, was_begun_with: Callable[[Params], bool]
) -> ReadUpdate:
    """The gradients and the parameters as a rule sees them at an update.

    A leaf whose gradient is None or float0 is left out, and the answer holds the same there. If the state was begun
    with that leaf, however, the rule sees a gradient of zeros, because its state has a place for the leaf.

    Args:
      updates: gradients.
      params: parameters, a tree like `updates`; None if they are not at hand and `reads_params` is False.
      reads_params: whether the rule reads the parameters.
      was_begun_with: whether the state belongs to a tree of parameters that are None where they are left out.

    Raises:
      InputError: a leaf cannot be read, or gradients and parameters do not fit.
    """
    leaves, treedef = _flatten(updates)
    values: list[Any] = [None] * len(leaves) if params is None else _values_of_params(params, treedef, reads_params)
    grads: list[Any] = [
        None if _is_absent(grad) and not _is_wrong_float0(grad, value) else _as_float32("gradients", path, grad)
        for (path, grad), value in zip(leaves, values, strict=True)
    ]
    present = {i for i, grad in enumerate(grads) if grad is not None}
    unmoved = _begun_without_gradient(leaves, values, grads, treedef, was_begun_with)
    read: list[Any] = [None] * len(leaves)
    for i, (path, _) in enumerate(leaves):
        if reads_params and i in present | unmoved:
            read[i] = _as_float32("params", path, values[i])
            _check_shapes(path, grads[i], read[i])
        if i in unmoved:
            grads[i] = jnp.zeros(jnp.shape(values[i]), jnp.float32)
    finite: list[Any] = [None if grad is None else jnp.isfinite(grad) for grad in grads]
    clean = [None if ok is None else jnp.where(ok, grad, 0.0) for ok, grad in zip(finite, grads, strict=True)]
    whole = [jnp.all(finite[i]) for i in sorted(present)]
    all_finite = jnp.stack(whole).all() if whole else jnp.ones((), bool)

    def answer(steps: Params) -> optax.Updates:
        in_order = iter(jax.tree.leaves(steps))
        new: list[Any] = [None if grad is None else next(in_order) for grad in grads]
        for i, (_, grad) in enumerate(leaves):
            new[i] = new[i].astype(jnp.result_type(grad)) if i in present else grad
        return jax.tree.unflatten(jax.tree.structure(updates, is_leaf=_is_none), new)

    whole_params = jax.tree.unflatten(treedef, read) if reads_params else None
    return ReadUpdate(jax.tree.unflatten(treedef, clean), whole_params, all_finite, answer)


def _flatten(tree: PyTree) -> tuple[list[tuple[Path, Any]], Any]:
    """The leaves with their paths, and the structure; None is a leaf, and Flax NNX's Variables are taken off."""
    from flax import nnx  # here, so that `import lopt` does not import Flax

    return jax.tree_util.tree_flatten_with_path(nnx.as_pure(tree), is_leaf=_is_none)


def _values_of_params(params: PyTree, treedef: Any, reads_params: bool) -> list[Any]:
    leaves, structure = _flatten(params)
    if structure == treedef:
        return [leaf for _, leaf in leaves]
    if reads_params:
        raise InputError(f"gradients and params are different trees: {treedef} and {structure}")
    return [None] * treedef.num_leaves


def _begun_without_gradient(
    leaves: Sequence[tuple[Path, Any]],
    values: Sequence[Any],
    grads: Sequence[Any],
    treedef: Any,
    was_begun_with: Callable[[Params], bool],
) -> set[int]:
    """The leaves without a gradient that the state was begun with nevertheless, by their places.

    `init` sees no gradients, and a caller may give it a whole model, its arrays, or only what is trained.
    """
    absent = [i for i, grad in enumerate(grads) if grad is None]
    floats = {i for i in absent if is_inexact(values[i])}
    arrays = {i for i in floats if hasattr(values[i], "dtype")}
    for chosen in (set(), arrays, floats, floats - arrays) if absent else ():
        begun = [values[i] if i in chosen else grad for i, grad in enumerate(grads)]
        if was_begun_with(jax.tree.unflatten(treedef, begun)):
            return chosen
    if not absent:
        return set()
    where = jax.tree_util.keystr(leaves[absent[0]][0])
    raise InputError(
        f"params{where} has no gradient, and the state was begun with other params: give tx.init what tx.update gets"
    )


def _check_shapes(path: Path, grad: jax.Array | None, param: jax.Array) -> None:
    """Raises InputError if shapes differ, since a gradient would silently be broadcast to its parameter."""
    if grad is not None and grad.shape != param.shape:
        where = jax.tree_util.keystr(path)
        raise InputError(f"the gradient of params{where} has shape {grad.shape}, the parameter {param.shape}")


def _as_float32(what: str, path: Path, leaf: Any) -> jax.Array:
    if not is_inexact(leaf) or jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        raise _unreadable(what, path, leaf)
    return jnp.asarray(leaf).astype(jnp.float32)


def _unreadable(what: str, path: Path, leaf: Any) -> InputError:
    kind = jnp.result_type(leaf) if _is_number(leaf) else type(leaf).__name__
    how = "leave it out with optax.masked or optax.partition"
    if is_inexact(leaf):  # complex
        how = "wrap the optimizer in optax.contrib.split_real_and_imaginary, as docs/wrappers.md shows"
    where = jax.tree_util.keystr(path)
    return InputError(f"a learned optimizer takes real floating-point {what}, and {what}{where} is {kind}: {how}")


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _is_absent(grad: Any) -> bool:
    return grad is None or (_is_number(grad) and jnp.result_type(grad) == jax.dtypes.float0)


def _is_wrong_float0(grad: Any, value: Any) -> bool:
    """Whether a gradient that only integers have belongs to a parameter that is none."""
    return grad is not None and is_inexact(value)


def _is_number(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float | complex)


def is_inexact(leaf: Any) -> bool:
    """Whether there can be a gradient: the leaf is a real or complex floating-point array or number."""
    return _is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
