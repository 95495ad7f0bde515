"""The models and the updates that `benchmarks.apply` (time) and `benchmarks.memory` (memory) measure."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError, build, check_known, parse_spec
from lopt.optimizers import OPTIMIZERS

BASELINES = {"adam": optax.adam, "adamw": optax.adamw, "muon": optax.contrib.muon}
OTHERS = {"prodigy": optax.contrib.prodigy}  # measured where they are named
VARIANTS = ("celo2:orthogonalize=True", "adafac_mlp:hidden_sizes=(32,32)")
SMALLEST = 1000  # parameters: with fewer, the shapes would have no width


def mlp_shapes(size: float) -> dict[str, tuple[int, ...]]:
    """Ten square matrices and their biases, with about `size` parameters."""
    side = round(math.sqrt(size / 10))
    return {f"layer_{i}/{name}": shape for i in range(10) for name, shape in (("w", (side, side)), ("b", (side,)))}


def transformer_shapes(size: float, blocks: int) -> dict[str, tuple[int, ...]]:
    """blocks (12 width^2 + 4 width) + 97 width parameters; the width is the one that comes nearest to `size`."""
    width = round((math.sqrt(97**2 + 4 * 12 * blocks * size) - 97) / (2 * 12 * blocks))
    shapes: dict[str, tuple[int, ...]] = {"embedding": (97, width)}
    for block in range(blocks):
        for name in ("query", "key", "value", "out"):
            shapes[f"block_{block}/{name}"] = (width, width)
        shapes[f"block_{block}/expand"] = (width, 4 * width)
        shapes[f"block_{block}/contract"] = (4 * width, width)
        shapes |= {f"block_{block}/norm/{part}": (width,) for part in ("scale", "bias")}
    return shapes


def compile_update(update: Callable[..., tuple[Any, Any]], *arguments: Any) -> Any:
    """The program `(*arguments) -> (state, updates)`; the state is the last argument, and donated.

    The state comes first because a donated array becomes the first result of its shape. If the updates came first, they
    would take its place, and XLA would copy the new state. A training step, which returns parameters and state, has no
    such copies either.
    """

    def program(*arguments: Any) -> tuple[Any, Any]:
        updates, state = update(*arguments)
        return state, updates

    return jax.jit(program, donate_argnums=len(arguments) - 1).lower(*arguments).compile()


def functions(name: str) -> tuple[Callable[[Any], tuple[Any, Any]], Callable[..., tuple[Any, Any]]]:
    """The two functions of a rule as typed.

    Returns:
      `init(params) -> (theta, state)` and `update(theta, grads, params, state) -> (updates, state)`.
    """
    if make := (BASELINES | OTHERS).get(name):
        transformation = make(1e-3)
        return (
            lambda params: ((), jax.jit(transformation.init)(params)),  # a state of its own: it is donated
            lambda theta, grads, params, state: transformation.update(grads, state, params),
        )
    optimizer = build("optimizer", parse_spec(name), OPTIMIZERS)

    def init(params: Any) -> tuple[Any, Any]:
        theta = optimizer.init_theta(jax.random.key(0))
        return theta, optimizer.init(theta, params, num_steps=1000)

    def update(theta: Any, grads: Any, params: Any, state: Any) -> tuple[Any, Any]:
        return optimizer.update(theta, grads, state, params, value=jnp.ones(()))

    return init, update


def check_rules(names: list[str]) -> None:
    """Raises InputError unless each is a baseline, one of OTHERS or a learned optimizer, `NAME[:setting=value]...`."""
    known = [*BASELINES, *OTHERS]
    for name in names:
        if name not in known:
            check_known("rule", name.partition(":")[0], [*known, *OPTIMIZERS])
            build("optimizer", parse_spec(name), OPTIMIZERS)


def read_count(flag: str, text: str) -> float:
    """A number of parameters as typed, such as 1e6; raises InputError unless it is finite and at least SMALLEST."""
    with contextlib.suppress(ValueError):
        if SMALLEST <= float(text) < math.inf:
            return float(text)
    raise InputError(f"{flag} takes numbers of parameters of at least {SMALLEST}, such as 1e6, not {text}")
