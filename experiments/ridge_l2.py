"""How strongly to regularize a linear model, tuned online: windows of one step, and a trajectory that never ends.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835, on the data UCI Yacht): truncated ES settles at a wrong
strength, whatever it starts from, and PES at the right one.

Setting: linear w in R^6, inner loss |X w - y|^2 / 2 + exp(theta) |w|^2 / 2 on the training data, gradient descent with
learning rate 1e-3, w from N(0, I); the meta-loss of a step is |X w - y|^2 / 2 on the validation data after it. K = 1,
no reset, N = 4 particles (2 pairs), sigma = 0.01; 50,000 updates by Adam with learning rate 0.003 from theta = 5, 3, 1,
-1, -3 and -5. Data: from default_rng(7), 308 standard normal rows of 6, the columns times 1.5, 1, 0.7, 0.5, 0.35 and
0.25; y = X (1, -0.8, 0.3, 0, 0, 0) + 1.5 standard normal; the first 60 train, 248 validate.

With H = X'X + exp(theta) I, w = H^-1 X'y and g the gradient of the validation loss at w, the derivative of that loss is
-exp(theta) g' H^-1 w: the optimum, theta = 2.48, has g' H^-1 w = 0. A window of one step shows only how theta moves w
in that step, -1e-3 exp(theta) w: truncated ES stops where g' w = 0, at theta = 0.82.

Precision: float64. In one step sigma moves a loss of about 300 by 1e-5, which is less than float32 resolves.

Finding asserted, of the median of theta over all updates after the first 10,000, for each of the 6 starts: NRES within
0.1 of the optimum, PES within 0.5, truncated ES within 0.1 of its wrong point. PES is given more room, and a median
rather than a mean: as there are no resets its credit grows without end, and with it the variance of its estimates, so
that theta strays upwards now and then. --quick (6,000 updates with learning rate 0.005, from 3 and -1, the last 3,000
count): PES within 0.5, NRES and truncated ES within 0.2.

Deviations: synthetic data with closed forms instead of Yacht, which has to be fetched. NRES is not in the paper;
without resets it keeps one noise for ever.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import brentq

from experiments import report
from experiments.common import UNENDING, Job, Run
from experiments.report import Experiment, Finding
from lopt.types import InnerProblem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (1.5, 1.0, 0.7, 0.5, 0.35, 0.25)
WEIGHTS = (1.0, -0.8, 0.3, 0.0, 0.0, 0.0)
NOISE = 1.5
ROWS, TRAIN_ROWS = 308, 60
INNER_LEARNING_RATE = 1e-3
STARTS = (5.0, 3.0, 1.0, -1.0, -3.0, -5.0)
NUM_PAIRS, SIGMA = 2, 0.01
RECORD_EVERY = 50


class Split(NamedTuple):
    """One part of the data, float64.

    Attributes:
      x: `[rows, 6]`.
      y: `[rows]`.
    """

    x: np.ndarray
    y: np.ndarray


def make_data() -> tuple[Split, Split]:
    """`(train, validation)`."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, len(SCALES))) * SCALES
    y = x @ np.asarray(WEIGHTS) + NOISE * rng.normal(size=ROWS)
    return Split(x[:TRAIN_ROWS], y[:TRAIN_ROWS]), Split(x[TRAIN_ROWS:], y[TRAIN_ROWS:])


TRAIN, VALIDATION = make_data()


def half_square(split: Split, w: jax.Array) -> jax.Array:
    residual = jnp.asarray(split.x, w.dtype) @ w - jnp.asarray(split.y, w.dtype)
    return 0.5 * residual @ residual


def problem() -> InnerProblem:
    def init(theta, key, horizon):
        del horizon
        return jax.random.normal(key, (len(SCALES),), theta.dtype)

    def step(theta, w, key):
        del key
        w = w - INNER_LEARNING_RATE * (jax.grad(half_square, 1)(TRAIN, w) + jnp.exp(theta) * w)
        return w, half_square(VALIDATION, w)

    return InnerProblem(init, step)


def best_weights(theta: jax.Array) -> jax.Array:
    """w at the minimum of the inner loss."""
    x, y = jnp.asarray(TRAIN.x, theta.dtype), jnp.asarray(TRAIN.y, theta.dtype)
    return jnp.linalg.solve(x.T @ x + jnp.exp(theta) * jnp.eye(len(SCALES), dtype=theta.dtype), x.T @ y)


def validation_loss(theta: jax.Array) -> jax.Array:
    """The validation loss of the weights that fit best under this strength."""
    return half_square(VALIDATION, best_weights(theta))


def hypergradient(theta: float) -> float:
    """d validation_loss / d theta = -exp(theta) g' H^-1 w."""
    h, w, g = _at(theta)
    return float(-np.exp(theta) * g @ np.linalg.solve(h, w))


def one_step_gradient(theta: float) -> float:
    """The part of it that a window of one step sees, from the weights that fit best: -1e-3 exp(theta) g' w."""
    _, w, g = _at(theta)
    return float(-INNER_LEARNING_RATE * np.exp(theta) * g @ w)


def _at(theta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H, w and g, by numpy alone."""
    h = TRAIN.x.T @ TRAIN.x + np.exp(theta) * np.eye(len(SCALES))
    w = np.linalg.solve(h, TRAIN.x.T @ TRAIN.y)
    return h, w, VALIDATION.x.T @ (VALIDATION.x @ w - VALIDATION.y)


OPTIMUM: float = brentq(hypergradient, -2, 6)  # type: ignore[assignment]  # full_output=False: the root alone
WRONG: float = brentq(one_step_gradient, -2, 6)  # type: ignore[assignment]


def jobs(quick: bool) -> dict[str, Job]:
    def job(estimator: str) -> Job:
        return Job(
            problem(),
            estimator,
            {"num_pairs": NUM_PAIRS, "sigma": SIGMA, "truncation": 1, "horizon": UNENDING, "staggered": False},
            optax.adam,
            {"learning_rate": 0.005 if quick else 0.003},
            jnp.asarray((3.0, -1.0) if quick else STARTS),
            num_steps=6000 if quick else 50_000,
            record_every=RECORD_EVERY,
        )

    return {"pes": job("pes"), "nres": job("nres"), "truncated_es": job("truncated_es")}


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    first = (3000 if quick else 10_000) // RECORD_EVERY
    targets = {
        "pes": (OPTIMUM, 0.5),
        "nres": (OPTIMUM, 0.2 if quick else 0.1),
        "truncated_es": (WRONG, 0.2 if quick else 0.1),
    }
    found = {}
    for label, run in runs.items():
        target, margin = targets[label]
        found[label] = [
            Finding(f"median theta, from {start:g}", float(reached), above=target - margin, below=target + margin)
            for start, reached in zip(run.theta[:, 0], np.median(run.theta[:, first:], 1), strict=True)
        ]
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    del quick
    figure = report.new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.2), sharey=True)
    for label, run in runs.items():
        style = {**report.STYLES[label], "linewidth": 0.8 if label == "pes" else 1.6}
        for i, theta in enumerate(run.theta):
            left.plot(run.steps, theta, label=report.NAMES[label] if i == 0 else None, **style)
    for height, text in ((OPTIMUM, "optimum"), (WRONG, "truncated ES")):
        right.axhline(height, color="#777777", linewidth=0.9, zorder=0)
        place = {"xy": (1, height), "xytext": (0, -11), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        right.annotate(f"{text}, {height:.2f}", xycoords=right.get_yaxis_transform(), **place)
    thetas = np.linspace(min(STARTS), max(STARTS), 200)
    right.plot(jax.vmap(validation_loss)(jnp.asarray(thetas)), thetas, color="black", linewidth=1.6)
    left.set(xlabel="update of theta", ylabel="theta: log strength", xlim=(0, max(r.steps[-1] for r in runs.values())))
    left.set_title("Ridge regression, tuned online", fontsize=11, loc="left")
    right.set(xlabel="validation loss")
    for axes in (left, right):
        report.tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelspacing=0.8)
    return figure


EXPERIMENT = Experiment(
    "ridge_l2",
    jobs,
    findings,
    draw,
    {
        "scales": SCALES,
        "weights": WEIGHTS,
        "noise": NOISE,
        "rows": ROWS,
        "train_rows": TRAIN_ROWS,
        "inner_learning_rate": INNER_LEARNING_RATE,
        "optimum": OPTIMUM,
        "one_step_fixed_point": WRONG,
    },
    x64=True,
)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
