"""Speed and memory of meta-training: `python -m benchmarks.meta_training [--rules= --tasks= --pairs= --K= --devices=]`.

By default, the `mlp` optimizer on an MLP 64-32-10 (digits, batch 128), 16 pairs and K = 50; --rules, --tasks, --pairs
and --K take lists, and each combination is a row. All are trained by PES, with horizon 200:2000 and the training loss
as meta-loss. An estimate is pairs x 2 x K inner steps; an outer step is an estimate and very little else.

GFLOP/s counts the matrix products and convolutions that are run, 2 operations per multiply-add, and nothing else. The
peak beside it is that of 512^3 float32 products in the same process: the better of one product on all cores and one
product on each device. A shared machine may give a process one of two cores for seconds at a time, or half of a cache,
so blocks of estimates and of products take turns. A row has the medians over the blocks, each compared with the
products just before and after it, and in brackets the best of each, which is what the machine can do.

Memory is what XLA reserves for an estimate (memory_analysis of the compiled program, no clock involved): `state`, the
trajectories, which stay from one to the next; `working`, beyond arguments and results. --no_clock prints the memory
alone, without running anything.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import dataclasses
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks.products import product_flops
from lopt.distributed import AXIS, PairLayout, num_cores
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.names import InputError, build, parse_spec, split_list
from lopt.optimizers import OPTIMIZERS
from lopt.pool import read_mixture
from lopt.types import Data, LearnedOptimizer, TaskFamily

TASK = "image_mlp/digits:hidden_sizes=(32,):batch_size=128"
LEAST_BLOCKS, MOST_BLOCKS, SECONDS = 3, 25, 15.0  # of a row; seconds after which no block begins
BLOCK_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a row is about."""

    rule: LearnedOptimizer
    family: TaskFamily
    num_pairs: int
    truncation: int
    layout: PairLayout

    def training(self) -> MetaTraining:
        horizon = Horizon(max(200, self.truncation), max(2000, self.truncation))
        return MetaTraining(
            optimizer=self.rule,
            families=(self.family,),
            estimator=PES(num_pairs=self.num_pairs, truncation=self.truncation, horizon=horizon, layout=self.layout),
            outer_optimizer=OuterOptimizer(),
            objective=Objective("train"),
            layout=self.layout,
        )


class Compiled(NamedTuple):
    """The program of an estimate.

    Attributes:
      run: `(theta, state, data, key, step) -> (estimate, state)`; state is donated.
      seconds: to trace and compile it.
      state: bytes of the trajectories of all pairs.
      working: bytes beyond arguments and results, of all devices.
    """

    run: Any
    seconds: float
    state: int
    working: int


def compile_estimate(setting: Setting, data: Data) -> Compiled:
    """Compiles an estimate for arrays like `data`, which may be shapes; runs nothing."""
    training = setting.training()
    shapes = training.template((data,))
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (shapes.theta, shapes.estimator_states[0], data, key, step)

    def estimate(*given: Any) -> Any:
        estimate, state = training.estimate(0, *given)
        split = jax.tree.map(lambda _: setting.layout.split, state)
        return estimate, jax.lax.with_sharding_constraint(state, split)

    started = time.perf_counter()
    program = jax.jit(estimate, donate_argnums=1).lower(*arguments).compile()
    took = time.perf_counter() - started
    state = sum(x.size * _itemsize(x) for x in jax.tree.leaves(arguments[1]))
    memory: Any = program.memory_analysis()
    return Compiled(program, took, state, memory.temp_size_in_bytes * setting.layout.num_devices)


def flops_per_inner_step(setting: Setting, data: Data) -> int:
    """Operations in the matrix products of one inner step."""
    training = setting.training()
    problem = training.problem(0, data, lambda free: free)
    theta, key = jax.eval_shape(setting.rule.init_theta, jax.random.key(0)), jax.random.key(0)
    state = jax.eval_shape(problem.init, theta, key, jnp.asarray(200, jnp.int32))
    return product_flops(problem.step, theta, state, key)


def measure(setting: Setting, peak_gflops: Callable[[], float] | None) -> list[str]:
    """The cells of a row; without a peak to compare with, those of the memory alone."""
    data = jax.device_put(setting.family.load(), setting.layout.replicated)
    compiled = compile_estimate(setting, data)
    flops = flops_per_inner_step(setting, data)
    cells = [f"{flops / 1e6:.3g}", f"{compiled.state / 2**20:.3g}", f"{compiled.working / 2**20:.3g}"]
    if peak_gflops is None:
        return cells
    outer = setting.training().init(0, (data,))
    state, keys = outer.estimator_states[0], iter(jax.random.split(jax.random.key(1), 10_000))

    def block(count: int) -> float:
        nonlocal state
        started = time.perf_counter()
        for _ in range(count):
            _, state = compiled.run(outer.theta, state, data, next(keys), outer.step)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / count

    block(1)  # it brings the trajectories to where they start
    count = min(max(round(BLOCK_SECONDS / block(1)), 1), 100)
    times, peaks, began = [], [peak_gflops()], time.perf_counter()
    while len(times) < LEAST_BLOCKS or (time.perf_counter() - began < SECONDS and len(times) < MOST_BLOCKS):
        times.append(block(count))
        peaks.append(peak_gflops())
    steps = [setting.num_pairs * 2 * setting.truncation / seconds for seconds in times]
    rates = [rate * flops / 1e9 for rate in steps]
    shares = [2 * rate / (before + after) for rate, before, after in zip(rates, peaks, peaks[1:], strict=False)]
    return [
        f"{statistics.median(steps):,.0f} ({max(steps):,.0f})",
        f"{statistics.median(rates):.3g} ({max(rates):.3g})",
        f"{statistics.median(shares):.0%} ({max(rates) / max(peaks):.0%})",
        f"{compiled.seconds:.1f}",
        *cells,
    ]


def product_rates(layout: PairLayout, size: int = 512, count: int = 200) -> Callable[[], float]:
    """Returns a function that measures the peak anew: GFLOP/s of one product over all cores, or one per device."""

    def products(a):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ a / size, a)

    def products_on_each(a):
        return jax.vmap(products)(a)

    def seconds(function, a) -> float:
        started = time.perf_counter()
        jax.block_until_ready(function(a))
        return time.perf_counter() - started

    split = PartitionSpec(AXIS)
    on_each = jax.shard_map(products_on_each, mesh=layout.mesh, in_specs=split, out_specs=split)
    runs = []
    for function, shape in ((products, (size, size)), (on_each, (layout.num_devices, size, size))):
        run, a = jax.jit(function), jnp.ones(shape)
        seconds(run, a)
        runs.append((run, a))
    return lambda: max(2 * a.size * size * count / seconds(run, a) / 1e9 for run, a in runs)


def read_settings(args: argparse.Namespace) -> list[tuple[str, Setting]]:
    """What each row is about, with its first cells. Raises InputError for a name or a number that cannot be."""
    layout = PairLayout(args.devices, sequential=not args.vmap)
    rules = [(text, build("optimizer", parse_spec(text), OPTIMIZERS)) for text in split_list(args.rules)]
    numbers = {"--pairs": split_list(args.pairs), "--K": split_list(args.K)}
    for flag, texts in numbers.items():
        if not texts or not all(text.isdecimal() and int(text) > 0 for text in texts):
            raise InputError(f"{flag} takes whole numbers above 0, such as 16,64, not {','.join(texts)!r}")
    rows = []
    sizes = list(itertools.product(map(int, numbers["--pairs"]), map(int, numbers["--K"])))
    for (rule, made), family in itertools.product(rules, read_mixture(args.tasks).families):
        for pairs, k in sizes:
            if pairs % args.devices:
                raise InputError(
                    f"{args.devices} devices cannot share {pairs} pairs equally: choose --devices or --pairs"
                )
            rows.append((f"`{rule}` | `{family.name}` | {pairs} | {k}", Setting(made, family, pairs, k, layout)))
    return rows


def _itemsize(x: Any) -> int:
    return jax.eval_shape(jax.random.key_data, x).size * 4 // max(x.size, 1) if _is_key(x) else x.dtype.itemsize


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of meta-training; see the module's docstring.")
    parser.add_argument("--rules", default="mlp", help="learned optimizers, NAME[:setting=value]..., with commas")
    parser.add_argument("--tasks", default=TASK, help="task families, as for meta_train.py")
    parser.add_argument("--pairs", default="16", help="numbers of pairs, with commas")
    parser.add_argument("--K", default="50", help="inner steps per window, with commas")
    parser.add_argument("--devices", type=int, default=num_cores(), help="CPU devices that share the pairs")
    parser.add_argument("--vmap", action="store_true", help="all particles of a device at once, not one after another")
    parser.add_argument("--no_clock", action="store_true", help="the memory alone; nothing is run")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    jax.config.update("jax_enable_compilation_cache", False)  # compile time is one of the figures
    try:
        rows = read_settings(args)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    how = "vmapped" if args.vmap else "one after another"
    print(
        f"{platform.machine()}, {num_cores()} cores, JAX {jax.__version__}; devices: {args.devices}, particles {how}\n"
    )
    timed = [] if args.no_clock else ["inner steps/s", "GFLOP/s", "share of the peak", "compile, s"]
    columns = ["rule", "task", "pairs", "K", *timed, "MFLOP per inner step", "state, MiB", "working, MiB"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    peak = None if args.no_clock else product_rates(rows[0][1].layout)
    for first, setting in rows:
        print(f"| {first} | {' | '.join(measure(setting, peak))} |", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
