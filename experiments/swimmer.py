"""A linear policy for a three-link swimmer: windows shorter than a stroke need noise that lasts for an episode.

Claim (Vicol, Metz, Sohl-Dickstein, ICML 2021, arXiv 2112.13835): on the Swimmer of MuJoCo, PES on windows of a tenth
of an episode reaches a high reward in fewer environment steps than ES on whole episodes, and ES on such windows lags.

Setting: a swimmer of our own in JAX, after Remi Coulom, "Reinforcement learning using neural networks, with
applications to motor control", 2002: three rods of mass 1 and length 1 in a plane, drag of 10 times length across each
rod and on its rotation, none along it; two joints with torques of at most 5 and springs beyond 1.75 rad. Equations of
motion by Lagrange, M(q) a = Q - J^T m dJ/dt v with J the Jacobian of the rods' centres; semi-implicit Euler, 0.01 s, 4
a step. The policy is torque = theta x observation, `[2, 8]`, as in the paper: angle of the head, angles of the joints,
velocity of the head, angular velocities of head and joints. An episode has 1,000 steps of 0.04 s from rest, each angle
drawn with standard deviation 0.1. Reward of a step: forward velocity of the head less 1e-4 |torque|^2, torque as a
share of the largest; the loss is minus it, so that the return is the distance over 0.04 s.

Theta starts at 0; 10 pairs, sigma 0.3, starts staggered, Adam on theta at 0.1 for K = 100 and whole episodes, 0.03 for
K = 10: the better of 0.03 and 0.1 for each K. Every method has 200,000 environment steps, which include the unperturbed
trajectories of truncated ES; 8 runs each. Returns are means of 10 episodes of theta itself.

Precision: float32.

Deviations: our own simulator and units, Adam in place of the paper's rewards over their standard deviation, and K = 10
beside K = 100. With K = 100, which is 4 s and holds several strokes, the paper's order does not come out: here
truncated ES is as good as any, since what a stroke gains is seen within its window. With K = 10, less than a stroke,
all but one of 8 runs of truncated ES stay where they are, and NRES swims; PES, whose credit then sums up to 100
noises, is between.

Finding asserted, of the mean return of the 8 runs: with K = 100, PES, NRES and truncated ES above 600; with K = 10,
NRES above 400, PES below half of NRES and truncated ES below a quarter of it. --quick (K = 10, 60,000 steps, 4 runs,
without PES): NRES above 100, truncated ES below a quarter of it.
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

RODS, MASS, LENGTH, DRAG, TORQUE = 3, 1.0, 1.0, 10.0, 5.0
LIMIT, STIFFNESS = 1.75, 50.0  # of a joint, rad; torque a rad beyond it
TIME_STEP, SUBSTEPS, EPISODE = 0.01, 4, 1000
EFFORT = 1e-4
NUM_PAIRS, SIGMA, BUDGET = 10, 0.3, 200_000
# Particles of a pair that are run for each step of a window.
UNROLLS = {"pes": 2, "nres": 2, "full_es": 2, "truncated_es": 3}


def centres(q: jax.Array) -> jax.Array:
    """Centres of the rods, `[3, 2]`, from q: position of the head's end, and the angle of each rod, `[5]`."""
    rods = LENGTH * jnp.stack([jnp.cos(q[2:]), jnp.sin(q[2:])], 1)
    ends = q[None, :2] - jnp.concatenate([jnp.zeros((1, 2)), jnp.cumsum(rods, 0)])
    return (ends[:-1] + ends[1:]) / 2


def mass_matrix(q: jax.Array) -> jax.Array:
    """M, `[5, 5]`: kinetic energy is v M v / 2."""
    jacobian = jax.jacfwd(centres)(q)
    rotation = jnp.diag(jnp.array([0.0, 0.0] + [MASS * LENGTH**2 / 12] * RODS))
    return MASS * jnp.einsum("rxi,rxj->ij", jacobian, jacobian) + rotation


def acceleration(q: jax.Array, v: jax.Array, torque: jax.Array) -> jax.Array:
    """d v / dt, `[5]`, under the joints' torques `[2]`, the joints' springs, and drag."""
    jacobian, change = jax.jvp(jax.jacfwd(centres), (q,), (v,))
    across = jnp.stack([-jnp.sin(q[2:]), jnp.cos(q[2:])], 1)
    drag = -DRAG * LENGTH * jnp.sum(jacobian @ v * across, 1, keepdims=True) * across
    turning = -DRAG * LENGTH**3 / 12 * v[2:]
    joints = jnp.diff(q[2:])
    torque = torque - STIFFNESS * (joints - jnp.clip(joints, -LIMIT, LIMIT))
    forces = jnp.einsum("rxi,rx->i", jacobian, drag) + jnp.concatenate([jnp.zeros(2), turning])
    forces = forces.at[3:].add(torque).at[2:-1].add(-torque)
    return jnp.linalg.solve(mass_matrix(q), forces - MASS * jnp.einsum("rxi,rx->i", jacobian, change @ v))


def problem() -> InnerProblem:
    """The swimmer of the module's docstring under a policy theta `[2, 8]`; the state is (q, v)."""

    def init(theta, key, horizon):
        del theta, horizon
        return jnp.zeros(5).at[2:].set(0.1 * jax.random.normal(key, (RODS,))), jnp.zeros(5)

    def step(theta, state, key):
        del key
        q, v = state
        observation = jnp.concatenate([q[2:3], jnp.diff(q[2:]), v[:2], v[2:3], jnp.diff(v[2:])])
        share = jnp.clip(theta @ observation, -1, 1)

        def substep(_, qv):
            q, v = qv
            v = v + TIME_STEP * acceleration(q, v, TORQUE * share)
            return q + TIME_STEP * v, v

        end = jax.lax.fori_loop(0, SUBSTEPS, substep, state)
        velocity = (end[0][0] - q[0]) / (TIME_STEP * SUBSTEPS)
        return end, EFFORT * share @ share - velocity

    return InnerProblem(init, step)


@jax.jit
def mean_return(theta: jax.Array) -> jax.Array:
    """Mean sum of rewards of 10 episodes, `[..., 2, 8] -> [...]`."""
    swimmer = problem()

    def episode(theta, key):
        state = swimmer.init(theta, key, jnp.asarray(EPISODE))
        return -jax.lax.scan(lambda s, _: swimmer.step(theta, s, key), state, None, length=EPISODE)[1].sum()

    keys = jax.random.split(jax.random.key(99), 10)
    flat = theta.reshape(-1, *theta.shape[-2:])
    return jax.vmap(lambda t: jax.vmap(lambda k: episode(t, k))(keys).mean())(flat).reshape(theta.shape[:-2])


def jobs(quick: bool) -> dict[str, Job]:
    def job(estimator: str, truncation: int, learning_rate: float) -> Job:
        budget = 60_000 if quick else BUDGET
        num_steps = budget // (UNROLLS[estimator] * NUM_PAIRS * truncation) // 10 * 10
        settings = {
            "num_pairs": NUM_PAIRS,
            "sigma": SIGMA,
            "truncation": truncation,
            "horizon": Horizon(EPISODE, EPISODE),
            "staggered": True,
        }
        theta = jnp.zeros((4 if quick else 8, 2, 8))
        return Job(
            problem(), estimator, settings, optax.adam, {"learning_rate": learning_rate}, theta, num_steps,
            record_every=num_steps // 10,
        )  # fmt: skip

    short = {f"{name}, K = 10": job(name, 10, 0.03) for name in ("nres", "pes", "truncated_es")}
    if quick:
        return {label: job for label, job in short.items() if not label.startswith("pes")}
    long = {f"{name}, K = 100": job(name, 100, 0.1) for name in ("nres", "pes", "truncated_es")}
    return long | {"full_es": job("full_es", EPISODE, 0.1)} | short


def findings(quick: bool, runs: Mapping[str, Run]) -> dict[str, list[Finding]]:
    bounds: dict[str, dict[str, float]] = {
        "nres, K = 10": {"above": 100.0 if quick else 400.0},
        **{f"{name}, K = 100": {"above": 600.0} for name in ("nres", "pes", "truncated_es")},
    }
    last = {label: np.asarray(mean_return(jnp.asarray(run.theta[:, -1]))) for label, run in runs.items()}
    found = {}
    for label, returns in last.items():
        found[label] = [
            Finding("return, mean of the runs", float(returns.mean()), **bounds.get(label, {})),
            Finding("return, worst run", float(returns.min())),
            Finding("return, best run", float(returns.max())),
        ]
        for name, share in (("pes", 0.5), ("truncated_es", 0.25)):
            if label == f"{name}, K = 10":
                reached = float(returns.mean() / last["nres, K = 10"].mean())
                found[label].append(Finding("mean, over that of nres", reached, below=share))
    return found


def draw(quick: bool, runs: Mapping[str, Run]) -> "Figure":
    figure = report.new_figure(9.5, 4.0)
    panels = figure.subplots(1, 2, sharey=True)
    for label, run in runs.items():
        name, _, length = label.partition(", ")
        axes = panels[1] if length == "K = 10" else panels[0]
        steps = run.steps / run.steps[-1] * (60 if quick else BUDGET / 1000)
        returns = np.asarray(mean_return(jnp.asarray(run.theta)))
        style = report.STYLES[name]
        axes.plot(steps, returns.mean(0), label=report.NAMES[name], **style)
        axes.fill_between(steps, *np.quantile(returns, (0.25, 0.75), axis=0), color=style["color"], alpha=0.12, lw=0)
    for axes, title in zip(panels, ("windows of 100 steps, 4 s", "windows of 10 steps, 0.4 s"), strict=True):
        axes.set(xlabel="thousand environment steps", xlim=(0, None))
        axes.set_title(title, fontsize=11, loc="left")
        report.tidy(axes)
    panels[0].set_ylabel("return of an episode")
    handles = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    figure.supxlabel("lines: mean of the runs; bands: their middle half", fontsize=8, color="#555555")
    return figure


CONSTANTS = {"mass": MASS, "length": LENGTH, "drag": DRAG, "torque": TORQUE, "episode": EPISODE, "budget": BUDGET}
EXPERIMENT = Experiment("swimmer", jobs, findings, draw, CONSTANTS, x64=False)


def main(arguments: list[str] | None = None) -> int:
    return report.main(EXPERIMENT, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
