"""What an update costs in PyTorch: `python -m benchmarks.torch_apply [NAME...] [--sizes=1e5,1e6,1e7]`, on a CPU.

Each trained optimizer is compared with AdamW and Muon of PyTorch, and with the same rule in JAX, on the shapes of an
MLP (ten square matrices and their biases). All take turns, so that they meet the same noise; both libraries have one
process, and as many threads as the machine has cores. The figures are medians of the turns, and ratios of these.

--busy is for a machine that others use too: one thread for each library, and processor time in place of the clock.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

import lopt
from benchmarks.updates import compile_update, mlp_shapes, read_count
from lopt.names import InputError, split_list
from lopt.torch import Learned
from lopt.torch.reading import read_trained

NAMES = (
    *("blend", "blend_cheap", "blend_anytime"),
    *("celo_adam_digits", "celo2_digits", "adafac_mlp_digits", "star_digits", "demo_mlp"),
)
NUM_STEPS = 1000
LEAST_TURNS, SECONDS = 4, 6.0  # least number of turns; seconds after which no turn begins


def torch_update(make: Callable[[list[Any]], Any], arrays: dict[str, np.ndarray]) -> Callable[[], None]:
    """One step of an optimizer of PyTorch; kernels lie as in Linear."""
    params = [torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(x.T))) for x in arrays.values()]
    for param in params:
        param.grad = 0.1 * param.detach() + 0.01
    optimizer = make(params)
    arguments: dict[str, Any] = {"loss": 1.0} if isinstance(optimizer, Learned) else {}
    return lambda: optimizer.step(**arguments)


def jax_update(name: str, arrays: dict[str, np.ndarray]) -> Callable[[], None]:
    """One compiled update of the same rule in JAX, with its state donated."""
    tx: Any = lopt.load(name, num_steps=NUM_STEPS)
    params = {key: jnp.asarray(x) for key, x in arrays.items()}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    held = {"state": jax.jit(tx.init)(params)}  # under jit, no two arrays share a buffer that is donated
    value = jnp.ones(())
    program = compile_update(
        lambda grads, params, value, state: tx.update(grads, state, params, value=value),
        *(grads, params, value, held["state"]),
    )

    def run() -> None:
        held["state"], _ = jax.block_until_ready(program(grads, params, value, held["state"]))

    return run


def take_turns(updates: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each update, all of which are called in turn."""
    times: dict[str, list[float]] = {name: [] for name in updates}
    began = time.perf_counter()
    for turn in range(200):
        if turn > LEAST_TURNS and time.perf_counter() - began > SECONDS:
            break
        for name, update in updates.items():
            started = clock()
            update()
            times[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def muon(params: list[Any]) -> Any:
    """Muon for the matrices; it takes no others."""
    return torch.optim.Muon([param for param in params if param.ndim == 2], lr=1e-3)


def measure(name: str, size: float, clock: Callable[[], float] = time.perf_counter) -> str:
    """One row of the table."""
    generator = np.random.default_rng(0)
    arrays = {key: 0.1 * generator.normal(size=shape).astype(np.float32) for key, shape in mlp_shapes(size).items()}
    updates = {
        "adamw": torch_update(lambda params: torch.optim.AdamW(params, lr=1e-3, foreach=True), arrays),
        "torch": torch_update(lambda params: Learned(params, name, num_steps=NUM_STEPS), arrays),
        "jax": jax_update(name, arrays),
    }
    if hasattr(torch.optim, "Muon"):
        updates["muon"] = torch_update(muon, arrays)
    seconds = take_turns(updates, clock)
    cells = [f"{sum(x.size for x in arrays.values()):.1e}", f"`{name}`", f"{1e3 * seconds['torch']:.3g}"]
    cells += [f"{seconds['torch'] / seconds[key]:.2g}" if key in seconds else "" for key in ("adamw", "muon", "jax")]
    return "| " + " | ".join(cells) + " |"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; raises InputError for a trained optimizer that PyTorch lacks and for a size out of range."""
    parser = argparse.ArgumentParser(description="What an update costs in PyTorch; see the module's docstring.")
    parser.add_argument("names", nargs="*", default=NAMES, help="trained optimizers")
    parser.add_argument("--sizes", default="1e5,1e6,1e7", help="numbers of parameters, separated by commas")
    parser.add_argument("--busy", action="store_true", help="one thread each, and processor time")
    args = parser.parse_args(arguments)
    args.sizes = [read_count("--sizes", size) for size in split_list(args.sizes)]
    for name in args.names:
        read_trained(name)
    return args


def main() -> None:
    try:
        args = parse_arguments()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if args.busy:  # before JAX makes its threads
        torch.set_num_threads(1)
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    clock = time.process_time if args.busy else time.perf_counter
    print("| parameters | trained optimizer | ms | x AdamW | x Muon | x the rule in JAX |\n|---|---|---|---|---|---|")
    for size in args.sizes:
        for name in args.names:
            print(measure(name, size, clock), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
