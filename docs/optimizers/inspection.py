"""The pictures of `lopt inspect` for a rule: of the first trained optimizer of it that ships, or of a fresh theta."""

import jax
import numpy as np
from IPython.display import Image

import lopt
from lopt.figures import to_png
from lopt.inspect.__main__ import GRID, draw_memory, draw_response, draw_training
from lopt.inspect.probes import remember, response, train
from lopt.optimizers import OPTIMIZERS
from lopt.types import LearnedOptimizer, Theta


def trained(rule: str) -> tuple[str, LearnedOptimizer, Theta]:
    """What is inspected: its name, the rule with its settings, and theta."""
    for name, row in lopt.shipped().items():
        if row.rule == rule:
            loaded = lopt.load_pretrained(name)
            return name, loaded.optimizer, loaded.theta
    fresh: LearnedOptimizer = OPTIMIZERS[rule]()
    return f"{rule}, before any training", fresh, fresh.init_theta(jax.random.key(0))


def show(rule: str, picture: str) -> Image:
    """One picture, as `lopt inspect` draws it: `response`, `training` or `memory`."""
    name, optimizer, theta = trained(rule)
    values = np.linspace(-3, 3, GRID, dtype=np.float32)
    if picture == "response":
        figure = draw_response(values, response(optimizer, theta, values, values))
    elif picture == "training":
        figure = draw_training(train(optimizer, theta, 300))
    else:
        figure = draw_memory(remember(optimizer, theta), optimizer.requires)
    figure.suptitle(name, x=0.01, ha="left")
    return Image(to_png(figure))
