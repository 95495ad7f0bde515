"""How settings of a rule compare before any meta-training: `python -m benchmarks.starts blend blend:matrix_rate=0.05`.

Each rule with its fresh theta makes the same whole trainings of each task. The table has the final training loss (mean
over the last 5 % of the steps) and the validation loss of each rule over those of the first one: exp of the mean over
seeds of the logarithm, clipped to 1/e and e. The last row is the geometric mean over tasks, with the standard error
of its logarithm, by which a rule that meta-training can only improve on is chosen.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import sys

import jax
import numpy as np

from lopt.distributed import PairLayout
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import log_losses
from lopt.evaluation.runs import Learned, Runner, forget_programs
from lopt.names import InputError, build, parse_spec
from lopt.optimizers import OPTIMIZERS
from lopt.pool import read_mixture
from lopt.types import LearnedOptimizer, TaskFamily


def final_losses(rule: LearnedOptimizer, family: TaskFamily, horizon: int, num_seeds: int) -> np.ndarray:
    """Logarithms of the final training and validation losses, `[2, num_seeds]`, of the fresh theta."""
    theta = jax.tree.map(lambda x: x[None], rule.init_theta(jax.random.key(0)))
    layout = PairLayout(min(num_seeds, len(jax.devices())))
    what = {"rule": Learned(rule), "hypers": theta, "family": family, "data": family.load(), "layout": layout}
    runner = Runner(**what, seed=0, split="valid", max_steps=horizon, capacity=num_seeds)
    curves = runner(np.stack([np.zeros(num_seeds, np.int32), np.arange(num_seeds, dtype=np.int32)]), horizon)
    return log_losses(np.stack([MEASURES["final_loss"](curves), MEASURES["valid_loss"](curves)]))


def ratios(losses: np.ndarray) -> np.ndarray:
    """Means over seeds of log ratios to the first rule, `[R, 2, S] -> [R, 2]`; a diverged training counts as e."""
    with np.errstate(invalid="ignore"):  # both infinite
        logs = np.clip(losses - losses[:1], -1, 1)
    return np.where(np.isfinite(losses), logs, 1.0).mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fresh rules on whole trainings; see the module's docstring.")
    parser.add_argument("rules", nargs="+", help="NAME[:setting=value]..., the first is the reference")
    parser.add_argument("--tasks", default="pool_cheap,pool_valid", help="as for lopt train")
    parser.add_argument("--horizon", type=int, default=600, help="inner steps")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each task")
    args = parser.parse_args()
    try:
        rules = [build("optimizer", parse_spec(text), OPTIMIZERS) for text in args.rules]
        families = read_mixture(args.tasks).families
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("training / validation loss over those of", args.rules[0])
    print("| task |", " | ".join(args.rules[1:]), "|\n|---" * 1 + "|---" * len(args.rules[1:]) + "|")
    found = []
    for family in families:
        found.append(ratios(np.stack([final_losses(rule, family, args.horizon, args.seeds) for rule in rules])))
        print("|", family.name, *(f"| {a:.2f} / {b:.2f}" for a, b in np.exp(found[-1][1:])), "|", flush=True)
        forget_programs()
    mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
    cells = (
        f"| {np.exp(a):.3f} ± {s:.3f} / {np.exp(b):.3f} ± {t:.3f}"
        for (a, b), (s, t) in zip(mean[1:], error[1:], strict=True)
    )
    print("| geometric mean", *cells, "|")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
