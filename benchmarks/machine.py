"""This machine's speed: bytes per second in sums, operations per second in products and in a fused loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rate(NamedTuple):
    """A program whose speed is measured.

    Attributes:
      run: starts the compiled program.
      amount: bytes or floating-point operations in it.
    """

    run: Callable[[], Any]
    amount: float


def rates() -> dict[str, Rate]:
    """Programs by what they measure: `bytes` moved, a `product` of 512 x 512 matrices, a `fused` loop over an array."""
    x, y = (jnp.full((2**25,), value, jnp.float32) for value in (0.5, 0.25))
    square = jnp.full((512, 512), 0.5, jnp.float32)

    def polynomial(x: jax.Array) -> jax.Array:
        sums = [x + i for i in range(8)]  # 8 chains, so that no operation waits for the one before
        for _ in range(16):
            sums = [total * x + 0.5 for total in sums]
        return functools.reduce(jnp.add, sums)

    def add_four_times(x: jax.Array, y: jax.Array) -> jax.Array:  # in place: new memory would cost more than the sums
        return jax.lax.fori_loop(0, 4, lambda _, x: x + y, x)

    def multiply(square: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 8, lambda _, x: square @ x, square)

    def rate(function: Any, arguments: tuple, amount: float) -> Rate:
        program = jax.jit(function).lower(*arguments).compile()
        return Rate(functools.partial(program, *arguments), amount)

    return {
        "bytes": rate(add_four_times, (x, y), 4 * 3 * 4 * x.size),
        "product": rate(multiply, (square,), 8 * 2 * 512**3),
        "fused": rate(polynomial, (x[: 2**22],), 2 * 8 * 16 * 2**22),
    }
