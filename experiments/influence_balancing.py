"""Influence balancing: what theta does in the short run is the opposite of what it does in the long run.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835; a problem of Tallec and Ollivier, arXiv 1702.05043):
methods that look one short window ahead follow the wrong sign of the gradient and drive theta away, while PES reaches
the optimum as RTRL does, without derivatives.

Setting: s in R^23 starts at ones and follows s' = A s + theta v, with A = 0.5 I + 0.5 (superdiagonal) and v = +1 ten
times, then -1 thirteen times; theta starts at 0.5. A window of K steps has the loss (s[0] - 1)^2 / 2 of its last step
alone. There is no reset. 3,000 updates by SGD with learning rate 1e-4 (UORO: 1e-5), sigma = 0.1, N = 1,000 particles
(500 pairs; TBPTT, RTRL and UORO: one trajectory); K = 1, and for TBPTT also 10 and 100. A method is judged by the loss
after 500 steps from ones with the theta that it reached.

In the limit s[0] = -6 theta, so that theta* = -1/6. The gradient that TBPTT follows is (s[0] - 1) S_K with
S_K = sum_{k < K} (A^k v)[0], which has the right sign from K = 41 on: S_1 = 1, S_10 = 10, S_100 = -6.

Precision: float64, for losses below 1e-12.

Finding asserted, of the median of 7 runs where a method is random: PES, NRES and RTRL end below 1e-12; truncated ES and
TBPTT with K = 1 above the loss that they started from, and within a tenth of each other; TBPTT with K = 10 above 1e10;
TBPTT with K = 100 below 1e-6; UORO below the loss it started from. The median, since the error of PES shrinks by a
random factor in every update: its final loss is about log-normal, over ten orders of magnitude; no run of PES or NRES
may end above 1e-6. --quick (800 updates, 200 particles, one run; only the methods with K = 1): PES, NRES and RTRL below
0.1, truncated ES and TBPTT above the start.

Deviations: lopt's estimates are of a window's mean loss, the paper's of its sum, so the learning rate is K times the
paper's. NRES is not in the paper; without resets it keeps one noise for ever. Truncated ES keeps one unperturbed state
for each pair, where the paper's code keeps one in all: the two are equal, since only the noise is random here.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import report
from experiments.common import UNENDING, Job, Run
from experiments.report import Experiment, Finding
from lopt.types import InnerProblem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 23
POSITIVE = 10  # leading entries of v that are +1
A = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
V = np.where(np.arange(SIZE) < POSITIVE, 1.0, -1.0)
THETA = 0.5
OPTIMUM = -1 / 6
SIGMA = 0.1
LEARNING_RATE, UORO_LEARNING_RATE = 1e-4, 1e-5
LOSS_STEPS = 500


def problem(truncation: int) -> InnerProblem:
    """The loss of step t, counted from 1, is (s[0] - 1)^2 / 2 where a window ends, and 0 elsewhere."""

    def init(theta, key, horizon):
        del key, horizon
        return jnp.ones(SIZE, theta.dtype), jnp.zeros((), jnp.int32)

    def step(theta, state, key):
        del key
        s, t = state
        s, t = jnp.asarray(A, s.dtype) @ s + theta * jnp.asarray(V, s.dtype), t + 1
        return (s, t), jnp.where(t % truncation == 0, 0.5 * (s[0] - 1) ** 2, 0)

    return InnerProblem(init, step)


def influence(num_steps: int) -> float:
    """S_K, the effect of theta on s[0] through the last K steps."""
    power, total = V, 0.0
    for _ in range(num_steps):
        power, total = A @ power, total + power[0]
    return total


@jax.jit
@jnp.vectorize
def true_loss(theta: jax.Array) -> jax.Array:
    """The loss after 500 steps from ones with this theta."""
    start = jnp.ones(SIZE, theta.dtype)
    s = jax.lax.fori_loop(
        0, LOSS_STEPS, lambda _, s: jnp.asarray(A, s.dtype) @ s + theta * jnp.asarray(V, s.dtype), start
    )
    return 0.5 * (s[0] - 1) ** 2


def jobs(quick: bool) -> dict[str, Job]:
    runs = 1 if quick else 7
    num_pairs = 100 if quick else 500

    def job(estimator: str, truncation: int = 1, num_runs: int = 1, learning_rate: float = LEARNING_RATE) -> Job:
        return Job(
            problem(truncation),
            estimator,
            {
                "num_pairs": num_pairs if estimator in ("pes", "nres", "truncated_es") else 1,
                "sigma": SIGMA,
                "truncation": truncation,
                "horizon": UNENDING,
                "staggered": False,
            },
            optax.sgd,
            {"learning_rate": learning_rate * truncation},
            jnp.full(num_runs, THETA),
            num_steps=800 if quick else 3000,
            record_every=10,
        )

    methods = {
        "pes": job("pes", num_runs=runs),
        "nres": job("nres", num_runs=runs),
        "rtrl": job("rtrl"),
        "truncated_es": job("truncated_es", num_runs=runs),
        "tbptt 1": job("tbptt"),
    }
    if not quick:
        methods["tbptt 10"] = job("tbptt", 10)
        methods["tbptt 100"] = job("tbptt", 100)
        methods["uoro"] = job("uoro", num_runs=runs, learning_rate=UORO_LEARNING_RATE)
    return methods


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    losses = {label: np.asarray(true_loss(run.theta)) for label, run in runs.items()}
    start = float(true_loss(jnp.asarray(THETA)))
    target = 0.1 if quick else 1e-12
    final = {label: float(np.median(loss[:, -1])) for label, loss in losses.items()}
    found = {label: [Finding("final loss", final[label], below=target)] for label in ("pes", "nres", "rtrl")}
    for label in ("truncated_es", "tbptt 1"):
        found[label] = [Finding("final loss", final[label], above=start)]
    apart = abs(final["truncated_es"] / final["tbptt 1"] - 1)
    found["truncated_es"].append(Finding("relative to tbptt 1", apart, below=0.5 if quick else 0.1))
    if not quick:
        for label in ("pes", "nres"):
            found[label].append(Finding("worst final loss", losses[label][:, -1].max(), below=1e-6))
        found["tbptt 10"] = [Finding("final loss", final["tbptt 10"], above=1e10)]
        found["tbptt 100"] = [Finding("final loss", final["tbptt 100"], below=1e-6)]
        found["uoro"] = [Finding("final loss", final["uoro"], below=start)]
    for label, rows in found.items():
        rows.append(Finding("theta (best: -1/6)", float(np.median(runs[label].theta[:, -1]))))
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    figure = report.new_figure(8.2, 4.4)
    axes = figure.subplots()
    for label, run in runs.items():
        method, _, truncation = label.partition(" ")
        style = report.STYLES[method]
        if truncation:
            style = {**style, "linestyle": {"1": "-", "10": "--", "100": ":"}[truncation]}
        loss = np.clip(np.asarray(true_loss(run.theta)), 1e-30, 1e30)
        name = f"TBPTT, K = {truncation}" if truncation else report.NAMES[method]
        axes.plot(run.steps, np.median(loss, 0), label=name, **style)
        band = {"color": style["color"], "alpha": 0.18, "linewidth": 0, "zorder": style["zorder"] - 0.5}
        axes.fill_between(run.steps, loss.min(0), loss.max(0), **band)
    if not quick:
        axes.set_ylim(1e-20, 1e18)
    axes.set(yscale="log", xlim=(0, max(run.steps[-1] for run in runs.values())))
    axes.set(xlabel="update of theta", ylabel="loss after 500 steps")
    axes.set_title("Influence balancing", fontsize=11, loc="left")
    report.tidy(axes)
    num_runs = max(len(run.theta) for run in runs.values())
    if num_runs > 1:
        note = f"lines: median of {num_runs} runs of the random methods; bands: their range"
        figure.supxlabel(note, fontsize=8, color="#555555")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.8)
    return figure


EXPERIMENT = Experiment(
    "influence_balancing",
    jobs,
    findings,
    draw,
    {"size": SIZE, "positive": POSITIVE, "optimum": OPTIMUM, "loss_steps": LOSS_STEPS, "particles": "2 num_pairs"},
    x64=True,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
