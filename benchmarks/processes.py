"""Outer steps by one and by two processes: `python -m benchmarks.processes`.

Setting: the `mlp` optimizer on an MLP 64-32-10 (digits, batch 128), PES with K = 50, horizon 200:2000, as in
`benchmarks.meta_training`; each process has one device, which is one core here. Strong scaling keeps 8 pairs in all,
weak scaling 4 pairs per process; their blocks take turns. For each it prints the time of an outer step, the bytes that
the all-reduces of the compiled program of a step return, and the time of an all-reduce of as many bytes alone. Then it
predicts the step to 1,000 hosts from these figures; docs/cluster.md states the model.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import json
import math
import re
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from lopt import processes
from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.optimizers.mlp import MLPOptimizer
from tasks.images.image_mlp import ImageMLP

BLOCKS, STEPS, REDUCES = 12, 2, 50
HOSTS = (1, 2, 8, 64, 256, 1000)
CORES, BYTES_PER_SECOND, SECONDS_PER_HOP = 32, 10e9 / 8, 50e-6  # of a host, and of the network, in the prediction
SIZES = {"f32": 4, "f64": 8, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def training_of(num_pairs: int, layout: PairLayout) -> MetaTraining:
    return MetaTraining(
        optimizer=MLPOptimizer(),
        families=(ImageMLP(dataset="digits", size=8, hidden_sizes=(32,), batch_size=128),),
        estimator=PES(num_pairs=num_pairs, truncation=50, horizon=Horizon(200, 2000), layout=layout),
        outer_optimizer=OuterOptimizer(),
        objective=Objective("train"),
        layout=layout,
    )


def reduced_bytes(text: str) -> int:
    """Bytes of the arrays that a compiled program's all-reduces and all-gathers return, each counted once."""
    total = 0
    for line in text.splitlines():
        if found := re.search(r"= (.*?) (all-reduce|all-gather)(-start)?\(", line):
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                total += SIZES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n)
    return total


def measure(address: str, number: int, index: int) -> dict[str, Any]:
    """What one of the processes measures; all of them call it alike."""
    jax.config.update("jax_num_cpu_devices", 1)
    if number > 1:
        jax.distributed.initialize(address, number, index)
    layout = PairLayout(number)
    data = processes.put((ImageMLP(dataset="digits", size=8).load(),), layout.replicated)
    found: dict[str, Any] = {}
    runs = {}
    for name, pairs in (("strong", 8), ("weak", 4 * number)):
        training = training_of(pairs, layout)
        state, _ = outer_steps(training, training.init(0, data), data, 1)
        runs[name] = [training, jax.block_until_ready(state), []]
    for _ in range(BLOCKS):
        for run in runs.values():
            began = time.perf_counter()
            run[1], rows = outer_steps(run[0], run[1], data, STEPS)
            jax.block_until_ready((run[1], rows))
            run[2].append((time.perf_counter() - began) / STEPS)
    for name, (_, _, times) in runs.items():
        found[name] = {"median": statistics.median(times), "best": min(times)}
    training, state, _ = runs["weak"]
    found["theta"] = sum(x.nbytes for x in jax.tree.leaves(state.theta))
    found["state"] = sum(x.nbytes for x in jax.tree.leaves(state.estimator_states) if x.dtype != state.key.dtype)
    found["bytes"] = reduced_bytes(step_program(training, state, data)) if number > 1 else 0
    row = np.zeros(max(found["bytes"] // 4, 1), np.float32)
    processes.array_of_first(row)
    times = []
    for _ in range(REDUCES):
        began = time.perf_counter()
        processes.array_of_first(row)
        times.append(time.perf_counter() - began)
    found["reduce"] = {"median": statistics.median(times), "best": min(times)}
    if number > 1:
        jax.distributed.shutdown()
    return found


def step_program(training: MetaTraining, state: Any, data: Any) -> str:
    """The compiled program of a dispatch of outer steps, as text."""
    from lopt.meta_training.steps import _one_program

    lowered = _one_program.lower(training, state, data, np.int32(1), 1.0)
    return lowered.compile().as_text() or ""


def ring_seconds(size: int, hosts: int, bytes_per_second: float, seconds_per_hop: float) -> float:
    """Time of an all-reduce by a ring: 2 (P - 1) messages of size / P bytes, one after another."""
    return 2 * (hosts - 1) * (seconds_per_hop + size / hosts / bytes_per_second)


def tree_seconds(size: int, hosts: int, bytes_per_second: float, seconds_per_hop: float) -> float:
    """By a tree: up and down log2 P levels, all of the bytes on each."""
    return 2 * math.ceil(math.log2(hosts)) * (seconds_per_hop + size / bytes_per_second) if hosts > 1 else 0.0


def slowest(number: int, spread: float) -> float:
    """Expected largest of that many normal times of mean 1, for a standard deviation of `spread`."""
    if number == 1:
        return 1.0
    normal = statistics.NormalDist()
    return 1 + spread * (0.5772 * normal.inv_cdf(1 - 1 / (number * math.e)) + 0.4228 * normal.inv_cdf(1 - 1 / number))


def predict(pair_seconds: float, size: int, spread: float) -> None:
    """Prints the model's table: weak scaling with 4 pairs per core, strong scaling with 32,000 pairs in all."""
    print(f"\na window of a pair: {pair_seconds:.3g} s on a core; {CORES} cores per host; {size:,} bytes per step")
    print("| hosts | all-reduce, ms | weak: step, s | efficiency | strong: step, s | efficiency |")
    print("|---|---|---|---|---|---|")
    for hosts in HOSTS:
        ring = ring_seconds(size, hosts, BYTES_PER_SECOND, SECONDS_PER_HOP)
        tree = tree_seconds(size, hosts, BYTES_PER_SECOND, SECONDS_PER_HOP)
        cells = [f"{hosts:,}", f"{1e3 * ring:.3g} ({1e3 * tree:.2g})"]
        for pairs in (4 * CORES * hosts, 32_000):
            ideal = pair_seconds * pairs / hosts / CORES
            work = pair_seconds * math.ceil(pairs / hosts / CORES) * slowest(hosts, spread)
            cells += [
                f"{work + ring:.3g} ({work + tree:.3g})",
                f"{ideal / (work + ring):.0%} ({ideal / (work + tree):.0%})",
            ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Outer steps by one and two processes; see the module's docstring.")
    parser.add_argument("--spread", type=float, default=0.02, help="of the hosts' times, over their mean")
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.member:
        print(json.dumps(measure(args.member[0], int(args.member[1]), int(args.member[2]))))
        return
    found = {}
    for number in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [sys.executable, "-m", "benchmarks.processes", "--member", address, str(number)]
        members = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(number)]
        said = [member.communicate()[0] for member in members]
        found[number] = json.loads(said[0].splitlines()[-1])
    one, two = found[1], found[2]
    print(f"theta: {one['theta']:,} bytes; states of 4 pairs: {one['state']:,}; a step's reduction: {two['bytes']:,}")
    print("| processes | strong: step, s | weak: step, s | all-reduce alone, ms |\n|---|---|---|---|")
    for number, each in found.items():
        steps = [f"{each[kind]['median']:.3g} ({each[kind]['best']:.3g})" for kind in ("strong", "weak")]
        reduce = each["reduce"]
        print(f"| {number} | {' | '.join(steps)} | {1e3 * reduce['median']:.2g} ({1e3 * reduce['best']:.2g}) |")
    for times in (1, 100):  # the task of the benchmark, and one whose steps take 100 times as long
        predict(times * one["weak"]["best"] / 4, two["bytes"], args.spread)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
