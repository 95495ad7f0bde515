"""What an update costs: `python -m benchmarks.apply [NAME...] [--sizes=1e5,1e6,1e7]`, minutes on two cores.

Each learned optimizer, with a fresh theta, is compared with optax.adam, optax.adamw and optax.contrib.muon on the
shapes of an MLP (ten square matrices and their biases) and of a transformer (an embedding; per block, four matrices of
width^2, two of 4 width^2, and norms). One jitted update is timed, with its state donated. The rules take turns, so that
all meet the same noise. The first table has milliseconds (median of the turns), the same as a multiple of Adam's,
numbers of state per parameter, the working memory that XLA reserves (memory_analysis of the compiled program) and
seconds to compile.

The second table compares some rules with the time that memory or arithmetic alone would take. That time follows from
`WORK` and from rates that are measured in the same turns: bytes per second in sums of arrays, and multiplications and
additions per second in products 512^3 and in a fused loop. --write puts both tables into docs/optimizers.md.
--rows=FILE keeps measured rows in a file and does not measure them again. --busy is for a machine that others use too:
one thread, and processor time in place of the clock.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import Rate, rates
from benchmarks.updates import (
    BASELINES,
    OTHERS,
    VARIANTS,
    check_rules,
    compile_update,
    functions,
    mlp_shapes,
    read_count,
    transformer_shapes,
)
from lopt.names import InputError, check_known, split_list
from lopt.optimizers import OPTIMIZERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "optimizers.md"
MARK = "<!-- python -m benchmarks.apply --write -->\n"
MODELS = ("MLP", "transformer")
HEAD = ("model", "rule", "ms", "x Adam", "state per parameter", "working memory, MiB", "compile, s")
RATIO = HEAD.index("x Adam")
TURNS, SECONDS = 4, 4.0  # least number of turns; seconds after which no turn begins

# Per parameter of a matrix: the bytes that a program which keeps no features must move, the floating-point operations,
# and where those run. All rules read g, p and state and write state for the mean squares, then read all but the old
# state again and write the update. adafac_mlp: state m[3], v; 272 for the MLP, 45 for features, twice. celo2: the same,
# then the direction is read twice and scaled; 624 + 2 x 50. mlp: state m[6]; 8-32-32-2 and 20. rnn_mlp: state m[5],
# v[5], whose means come before their variances; 23-32-32-2, a sum of 32, and features twice, 45 each.
WORK = {
    "adafac_mlp": (4 * (6 + 4 + 6 + 1), 272 + 90, "fused"),
    "celo2": (4 * (6 + 4 + 6 + 1 + 3), 624 + 100, "fused"),
    "mlp": (4 * (8 + 6 + 8 + 1), 2688 + 20, "product"),
    "rnn_mlp": (4 * (12 + 10 + 12 + 12 + 1), 3680 + 90, "product"),
}


class Rule(NamedTuple):
    """A compiled update, ready to run.

    Attributes:
      program: the compiled update.
      arguments: its arguments without the state.
      state: the first state.
      state_size: floating-point numbers in the state.
      working_bytes: memory that XLA reserves.
      compile_seconds: seconds to compile.
    """

    program: Any
    arguments: tuple
    state: Any
    state_size: int
    working_bytes: int
    compile_seconds: float


def prepare(name: str, params: Any, grads: Any) -> Rule:
    """Compiles the update of a rule."""
    init, update = functions(name)
    theta, state = init(params)
    arguments = (theta, grads, params)
    began = time.perf_counter()
    program = compile_update(update, *arguments, state)
    taken = time.perf_counter() - began
    numbers = sum(x.size for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))
    memory: Any = program.memory_analysis()
    return Rule(program, arguments, state, numbers, memory.temp_size_in_bytes, taken)


def take_turns(rules: dict[str, Rule], programs: dict[str, Rate], clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each rule's update and of each program, by a clock; all are called in turn."""
    times: dict[str, list[float]] = {name: [] for name in (*rules, *programs)}
    states = {name: rule.state for name, rule in rules.items()}

    def timed(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        started = clock()
        results = jax.block_until_ready(run(*arguments))
        times[name].append(clock() - started)
        return results

    began = time.perf_counter()
    for turn in range(10 * TURNS):
        if turn > TURNS and time.perf_counter() - began > SECONDS:
            break
        for name, rule in rules.items():
            for _ in range(3 if name in BASELINES or name in OTHERS else 1):
                states[name], _ = timed(name, rule.program, *rule.arguments, states[name])
        for name, program in programs.items():
            for _ in range(3):
                timed(name, program.run)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def measure(name: str, kind: str, size: float, blocks: int, clock: Callable[[], float]) -> tuple[list[str], list[str]]:
    """One row of the table of costs, and one of the table of limits; the second is [] for a rule without limits."""
    shapes = mlp_shapes(size) if kind == "MLP" else transformer_shapes(size, blocks)
    generator = np.random.default_rng(0)
    params = {k: jnp.asarray(0.1 * generator.normal(size=shape), jnp.float32) for k, shape in shapes.items()}
    count = sum(x.size for x in params.values())
    start = [f"{kind} {count:.1e}", f"`{name}`"]
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    # Two rules at a time, so that the states of all rules are never in memory together.
    rules = {"adam": prepare("adam", params, grads)}
    rules[name] = rules["adam"] if name == "adam" else prepare(name, params, grads)
    with_limits = name in WORK and count > 5e6
    programs = rates() if with_limits else {}
    seconds = take_turns(rules, programs, clock)
    rule = rules[name]
    cells = [*start, f"{1e3 * seconds[name]:.3g}", f"{seconds[name] / seconds['adam']:.1f}"]
    numbers = (rule.state_size / count, rule.working_bytes / 2**20, rule.compile_seconds)
    cells += [f"{number:.1f}" for number in numbers]
    if not with_limits:
        return cells, []
    a_second = {key: program.amount / seconds[key] for key, program in programs.items()}
    moved, operations, where = WORK[name]
    times = [1e3 * count * moved / a_second["bytes"], 1e3 * count * operations / a_second[where]]
    machine = [f"{a_second['bytes'] / 1e9:.0f} GB/s", f"{a_second[where] / 1e9:.0f} GFLOP/s, {where}"]
    ratio = f"{1e3 * seconds[name] / max(times):.1f}"
    work = [f"{moved} bytes, {operations} FLOP"]
    return cells, [*start, *work, *machine, *(f"{x:.3g}" for x in times), cells[2], ratio]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked; `names`, `sizes` and `models` become lists of what was typed.

    Raises:
      InputError: an unknown rule or model, a bad setting, a size out of range, a missing folder.
    """
    parser = argparse.ArgumentParser(description="What an update costs; see the module's docstring.")
    parser.add_argument("names", nargs="*", help="NAME[:setting=value]...; default: all rules and some variants")
    parser.add_argument("--sizes", default="1e5,1e6,1e7", help="numbers of parameters, separated by commas")
    parser.add_argument("--models", default=",".join(MODELS), help=f"{' or '.join(MODELS)}, or both with a comma")
    parser.add_argument("--blocks", type=int, default=4, help="number of blocks of the transformer")
    parser.add_argument("--rows", type=Path, help="file of the rows measured so far; created if it does not exist")
    parser.add_argument("--busy", action="store_true", help="one thread, and processor time")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/optimizers.md")
    args = parser.parse_args(arguments)
    check_rules(args.names)
    args.names = args.names or [*BASELINES, *OPTIMIZERS, *VARIANTS]
    args.models = split_list(args.models)
    for model in args.models:
        check_known("model", model, MODELS)
    args.sizes = split_list(args.sizes)
    for size in args.sizes:
        read_count("--sizes", size)
    if not args.sizes or not args.models:
        raise InputError("--sizes and --models must not be empty; write for example --sizes=1e5 --models=MLP")
    if args.blocks < 1:
        raise InputError(f"--blocks must be at least 1, not {args.blocks}")
    if args.rows and (args.rows.is_dir() or not args.rows.parent.is_dir()):
        raise InputError(f"--rows must be a file in an existing folder, not {args.rows}")
    return args


def main() -> None:
    try:
        args = parse_arguments()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if args.busy:  # before JAX makes its threads
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    clock = time.process_time if args.busy else time.perf_counter
    jax.config.update("jax_enable_compilation_cache", False)  # seconds to compile are measured
    known = {}
    if args.rows and args.rows.exists():
        known = {tuple(key): (row, far) for key, row, far in map(json.loads, args.rows.read_text().splitlines())}
    rows, limits = [], []
    for size in args.sizes:
        for kind in args.models:
            for name in args.names:
                row, far = known.get((name, kind, size)) or measure(name, kind, float(size), args.blocks, clock)
                rows.append(row)
                limits += [far] if far else []
                print(" | ".join(row), "\n    " + " | ".join(far) if far else "", flush=True)
                if args.rows and (name, kind, size) not in known:
                    with args.rows.open("a") as file:
                        file.write(json.dumps([[name, kind, size], row, far]) + "\n")
    times = ["memory alone, ms", "arithmetic alone, ms", "measured, ms", "measured / the longer"]
    limits_head = ["model", "rule", "per parameter", "memory", "arithmetic", *times]
    if args.write:
        page = PAGE.read_text()
        PAGE.write_text(
            page[: page.index(MARK)] + MARK + f"\n{_table(list(HEAD), rows)}\n{_table(limits_head, limits)}"
        )


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
