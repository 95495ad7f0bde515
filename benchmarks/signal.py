"""How much a meta-gradient says: `python -m benchmarks.signal [--optimizer=blend] [--tasks=...] [--horizon=300]`.

For each task, many estimates of one trajectory (`bptt`) and of one antithetic pair (`full_es`) at a fresh theta, whole
trainings of the same length, the loss as for a training that leads to an optimizer worth having: half training, half
held-out batch, logarithmic, late steps weighing more. The signal to noise of one estimate is |mean|^2 over the sum of
its variances, the bias of the first taken off; its inverse is about the number of estimates that are needed for a mean
whose error is as large as itself. The median and the largest norm show where trajectories are chaotic.
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
from jax.flatten_util import ravel_pytree

from lopt.estimators import BPTT, FullES
from lopt.horizons import Horizon
from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.names import InputError, build, parse_spec
from lopt.optimizers import OPTIMIZERS
from lopt.pool import read_mixture
from lopt.types import GradientEstimator, InnerProblem, Theta

OBJECTIVE = Objective("mixed", "log", "late")
TASKS = "image_mlp/digits:hidden_sizes=(16,):batch_size=16,image_mlp/digits:hidden_sizes=(16,16,16,16):layer_norm=True"


def estimates(
    estimator: GradientEstimator, problem: InnerProblem, theta: Theta, number: int
) -> tuple[np.ndarray, float]:
    """Estimates with keys of their own, `[number, P]`, and the milliseconds that one takes."""

    @jax.jit
    def one(key: jax.Array) -> jax.Array:
        state = estimator.init(problem, theta, jax.random.key(0))
        return ravel_pytree(estimator.estimate(problem, theta, state, key)[0].grad)[0]

    keys = jax.random.split(jax.random.key(1), number)
    one(keys[0]).block_until_ready()
    started = time.perf_counter()
    grads = np.stack([np.asarray(one(key), np.float64) for key in keys])
    return grads, (time.perf_counter() - started) / number * 1e3


def signal_to_noise(grads: np.ndarray) -> float:
    """(|mean|^2 - v / n) / v for n estimates `[n, P]` whose variances add up to v."""
    variance, mean = grads.var(0, ddof=1).sum(), grads.mean(0)
    return float((mean @ mean - variance / len(grads)) / variance)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a meta-gradient says; see the module's docstring.")
    parser.add_argument("--optimizer", default="blend", help="NAME[:setting=value]...")
    parser.add_argument("--tasks", default=TASKS, help="as for lopt train")
    parser.add_argument("--horizon", type=int, default=300, help="inner steps")
    parser.add_argument("--sigma", type=float, default=0.03, help="of the pairs")
    parser.add_argument("--estimates", type=int, default=16, help="trajectories, and pairs")
    args = parser.parse_args()
    try:
        optimizer = build("optimizer", parse_spec(args.optimizer), OPTIMIZERS)
        families = read_mixture(args.tasks).families
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    horizon, theta = Horizon(args.horizon, args.horizon), optimizer.init_theta(jax.random.key(0))
    print("| task | estimate | signal to noise | median norm | largest | milliseconds |\n|---|---|---|---|---|---|")
    for family in families:
        data = jax.tree.map(jnp.asarray, family.load())
        problem = inner_training(optimizer, family, data, objective=OBJECTIVE)
        for name, estimator in {
            "bptt": BPTT(num_pairs=1, horizon=horizon),
            "full_es": FullES(num_pairs=1, horizon=horizon, sigma=args.sigma),
        }.items():
            grads, milliseconds = estimates(estimator, problem, theta, args.estimates)
            norms = np.linalg.norm(grads, axis=1)
            numbers = (signal_to_noise(grads), np.median(norms), norms.max())
            print("|", family.name, "|", name, *(f"| {x:.2g}" for x in numbers), f"| {milliseconds:.0f} |", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
