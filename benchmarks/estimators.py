"""Memory and time of every estimator against T, K and the sizes of theta and state: `python -m benchmarks.estimators`.

One pair (for gradient methods, one trajectory), its two halves one after another, runs a recurrence of S numbers driven
by P numbers in float32: s' = tanh(s / 2 + theta, summed or repeated to S numbers), with the loss mean(s'^2). Each
estimator is measured three times:
  carried: the numbers in its state except for keys and counts; a test compares them with the theory, exactly;
  working: the bytes that XLA reserves for one estimate beyond arguments and results (memory_analysis of the compiled
    program, no clock involved), as a factor when T, K, P or S is quadrupled;
  time: the best of several times of one estimate, as a factor when T, K or P is quadrupled; noisy, as every clock is.
--write puts the table into docs/estimators.md.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.names import Spec, build
from lopt.types import InnerProblem

PAGE = Path(__file__).resolve().parents[1] / "docs" / "estimators.md"
MARK = "<!-- python -m benchmarks.estimators --write -->\n"


class Sizes(NamedTuple):
    """The sizes of a measurement. One of P and S is a multiple of the other.

    Attributes:
      horizon: T.
      truncation: K.
      theta: P.
      state: S.
    """

    horizon: int = 64
    truncation: int = 16
    theta: int = 1024
    state: int = 8192


# Carried numbers, working memory and inner steps of one estimate, as functions of T, K, P and S.
THEORY: Mapping[str, tuple[str, str, str]] = {
    "full_es": ("0", "S + P", "2 T"),
    "truncated_es": ("S", "S + P", "3 K"),
    "pes": ("2 S + P", "S + P", "2 K"),
    "nres": ("2 S", "S + P", "2 K"),
    "gpes": ("2 S + P", "S + P", "2 K"),
    "pes_analytic": ("3 S + P", "K S + P", "2 K, and K forward and backward"),
    "pes_telescoping": ("2 S + P + 2", "S + P", "2 K, and 2 evaluations"),
    "inverse_variance": ("S", "K S + P", "K, and 2 K forward and backward, each step twice"),
    "guided_es": ("S + 4 P", "K S + P", "2 K, and K forward and backward, each step twice"),
    "bptt": ("0", "T S + P", "T forward and backward, each step twice"),
    "tbptt": ("S", "K S + P", "K forward and backward, each step twice"),
    "rtrl": ("S + S P", "S P", "K, each with P tangents"),
    "uoro": ("2 S + P", "S + P", "K, each forward, backward twice and with a tangent"),
    "forward": ("2 S + P", "S + P", "K, each with a tangent"),
}


def problem(sizes: Sizes, *, final: bool = False) -> InnerProblem:
    """The recurrence of the module's docstring."""

    def init(theta, key, horizon):
        del theta, key, horizon
        return jnp.zeros(sizes.state)

    def step(theta, state, key):
        del key
        drive = theta.reshape(-1, min(sizes.theta, sizes.state)).sum(0)
        state = jnp.tanh(state / 2 + jnp.tile(drive, sizes.state // drive.size))
        return state, jnp.mean(state**2)

    return InnerProblem(init, step, evaluate=lambda theta, state, key: jnp.mean(state**2), final_loss=final)


def make(name: str, sizes: Sizes) -> Any:
    horizon = Horizon(sizes.horizon, sizes.horizon)
    shared = {"num_pairs": 1, "truncation": sizes.truncation, "horizon": horizon, "noise_period": 2 * sizes.truncation}
    return build("estimator", Spec(name, {}), ESTIMATORS, staggered=False, **shared)


def carried_numbers(name: str, sizes: Sizes) -> int:
    """Counts the floating-point numbers in the state of one pair, its inner states included."""
    estimator, inner = make(name, sizes), problem(sizes, final=name == "pes_telescoping")
    state = jax.eval_shape(
        lambda theta, key: estimator.init(inner, theta, key), jnp.zeros(sizes.theta), jax.random.key(0)
    )
    return sum(x.size for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))


def lowered(name: str, sizes: Sizes) -> tuple[Any, Any]:
    """Returns one estimate as a program to compile, and a program that makes its arguments."""
    estimator, inner = make(name, sizes), problem(sizes, final=name == "pes_telescoping")

    def arguments(key):
        theta = 0.1 * jax.random.normal(key, (sizes.theta,))
        return theta, estimator.init(inner, theta, key), key

    def estimate(theta, state, key):
        return estimator.estimate(inner, theta, state, key)

    return jax.jit(estimate).lower(*jax.eval_shape(arguments, jax.random.key(0))), jax.jit(arguments)


def working_bytes(name: str, sizes: Sizes) -> int:
    return lowered(name, sizes)[0].compile().memory_analysis().temp_size_in_bytes


def seconds(name: str, sizes: Sizes, tries: int = 7) -> float:
    """The best time of several tries, each long enough for the clock."""
    program, make_arguments = lowered(name, sizes)
    program, arguments = program.compile(), make_arguments(jax.random.key(1))
    best, calls = float("inf"), 1
    jax.block_until_ready(program(*arguments))
    while tries:
        started = time.perf_counter()
        for _ in range(calls):
            result = program(*arguments)
        jax.block_until_ready(result)
        taken = time.perf_counter() - started
        if taken < 0.02:
            calls *= 2
            continue
        best, tries = min(best, taken / calls), tries - 1
    return best


def rows() -> list[list[str]]:
    """The table, one row per estimator."""
    base = Sizes()
    narrow = Sizes(theta=64)  # rtrl takes the time of P steps per step
    table = []
    for name, (carried, working, steps) in THEORY.items():
        memory = {}
        for field in Sizes._fields:
            more = base._replace(**{field: 4 * getattr(base, field)})
            memory[field] = working_bytes(name, more) / working_bytes(name, base)
        clock = seconds(name, narrow)
        times = {
            field: seconds(name, narrow._replace(**{field: 4 * getattr(narrow, field)})) / clock
            for field in ("horizon", "truncation", "theta")
        }
        table.append(
            [f"`{name}`", carried, f"{carried_numbers(name, base):,}", working]
            + [f"{ratio:.1f}" for ratio in memory.values()]
            + [steps, *(f"{ratio:.1f}" for ratio in times.values())]
        )
        print(" | ".join(table[-1]), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of every estimator; see the module's docstring.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/estimators.md")
    args = parser.parse_args()
    base = Sizes()
    head = ["estimator", "carries", f"at P = {base.theta}, S = {base.state:,}", "working memory"]
    head += ["x4 T", "x4 K", "x4 P", "x4 S", "inner steps per estimate", "time, x4 T", "x4 K", "x4 P"]
    lines = [head, ["---"] * len(head), *rows()]
    text = MARK + "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)
    if args.write:
        page = PAGE.read_text()
        PAGE.write_text(page[: page.index(MARK)] + text)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
