"""A learned optimizer as an optax transformation: what a training loop calls."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from lopt.names import InputError
from lopt.types import LearnedOptimizer, PyTree, Theta

MAX_STEPS = 2**31 - 1  # num_steps is an int32


class LearnedState(NamedTuple):
    """The state of `as_optax`.

    Attributes:
      theta: the meta-parameters. They are here and not in the closure, so that a jitted step takes them as an argument
        instead of holding them as constants of its program.
      inner: the state of the rule; its floating-point statistics are float32.
    """

    theta: Theta
    inner: PyTree


def as_optax(
    optimizer: LearnedOptimizer, theta: Theta, *, num_steps: int | jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """Wraps a learned optimizer: `updates, state = tx.update(grads, state, params, value=loss)`.

    Updates carry their sign and step size, and `optax.apply_updates` adds them to the parameters as they are. They have
    the dtype of the gradients; the rule itself works in float32. An input that the rule does not read
    (`optimizer.requires`) may be left out, and unknown keywords are ignored.

    Under gradient accumulation by `optax.MultiSteps(tx, k)`, the rule sees the mean gradient and the loss of the last
    of the k mini-batches; `num_steps` counts updates, not mini-batches.

    Call `init` outside `jit`: inside, a theta that is not an argument of the jitted function becomes a constant of its
    program.

    Parameters may be sharded over automatic or explicit axes. The update keeps the sharding of `init` and gathers no
    large tensor on one device, except `celo2` with `orthogonalize`.

    Args:
      optimizer: the rule and its settings.
      theta: meta-parameters of that rule.
      num_steps: length of the training in updates, needed only by a rule that reads it.

    Raises:
      InputError: the rule reads `num_steps` and it is missing, or `num_steps` is not a positive integer. At `init` and
        `update`: an input that the rule reads is missing, or is not what the rule can read.
    """
    name = type(optimizer).__name__
    if num_steps is not None:
        num_steps = _check_num_steps(num_steps)
    elif "num_steps" in optimizer.requires:
        raise InputError(f"{name} reads the length of the training: give num_steps, the number of its updates")

    def init(params: optax.Params) -> LearnedState:
        from flax import nnx  # here, so that `import lopt` does not import Flax

        # nnx.Optimizer gives Variables to init and bare arrays to update; a state built around Variables breaks there.
        params = nnx.as_pure(params)
        steps = jnp.asarray(num_steps, jnp.int32) if "num_steps" in optimizer.requires else None
        # Copied: the caller may donate the state, and this theta must outlive it.
        own_theta = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), theta)
        inner = optimizer.init(own_theta, _as_float32("params", params), num_steps=steps)
        return LearnedState(own_theta, _strongly_typed(inner))

    def update(
        updates: optax.Updates,
        state: Any,  # a LearnedState; optax's own type for states would not allow it
        params: optax.Params | None = None,
        *,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LearnedState]:
        del extra_args  # meant for other members of a chain
        inputs = {"params": params, "value": value}
        missing = [f"`{key}`" for key, x in inputs.items() if key in optimizer.requires and x is None]
        if missing:
            raise InputError(
                f"{name} reads {' and '.join(missing)}, which it was not given: call "
                "tx.update(grads, state, params, value=loss), through wrappers that pass value on "
                "(optax.MultiSteps(...) does, its gradient_transformation() does not)"
            )
        grads = _as_float32("gradients", updates)
        if "params" in optimizer.requires:
            params = _as_float32("params", params)
            _check_alike(grads, params)
        else:
            params = None
        loss = _as_loss(value) if "value" in optimizer.requires else None
        steps, inner = _update_in_auto_mode(optimizer, state.theta, grads, state.inner, params, loss)
        steps = jax.tree.map(lambda step, grad: step.astype(jnp.result_type(grad)), steps, updates)
        return steps, LearnedState(state.theta, _strongly_typed(inner))

    return optax.GradientTransformationExtraArgs(init, update)


def _update_in_auto_mode(
    optimizer: LearnedOptimizer, theta: Theta, grads: PyTree, inner: PyTree, params: PyTree, loss: jax.Array | None
) -> tuple[PyTree, PyTree]:
    """`optimizer.update`; on a mesh with explicit axes, results are sharded like grads and state, XLA decides the rest.

    The axes of `jax.make_mesh` are explicit by default. Shardings are then part of types, and JAX refuses operations
    whose sharding is open, such as a reshape across a sharded axis.
    """

    def update(theta: Theta, grads: PyTree, inner: PyTree, params: PyTree, loss: PyTree) -> tuple[PyTree, PyTree]:
        return optimizer.update(theta, grads, inner, params, value=loss)

    run: Any = update
    shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, (grads, inner))
    mesh = next((x.mesh for x in jax.tree.leaves(shardings) if x.mesh.explicit_axes), None)
    if mesh is not None:
        whole = NamedSharding(mesh, PartitionSpec())
        shardings = jax.tree.map(lambda x: whole if x.mesh.empty else x, shardings)
        run = jax.sharding.auto_axes(update, axes=mesh.explicit_axes, out_sharding=shardings)
    return run(theta, grads, inner, params, loss)


def _check_num_steps(num_steps: Any) -> int | jax.Array:
    if isinstance(num_steps, Tracer):  # from optax.inject_hyperparams
        return num_steps
    try:
        steps = None if isinstance(num_steps, bool) else operator.index(num_steps)
    except TypeError:
        steps = None
    if steps is None or not 1 <= steps <= MAX_STEPS:
        raise InputError(f"num_steps must be an integer from 1 to {MAX_STEPS}, not {num_steps!r}")
    return steps


def _as_float32(what: str, tree: PyTree) -> PyTree:
    def cast(leaf):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"a learned optimizer takes real floating-point {what}, and one is {dtype}: "
                "leave it out with optax.masked or optax.partition"
            )
        return jnp.asarray(leaf).astype(jnp.float32)

    return jax.tree.map(cast, tree)


def _as_loss(value: Any) -> jax.Array:
    loss = jnp.asarray(value)
    if loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise InputError(f"value must be the loss, a real scalar, not {loss.dtype}{list(loss.shape)}")
    return loss.astype(jnp.float32)


def _check_alike(grads: PyTree, params: PyTree) -> None:
    """Raises InputError if shapes differ, since a gradient would silently be broadcast to its parameter."""
    if jax.tree.structure(grads) != jax.tree.structure(params):
        raise InputError(
            f"gradients and params are different trees: {jax.tree.structure(grads)} and {jax.tree.structure(params)}"
        )
    for (path, grad), param in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(params), strict=True):
        if grad.shape != param.shape:
            where = jax.tree_util.keystr(path)
            raise InputError(f"the gradient of params{where} has shape {grad.shape}, the parameter {param.shape}")


def _strongly_typed(state: PyTree) -> PyTree:
    """Drops weak types: a state that had them only after `init` would make the second step trace again."""

    def strong(leaf):
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if leaf.weak_type else leaf

    return jax.tree.map(strong, state)
