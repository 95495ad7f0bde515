"""What an update costs: `python -m benchmarks.apply [NAME...] [--sizes=1e5,1e6,1e7]`, minutes on two cores.

Each learned optimizer, with a fresh theta, beside optax.adam, optax.adamw and optax.contrib.muon, on the shapes of an
MLP (ten square matrices and their biases) and of a transformer (embedding, and per block four width^2 matrices, two of
4 width^2, norms). One jitted update with its state donated; the rules take turns, so that all meet the same noise.
Printed are milliseconds (median of the turns), the same as a multiple of Adam's, numbers of state a parameter, working
memory that XLA reserves (memory_analysis of the compiled program) and seconds to compile. --write puts the table into
docs/optimizers.md.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.names import build, parse_spec
from lopt.optimizers import OPTIMIZERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "optimizers.md"
MARK = "<!-- python -m benchmarks.apply --write -->\n"
BASELINES = {"adam": optax.adam, "adamw": optax.adamw, "muon": optax.contrib.muon}
VARIANTS = ("celo2:orthogonalize=True", "adafac_mlp:hidden_sizes=(32,32)")
TURNS, SECONDS = 5, 20.0  # turns at least, seconds a rule at most


class Rule(NamedTuple):
    """Attributes: program, compiled; arguments but for the state; state; its numbers; bytes; seconds to compile."""

    program: Any
    arguments: tuple
    state: Any
    state_size: int
    working_bytes: int
    compile_seconds: float


def mlp_shapes(size: float) -> dict[str, tuple[int, ...]]:
    side = round(math.sqrt(size / 10))
    return {f"layer_{i}/{name}": shape for i in range(10) for name, shape in (("w", (side, side)), ("b", (side,)))}


def transformer_shapes(size: float, blocks: int = 4) -> dict[str, tuple[int, ...]]:
    """blocks (12 width^2 + 4 width) + 97 width parameters, with the width that comes nearest to `size`."""
    width = round((math.sqrt(97**2 + 4 * 12 * blocks * size) - 97) / (2 * 12 * blocks))
    shapes: dict[str, tuple[int, ...]] = {"embedding": (97, width)}
    for block in range(blocks):
        for name in ("query", "key", "value", "out"):
            shapes[f"block_{block}/{name}"] = (width, width)
        shapes[f"block_{block}/expand"] = (width, 4 * width)
        shapes[f"block_{block}/contract"] = (4 * width, width)
        shapes[f"block_{block}/norm"] = (2, width)
    return shapes


SHAPES = {"MLP": mlp_shapes, "transformer": transformer_shapes}


def prepare(name: str, params: Any, grads: Any) -> Rule:
    if name in BASELINES:
        transformation = BASELINES[name](1e-3)
        state, arguments = transformation.init(params), (grads, params)
        update = jax.jit(lambda grads, params, state: transformation.update(grads, state, params), donate_argnums=2)
    else:
        optimizer = build("optimizer", parse_spec(name), OPTIMIZERS)
        theta = optimizer.init_theta(jax.random.key(0))
        state, arguments = optimizer.init(theta, params, num_steps=1000), (theta, grads, params)
        update = jax.jit(
            lambda theta, grads, params, state: optimizer.update(theta, grads, state, params, value=jnp.ones(())),
            donate_argnums=3,
        )
    began = time.perf_counter()
    program = update.lower(*arguments, state).compile()
    taken = time.perf_counter() - began
    numbers = sum(x.size for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))
    memory: Any = program.memory_analysis()
    return Rule(program, arguments, state, numbers, memory.temp_size_in_bytes, taken)


def take_turns(rules: dict[str, Rule]) -> dict[str, float]:
    """Median seconds of an update, of calls in turn."""
    times: dict[str, list[float]] = {name: [] for name in rules}
    states = {name: rule.state for name, rule in rules.items()}
    began = time.perf_counter()
    for turn in range(10 * TURNS):
        if turn > TURNS and time.perf_counter() - began > SECONDS * len(rules):
            break
        for name, rule in rules.items():
            for _ in range(3 if name in BASELINES else 1):
                started = time.perf_counter()
                updates, states[name] = rule.program(*rule.arguments, states[name])
                jax.block_until_ready((updates, states[name]))
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def measure(names: list[str], kind: str, size: float) -> list[list[str]]:
    """The rows of one model."""
    shapes = SHAPES[kind](size)
    generator = np.random.default_rng(0)
    params = {k: jnp.asarray(0.1 * generator.normal(size=shape), jnp.float32) for k, shape in shapes.items()}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    count = sum(x.size for x in params.values())
    rows = []
    # Two at a time, so that the states of all of them are never in memory together.
    for name in [*BASELINES, *names]:
        rules = {"adam": prepare("adam", params, grads)}
        rules[name] = rules["adam"] if name == "adam" else prepare(name, params, grads)
        seconds = take_turns(rules)
        rule = rules[name]
        cells = [f"{kind} {count:.1e}", f"`{name}`", f"{1e3 * seconds[name]:.3g}"]
        cells += [f"{seconds[name] / seconds['adam']:.1f}", f"{rule.state_size / count:.1f}"]
        rows.append([*cells, f"{rule.working_bytes / 2**20:.1f}", f"{rule.compile_seconds:.1f}"])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="What an update costs; see the module's docstring.")
    parser.add_argument("names", nargs="*", help="NAME[:setting=value]...; all, and some variants, if left out")
    parser.add_argument("--sizes", default="1e5,1e6,1e7", help="numbers of parameters")
    parser.add_argument("--models", default="MLP,transformer")
    parser.add_argument("--write", action="store_true", help="put the table into docs/optimizers.md")
    args = parser.parse_args()
    head = ["model", "rule", "ms", "x Adam", "state a parameter", "working memory, MiB", "compile, s"]
    lines = [head, ["---"] * len(head)]
    for kind in args.models.split(","):
        for size in args.sizes.split(","):
            lines += measure(args.names or [*OPTIMIZERS, *VARIANTS], kind, float(size))
    if args.write:
        page = PAGE.read_text()
        text = MARK + "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)
        PAGE.write_text(page[: page.index(MARK)] + text)


if __name__ == "__main__":
    main()
