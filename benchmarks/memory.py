"""How much memory an update of a large model needs: `python -m benchmarks.memory [NAME...] [--size=1e8]`.

It prints the MiB that XLA reserves in addition to state, parameters, gradients and updates (memory_analysis of the
compiled program), for one square matrix and for ten. Nothing is allocated.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.updates import BASELINES, VARIANTS, check_rules, compile_update, functions, read_count
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS


def working_bytes(name: str, shapes: dict[str, tuple[int, ...]]) -> int:
    """Memory that a jitted update needs in addition to its arguments and results; nothing is allocated."""
    init, update = functions(name)
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    theta, state = jax.eval_shape(init, params)
    memory: Any = compile_update(update, theta, params, params, state).memory_analysis()
    return memory.temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="The working memory of an update; see the module's docstring.")
    parser.add_argument("names", nargs="*", help="NAME[:setting=value]...; default: all rules and some variants")
    parser.add_argument("--size", default="1e8", help="number of parameters")
    args = parser.parse_args()
    try:
        check_rules(args.names)
        size = read_count("--size", args.size)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    one, ten = (round(math.sqrt(size / num)) for num in (1, 10))
    models = {"one matrix": {"w": (one, one)}, "ten": {f"layer_{i}": (ten, ten) for i in range(10)}}
    for name in args.names or [*BASELINES, *OPTIMIZERS, *VARIANTS]:
        cells = [f"{kind}: {working_bytes(name, shapes) / 2**20:.1f} MiB" for kind, shapes in models.items()]
        print(name, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
