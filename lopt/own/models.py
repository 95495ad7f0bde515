"""A model of any library as params: the arrays that are trained, by name, and the way back to the model.

What `init(key)` returns may be nested dicts, lists and tuples of floating-point arrays, as Flax Linen and plain JAX
have them: these are params as they are. Of anything else, such as a module of Flax NNX or Equinox, the floating-point
arrays are the params, by their names, and all the rest stays what it was at the start.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError
from lopt.trees import leaf_name
from lopt.types import Params, PyTree


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What of a model is trained, and how the model is put together again.

    Attributes:
      structure: of the model, a JAX tree; None where params are the model.
      names: the leaf's name for each that is trained, None for the others.
      constants: the others, None for each that is trained.
    """

    structure: Any = None
    names: tuple[str | None, ...] = ()
    constants: tuple[Any, ...] = ()

    def params(self, model: PyTree) -> Params:
        """The arrays of a model that are trained."""
        if self.structure is None:
            return model
        leaves = zip(self.names, jax.tree.leaves(model), strict=True)
        return {name: leaf for name, leaf in leaves if name is not None}

    def model(self, params: Params) -> PyTree:
        """The model with these params."""
        if self.structure is None:
            return params
        leaves = zip(self.names, self.constants, strict=True)
        return self.structure.unflatten([constant if name is None else params[name] for name, constant in leaves])


def dissect(init: Callable[[jax.Array], PyTree]) -> Anatomy:
    """Finds out what `init(key)` returns, without computing it where params are all that it returns.

    Raises:
      InputError: `init` fails, returns nothing that can be trained, or returns a key, which would never change.
    """
    seen: dict[str, Any] = {}

    def look() -> list[Any]:
        model = init(jax.random.key(0))
        with_paths, seen["structure"] = jax.tree.flatten_with_path(model)
        seen["leaves"] = [(leaf_name(path), leaf, _is_trained(leaf)) for path, leaf in with_paths]
        seen["plain"] = all(map(_is_trained, jax.tree.leaves(model, is_leaf=_is_foreign)))
        return [leaf for _, leaf, trained in seen["leaves"] if trained]

    try:
        jax.eval_shape(look)
    except Exception as error:  # whatever it raises
        raise InputError(f"init(key) fails: {type(error).__name__}: {error}") from error
    leaves = seen["leaves"]
    if not any(trained for *_, trained in leaves):
        raise InputError("init(key) must return params with at least one array of floating-point numbers")
    for name, leaf, _ in leaves:
        if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise InputError(
                f"init(key) returns a random key, {name}, which would be the same in every step: make the model "
                "without it, and draw from the key that loss gets (Flax NNX: module(x, rngs=nnx.Rngs(key)))"
            )
    if seen["plain"]:
        return Anatomy()
    values = _constants(init) if any(_is_array(leaf) and not trained for _, leaf, trained in leaves) else leaves
    return Anatomy(
        seen["structure"],
        tuple(name if trained else None for name, _, trained in leaves),
        tuple(None if trained else value for (*_, trained), (_, value, *_) in zip(leaves, values, strict=True)),
    )


def _constants(init: Callable[[jax.Array], PyTree]) -> list[tuple[str, Any]]:
    """The leaves of a model, computed: counters and other arrays that are not trained."""
    with jax.ensure_compile_time_eval():
        leaves = jax.tree.leaves(init(jax.random.key(0)))
    return [("", np.asarray(leaf) if _is_array(leaf) else leaf) for leaf in leaves]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_trained(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_foreign(node: Any) -> bool:
    """Whether this node of a tree is no dict, list or tuple."""
    return node is not None and not isinstance(node, dict | list | tuple)
