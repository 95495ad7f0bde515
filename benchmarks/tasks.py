"""Size, cost and learnability of every task family: `python -m benchmarks.tasks`, several minutes on two cores.

For each family at its default settings: parameters; FLOPs of loss and gradient, counted in the program (2 for each
product of a matrix product or convolution, 1 for each other number computed); training steps per second with one
training on each core, Adam included; the share of a step's time that is saved by taking two batches in turn instead of
drawing (or, without data, making) one; the normalised loss at the start and after 500 steps of Adam at 1e-3 (median of
runs, mean of the last 25 steps); and the lowest known loss, that of Adam at the best of seven rates from 1e-4 to 0.1
after 2,000 steps.

Two families are then compared with a loop written by hand for one task (benchmarks/handwritten.py); its loss is
checked to be the same. --write puts table and figure into docs/.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import dataclasses
import functools
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import handwritten
from lopt.distributed import PairLayout
from lopt.figures import COLOURS, to_png
from lopt.files import write_atomic
from lopt.meta_training.draws import count
from lopt.optimizers import OPTIMIZERS
from lopt.types import Data, TaskFamily
from tasks import FAMILIES, parse_tasks
from tasks.page import adam_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = "<!-- python -m benchmarks.tasks --write -->\n"
DEFAULT_RATE, RATES = 1e-3, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS, LONG = 500, 2000
LAYOUT = PairLayout(2)


class Row(NamedTuple):
    """What is measured of a family; see the module's docstring.

    Attributes:
      curves: `[runs, STEPS]`, normalised losses.
    """

    name: str
    params: int
    flops: float
    steps_per_second: float
    draw_share: float
    start: float
    end: float
    best: float
    curves: np.ndarray


def seconds(run: Any, tries: int = 3) -> float:
    """The best of several tries, after one to compile."""
    jax.block_until_ready(run())
    times = []
    for _ in range(tries):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return min(times)


@functools.partial(jax.jit, static_argnames=("family", "num_steps"))
def train_pairs(family: TaskFamily, data: Data, runs: tuple[jax.Array, jax.Array], num_steps: int) -> jax.Array:
    """Normalised losses of one training for each key and learning rate of `runs`, one after another on each core."""
    return LAYOUT.map_pairs(lambda run: adam_losses(family, data, run[0], run[1], num_steps), runs)


@dataclasses.dataclass(frozen=True)
class TwoBatches:
    """A family's task on two batches in turn, which are the data: a step without the drawing.

    With a single batch the compiler would compute more than the drawing once for all steps.
    """

    family: Any

    def sample(self, key: jax.Array) -> Any:
        return self.family.sample(key)

    def task(self, config: Any) -> Any:
        return self.family.task(config)

    def sample_batch(self, data: Any, key: jax.Array, config: Any, split: str) -> Any:
        return jax.tree.map(lambda x: x[jax.random.key_data(key)[0] % 2], data)


def measure(name: str) -> Row:
    family = parse_tasks(name, optimizers=OPTIMIZERS)[0]
    data = jax.device_put(jax.tree.map(jnp.asarray, family.load()), LAYOUT.replicated)
    keys = jax.random.split(jax.random.key(0), 4)
    config = family.sample(keys[0])
    task = family.task(config)
    params = task.init(keys[0])
    batch = family.sample_batch(data, keys[0], config, "train")
    gradient = jax.make_jaxpr(jax.value_and_grad(task.loss))(params, keys[0], batch)

    runs = keys, jnp.full(len(keys), DEFAULT_RATE)
    curves = np.asarray(train_pairs(family, data, runs, STEPS))
    taken = seconds(lambda: train_pairs(family, data, runs, STEPS), 2)
    draw = jax.vmap(lambda key: family.sample_batch(data, key, config, "train"))
    two, fixed = jax.device_put(draw(keys[:2]), LAYOUT.replicated), TwoBatches(family)
    without = seconds(lambda: train_pairs(fixed, two, runs, STEPS), 2)  # type: ignore[arg-type]
    rates = jnp.asarray([*RATES, DEFAULT_RATE])  # an even number, for two cores
    long = np.asarray(train_pairs(family, data, (keys[jnp.zeros(len(rates), int)], rates), LONG))
    lowest = np.nanmin(long[:, -LONG // 20 :].mean(1))
    end = np.median(curves[:, -STEPS // 20 :].mean(1))
    return Row(
        family.name,
        sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        count(gradient.jaxpr).flops,
        len(keys) * STEPS / taken,
        max(0.0, 1 - without / taken),
        float(np.mean(curves[:, 0])),
        float(end),
        float(min(lowest, end)),
        curves,
    )


def against_hand(name: str) -> tuple[float, float]:
    """Milliseconds per step of a family's training and of the loop by hand, best of several, taken in turns."""
    family: Any = parse_tasks(name)[0]
    numpy_data = family.load()
    data = jax.tree.map(jnp.asarray, numpy_data)
    key = jax.random.key(0)
    task = family.task({})
    params, batch = task.init(key), family.sample_batch(data, key, {}, "train")
    if "image" in batch:
        loss = handwritten.convnet_loss
        arrays = numpy_data["train"]
        images = ((arrays["image"] - numpy_data["mean"]) / numpy_data["std"]).astype(np.float32).reshape(-1, 8, 8, 1)

        def draw(generator):
            chosen = generator.integers(len(images), size=family.batch_size)
            return images[chosen], arrays["label"][chosen]

        same = loss(params, batch["image"].reshape(-1, 8, 8, 1), batch["label"])
    else:
        loss, text = handwritten.transformer_loss, numpy_data["train"].astype(np.int32)

        def draw(generator):
            starts = generator.integers(len(text) - family.length, size=family.batch_size)
            tokens = text[starts[:, None] + np.arange(family.length + 1)[None, :]]
            return tokens[:, :-1], tokens[:, 1:]

        same = loss(params, batch["tokens"][:, :-1], batch["tokens"][:, 1:])
    np.testing.assert_allclose(same, task.loss(params, key, batch), rtol=1e-5)
    ours, hand = [], []
    for _ in range(3):
        ours.append(seconds(lambda: adam_losses(family, data, key, jnp.asarray(1e-3), STEPS), 1) / STEPS)
        hand.append(handwritten.train(loss, params, draw, STEPS))
    return 1e3 * min(ours), 1e3 * min(hand)


def draw_figure(rows: list[Row]) -> "Figure":
    """One panel per family: default Adam's normalised loss, each run and the best known."""
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(14, 2.5 * -(-len(rows) // columns)), dpi=110, layout="constrained")
    panels = figure.subplots(-(-len(rows) // columns), columns, sharex=True, squeeze=False).ravel()
    for axes, row in zip(panels, rows, strict=False):
        axes.plot(row.curves.T, color=COLOURS[0], linewidth=0.8, alpha=0.7)
        axes.axhline(row.best, color=COLOURS[1], linewidth=1.2, linestyle="--")
        axes.set_title(row.name, fontsize=8, loc="left", family="monospace")
        axes.set_ylim(min(0, row.best), 1.1 * max(1, np.nanmax(np.median(row.curves, 0)[:3])))
        axes.grid(alpha=0.3)
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("training steps of Adam at 1e-3; dashed: lowest loss known", fontsize=10)
    figure.supylabel("normalised training loss", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Every task family; see the module's docstring.")
    parser.add_argument("--write", action="store_true", help="put table and figure into docs/tasks.md, docs/tasks.png")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", LAYOUT.num_devices)
    head = ["task", "parameters", "FLOPs per step", "steps/s", "drawing", "loss at start", "after Adam", "lowest known"]
    lines, rows = [head, ["---"] * len(head)], []
    for name in FAMILIES:
        row = measure(name)
        rows.append(row)
        cells = [f"`{row.name}`", f"{row.params:,}", f"{row.flops:.2g}", f"{row.steps_per_second:,.0f}"]
        cells += [f"{row.draw_share:.1%}", f"{row.start:.2f}", f"{row.end:.2g}", f"{row.best:.2g}"]
        lines.append(cells)
        print(" | ".join(cells), flush=True)
    text = MARK + "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)
    text += "\nOne training, against a loop written by hand for the same model (`benchmarks/handwritten.py`):\n\n"
    for name in ("image_conv/digits", "text_transformer/python_docs"):
        ours, hand = against_hand(name)
        text += f"- `{name}`: {ours:.2f} ms per step, by hand {hand:.2f}: {ours / hand:.2f} times\n"
    print(text[text.index("One training") :])
    if args.write:
        page = (DOCS / "tasks.md").read_text()
        (DOCS / "tasks.md").write_text(page[: page.index(MARK)] + text)
        write_atomic(DOCS / "tasks.png", to_png(draw_figure(rows)))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)  # the figures are of float32, whatever the environment says
    sys.exit(interrupts.run(main))
