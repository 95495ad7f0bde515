"""29 hyperparameters of an MLP, some of them discrete, tuned while it is trained; random search beside it.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835): evolution strategies tune widths, which no gradient
reaches, along with a learning rate and a momentum for every tensor; at equal inner steps PES is below truncated ES,
which does not see beyond its window, and both are below random search.

What comes out: PES is below both. Truncated ES is below random search where the draws of random search are judged by
fresh trainings, and above it where they are judged, as in the paper, by the trainings that chose them. The choice
between the two judgements, of Adam's learning rates and of the budget was made after first runs had been seen.

Setting: an MLP with five hidden layers of 16 ReLU units, of which the first floor(16 sigmoid(theta)) are kept, is
trained by SGD with momentum on `mnist_5k` at 8 x 8 pixels, batches of 64, T = 200 steps. theta: 5 logits of widths, 12
ln learning rates and 12 logits of momenta (12 tensors). What is judged is the mean over the steps of the cross-entropy,
in nats, of a fresh batch of the meta split after each step, each at most 4.6 (2 ln 10), which is also what training
that has diverged costs.

PES and truncated ES: windows of K = 10 steps, N = 10 particles (5 pairs), sigma = 0.3, in lockstep; Adam with learning
rate 0.03 for PES and 0.1 for truncated ES, for each the better of these two on other seeds (0.1 blows PES up). Each of
4 runs starts uniformly in theta: widths from 0.2 to 0.8 of 16, learning rates 1e-3 to 1e-1, momenta 0.01 to 0.9.
Random search draws uniformly in theta from 0.01 to 0.999, 1e-8 to 10 and 0.01 to 0.999. An update of PES costs N K =
100 inner steps, one of truncated ES 150, as each pair has an unperturbed trajectory too, and a draw of random search T;
each gets 120,000 a run.

The curves are running bests, mean over the runs, of the mean of 4 whole trainings with the same seeds everywhere, which
are not counted: for PES and truncated ES those of theta itself, recorded 20 times; for random search those of each draw
whose one counted training was better than all before it. By these trainings themselves, as in the paper, random search
looks better than it is, because the best of many is lucky; that number is reported too.

Precision: float32, as in the paper's code.

Finding asserted: after equally many inner steps, the best of PES is below that of truncated ES, and below random search
by both judgements. --quick (30,000 inner steps a run, 2 runs): PES and truncated ES end below where they started.

Deviations: the paper has FashionMNIST at 28 x 28, 100 units, batches of 100, T = 1,000, 50,000 updates with learning
rate 0.01, 10,000 random draws and 10 seeds. As T is a fifth, learning rates start ten times higher, above 1e-3: from
the paper's starts next to nothing is learned in time, and the landscape there is flat.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import many_hyperparameters_problem as inner
from experiments import report
from experiments.common import Job, Run
from experiments.report import Experiment, Finding
from lopt.figures import COLOURS
from lopt.horizons import Horizon
from lopt.types import Theta

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 200
TRUNCATION = 10
NUM_PAIRS = 5
SIGMA = 0.3
LEARNING_RATE = {"pes": 0.03, "truncated_es": 0.1}
RECORDS = 20
COST = {"pes": 2 * NUM_PAIRS * TRUNCATION, "truncated_es": 3 * NUM_PAIRS * TRUNCATION}  # inner steps per update


class Size(NamedTuple):
    """How large the experiment is.

    Attributes:
      inner_steps: of one run.
      num_runs: runs per method.
      num_seeds: trainings that judge a theta.
    """

    inner_steps: int
    num_runs: int
    num_seeds: int


FULL = Size(120_000, 4, 4)
QUICK = Size(30_000, 2, 2)


def size_of(quick: bool) -> Size:
    return QUICK if quick else FULL


def jobs(quick: bool) -> dict[str, Job]:
    size = size_of(quick)
    theta = inner.draw_theta(jax.random.key(11), inner.START_RANGES, size.num_runs)
    problem = inner.problem(inner.load())

    def job(estimator: str) -> Job:
        num_steps = size.inner_steps // COST[estimator]
        return Job(
            problem,
            estimator,
            {
                "num_pairs": NUM_PAIRS,
                "sigma": SIGMA,
                "truncation": TRUNCATION,
                "horizon": Horizon(STEPS, STEPS),
                "staggered": False,
            },
            optax.adam,
            {"learning_rate": LEARNING_RATE[estimator]},
            theta,
            num_steps=num_steps,
            record_every=num_steps // RECORDS,
        )

    return {"pes": job("pes"), "truncated_es": job("truncated_es")}


def judge(thetas: Theta, num_seeds: int) -> np.ndarray:
    """Mean objective of each theta `[n, ...]` over the same trainings for all, `[n]`."""
    num_thetas = len(thetas["width"])
    repeated = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), num_seeds, 0), thetas)
    keys = jnp.tile(jax.random.split(jax.random.key(12), num_seeds), num_thetas)
    return inner.objectives(inner.load(), repeated, keys, STEPS).reshape(-1, num_seeds).mean(1)


def judge_run(run: Run, num_seeds: int) -> np.ndarray:
    """Mean objective of every recorded theta, `[num_runs, num_records]`."""
    num_runs, num_records, _ = run.theta["width"].shape
    thetas = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), run.theta)
    return judge(thetas, num_seeds).reshape(num_runs, num_records)


@functools.cache
def random_search(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """The running best after each draw, by fresh trainings and by those that were paid for, `[num_runs, draws]`."""
    size = size_of(quick)
    theta_key, key = jax.random.split(jax.random.key(13))
    total = size.num_runs * size.inner_steps // STEPS
    thetas = inner.draw_theta(theta_key, inner.FULL_RANGES, total)
    paid = inner.objectives(inner.load(), thetas, jax.random.split(key, total), STEPS).reshape(size.num_runs, -1)
    candidates = np.flatnonzero(is_new_best(paid))
    judged = np.full(total, np.inf)
    judged[candidates] = judge(jax.tree.map(lambda x: x[candidates], thetas), size.num_seeds)
    return running_best(judged.reshape(paid.shape)), running_best(paid)


def is_new_best(values: np.ndarray) -> np.ndarray:
    """Whether a value is less than all before it along the last axis."""
    before = np.concatenate([np.full_like(values[..., :1], np.inf), running_best(values)[..., :-1]], -1)
    return values < before


def running_best(values: np.ndarray) -> np.ndarray:
    """The least value so far, along the last axis."""
    return np.minimum.accumulate(values, -1)


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    size = size_of(quick)
    reached = {label: judge_run(run, size.num_seeds) for label, run in runs.items()}
    best = {label: float(running_best(x)[:, -1].mean()) for label, x in reached.items()}
    random, paid = (float(curve[:, -1].mean()) for curve in random_search(quick))
    start = float(reached["pes"][:, 0].mean())
    bounds = {"pes": start if quick else min(best["truncated_es"], random, paid), "truncated_es": start}
    found = {}
    for label, x in reached.items():
        found[label] = [
            Finding("best objective, mean of runs", best[label], below=bounds[label]),
            Finding("objective at the end, mean of runs", float(x[:, -1].mean())),
        ]
    found["truncated_es"] += [
        Finding("objective at the start, mean of runs", start),
        Finding("best of random search, mean of runs", random),
        Finding("the same by its own trainings", paid),
    ]
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    size = size_of(quick)
    curves = {
        label: (run.steps * COST[label], running_best(judge_run(run, size.num_seeds))) for label, run in runs.items()
    }
    found = random_search(quick)[0]
    curves["random search"] = (STEPS * np.arange(1, found.shape[1] + 1), found)
    styles = {**report.STYLES, "random search": {"color": COLOURS[1], "linewidth": 1.6, "linestyle": "-."}}
    figure = report.new_figure(7.6, 4.2)
    axes = figure.subplots()
    for label, (inner_steps, curve) in curves.items():
        style = styles[label]
        name = f"{report.NAMES.get(label, label)}: {curve[:, -1].mean():.2f}"
        x = inner_steps / 1000
        axes.plot(x, curve.mean(0), label=name, drawstyle="steps-post", **style)
        axes.fill_between(x, curve.min(0), curve.max(0), step="post", color=style["color"], alpha=0.1, linewidth=0)
    axes.set(xlabel="inner steps (thousands)", ylabel="best objective so far (nats)", xlim=(0, size.inner_steps / 1000))
    axes.set_title(
        f"29 hyperparameters: mean and range of {size.num_runs} runs; mean at the end", fontsize=11, loc="left"
    )
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    report.tidy(axes)
    return figure


EXPERIMENT = Experiment(
    "many_hyperparameters",
    jobs,
    findings,
    draw,
    {
        "inner_steps": STEPS,
        "width": inner.WIDTH,
        "batch": inner.FAMILY.batch_size,
        "cap": inner.CAP,
        "start_ranges": inner.START_RANGES,
        "random_search_ranges": inner.FULL_RANGES,
        "inner_steps_an_update": COST,
        "inner_steps_a_run": FULL.inner_steps,
        "particles": "2 num_pairs",
    },
    x64=False,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
