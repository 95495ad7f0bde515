"""What an inner problem, its theta and an estimator's state must look like: checked while tracing, before they run.

Each check evaluates shapes only. JAX keeps the shapes of a function that it has met, so checking costs one trace.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


def check(problem: InnerProblem, theta: Theta) -> None:
    """Raises InputError unless theta can be perturbed and the problem's functions fit it and each other."""
    check_theta(theta)
    key = jax.eval_shape(lambda: jax.random.key(0))
    horizon = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(problem.init, theta, key, horizon)
    check_step(problem, theta, state, key)
    if problem.evaluate is not None:
        _check_loss("evaluate(theta, state, key)", jax.eval_shape(problem.evaluate, theta, state, key))


def loss_dtype(problem: InnerProblem, theta: Theta) -> jnp.dtype:
    """The dtype of the loss of a step; shapes only."""
    key, horizon = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    return check_step(problem, theta, jax.eval_shape(problem.init, theta, key, horizon), key)


def check_theta(theta: Theta) -> None:
    """Raises InputError unless theta is a pytree of floating-point arrays, with one number or more."""
    leaves = jax.tree.leaves_with_path(theta)
    for path, leaf in leaves:
        if not isinstance(leaf, float) and not _is(leaf, jnp.floating):
            raise InputError(
                f"theta must consist of floating-point arrays, and theta{jax.tree_util.keystr(path)} is "
                f"{_describe(leaf)}: keep what cannot be trained outside of theta"
            )
    if not sum(jnp.size(leaf) for _, leaf in leaves):
        raise InputError("theta holds no number, so there is nothing to train")


def check_step(problem: InnerProblem, theta: Theta, state: PyTree, key: Any) -> jnp.dtype:
    """The dtype of the loss that `problem.step` returns.

    Raises:
      InputError: the loss is not a floating-point scalar, or the new state is not of the old one's form.
    """
    result = jax.eval_shape(problem.step, theta, state, key)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(f"step(theta, state, key) must return (state, loss), not {_describe(result)}")
    new_state, loss = result
    _check_same_form(state, new_state)
    _check_loss("the loss of step(theta, state, key)", loss)
    return loss.dtype


def is_capped(problem: InnerProblem, state: PyTree, loss: jax.Array) -> jax.Array:
    """Whether the loss of the step that led to `state` is at the problem's cap."""
    if problem.cap is None:
        return jnp.zeros((), bool)
    if problem.weight is None:
        return loss >= problem.cap
    return loss >= (1 - 1e-6) * problem.cap * problem.weight(state)  # a product may round either way


def check_call(num_pairs: int, state: PyTree, key: Any) -> None:
    """Raises InputError unless `state` is of this many pairs and `key` is one key."""
    check_key(key)
    for path, leaf in jax.tree.leaves_with_path(state):
        if jnp.shape(leaf)[:1] != (num_pairs,):
            raise InputError(
                f"an estimator's state has a leading axis of its num_pairs, {num_pairs}, and "
                f"state{jax.tree_util.keystr(path)} is {_describe(leaf)}: pass the state of this estimator's init"
            )


def check_key(key: Any) -> None:
    """Raises InputError unless `key` is one key of `jax.random.key`."""
    if not _is(key, jax.dtypes.prng_key) or key.shape:
        raise InputError(f"key must be one key, as jax.random.key(0) makes it, not {_describe(key)}")


def _check_loss(what: str, loss: Any) -> None:
    if not _is(loss, jnp.floating) or loss.shape:
        raise InputError(
            f"{what} must be a floating-point scalar, not {_describe(loss)}: "
            "take the mean over a batch, and convert counts to float"
        )


def _check_same_form(before: PyTree, after: PyTree) -> None:
    """Raises InputError unless two states have one structure, and their leaves equal shapes and dtypes."""
    problem = "step must return a state like the one that it is given (in the end, that of init)"
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise InputError(f"{problem}: {jax.tree.structure(before)} became {jax.tree.structure(after)}")
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (jnp.shape(old), jnp.result_type(old)) != (new.shape, new.dtype):
            leaf = f"state{jax.tree_util.keystr(path)}"
            raise InputError(f"{problem}: {leaf} was {_describe(old)} and became {_describe(new)}")


def _is(x: Any, kind: Any) -> bool:
    """Whether x is an array, or the shape of one, whose dtype is of this kind."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, kind)


def _describe(x: Any) -> str:
    """`float32[3]` for an array, the type for anything else."""
    if not hasattr(x, "dtype"):
        return f"a {type(x).__name__}"
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"
