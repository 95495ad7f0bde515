"""How the variance of PES depends on the number of windows: three laws on three kinds of text.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835): cutting an episode into more windows raises the
variance of the PES gradient where the windows' gradients are independent, and lowers it where they are equal; on real
text it first falls and then rises.

Setting: an LSTM with 5 units reads T = 1,000 symbols and predicts each next one; embeddings of 5 numbers, a decoder
with bias, 50 symbols, P = 770 parameters at their random start; the loss is the sum of the cross-entropies. The texts:
Genesis; its first symbol, repeated; symbols drawn uniformly. U windows of T / U steps for U from 1 to 1,000; sigma =
0.001, N = 1,000 particles (500 pairs). The estimate of an episode is the sum over its U windows; its variance is the
mean of |g - g_true|^2 / |g_true|^2 over 10 episodes, g_true by backpropagation. Beside it
NRES with 10, 100 and 1,000 windows; with one it is PES.

Theory for small sigma. Let A[r, s] be the gradient with respect to the theta of window s of the losses from window
max(r, s) on. The estimate of one pair is sum_{r, s} eps_r (A[r, s] . eps_s) / sigma^2, and its total variance therefore

    P sum_{r, s} |A[r, s]|^2 + sum_{r, s} A[r, s] . A[s, r],

which is computed here for every U by one backward pass for each window. Where gradients do not reach beyond their
window and are equal this is P (U + 1) / (2 U) + 1 / U times |g_true|^2, half as much for many windows as for one; where
they are independent P (U + 1) / 2 + 1, linear in U. For U = 1, and for NRES (like full ES) with any U, it is P + 1.
The mean over 500 pairs has a 500th of it.

Precision: float32, as in the paper's code.

Finding asserted: every variance is within 15 % of the theory. As U goes from 1 to 1,000, that of PES on the random text
grows from U = 10 on as U to the power of 0.9 to 1.1; on the repeated text it ends at 0.4 to 0.6 of where it starts; on
Genesis it falls below 0.75 of where it starts, and ends above 3 times that. --quick (T = 50, 40 pairs, U = 1 and 50,
PES alone): within 30 % of the theory; at U = 50 the variance is more than 10 times that at U = 1 on the random text,
below 0.7 of it on the repeated text, and more than 3 times it on Genesis, which is too short here for the dip.

Deviations: Genesis instead of the Penn Treebank, which is not free. Exact gradients where the paper has full ES with
5,000 particles, whose own variance would be 0.3. 10 episodes instead of 50. The LSTM has one bias vector, where the
paper's code adds up two; its weights start normal, not truncated normal. NRES is not in the paper.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments import report
from experiments.common import Job, Run
from experiments.lstm_variance_problem import UNITS, init_theta, pair_variance, problem, symbols, true_gradient
from experiments.report import Experiment, Finding
from experiments.text import SYMBOLS
from lopt.horizons import Horizon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 1e-3
TEXTS = {"genesis": "Genesis", "repeated": "one symbol, repeated", "random": "random symbols"}


class Size(NamedTuple):
    """How large the experiment is.

    Attributes:
      steps: T, symbols per episode.
      windows: each U that PES is measured at.
      nres_windows: each U that NRES is measured at.
      num_pairs: antithetic pairs.
      episodes: to average over.
    """

    steps: int
    windows: tuple[int, ...]
    nres_windows: tuple[int, ...]
    num_pairs: int
    episodes: int


FULL = Size(1000, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), (10, 100, 1000), 500, 10)
QUICK = Size(50, (1, 50), (), 40, 10)


@functools.cache
def theory(text: str, num_windows: int, quick: bool) -> float:
    """The variance that PES must have, in the units of the measurement; with one window, also that of NRES."""
    size = QUICK if quick else FULL
    return float(pair_variance(init_theta(), symbols(text, size.steps), num_windows)) / size.num_pairs


def jobs(quick: bool) -> dict[str, Job]:
    size = QUICK if quick else FULL
    theta = jax.tree.map(lambda x: x[None], init_theta())

    def job(estimator: str, text: str, num_windows: int) -> Job:
        return Job(
            problem(symbols(text, size.steps)),
            estimator,
            {
                "num_pairs": size.num_pairs,
                "sigma": SIGMA,
                "truncation": size.steps // num_windows,
                "horizon": Horizon(size.steps, size.steps),
                "staggered": False,
            },
            optax.set_to_zero,  # theta stays: a record is the mean over the windows of an episode
            {},
            theta,
            num_steps=size.episodes * num_windows,
            record_every=num_windows,
        )

    return {
        f"{estimator} {text} {num_windows}": job(estimator, text, num_windows)
        for text in TEXTS
        for estimator, numbers in (("pes", size.windows), ("nres", size.nres_windows))
        for num_windows in numbers
    }


def variances(quick: bool, runs: Mapping[str, Run]) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """`{(estimator, text): {U: |g - g_true|^2 / |g_true|^2 of each episode}}`."""
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for label, run in runs.items():
        estimator, text, num_windows = label.split()
        true = np.asarray(true_gradient(init_theta(), symbols(text, (QUICK if quick else FULL).steps)))
        estimates = jax.vmap(lambda grad: ravel_pytree(grad)[0])(jax.tree.map(lambda x: x[0], run.grad))
        error = np.asarray(estimates) - true
        found.setdefault((estimator, text), {})[int(num_windows)] = (error**2).sum(1) / (true @ true)
    return found


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    margin = 0.3 if quick else 0.15
    found = {}
    for (estimator, text), by_windows in variances(quick, runs).items():
        mean = {num_windows: float(x.mean()) for num_windows, x in by_windows.items()}
        for num_windows, x in mean.items():
            expected = theory(text, num_windows if estimator == "pes" else 1, quick)
            bounds = {"above": (1 - margin) * expected, "below": (1 + margin) * expected}
            found[f"{estimator} {text} {num_windows}"] = [Finding("variance", x, **bounds), Finding("theory", expected)]
        if estimator == "pes":
            found[f"{estimator} {text} {max(mean)}"] += growth(quick, text, mean)
    return found


def growth(quick: bool, text: str, variance: Mapping[int, float]) -> list[Finding]:
    """How the variance of PES changes as U grows."""
    if quick:
        end = {"genesis": {"above": 3.0}, "repeated": {"below": 0.7}, "random": {"above": 10.0}}[text]
    else:
        end = {"genesis": {"above": 3.0}, "repeated": {"above": 0.4, "below": 0.6}, "random": {}}[text]
    found = [Finding("over that of U = 1", variance[max(variance)] / variance[1], **end)]
    if not quick and text == "genesis":
        found.append(Finding("least over that of U = 1", min(variance.values()) / variance[1], below=0.75))
    if not quick and text == "random":
        later = [num_windows for num_windows in variance if num_windows >= 10]
        power = np.polyfit(np.log(later), np.log([variance[num_windows] for num_windows in later]), 1)[0]
        found.append(Finding("power of U, from 10 on", float(power), above=0.9, below=1.1))
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    size = QUICK if quick else FULL
    figure = report.new_figure(10.5, 3.9)
    for axes, (text, title) in zip(figure.subplots(1, len(TEXTS)), TEXTS.items(), strict=True):
        expected = [theory(text, num_windows, quick) for num_windows in size.windows]
        axes.plot(size.windows, expected, color="black", linewidth=0.9, label="PES, theory")
        axes.axhline(expected[0], color="black", linewidth=0.9, linestyle=(0, (4, 3)), label="NRES, theory")
        axes.set(xscale="log", yscale="log", xlabel="windows in an episode, U")
        axes.set_title(title, fontsize=11, loc="left")
        spread = max(expected) / min(expected)
        ticks = (1.0,) if spread > 50 else (1.0, 2.0, 5.0) if spread > 5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        for axis, subs in ((axes.xaxis, (1.0,)), (axes.yaxis, ticks)):
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0.7 * min(expected), 1.6 * max(expected))
        report.tidy(axes)
    for (estimator, text), by_windows in variances(quick, runs).items():
        axes = figure.axes[list(TEXTS).index(text)]
        (measured,) = axes.plot(
            list(by_windows), [x.mean() for x in by_windows.values()], label=report.NAMES[estimator]
        )
        measured.set(color=report.STYLES[estimator]["color"], linestyle="none", zorder=5)
        measured.set(marker="x" if estimator == "nres" else "o", markersize=6, markeredgewidth=1.6)
    figure.axes[0].set_ylabel("variance of the gradient / |gradient|²")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, labelspacing=0.8)
    note = f"{2 * size.num_pairs:,} particles, T = {size.steps:,}; mean of {size.episodes} episodes"
    figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


EXPERIMENT = Experiment(
    "lstm_variance",
    jobs,
    findings,
    draw,
    {
        "units": UNITS,
        "symbols": len(SYMBOLS),
        "parameters": sum(x.size for x in init_theta().values()),
        "particles": "2 num_pairs",
    },
    x64=False,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
