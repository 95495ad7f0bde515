"""A page to look at: samples of a task family, and how Adam trains it."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.figures import line_style
from lopt.trees import by_name
from lopt.types import Batch, Data, TaskFamily

from .datasets import decode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_TASKS = 3
RATES = (1e-3, 1e-2)


@functools.partial(jax.jit, static_argnames=("family", "num_steps"))
def adam_losses(family: TaskFamily, data: Data, key: jax.Array, learning_rate: jax.Array, num_steps: int) -> jax.Array:
    """Normalised training losses `[num_steps]` of one task drawn from the family, by Adam."""
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = family.sample(config_key)
    task = family.task(config)
    params = task.init(params_key)
    transformation = optax.chain(task.corrupt, optax.adam(learning_rate))

    def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, t))
        batch = family.sample_batch(data, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        updates, state = transformation.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), task.normalize(value)

    carry = params, transformation.init(params)
    return jax.lax.scan(step, carry, jnp.arange(num_steps))[1]


def draw_page(family: TaskFamily, num_steps: int = 200, seed: int = 0) -> "Figure":
    """Samples of a training batch on the left, Adam's normalised losses on a few tasks of the family on the right."""
    from matplotlib.figure import Figure

    data = jax.tree.map(jnp.asarray, family.load(seed))
    keys = jax.random.split(jax.random.key(seed), NUM_TASKS)
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    figure.suptitle(family.name, fontsize=11, x=0.01, ha="left", family="monospace", wrap=True)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = halves
    config = family.sample(keys[0])
    batch = family.sample_batch(data, jax.random.fold_in(keys[0], 1), config, "train")
    _draw_samples(left, jax.tree.map(np.asarray, _without_keys(batch)))
    _draw_losses(right.subplots(), family, data, keys, num_steps)
    return figure


def _without_keys(batch: Batch) -> dict[str, Any]:
    """The arrays of a batch by name, without random keys; a batch of other people's may be any tree."""

    def is_key(x: Any) -> bool:
        return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    named = batch if isinstance(batch, dict) else by_name(batch)
    return {name or "batch": x for name, x in named.items() if not is_key(x)}


def _draw_losses(axes: "Axes", family: TaskFamily, data: Data, keys: jax.Array, num_steps: int) -> None:
    for which, rate in enumerate(RATES):
        style = line_style(which, which, width=1.2)
        for i, key in enumerate(keys):
            losses = np.asarray(adam_losses(family, data, key, jnp.asarray(rate), num_steps))
            label = f"Adam, learning rate {rate:g}" if i == 0 else None
            axes.plot(np.arange(num_steps), losses, alpha=0.8, label=label, **style)
    axes.set(xlabel="training step", ylabel="normalised loss", title=f"{NUM_TASKS} tasks drawn from the family")
    axes.set_ylim(min(0, axes.get_ylim()[0]), min(2, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_samples(figure: Any, batch: dict[str, Any]) -> None:
    image = batch.get("image")
    pixels = 0 if image is None else image.shape[-1]
    channels = next((c for c in (1, 3) if pixels and round((pixels / c) ** 0.5) ** 2 * c == pixels), None)
    if image is not None and channels is not None:
        _draw_images(figure, image, batch["label"], channels)
        return
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0, 1, _as_text(batch), va="top", ha="left", family="monospace", fontsize=7.5, transform=axes.transAxes)


def _draw_images(figure: Any, images: np.ndarray, labels: np.ndarray, channels: int) -> None:
    size = round((images.shape[-1] / channels) ** 0.5)
    panels = figure.subplots(6, 8)
    for axes in panels.ravel():
        axes.set_axis_off()
    for axes, image, label in zip(panels.ravel(), images, labels, strict=False):
        low, high = images.min(), images.max()
        shown = ((image - low) / max(high - low, 1e-9)).reshape(size, size, channels)
        axes.imshow(shown if channels == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(str(label), fontsize=7, pad=1.5)


def _as_text(batch: dict[str, Any]) -> str:
    lines = []
    for name, x in batch.items():
        if isinstance(x, dict):
            lines.append(f"{name}: " + ", ".join(f"{key} {np.shape(value)}" for key, value in x.items()))
            continue
        lines.append(f"{name}: {x.dtype} {list(x.shape)}")
        if name == "tokens" and "answers" not in batch:
            texts = [decode(row.astype(np.uint8)).replace("\n", "\u21b5") for row in x[:14]]
            lines += [f"  {text[:70]}" for text in texts]
        else:
            lines += [f"  {_as_row(row)}" for row in np.atleast_2d(x)[:14]]
    return "\n".join(lines)


def _as_row(row: np.ndarray) -> str:
    if row.dtype.kind == "i":  # -1 is where nothing is asked for
        return " ".join("." if value < 0 else f"{value}" for value in row.ravel()[:32])
    return " ".join(f"{value:>6.3g}" for value in row.ravel()[:10])
