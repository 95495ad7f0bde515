"""A per-parameter rule as one GPU kernel, from the same Python code that is the rule everywhere else.

The kernel is written in Pallas and lowered to Triton. Pallas's other way to GPUs, Mosaic GPU, needs Hopper or later,
and JAX 0.10.2 warns that it will no longer take kernels of `pallas_call`. JAX 0.11 in turn announces the end of Triton
in Pallas: where it is gone, rules run as on other platforms.

Triton knows no slices, no arrays of constants and no edges of a block, and all its sizes are powers of two. The rule is
therefore traced for a block of parameters and split. What does not depend on the parameter (weights, means, scales) is
computed outside and enters as scalars. The rest is the kernel, which handles `BLOCK` neighbours in the flattened tensor
and masks the last block.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import JaxprEqn, Literal

BLOCK = 512  # parameters per block: the features of 4 parameters fit into a thread's registers, those of 8 do not
NUM_WARPS = 4  # of 32 threads
MIN_SIZE = 2**14  # parameters; below it the blocks would leave most of a GPU idle, and XLA fuses small operations
MAX_SIZE = 2**29  # parameters; positions in an array of three numbers per parameter are int32


def suits(shape: tuple[int, ...]) -> bool:
    """Whether the rule runs as a kernel on a tensor of this shape: on a GPU, if it is neither small nor huge.

    There is no kernel where XLA, and not `shard_map`, spreads the program over several devices: XLA splits its own
    operations as the tensor is split, but for a kernel it would collect the tensor on every device.
    """
    if jax.default_backend() != "gpu" or not MIN_SIZE <= math.prod(shape) <= MAX_SIZE:
        return False
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return False
    return jax.device_count() == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual


def over_grid(
    fn: Callable[..., jax.Array], inputs: tuple, shape: tuple[int, ...], *, interpret: bool = False
) -> jax.Array:
    """`fn(*inputs)`, an array of this shape, by a kernel if the program runs on a CUDA device, without one elsewhere.

    Derivatives are those of `fn`, without a kernel.

    Args:
      fn: computes each output from the elements of its inputs at the same place. It treats an array `[k, *shape]` as a
        sequence of k arrays, which is what it gets in the kernel. It may close over arrays and read single numbers of
        them.
      inputs: trees of arrays that can be broadcast to `shape`, or `[k, ...]` of these.
      shape: the tensor's shape; the tensor has at least one axis and is not empty.
      interpret: whether to run the kernel on any device, slowly: for tests.
    """
    whole = jax.make_jaxpr(fn)(*inputs)
    block = jax.make_jaxpr(fn)(*jax.tree.map(lambda x: _block_like(x, shape), inputs))

    def plain(leaves: list[jax.Array], whole_constants: list, block_constants: list) -> jax.Array:
        return eval_jaxpr(whole.jaxpr, whole_constants, *leaves)[0]

    def kernel(leaves: list[jax.Array], whole_constants: list, block_constants: list) -> jax.Array:
        return _run(block.jaxpr, block_constants, leaves, shape, interpret)

    @jax.custom_jvp
    def chosen(*arguments: list) -> jax.Array:
        if interpret:
            return kernel(*arguments)
        return jax.lax.platform_dependent(*arguments, cuda=kernel, default=plain)

    @chosen.defjvp
    def _(primals: tuple, tangents: tuple):
        return jax.jvp(plain, primals, tangents)

    return chosen(jax.tree.leaves(inputs), whole.consts, block.consts)


class _View(NamedTuple):
    """Numbers of an array that is known outside of the kernel.

    Attributes:
      array: the array.
      places: positions of the numbers in the flattened array.
    """

    array: jax.Array
    places: np.ndarray


def _block_like(x: jax.Array, shape: tuple[int, ...]) -> Any:
    """The stand-in for an input when `fn` is traced: a block, or one number; for `[k, ...]` a list of k of those."""
    extra = x.ndim - len(shape)
    size = BLOCK if math.prod(x.shape[extra:]) > 1 else 1
    part = jax.ShapeDtypeStruct((*[1] * (len(shape) - 1), size), x.dtype)
    return [part] * x.shape[0] if extra else part


def _run(
    jaxpr: Any, constants: Sequence[jax.Array], leaves: Sequence[jax.Array], shape: tuple[int, ...], interpret: bool
) -> jax.Array:
    """Runs a rule that was traced for a block; `leaves` are its inputs, `constants` the arrays it closes over."""
    from jax.experimental import pallas as pl  # here: other platforms need none of it
    from jax.experimental.pallas import triton

    known = {var: _View(x, _all_places(x)) for var, x in zip(jaxpr.constvars, constants, strict=True)}
    loaded = []  # variable of the block, index of its leaf, first place in the leaf
    parts = ((i, k) for i, x in enumerate(leaves) for k in range(x.shape[0] if x.ndim > len(shape) else 1))
    for var, (i, k) in zip(jaxpr.invars, parts, strict=True):
        if var.aval.size == 1:
            known[var] = _View(leaves[i], np.full(var.aval.shape, k))
        else:
            loaded.append((var, i, k * math.prod(leaves[i].shape[-len(shape) :])))
    varying = sorted({i for _, i, _ in loaded})
    equations, views = _split(jaxpr, known)
    arrays = list({id(view.array): view.array for view in views.values()}.values())
    starts = dict(zip(map(id, arrays), np.cumsum([0, *(x.size for x in arrays)]), strict=False))
    flat = [x.reshape(-1).astype(jnp.float32) for x in arrays]
    scalars = jnp.concatenate([*flat, jnp.zeros((1,), jnp.float32)])  # a rule without constants has none
    (result,) = jaxpr.outvars
    size, block = math.prod(shape), result.aval.shape

    def body(scalars: Any, *refs: Any) -> None:
        index = pl.program_id(0) * BLOCK + jax.lax.broadcasted_iota(jnp.int32, block, len(block) - 1)
        inside = index < size
        values = {}
        for var, i, first in loaded:
            place = first + _place(index, leaves[i].shape[-len(shape) :], shape)
            values[var] = triton.load(refs[varying.index(i)].at[place], mask=inside, other=0)
        for var, view in views.items():
            scalar = scalars[int(starts[id(view.array)] + view.places.item())].astype(var.aval.dtype)
            values[var] = jnp.full(var.aval.shape, scalar) if var.aval.shape else scalar
        for equation in equations:
            values.update(zip(equation.outvars, _apply(equation, _values(equation.invars, values)), strict=True))
        triton.store(refs[-1].at[index], values[result], mask=inside)

    outputs = pl.pallas_call(
        body,
        jax.ShapeDtypeStruct((size,), result.aval.dtype),
        grid=(math.ceil(size / BLOCK),),
        compiler_params=triton.CompilerParams(num_warps=NUM_WARPS),
        interpret=interpret,
        name="per_parameter_rule",
    )(scalars, *(leaves[i].reshape(-1) for i in varying))
    return outputs.reshape(shape)


def _split(jaxpr: Any, known: dict[Any, _View]) -> tuple[list[JaxprEqn], dict[Any, _View]]:
    """The equations of the kernel, and the numbers they read that do not vary within a block.

    What follows from `known` alone is computed here. Slices are only noted, as places: hundreds of weights would be
    hundreds of slow operations.
    """
    known = dict(known)
    equations, views = [], {}
    for equation in jaxpr.eqns:
        inputs = [x for x in equation.invars if not isinstance(x, Literal)]
        if not all(x in known for x in inputs):
            equations.append(equation)
            views |= {x: known[x] for x in inputs if x in known}
        elif equation.primitive.name in ("slice", "squeeze", "reshape"):
            known[equation.outvars[0]] = _moved(equation, known[inputs[0]])
        else:
            outputs = _apply(equation, _values(equation.invars, {x: _read(known[x]) for x in inputs}))
            known |= {var: _View(x, _all_places(x)) for var, x in zip(equation.outvars, outputs, strict=True)}
    return equations, views


def _moved(equation: Any, view: _View) -> _View:
    """The view after a slice, squeeze or reshape."""
    places, params = view.places, equation.params
    if equation.primitive.name == "slice":
        strides = params["strides"] or (1,) * places.ndim
        places = places[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]
    return _View(view.array, places.reshape(equation.outvars[0].aval.shape))


def _read(view: _View) -> jax.Array:
    if view.places.size == view.array.size:
        return view.array.reshape(view.places.shape)
    return view.array.reshape(-1)[view.places]


def _all_places(x: jax.Array) -> np.ndarray:
    return np.arange(np.size(x)).reshape(np.shape(x))


def _values(variables: Sequence, values: dict) -> list:
    return [x.val if isinstance(x, Literal) else values[x] for x in variables]


def _apply(equation: Any, inputs: list) -> Sequence:
    """The outputs of an equation. NaN stays NaN: Triton's max and min, hence relu, would return the other number."""
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "custom_jvp_call"):
        inner = params["jaxpr" if name == "jit" else "call_jaxpr"]
        values = dict(zip((*inner.jaxpr.constvars, *inner.jaxpr.invars), (*inner.consts, *inputs), strict=True))
        for step in inner.jaxpr.eqns:
            values.update(zip(step.outvars, _apply(step, _values(step.invars, values)), strict=True))
        return _values(inner.jaxpr.outvars, values)
    outputs: Any = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
    if name in ("max", "min"):
        for x in inputs:
            outputs = jnp.where(x != x, x, outputs) if np.ndim(x) else outputs
    return outputs if equation.primitive.multiple_results else [outputs]


def _place(index: jax.Array, part: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """The flat positions, in an array of shape `part`, of the parameters at flat positions `index` of the tensor.

    `part` is the tensor's `shape` with some axes of length 1. Neighbouring axes of one kind are merged, so that a row,
    a column and the whole tensor take at most one division.
    """
    axes: list[tuple[int, bool]] = []
    for length, there in zip(shape, part, strict=True):
        kept = there > 1
        if length > 1 and axes and axes[-1][1] == kept:
            axes[-1] = (axes[-1][0] * length, kept)
        elif length > 1:
            axes.append((length, kept))
    place, below, stride = jnp.zeros_like(index), 1, 1
    for i, (length, kept) in reversed(list(enumerate(axes))):
        if kept:
            along = index if below == 1 else jax.lax.div(index, jnp.int32(below))
            along = along if i == 0 else jax.lax.rem(along, jnp.int32(length))
            place, stride = place + along * stride, stride * length
        below *= length
    return place
