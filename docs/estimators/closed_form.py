"""A problem whose gradient is known in closed form, and what an estimator says about it."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from lopt.figures import COLOURS, to_png
from lopt.types import InnerProblem

if TYPE_CHECKING:
    from IPython.display import Image

T = 20  # steps of every trajectory
THETA = jnp.asarray([0.15, 0.02])
REPEATS = 2000  # independent trajectories, from which bias and spread are taken


def problem(*, final: bool = False) -> InnerProblem:
    """A point walks by theta in each step: s_t = t theta, and loss |s_t - 1|^2; with `final`, that of the end alone."""

    def init(theta, key, horizon):
        return {"s": jnp.zeros_like(theta), "t": 0 * horizon}

    def distance(theta, state, key):
        return jnp.sum((state["s"] - 1) ** 2)

    def step(theta, state, key):
        state = {"s": state["s"] + theta, "t": state["t"] + 1}
        loss = distance(theta, state, key)
        return state, jnp.where(state["t"] == T, loss, 0.0) if final else loss

    return InnerProblem(init, step, evaluate=distance, final_loss=final)


def exact_gradient(*, final: bool = False) -> np.ndarray:
    """d/dtheta of the mean loss per step: 2 / T sum_t t (t theta - 1), with t = T alone where only the end counts."""
    t = np.asarray([T]) if final else np.arange(1, T + 1)
    return 2 / T * (t[:, None] * (t[:, None] * np.asarray(THETA) - 1)).sum(0)


def estimates(estimator: Any, *, final: bool = False) -> np.ndarray:
    """Estimates of independent trajectories, each the mean over its windows, `[REPEATS, 2]`."""
    windows = T // getattr(estimator, "truncation", T)
    inner = problem(final=final)

    def trajectory(key):
        def window(state, key):
            answer, state = estimator.estimate(inner, THETA, state, key)
            return state, answer.grad

        state = estimator.init(inner, THETA, key)
        return jax.lax.scan(window, state, jax.random.split(jax.random.fold_in(key, 1), windows))[1].mean(0)

    return np.asarray(jax.jit(jax.vmap(trajectory))(jax.random.split(jax.random.key(0), REPEATS)))


def compare(estimator: Any, *, final: bool = False) -> "Image":
    """Prints the mean and the spread of the estimates beside the exact gradient, and draws all three."""
    from IPython.display import Image

    exact, found = exact_gradient(final=final), estimates(estimator, final=final)
    mean, spread = found.mean(0), found.std(0)
    print(f"exact gradient       {exact[0]:7.2f} {exact[1]:7.2f}")
    print(f"mean of the estimates{mean[0]:7.2f} {mean[1]:7.2f}")
    print(f"standard error       {spread[0] / REPEATS**0.5:7.2f} {spread[1] / REPEATS**0.5:7.2f}")
    print(f"spread of one        {spread[0]:7.2f} {spread[1]:7.2f}")
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    size = 0.25 if final else 1.0  # the same axes for all estimators, so that pictures can be compared
    axes.plot(*found[:600].T, ".", color=COLOURS[5], markersize=3, alpha=0.6, label="estimates")
    axes.plot(*exact, "+", color=COLOURS[1], markersize=16, markeredgewidth=2, label="exact gradient")
    axes.plot(*mean, "o", color=COLOURS[0], markersize=6, label="mean of the estimates")
    axes.set(xlim=(-80 * size, 125 * size), ylim=(-110 * size, 80 * size))
    axes.set(xlabel="first number of the gradient", ylabel="second number", aspect="equal")
    axes.grid(visible=True, axis="both")
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.2)
    return Image(to_png(figure))
