"""What a trained optimizer does, in pictures: `python -m lopt.inspect PATH [--out=FOLDER]`.

It draws response.png, the update of a parameter against its gradient and its past gradients; training.png, the size of
updates and the effective learning rate while a noisy quadratic is trained; and memory.png, how strongly the update
depends on the gradient of k steps ago, on the parameter and on the loss.
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds
    extras.end_without("inspect", "filelock", "matplotlib", "platformdirs")

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lopt.compile_cache import HELP, keep_programs
from lopt.figures import COLOURS, line_style, to_png
from lopt.files import write_atomic
from lopt.inspect.probes import DRAWS, HISTORY, Memory, Training, remember, response, train
from lopt.locks import FolderLock
from lopt.names import InputError
from lopt.trained.pretrained import Pretrained, load_pretrained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = 41  # values of the gradient, and of the mean past gradient
MOST_STEPS = 1_000_000  # of the training: its curves fit into some megabytes
PLAIN, FAINT = "#5c5c5c", COLOURS[8]
UPDATE = "update, in units of the parameter"


def draw_response(values: np.ndarray, updates: np.ndarray) -> "Figure":
    """Lines: the update against the gradient, for three pasts. Map: the update against gradient and past.

    Args:
      values: `[GRID]`, the gradients, and the means of the past gradients.
      updates: `[GRID, GRID]`, by past and gradient.
    """
    figure = _figure(4.8)
    lines, plane = figure.subplots(1, 2)
    for i, mean in enumerate((-1.5, 0.0, 1.5)):
        row = int(np.abs(values - mean).argmin())
        # Parameters and pasts are random: neighbours with nearly the same mean are averaged.
        line = updates[max(row - 2, 0) : row + 3].mean(0)
        lines.plot(values, line, label=f"${mean:g}$", **line_style(i, i))
    lines.set(xlabel="gradient now", ylabel=UPDATE)
    _plain(lines)
    title = f"mean of the {HISTORY} gradients before"
    lines.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, title=title, handlelength=3.5)
    finite = np.nan_to_num(updates, posinf=0.0, neginf=0.0)
    largest = float(np.abs(finite).max()) or 1.0
    mesh = plane.pcolormesh(values, values, updates, cmap="PuOr_r", vmin=-largest, vmax=largest, shading="nearest")
    for sign, part in (("+", np.maximum(finite, 0)), ("\N{MINUS SIGN}", np.maximum(-finite, 0))):
        if part.any():  # in grey, both ends of the colours are dark
            place = (part.sum(0) @ values / part.sum(), part.sum(1) @ values / part.sum())
            ground = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "linewidth": 0}
            plane.annotate(sign, place, ha="center", va="center", fontsize=14, color=COLOURS[1], bbox=ground)
    bar = figure.colorbar(mesh, ax=plane, label=UPDATE)
    bar.outline.set_visible(False)  # type: ignore[operator]
    plane.set(xlabel="gradient now", ylabel=title)
    note = f"means over {DRAWS} draws of the parameters and past gradients"
    figure.supxlabel(note, fontsize=9, color=PLAIN)
    return figure


def draw_training(training: Training) -> "Figure":
    """Loss, size of updates and effective learning rate over the steps."""
    figure = _figure(3.8)
    panels = figure.subplots(1, 3)
    labels = (
        "loss",
        "root mean square of the update,\nin units of the parameter",
        "effective learning rate,\n$-$⟨update, gradient⟩ / |gradient|²",
    )
    for axes, values, label in zip(panels, training, labels, strict=True):
        axes.plot(np.arange(1, len(values) + 1), values, **line_style(0, 0, width=1.2))
        axes.set(xlabel="step of a noisy quadratic", ylabel=label)
        _plain(axes, zero=axes is not panels[0])
    low, high = training.loss.min(), training.loss.max()
    if low > 0 and low * 10 < high < np.inf:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(_log_locator(high / low))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].minorticks_off()
    return figure


def draw_memory(memory: Memory, requires: frozenset[str]) -> "Figure":
    """Derivatives with respect to the gradient of k steps ago, to the parameter and to the loss."""
    figure = _figure(3.8)
    past, *others = figure.subplots(1, 3, width_ratios=(5, 1, 1))
    steps, colour = np.arange(HISTORY), COLOURS[0]
    margin = 2 * memory.past_error
    past.fill_between(steps, memory.past - margin, memory.past + margin, color=colour, alpha=0.25, linewidth=0)
    past.plot(steps, memory.past, color=colour, marker=".")
    past.set(xlabel="steps ago, k", ylabel="d update / d gradient of k steps ago")
    _plain(past)
    param = (memory.param - 2 * memory.param_error, memory.param, memory.param + 2 * memory.param_error)
    low, high = np.quantile(memory.loss, (0.1, 0.9))
    named = (("params", "parameter", param), ("value", "loss", (low, memory.loss.mean(), high)))
    for axes, (needed, name, (low, middle, high)) in zip(others, named, strict=True):
        axes.set(xticks=(), xlim=(-1, 1), xlabel=name, ylabel=f"d update / d {name}")
        if needed not in requires:
            text = f"{name}:\nnot read"
            axes.text(0, 0.5, text, ha="center", va="center", color=PLAIN, transform=axes.get_xaxis_transform())
            axes.set(yticks=(), xlabel="", ylabel="")
            axes.spines[:].set_visible(False)
            continue
        axes.vlines(0, low, high, color=colour, alpha=0.25, linewidth=14)
        axes.plot(0, middle, "o", color=colour)
        _plain(axes)
        axes.spines["bottom"].set_visible(False)
    caption = "dots: means over gradients and parameters from N(0, 1); bands: two standard errors"
    if "value" in requires:
        caption += "; for the loss, bands: the middle 80% of the parameters"
    figure.supxlabel(caption, fontsize=9, color=PLAIN)
    return figure


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(11, height), dpi=120, layout="constrained")


def _plain(axes: "Axes", *, zero: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    if zero:
        axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)


def _log_locator(ratio: float) -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5) if ratio < 1000 else (1,), numticks=8)


def _output_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"--out={path}: this is, or lies in, a file; give a folder, which is made if needed"
        ) from error
    except OSError as error:
        raise InputError(f"--out={path}: the folder cannot be made ({error.strerror}); give another") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"--out={path}: the folder is not writable; give another")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lopt.inspect",
        description="Draws what a trained optimizer does: response.png, training.png, memory.png.",
    )
    parser.add_argument(
        "path",
        help="the folder of a run or of an export, a theta.state file as published with Celo or VeLO, or the name of "
        "an optimizer that ships with lopt",
    )
    parser.add_argument("--optimizer", help="your own rule, if it is of one: FILE.py:CLASS[:setting=value]...")
    parser.add_argument("--out", help="folder for the pictures; default: runs/inspect-NAME")
    parser.add_argument("--steps", type=int, default=500, help="length of the training on a quadratic; default: 500")
    parser.add_argument("--compile_cache", help=HELP)
    args = parser.parse_args(arguments)
    try:
        if not 1 <= args.steps <= MOST_STEPS:
            raise InputError(f"--steps must be at least 1 and at most {MOST_STEPS:,}, not {args.steps:,}")
        keep_programs(args.compile_cache)
        pretrained = load_pretrained(args.path, optimizer=args.optimizer)
        folder = _output_folder(Path(args.out or Path("runs", f"inspect-{pretrained.name}")))
        with FolderLock(folder, "give another --out") as lock, jax.enable_x64(False):  # rules compute in float32
            lock.take()  # else the pictures of two optimizers could be mixed
            _write_pictures(pretrained, folder, args.steps)
    except (InputError, OSError) as error:
        print(f"inspect: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print a traceback
        print("inspect: stopped; the pictures that were named are whole", file=sys.stderr)
        return 130  # as shells have it
    return 0


def _write_pictures(pretrained: Pretrained, folder: Path, num_steps: int) -> None:
    optimizer, theta, architecture = pretrained.optimizer, pretrained.theta, pretrained.card["architecture"]
    print(f"{architecture}, {sum(x.size for x in jax.tree.leaves(theta)):,} weights")
    values = np.linspace(-3, 3, GRID, dtype=np.float32)
    pictures = {
        "response": lambda: draw_response(values, response(optimizer, theta, values, values)),
        "training": lambda: draw_training(train(optimizer, theta, num_steps)),
        "memory": lambda: draw_memory(remember(optimizer, theta), optimizer.requires),
    }
    for name, draw in pictures.items():
        figure = draw()
        figure.suptitle(f"{pretrained.name} ({architecture}): {name}", x=0.01, ha="left")
        write_atomic(folder / f"{name}.png", to_png(figure))
        print(folder / f"{name}.png", flush=True)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
