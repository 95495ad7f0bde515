"""Speed of meta-training: `python -m benchmarks.meta_training [--devices=N] [--vmap]`.

Setting: the `mlp` optimizer on an MLP 64-32-10 (digits, batch 128), PES with 16 pairs, K = 50, horizon 200:2000,
training loss as the meta-loss. An outer step is pairs x 2 x K inner steps.

GFLOP/s counts the matrix products that are run, 2 operations per multiply-add, and nothing else. An inner step has
  task: forward, and backward to weights and hidden layer, B (2 * 64 32 + 3 * 32 10) multiply-adds for B = 128;
  rule: n (8 32 + 32 32 + 32 2) for n = 2,410 parameters (the 11 time features are folded into a bias, and not counted).
The peak beside it is that of 512^3 float32 products in the same process: the better of one product on all cores and
one product on each device. A shared machine may give a process one of two cores for seconds at a time, or half of a
cache, so blocks of outer steps and of products take turns, a third of a second each. Two comparisons are printed: the
medians over the blocks, each block compared with the products just before and after it; and the best of each, which is
what the machine can do.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lopt.distributed import AXIS, PairLayout, num_cores
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.optimizers.mlp import NUM_FEATURES, MLPOptimizer
from tasks.images.image_mlp import ImageMLP

BATCH, HIDDEN, PIXELS, CLASSES = 128, 32, 64, 10
PAIRS, TRUNCATION = 16, 50
STEPS, REPEATS = 4, 25


def flops_per_inner_step() -> int:
    """Floating-point operations in the matrix products; see the module's docstring."""
    task = BATCH * (2 * PIXELS * HIDDEN + 3 * HIDDEN * CLASSES)
    num_params = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
    rule = num_params * (NUM_FEATURES * 32 + 32 * 32 + 32 * 2)
    return 2 * (task + rule)


def seconds(function, *args) -> float:
    started = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - started


def product_rates(layout: PairLayout, size: int = 512, count: int = 200) -> Callable[[], float]:
    """Returns a function that measures the peak anew: GFLOP/s of one product over all cores, or one per device."""

    def products(a):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ a / size, a)

    def products_on_each(a):
        return jax.vmap(products)(a)

    split = PartitionSpec(AXIS)
    on_each = jax.shard_map(products_on_each, mesh=layout.mesh, in_specs=split, out_specs=split)
    runs = []
    for function, shape in ((products, (size, size)), (on_each, (layout.num_devices, size, size))):
        run, a = jax.jit(function), jnp.ones(shape)
        seconds(run, a)
        runs.append((run, a))
    return lambda: max(2 * a.size * size * count / seconds(run, a) / 1e9 for run, a in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of meta-training; see the module's docstring.")
    parser.add_argument("--devices", type=int, default=num_cores(), help="CPU devices that share the pairs")
    parser.add_argument("--vmap", action="store_true", help="all particles of a device at once, not one after another")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    jax.config.update("jax_enable_compilation_cache", False)  # compile time is one of the figures

    layout = PairLayout(args.devices, sequential=not args.vmap)
    family = ImageMLP(dataset="digits", size=8, hidden_sizes=(HIDDEN,), batch_size=BATCH)
    training = MetaTraining(
        optimizer=MLPOptimizer(),
        families=(family,),
        estimator=PES(num_pairs=PAIRS, truncation=TRUNCATION, horizon=Horizon(200, 2000), layout=layout),
        outer_optimizer=OuterOptimizer(),
        objective=Objective("train"),
        layout=layout,
    )
    data = jax.device_put((family.load(),), layout.replicated)

    started = time.perf_counter()
    state = jax.block_until_ready(training.init(0, data))
    start_s = time.perf_counter() - started
    started = time.perf_counter()
    state, _ = jax.block_until_ready(outer_steps(training, state, data, 1))
    first_s = time.perf_counter() - started
    peak_gflops = product_rates(layout)
    times, peaks = [], [peak_gflops()]
    for _ in range(REPEATS):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(outer_steps(training, state, data, STEPS))
        times.append((time.perf_counter() - started) / STEPS)
        peaks.append(peak_gflops())
    inner_steps = PAIRS * 2 * TRUNCATION
    gflops = [inner_steps / step_s * flops_per_inner_step() / 1e9 for step_s in times]
    shares = [2 * rate / (before + after) for rate, before, after in zip(gflops, peaks, peaks[1:], strict=False)]

    how = "vmapped" if args.vmap else "one after another"
    print(f"{platform.machine()}, {num_cores()} cores, JAX {jax.__version__}; devices: {args.devices}, particles {how}")
    print(f"start of the trajectories, compilation included: {start_s:.1f} s")
    print(f"first outer step less a later one, that is compilation: {first_s - statistics.median(times):.1f} s")
    print(f"{flops_per_inner_step() / 1e6:.2f} MFLOP per inner step; {REPEATS} blocks of {STEPS} outer steps")
    for name, step_s, rate, peak, share in (
        ("median", *map(statistics.median, (times, gflops, peaks, shares))),
        ("best", min(times), max(gflops), max(peaks), max(gflops) / max(peaks)),
    ):
        speed = f"outer steps/s {1 / step_s:.2f}, inner steps/s {inner_steps / step_s:,.0f}, {rate:.0f} GFLOP/s"
        print(f"{name}: {speed}; {share:.0%} of the peak of 512^3 products, {peak:.0f} GFLOP/s")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
