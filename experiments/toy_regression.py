"""A learning-rate schedule for a 2-D problem: the meta-loss is rough, and its good region lies beyond a barrier.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835): greedy methods stop in front of the barrier because a
short window does not show what a larger learning rate gains later; exact gradients stop in the first bump; PES, which
has both the long horizon and the smoothing, ends where full ES ends.

Setting: SGD on f(x) = sqrt(x0^2 + 5) - sqrt(5) + sin(x1)^2 exp(-5 x0^2) + 0.25 |x1 - 100| from x = (1, 1) for T = 100
steps, with learning rate exp(theta0) (T - t) / T + exp(theta1) t / T in step t = 0, ..., T - 1. The meta-loss L is the
sum of f after each step. Windows of K = 10 steps (RTRL and UORO: 1), all trajectories in lockstep; 20,000 updates by
Adam with learning rate 0.01 and (b1, b2) = (0.99, 0.999) from theta = (-4, -4), where L = 2487.77. N = 100 particles
(50 pairs; TBPTT, RTRL and UORO: one trajectory), sigma = 0.3; truncated ES also with sigma = 1, the paper's choice for
it. The least L on a grid over [-5, 5]^2 is 552.8, near (2.80, -4.10).

Precision: float32, as in the paper's code.

Finding asserted, of the mean of L over the last 1,000 updates: PES, NRES and full ES below 600; TBPTT, RTRL, UORO and
truncated ES with sigma = 0.3 above 2,000; truncated ES with sigma = 1 above 1,000. --quick (3,000 updates, of which the
last 500 count; TBPTT, truncated ES with sigma = 0.3, PES and NRES): PES and NRES below 700, the others above 2,000.

Deviations: lopt's estimates are of mean losses, the paper's of sums; to Adam that makes no difference. NRES and full ES
are not in the paper's figure. The weight decay of 1e-10 in the paper's code is left out.
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
from experiments.common import Job, Run
from experiments.report import Experiment, Finding
from lopt.horizons import Horizon
from lopt.types import InnerProblem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 100
TRUNCATION = 10
START = (1.0, 1.0)
THETA = (-4.0, -4.0)
SIGMA, LARGE_SIGMA = 0.3, 1.0
NUM_PAIRS = 50
ADAM = {"learning_rate": 0.01, "b1": 0.99, "b2": 0.999}
RECORD_EVERY = 10


def inner_loss(x: jax.Array) -> jax.Array:
    valley = jnp.sqrt(x[0] ** 2 + 5) - jnp.sqrt(5.0)
    return valley + jnp.sin(x[1]) ** 2 * jnp.exp(-5 * x[0] ** 2) + 0.25 * jnp.abs(x[1] - 100)


def problem() -> InnerProblem:
    """SGD with the schedule that theta stands for; the state is (x, t)."""

    def init(theta, key, horizon):
        del key, horizon
        return jnp.asarray(START, theta.dtype), jnp.zeros((), theta.dtype)

    def step(theta, state, key):
        del key
        x, t = state
        rate = jnp.exp(theta[0]) * (STEPS - t) / STEPS + jnp.exp(theta[1]) * t / STEPS
        x = x - rate * jax.grad(inner_loss)(x)
        return (x, t + 1), inner_loss(x)

    return InnerProblem(init, step)


@jax.jit
def meta_loss(theta: jax.Array) -> jax.Array:
    """L, the sum over a whole trajectory, `[..., 2] -> [...]`."""
    toy = problem()
    key = jax.random.key(0)  # not used

    def one(theta):
        def body(_, carry):
            state, total = carry
            state, loss = toy.step(theta, state, key)
            return state, total + loss

        start = toy.init(theta, key, jnp.asarray(STEPS))
        return jax.lax.fori_loop(0, STEPS, body, (start, jnp.zeros((), theta.dtype)))[1]

    return jax.vmap(one)(theta.reshape(-1, 2)).reshape(theta.shape[:-1])


def landscape(num_points: int, low: float = -5.0, high: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """`(axis [n], L [n, n])` with L[i, j] at theta = (axis[i], axis[j])."""
    axis = np.linspace(low, high, num_points)
    rows = []
    for theta0 in axis:
        thetas = np.stack([np.full_like(axis, theta0), axis], -1)
        rows.append(meta_loss(jnp.asarray(thetas)))
    return axis, np.stack(rows)


def jobs(quick: bool) -> dict[str, Job]:
    def job(estimator: str, truncation: int = TRUNCATION, sigma: float = SIGMA) -> Job:
        return Job(
            problem(),
            estimator,
            {
                "num_pairs": NUM_PAIRS if estimator in ("pes", "nres", "full_es", "truncated_es") else 1,
                "sigma": sigma,
                "truncation": truncation,
                "horizon": Horizon(STEPS, STEPS),
                "staggered": False,
            },
            optax.adam,
            ADAM,
            jnp.asarray([THETA]),
            num_steps=3000 if quick else 20_000,
            record_every=RECORD_EVERY,
        )

    methods = {"pes": job("pes"), "nres": job("nres")}
    if not quick:
        methods["full_es"] = job("full_es")
        methods["truncated_es 1.0"] = job("truncated_es", sigma=LARGE_SIGMA)
        methods["rtrl"] = job("rtrl", truncation=1)
        methods["uoro"] = job("uoro", truncation=1)
    return {**methods, "truncated_es": job("truncated_es"), "tbptt": job("tbptt")}


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    last = 500 if quick else 1000
    found = {}
    for label, run in runs.items():
        reached = float(meta_loss(jnp.asarray(run.theta[0, -last // RECORD_EVERY :])).mean())
        if label in ("pes", "nres", "full_es"):
            bounds = {"below": 700 if quick else 600}
        else:
            bounds = {"above": 1000 if label == "truncated_es 1.0" else 2000}
        theta0, theta1 = (float(x) for x in run.theta[0, -1])
        found[label] = [
            Finding(f"L, mean of last {last:,} updates", reached, **bounds),
            Finding("theta0", theta0),
            Finding("theta1", theta1),
        ]
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import NullFormatter

    axis, loss = landscape(150 if quick else 600, low=-6.0)
    figure = report.new_figure(9.6, 6.0)
    pale = ListedColormap(colormaps["Greys"](np.linspace(0.0, 0.6, 256)))
    halo = [withStroke(linewidth=4.0, foreground="white", alpha=0.6)]
    axes = figure.subplots()
    norm = LogNorm(loss.min(), 3000)
    mesh = axes.pcolormesh(axis, axis, loss.T, norm=norm, cmap=pale, shading="nearest", rasterized=True)
    bar = figure.colorbar(mesh, ax=axes, location="right", pad=0.02, label="meta-loss L", extend="max")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_ticks([600, 800, 1000, 1500, 2000, 3000], labels=["600", "800", "1,000", "1,500", "2,000", "3,000"])
    for label, run in runs.items():
        method, _, sigma = label.partition(" ")
        style = report.STYLES[method]
        name = report.NAMES[method]
        if method == "truncated_es":
            name += f", sigma {sigma or SIGMA}"
            style = {**style, "linestyle": "-", "linewidth": 0.8} if sigma else style
        theta0, theta1 = run.theta[0].T
        axes.plot(theta0, theta1, label=name, path_effects=halo, **style)
        axes.plot(theta0[-1], theta1[-1], marker="o", color=style["color"], markeredgecolor="white", zorder=12)
    axes.plot(*THETA, marker="D", color="white", markeredgecolor="black", linestyle="none", zorder=12, label="start")
    i, j = np.unravel_index(loss.argmin(), loss.shape)
    best = {"marker": "*", "markersize": 13, "color": "white", "markeredgecolor": "black", "linestyle": "none"}
    axes.plot(axis[i], axis[j], zorder=13, label="least L", **best)
    axes.set(xlim=(-6, 5), ylim=(-6, 5), xlabel="theta0: log learning rate at the start")
    axes.set(ylabel="theta1: log learning rate at the end")
    axes.set_title("Toy regression: trajectories of theta over the meta-loss", fontsize=11, loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelspacing=0.8)
    return figure


EXPERIMENT = Experiment(
    "toy_regression",
    jobs,
    findings,
    draw,
    {"steps": STEPS, "start": START, "meta-loss": "sum over the steps", "particles": "2 num_pairs"},
    x64=False,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
