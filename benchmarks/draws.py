"""What draws by cost buy: `python -m benchmarks.draws [--rule= --tasks= --pairs= --K=]`; most of it is compiling.

For each family of a pool: its share in the objective; how often --draw=cost draws it; the cost of an inner step as it
is counted (lopt/meta_training/draws.py), over that of the cheapest; and the milliseconds of an estimate of all pairs,
the least of several, the families in turn. How far costs and times are from being proportional is exp of the standard
deviation of the logarithm of their quotients, for the cost and for FLOPs alone.

An outer step that draws families takes the mean of these times, weighted by how often each is drawn, so the inner steps
per second of both draws follow, whatever the number of families that it draws. Beside them stands what draws by cost
multiply the mean square of the estimate by, where those of all families have the same: the price.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from lopt.estimators import PES
from lopt.horizons import Horizon
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.names import build, parse_spec
from lopt.optimizers import OPTIMIZERS
from lopt.pool import read_mixture

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="What draws by cost buy; see the module's docstring.")
    parser.add_argument("--rule", default="learnable_adam")
    parser.add_argument("--tasks", default="pool_wide")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--K", type=int, default=50)
    args = parser.parse_args()
    mixture = read_mixture(args.tasks)
    training = MetaTraining(
        optimizer=build("optimizer", parse_spec(args.rule), OPTIMIZERS),
        families=mixture.families,
        weights=mixture.weights,
        families_per_step=1,
        draw="cost",
        estimator=PES(
            num_pairs=args.pairs, truncation=args.K, horizon=Horizon(10 * args.K, 10 * args.K), staggered=False
        ),
        outer_optimizer=OuterOptimizer(),
    )
    data = tuple(jax.tree.map(jnp.asarray, family.load()) for family in training.families)
    odds = training.odds(data)
    assert odds is not None
    shares = np.asarray(training.shares()) / len(training.families)
    state, seconds = training.init(0, data), np.full(len(data), np.inf)
    states, runs = list(state.estimator_states), []
    for i, each in enumerate(data):
        arguments = (state.theta, states[i], each, state.key, state.step)
        runs.append(jax.jit(lambda *given, i=i: training.estimate(i, *given)).lower(*arguments).compile())
        print(f"compiled {i + 1} of {len(data)}", file=sys.stderr)
    for round_number in range(ROUNDS):
        for i, run in enumerate(runs):
            key = jax.random.fold_in(state.key, round_number)
            began = time.perf_counter()
            _, states[i] = jax.block_until_ready(run(state.theta, states[i], data[i], key, state.step))
            seconds[i] = min(seconds[i], time.perf_counter() - began)
    counts = training.counts(data)
    costs = np.asarray([count.cost for count in counts])
    print("| task | weight | drawn by cost | cost, of the cheapest | ms per estimate |\n|---|---|---|---|---|")
    for family, *numbers in zip(
        training.families, shares, odds.chances, costs / costs.min(), 1e3 * seconds, strict=True
    ):
        print("| `{}` | {:.3f} | {:.3f} | {:,.1f} | {:,.1f} |".format(family.name, *numbers))
    for name, counted in (("cost", costs), ("FLOPs alone", np.asarray([count.flops for count in counts]))):
        print(f"\n{name}: proportional to the time within a factor of {np.exp(np.std(np.log(counted / seconds))):.1f}")
    inner_steps = 2 * args.pairs * args.K
    rates = {name: inner_steps / (p @ seconds) for name, p in (("weight", shares), ("cost", np.asarray(odds.chances)))}
    square = float((shares**2 / np.asarray(odds.chances)).sum())
    print(
        f"\n{rates['weight']:,.0f} inner steps/s drawn by weight, {rates['cost']:,.0f} by cost: "
        f"{rates['cost'] / rates['weight']:.2f} times; mean square {square:.2f} times, "
        f"so {rates['cost'] / rates['weight'] / square:.2f} times as good for its time"
    )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
