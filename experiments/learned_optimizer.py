"""The mlp learned optimizer meta-trained by PES, NRES, truncated ES and TBPTT on the same budget of inner steps.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835; NRES: Li, Harrison, Sohl-Dickstein, Smith, Metz,
NeurIPS 2023, arXiv 2304.12180): estimators without truncation bias train a better learned optimizer than truncated ES
and truncated backpropagation at equal cost.

Setting: an MLP with 16 ReLU units on `mnist_5k` at 8 x 8 pixels is trained for T = 500 steps with batches of 8. What is
minimised is the loss of the training batch before each update, in units of ln 10, at most 2. Windows of K = 2 steps,
16 pairs, staggered starts, sigma = 0.01 for the evolution strategies. Theta, the 1,762 weights of `mlp` with its
default settings, is trained by Adam, its rate falling to 0 as a cosine, on the gradient clipped to norm 1. A pair pays
2 inner steps per step of the window, and 3 with truncated ES, which has an unperturbed trajectory too; each run gets
300,000.

A theta is judged by the mean training loss of 8 whole trainings with seeds of their own, the same for all; a step that
costs more than 2, or is not finite, counts as 2. Compared are medians of meta-training with seeds 0, 1 and 2.

Each method has the best of the rates 0.0003, 0.001 and 0.003 on another seed, where they ended at: NRES 0.306, 0.282,
0.282; PES 0.362, 0.301, 0.301; TBPTT 0.288, 0.302, 0.305; truncated ES 0.473, 0.346, 0.317. Other settings were tried
on that seed too. Windows of 5 with the same grid: TBPTT 0.312, 0.288, 0.301; NRES 0.370, 0.298, 0.282; PES 0.426,
0.343, 0.316; truncated ES 0.666, 0.388, 0.324. Windows of 10 and 640,000 inner steps: NRES 0.275, PES 0.291, TBPTT
0.293, truncated ES 0.311 at their best. A theta of 8 hidden units: PES, NRES and truncated ES level. Batches of 64 with
T = 200 did not tell the methods apart.

Precision: float32.

Finding asserted, of the medians: NRES and PES end below truncated ES. What does not come out in any of the settings:
PES below TBPTT, or, at each method's best rate, NRES clearly below it. The bias of TBPTT costs little on this task, and
its gradient is the least noisy; the variance of PES grows with the number of windows, here 250. On noisy quadratics
(`quadratic:dimension=16:noise=5.0:condition=1000`, K = 5, T = 500), where short windows are known to mislead (Wu, Ren,
Liao, Grosse, 2018, arXiv 1803.02021), the order was TBPTT 0.180, PES 0.197, NRES 0.200, truncated ES 0.201.

--quick (T = 100, 4 pairs, 16,000 inner steps, seed 0, PES and TBPTT): both end below where they started.

Deviations: the PES paper's set-up is not public. NRES's (FashionMNIST at 8 x 8, batches of 128, two layers of 32 GELU
units, T = 1,000, windows of one step, 100 pairs, 240,000 updates, a rate for each method) takes hours on 2 cores.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import report
from experiments.report import Finding
from lopt.distributed import default_layout
from lopt.estimators import ESTIMATORS
from lopt.evaluation.runs import Learned, train
from lopt.figures import to_png
from lopt.files import write_atomic
from lopt.horizons import Horizon
from lopt.locks import FolderLock
from lopt.meta_training.objective import LOSS_CAP, Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.progress import Progress
from lopt.meta_training.steps import BLOCK_STEPS, outer_steps
from lopt.names import Spec, build
from lopt.optimizers.mlp import MLPOptimizer
from lopt.types import Data, PyTree
from lopt.version import versions
from tasks.images.image_mlp import ImageMLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY = ImageMLP(dataset="mnist_5k", size=8, hidden_sizes=(16,), batch_size=8)
OPTIMIZER = MLPOptimizer()
TRUNCATION = 2
SIGMA = 0.01
TRAJECTORIES = {"pes": 2, "nres": 2, "truncated_es": 3, "tbptt": 2}  # inner steps per step of a pair's window
LEARNING_RATES = {"pes": 1e-3, "nres": 1e-3, "truncated_es": 3e-3, "tbptt": 3e-4}
BELOW = {"nres": ("truncated_es",), "pes": ("truncated_es",)}  # what is asserted of the medians
POINTS = 6  # thetas of a run that are judged, beside the first


class Size(NamedTuple):
    """How large the experiment is.

    Attributes:
      methods: names of estimators.
      horizon: T, inner steps.
      num_pairs: antithetic pairs, or trajectories.
      inner_steps: of one run.
      seeds: one run per seed.
      num_trainings: whole trainings that judge a theta.
    """

    methods: tuple[str, ...]
    horizon: int
    num_pairs: int
    inner_steps: int
    seeds: tuple[int, ...]
    num_trainings: int


FULL = Size(("pes", "nres", "truncated_es", "tbptt"), 500, 16, 300_000, (0, 1, 2), 8)
QUICK = Size(("pes", "tbptt"), 100, 4, 16_000, (0,), 4)


def num_updates(method: str, size: Size) -> int:
    """Updates of theta that the budget of inner steps pays for."""
    return size.inner_steps // (TRAJECTORIES[method] * size.num_pairs * TRUNCATION)


def training(method: str, size: Size) -> MetaTraining:
    layout = default_layout(size.num_pairs)
    estimator = build(
        "estimator",
        Spec(method, {}),
        ESTIMATORS,
        layout=layout,
        num_pairs=size.num_pairs,
        sigma=SIGMA,
        truncation=TRUNCATION,
        horizon=Horizon(size.horizon, size.horizon),
        staggered=True,
    )
    outer = OuterOptimizer("adam", LEARNING_RATES[method], "cosine", num_steps=num_updates(method, size))
    return MetaTraining(OPTIMIZER, (FAMILY,), estimator, outer, Objective("train"), layout)


def meta_train(method: str, size: Size, seed: int, data: Data, progress: Progress, done: int) -> PyTree:
    """Theta at the start and after each of POINTS equal parts of the run, stacked."""
    meta = training(method, size)
    data = jax.device_put((data,), meta.layout.replicated)
    state = meta.init(seed, data)
    thetas, step, total = [jax.device_get(state.theta)], 0, num_updates(method, size)
    for point in range(1, POINTS + 1):
        while step < total * point // POINTS:
            now = min(BLOCK_STEPS, total * point // POINTS - step)
            state, _ = outer_steps(meta, state, data, now)
            step += now
            progress.update(done + step)
        thetas.append(jax.device_get(state.theta))
    return jax.tree.map(lambda *xs: np.stack(xs), *thetas)


@functools.partial(jax.jit, static_argnames=("horizon", "num_trainings"))
def _curves(thetas: PyTree, data: Data, horizon: int, num_trainings: int) -> jax.Array:
    num_thetas = len(jax.tree.leaves(thetas)[0])

    def one(run: tuple[jax.Array, jax.Array]) -> jax.Array:
        theta = jax.tree.map(lambda x: x[run[0]], thetas)
        key = jax.random.fold_in(jax.random.key(12345), run[1])
        rule = Learned(OPTIMIZER)
        return train(rule, theta, FAMILY, data, key, jnp.asarray(horizon), 0, horizon).loss

    runs = jnp.repeat(jnp.arange(num_thetas), num_trainings), jnp.tile(jnp.arange(num_trainings), num_thetas)
    return default_layout(num_thetas * num_trainings).map_pairs(one, runs)


def mean_loss(losses: np.ndarray) -> np.ndarray:
    """Mean of losses `[..., T]`, nats, in units of ln 10; a step costs at most the cap, and the cap if it is NaN."""
    units = losses / np.log(FAMILY.num_classes)
    return np.where(units < LOSS_CAP, units, LOSS_CAP).mean(-1)  # False for NaN


def judge(thetas: PyTree, size: Size, data: Data) -> np.ndarray:
    """Mean training loss of every theta `[n, ...]` over the same fresh trainings, `[n]`."""
    losses = np.asarray(_curves(thetas, data, size.horizon, size.num_trainings))
    return mean_loss(losses).reshape(-1, size.num_trainings).mean(1)


def run_all(size: Size) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Mean training losses `{method: [seeds, POINTS + 1]}`, and the seconds each method took."""
    data = FAMILY.load()
    reached, seconds, done = {}, {}, 0
    with Progress(len(size.seeds) * sum(num_updates(method, size) for method in size.methods)) as progress:
        for method in size.methods:
            began, rows = time.monotonic(), []
            for seed in size.seeds:
                rows.append(judge(meta_train(method, size, seed, data, progress, done), size, data))
                done += num_updates(method, size)
            reached[method], seconds[method] = np.stack(rows), time.monotonic() - began
    return reached, seconds


def findings(quick: bool, reached: Mapping[str, np.ndarray]) -> dict[str, list[Finding]]:
    last = {method: np.median(losses[:, -1]) for method, losses in reached.items()}
    start = float(np.median([losses[:, 0] for losses in reached.values()]))
    bounds = dict.fromkeys(reached, start)
    if not quick:
        bounds |= {method: float(min(last[other] for other in others)) for method, others in BELOW.items()}
    return {
        method: [
            Finding("mean training loss, median of seeds", float(last[method]), below=bounds[method]),
            Finding("the same, best seed", float(losses[:, -1].min())),
            Finding("the same, worst seed", float(losses[:, -1].max())),
            Finding("the same, lowest along the run", float(np.median(losses[:, 1:].min(1)))),
            Finding("the same at the start, median", float(np.median(losses[:, 0]))),
        ]
        for method, losses in reached.items()
    }


def draw(size: Size, reached: Mapping[str, np.ndarray]) -> "Figure":
    figure = report.new_figure(7.6, 4.2)
    axes = figure.subplots()
    x = size.inner_steps / 1000 * np.arange(1, POINTS + 1) / POINTS
    for method, losses in reached.items():
        style, after = report.STYLES[method], losses[:, 1:]
        name = f"{report.NAMES[method]}: {np.median(losses[:, -1]):.3f}"
        axes.plot(x, np.median(after, 0), label=name, marker="o", markersize=4, **style)
        axes.fill_between(x, after.min(0), after.max(0), color=style["color"], alpha=0.1, linewidth=0)
    axes.set(xlabel="inner steps (thousands)", ylabel="mean training loss (units of ln 10)")
    axes.set_title(f"median and range of {len(size.seeds)} seeds; median at the end", fontsize=11, loc="left")
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    report.tidy(axes)
    return figure


def _numbers(quick: bool) -> tuple[dict[str, Any], "Figure"]:
    size, began = QUICK if quick else FULL, time.monotonic()
    reached, seconds = run_all(size)
    found = findings(quick, reached)
    methods = {
        method: {
            "settings": {"learning_rate": LEARNING_RATES[method], "num_updates": num_updates(method, size)},
            "seconds": round(seconds[method], 2),
            "losses": np.round(reached[method], 6).tolist(),
            "findings": [
                {"what": f.what, "reached": float(f"{f.reached:.6g}"), "required": f.required, "holds": f.holds}
                for f in found[method]
            ],
        }
        for method in size.methods
    }
    numbers = {
        "experiment": "learned_optimizer",
        "quick": quick,
        "precision": "float32",
        "constants": {"task": FAMILY.name, "truncation": TRUNCATION, "sigma": SIGMA, **size._asdict()},
        "versions": versions(),
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "seconds": round(time.monotonic() - began, 2),
        "holds": all(f.holds for rows in found.values() for f in rows),
        "methods": methods,
    }
    return numbers, draw(size, reached)


def main(arguments: list[str] | None = None) -> int:
    """The command. Its seeds are those of the finding; it has its own loop, as a report.Job has no MetaTraining."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.learned_optimizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, and a weaker finding")
    parser.add_argument("--out", type=Path, help="folder; default: results/learned_optimizer, or a new one if --quick")
    args = parser.parse_args(arguments)
    out = args.out or (Path(tempfile.mkdtemp()) if args.quick else Path("results")) / "learned_optimizer"
    out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out, "give another --out") as lock, jax.enable_x64(False):
        lock.take()
        numbers, figure = _numbers(args.quick)
        write_atomic(out / "numbers.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
        write_atomic(out / "figure.png", to_png(figure))
    print(report.table(numbers))
    print(f"{numbers['seconds']:.0f} s, {out}/numbers.json, {out}/figure.png")
    return 0 if numbers["holds"] else 1


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    sys.exit(interrupts.run(main))
