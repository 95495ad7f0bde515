"""A learned optimizer as an optax transformation: what a training loop calls."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from lopt.names import InputError
from lopt.trained.leaves import read_params, read_update
from lopt.types import LearnedOptimizer, PyTree, Theta

MAX_STEPS = 2**31 - 1  # num_steps is an int32


class LearnedState(NamedTuple):
    """The state of `as_optax`.

    A checkpoint of lopt 0.1.0 has no `num_not_finite`. To restore one, make the template from
    `state._replace(num_not_finite=None)`: training goes on from it and counts nothing. `_replace(num_not_finite=
    jnp.zeros((), jnp.int32))` on what was restored starts the count.

    Attributes:
      theta: the meta-parameters. They are here and not in the closure, so that a jitted step takes them as an argument
        instead of holding them as constants of its program.
      inner: the state of the rule; its floating-point statistics are float32.
      num_not_finite: int32, the number of updates so far that were given a loss or an element of a gradient that is not
        finite; None if it is not counted. `optax.tree.get(state, "num_not_finite")` reads it within any other state.
    """

    theta: Theta
    inner: PyTree
    num_not_finite: PyTree = None


def as_optax(
    optimizer: LearnedOptimizer, theta: Theta, *, num_steps: int | jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """Wraps a learned optimizer: `updates, state = tx.update(grads, state, params, value=loss)`.

    Updates carry their sign and step size, and `optax.apply_updates` adds them to the parameters as they are. They have
    the dtype of the gradients; the rule itself works in float32. An input that the rule does not read
    (`optimizer.requires`) may be left out, and unknown keywords are ignored.

    Under gradient accumulation by `optax.MultiSteps(tx, k)`, the rule sees the mean gradient and the loss of the last
    of the k mini-batches; `num_steps` counts updates, not mini-batches.

    Elements of gradients that are not finite count as zero, for every rule, so that one NaN does not stay in the state.
    A loss that is not finite reaches the rule, and every rule that ships and reads the loss bounds it or leaves it out.
    The state counts such updates (`LearnedState.num_not_finite`). To skip them, wrap the rule in
    `optax.apply_if_finite`; to stop trusting a rule that makes them, use `guard`.

    A leaf of params that cannot have a gradient, such as an integer or a function in an Equinox model, is left alone;
    so is one whose gradient is None. Params may be Flax NNX Variables, and `jax_enable_x64` may be on: the rule always
    works without it, so states keep their dtypes.

    The state decides: `theta` and `num_steps` are those that its `init` saw, also if the state is restored and given to
    a transformation with others. `carry_over` moves a state to another horizon or theta.

    Call `init` outside `jit`: inside, a theta that is not an argument of the jitted function becomes a constant of its
    program.

    Parameters may be sharded over automatic or explicit axes. The update keeps the sharding of `init` and gathers no
    large tensor on one device, except where the rule orthogonalizes matrices (`blend`, `celo2` with `orthogonalize`).

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
        num_steps = check_num_steps(num_steps)
    elif "num_steps" in optimizer.requires:
        raise InputError(f"{name} reads the length of the training: give num_steps, the number of its updates")

    def init(params: optax.Params) -> LearnedState:
        steps = jnp.asarray(num_steps, jnp.int32) if "num_steps" in optimizer.requires else None
        # Copied: the caller may donate the state, and this theta must outlive it.
        own_theta = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), theta)
        read = read_params(params)
        with jax.enable_x64(False):
            inner = optimizer.init(own_theta, read, num_steps=steps)
            return LearnedState(own_theta, _strongly_typed(inner), jnp.zeros((), jnp.int32))

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
                "tx.update(grads, state, params, value=loss), on optax.MultiSteps itself as on a transformation; some "
                "wrappers drop value (MultiSteps(...).gradient_transformation(), optax.with_extra_args_support on a "
                "MultiSteps, optax.contrib.sam, lookahead): docs/wrappers.md says what to write instead"
            )
        loss = _as_loss(value) if "value" in optimizer.requires else None
        read = read_update(
            *(updates, params),
            reads_params="params" in optimizer.requires,
            was_begun_with=functools.partial(_begins, optimizer, state),
        )
        with jax.enable_x64(False):
            steps, inner = _update_in_auto_mode(optimizer, state.theta, read.grads, state.inner, read.params, loss)
            inner = _like(inner, state.inner)
            count = state.num_not_finite
            if count is not None:
                finite = read.all_finite if loss is None else read.all_finite & jnp.isfinite(loss)
                count += ~finite
        theta, count = _on_explicit_mesh((state.theta, count), read.grads)
        return read.answer(steps), LearnedState(theta, inner, count)

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
    if (mesh := _explicit_mesh((grads, inner))) is not None:
        shardings = jax.tree.map(lambda x: _sharding_on(mesh, x), (grads, inner))
        run = jax.sharding.auto_axes(update, axes=mesh.explicit_axes, out_sharding=shardings)
    return run(theta, grads, inner, params, loss)


def _explicit_mesh(tree: PyTree) -> AbstractMesh | None:
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(tree))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _sharding_on(mesh: AbstractMesh, x: jax.Array) -> NamedSharding:
    """An array's own sharding on an explicit mesh, or one that replicates it.

    The specification has a None per axis, as JAX writes it: P() comes back as P(None), and the next step would be
    compiled anew.
    """
    sharding = jax.typeof(x).sharding
    return NamedSharding(mesh, PartitionSpec(*[None] * x.ndim)) if sharding.mesh.empty else sharding


def _on_explicit_mesh(tree: PyTree, like: PyTree) -> PyTree:
    """What a step passes through or counts, placed as its other results are if those lie on an explicit mesh."""
    if (mesh := _explicit_mesh(like)) is None:
        return tree
    return jax.tree.map(lambda x: jax.sharding.reshard(x, _sharding_on(mesh, x)), tree)


def check_num_steps(num_steps: Any) -> int | jax.Array:
    """The horizon as an integer. Raises InputError if it is none, or below 1."""
    if isinstance(num_steps, Tracer):  # from optax.inject_hyperparams
        return num_steps
    try:
        steps = None if isinstance(num_steps, bool) else operator.index(num_steps)
    except TypeError:
        steps = None
    if steps is None or not 1 <= steps <= MAX_STEPS:
        raise InputError(f"num_steps must be an integer from 1 to {MAX_STEPS}, not {num_steps!r}")
    return steps


def _as_loss(value: Any) -> jax.Array:
    loss = jnp.asarray(value)
    if loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise InputError(f"value must be the loss, a real scalar, not {loss.dtype}{list(loss.shape)}")
    return loss.astype(jnp.float32)


def _begins(optimizer: LearnedOptimizer, state: LearnedState, params: PyTree) -> bool:
    """Whether the rule, begun with these params, would have a state of these shapes."""
    steps = jnp.ones((), jnp.int32) if "num_steps" in optimizer.requires else None
    with jax.enable_x64(False):
        begun = jax.eval_shape(lambda theta: optimizer.init(theta, read_params(params), num_steps=steps), state.theta)
    shapes = jax.tree.map(jnp.shape, (begun, state.inner), is_leaf=None)
    return shapes[0] == shapes[1]


def _strongly_typed(state: PyTree) -> PyTree:
    """Drops weak types: a state that had them only after `init` would make the second step trace again."""

    def strong(leaf):
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if leaf.weak_type else leaf

    return jax.tree.map(strong, state)


def _like(state: PyTree, before: PyTree) -> PyTree:
    """The state in the dtypes that it had before the update."""
    return jax.tree.map(lambda new, old: jax.lax.convert_element_type(new, old.dtype), state, before)
