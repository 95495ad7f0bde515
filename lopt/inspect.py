"""What a trained optimizer does, in pictures: `python -m lopt.inspect PATH [--out=FOLDER]`.

Draws response.png, the update of a parameter against its gradient and its past gradients; training.png, the size of
updates and the effective learning rate along the training of a noisy quadratic; memory.png, how much the update listens
to the gradient of k steps ago, to the parameter and to the loss.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.files import write_atomic
from lopt.names import InputError
from lopt.plots import to_png
from lopt.pretrained import load_pretrained
from lopt.types import LearnedOptimizer, Theta

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = 41  # values of the gradient, and of the mean past gradient
HISTORY = 64  # steps before the one that is looked at
DIMENSION = 64  # of the quadratic
STYLES = (("#0072b2", "-"), ("#d55e00", "--"), ("#007a5a", "-."))


class Training(NamedTuple):
    """Of each step, `[T]`: loss; update, its root mean square; rate, -<update, gradient> / |gradient|^2."""

    loss: Any
    update: Any
    rate: Any


class Memory(NamedTuple):
    """Derivatives of a parameter's update: past `[HISTORY]`, by the gradient of 0, 1, ... steps ago; param; loss."""

    past: np.ndarray
    param: float
    loss: float


def _replay(optimizer: LearnedOptimizer, theta: Theta, grads: jax.Array, param: jax.Array, loss: jax.Array) -> Any:
    """The last update `[n]` of n parameters of one tensor, after gradients `[steps, n]` with nothing moved."""
    params = {"w": param}

    def step(state, grad):
        updates, state = optimizer.update(theta, {"w": grad}, state, params, value=loss)
        return state, updates["w"]

    return jax.lax.scan(step, optimizer.init(theta, params, num_steps=2 * len(grads)), grads)[1][-1]


@functools.partial(jax.jit, static_argnums=0)
def response(optimizer: LearnedOptimizer, theta: Theta, means: jax.Array, now: jax.Array) -> jax.Array:
    """Updates `[len(means), len(now)]` of parameters whose gradients were `means` + N(0, 1), and are `now`.

    All are parameters of one tensor, so that a rule which normalizes sees the whole grid.
    """
    shape = (len(means), len(now))
    noise = jax.random.normal(jax.random.key(0), (HISTORY, *shape))
    past = jnp.broadcast_to(means[None, :, None], noise.shape) + noise
    grads = jnp.concatenate([past, jnp.broadcast_to(now[None, None, :], (1, *shape))]).reshape(HISTORY + 1, -1)
    return _replay(optimizer, theta, grads, jnp.zeros(grads.shape[1]), jnp.asarray(1.0)).reshape(shape)


@functools.partial(jax.jit, static_argnums=(0, 2))
def train(optimizer: LearnedOptimizer, theta: Theta, num_steps: int) -> Training:
    """Of sum_i h_i x_i^2 / 2 over 64 parameters, h from 0.01 to 1, with gradient noise of 0.1, from N(0, 1)."""
    curvature = jnp.logspace(-2, 0, DIMENSION)

    def step(carry, key):
        params, state = carry
        value = jnp.sum(curvature * params["x"] ** 2) / 2
        grads = {"x": curvature * params["x"] + 0.1 * jax.random.normal(key, (DIMENSION,))}
        updates, state = optimizer.update(theta, grads, state, params, value=value)
        u, g = updates["x"], grads["x"]
        seen = Training(value, jnp.sqrt(jnp.mean(u * u)), -(u @ g) / (g @ g))
        return ({"x": params["x"] + u}, state), seen

    params = {"x": jax.random.normal(jax.random.key(0), (DIMENSION,))}
    carry = params, optimizer.init(theta, params, num_steps=num_steps)
    return jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), num_steps))[1]


def remember(optimizer: LearnedOptimizer, theta: Theta) -> Memory:
    """Derivatives of the first of 64 parameters' update, after gradients N(0, 1), at parameters N(0, 1), loss 1."""
    keys = jax.random.split(jax.random.key(2))
    grads = jax.random.normal(keys[0], (HISTORY, DIMENSION))
    param = jax.random.normal(keys[1], (DIMENSION,))

    @jax.jit
    def derivatives(theta, grads, param, loss):
        return jax.grad(lambda g, p, v: _replay(optimizer, theta, g, p, v)[0], argnums=(0, 1, 2))(grads, param, loss)

    by_grads, by_param, by_loss = derivatives(theta, grads, param, jnp.asarray(1.0))
    return Memory(np.asarray(by_grads[::-1, 0]), float(by_param[0]), float(by_loss))


def draw_response(optimizer: LearnedOptimizer, theta: Theta) -> "Figure":
    """Lines: the update against the gradient, for three pasts. Map: against both."""
    from matplotlib.figure import Figure

    values = np.linspace(-3, 3, GRID)
    updates = np.asarray(response(optimizer, theta, jnp.asarray(values), jnp.asarray(values)))
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    lines, plane = figure.subplots(1, 2)
    for mean, (colour, style) in zip((-1.5, 0.0, 1.5), STYLES, strict=True):
        row = int(np.abs(values - mean).argmin())
        # A parameter's own past is noisy: neighbours with nearly the same mean are averaged.
        line = updates[max(row - 2, 0) : row + 3].mean(0)
        lines.plot(values, line, color=colour, linestyle=style, label=f"past gradients around {mean:g}")
    lines.axhline(0, color="#999999", linewidth=0.8)
    lines.set(xlabel="gradient now", ylabel="update")
    lines.legend(frameon=False, fontsize=9)
    largest = float(np.abs(updates).max()) or 1.0
    mesh = plane.pcolormesh(values, values, updates, cmap="RdBu_r", vmin=-largest, vmax=largest, shading="nearest")
    figure.colorbar(mesh, ax=plane, label="update")
    plane.set(xlabel="gradient now", ylabel=f"mean of the {HISTORY} gradients before")
    return figure


def draw_training(training: Training) -> "Figure":
    """Loss, size of updates and effective learning rate over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, 3)
    labels = ("loss", "root mean square of the update", "effective learning rate")
    for axes, values, label, (colour, _) in zip(panels, training, labels, STYLES, strict=True):
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1.2)
        axes.set(xlabel="step of a noisy quadratic", ylabel=label)
        axes.grid(alpha=0.3)
    if np.all(np.asarray(training.loss) > 0):
        panels[0].set_yscale("log")
    panels[2].axhline(0, color="#999999", linewidth=0.8)
    return figure


def draw_memory(memory: Memory) -> "Figure":
    """The derivative by the gradient of k steps ago, beside those by parameter and loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=120, layout="constrained")
    past, others = figure.subplots(1, 2, width_ratios=(3, 1))
    past.stem(np.arange(HISTORY), memory.past, basefmt=" ", markerfmt=".")
    past.axhline(0, color="#999999", linewidth=0.8)
    past.set(xlabel="steps ago", ylabel="d update / d gradient")
    others.bar(["parameter", "loss"], [memory.param, memory.loss], color="#d55e00", width=0.5)
    others.axhline(0, color="#999999", linewidth=0.8)
    others.set(ylabel="d update / d")
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lopt.inspect", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a run's folder, an export, or an optimizer that ships with lopt, by name")
    parser.add_argument("--out", help="folder for the pictures; default: runs/inspect-NAME")
    parser.add_argument("--steps", type=int, default=500, help="of the training on a quadratic")
    args = parser.parse_args(arguments)
    try:
        if args.steps < 1:
            raise InputError(f"--steps must be at least 1, not {args.steps}")
        pretrained = load_pretrained(args.path)
        folder = Path(args.out or Path("runs", f"inspect-{pretrained.name}"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot use {folder} for the pictures: {error}") from error
    except InputError as error:
        print(f"inspect: {error}", file=sys.stderr)
        return 2
    optimizer, theta = pretrained.optimizer, pretrained.theta
    print(f"{pretrained.card['architecture']}, {sum(x.size for x in jax.tree.leaves(theta)):,} weights")
    figures = {
        "response.png": lambda: draw_response(optimizer, theta),
        "training.png": lambda: draw_training(Training(*map(np.asarray, train(optimizer, theta, args.steps)))),
        "memory.png": lambda: draw_memory(remember(optimizer, theta)),
    }
    for file, draw in figures.items():
        write_atomic(folder / file, to_png(draw()))
        print(folder / file, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
