"""What changes of a rule's inputs do to its updates, measured against docs/optimizers.md; and what its state survives.

One program per rule runs all cases side by side: a few steps with a random theta, on gradients that are given.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.parts.gradients import LARGEST_GRADIENT

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
COLUMNS = ("loss + c", "loss times c", "gradient times c", "params times c", "width", "other tensors")
C = 4.0
SAME, OTHER = 2e-4, 2e-3  # relative differences below and above which updates count as equal and as different

# Small networks compile fast. The weight decay of star is raised until it shows beside the other terms.
SETTINGS = {
    "adafac_mlp": {"hidden_sizes": (2, 2)},
    "celo": {"hidden_sizes": (2, 2), "lstm_size": 8},
    "celo2": {"hidden_sizes": (2, 2)},
    "celo_adam": {"lstm_size": 8},
    "star": {"hidden_sizes": (2, 2), "weight_decay": 0.03},
    "velo": {"hidden_sizes": (2, 2), "lstm_size": 8, "num_mlps": 4, "weight_scale": 1.0},
}
# Of a training of 10 steps, all running means of the loss are alike, so that blend would read no drop of it. Of one of
# 200, celo and velo would read where a mean stands between others that differ by little more than their rounding.
LENGTHS = {"blend": 200}
LIMIT = 1e9  # times the usual gradients: the 1e-5 beside the mean square of every feature is nothing, or everything

pytestmark = pytest.mark.parametrize("name", OPTIMIZERS)


def page_table():
    """The factors that the page states, by rule and column."""
    lines = PAGE.read_text().split("## What an update depends on")[1].split("\n## ")[0].splitlines()
    head, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def plain():
    """params, gradients of 4 steps, around 0.2, and losses; `wide` is `matrix` repeated along both axes."""
    rng = np.random.default_rng(0)
    params = {"matrix": rng.normal(size=(2, 3)), "vector": rng.normal(size=(3,))}
    grads = {key: 0.2 * rng.normal(size=(4, *p.shape)) for key, p in params.items()}
    params["wide"], grads["wide"] = np.tile(params["matrix"], (2, 2)), np.tile(grads["matrix"], (1, 2, 2))
    return params, grads, np.array([2.0, 0.7, 2.2, 1.0])


def scaled(tree, factor):
    return jax.tree.map(lambda x: factor * x, tree)


def changed():
    """The plain inputs with one change each, by column of the table."""
    params, grads, losses = plain()
    return {
        "plain": (params, grads, losses),
        "loss + c": (params, grads, losses + C),
        "loss times c": (params, grads, C * losses),
        "gradient times c": (params, scaled(grads, C), losses),
        "limit": (params, scaled(grads, LIMIT), losses),
        "limit times c": (params, scaled(grads, LIMIT * C), losses),
        "params times c": (scaled(params, C), grads, losses),
        "other tensors": (
            {**params, "vector": C * params["vector"]},
            {**grads, "vector": C**3 * grads["vector"] ** 2},  # other sizes, and always of one sign
            losses,
        ),
    }


def extreme():
    """Gradients as large as a rule must bear, most of them followed by ordinary ones."""
    params, grads, losses = plain()
    steps = np.arange(4)

    def replace(value, places):
        def one(g):
            hit = places(steps.reshape(-1, *[1] * (g.ndim - 1)), np.arange(g[0].size).reshape(g[0].shape))
            return np.where(hit, np.where(g < 0, -value, value), g)

        return (params, jax.tree.map(one, grads), losses)

    return {
        "one element": replace(LARGEST_GRADIENT, lambda step, place: (step == 1) & (place == 0)),
        "all elements": replace(LARGEST_GRADIENT, lambda step, place: step < 2),
        "always": replace(LARGEST_GRADIENT, lambda step, place: step < 9),
    }


@functools.cache
def results(name):
    """Per case: updates of the 4 steps, and the last state."""
    optimizer = OPTIMIZERS[name](**SETTINGS.get(name, {}))
    rng = np.random.default_rng(1)

    def draw(x):
        scale = 1.5 / np.sqrt(x.shape[-2]) if x.ndim > 1 else 0.5
        return (scale * rng.normal(size=x.shape)).astype(np.float32)

    theta = jax.tree.map(draw, jax.eval_shape(optimizer.init_theta, jax.random.key(0)))

    def run(params, grads, losses):
        def step(state, now):
            return optimizer.update(theta, now[0], state, params, value=now[1])[::-1]

        state, updates = jax.lax.scan(
            step, optimizer.init(theta, params, num_steps=jnp.int32(LENGTHS.get(name, 10))), (grads, losses)
        )
        return updates, state

    cases = changed() | extreme()
    stacked = jax.tree.map(lambda *x: np.stack(x).astype(np.float32), *cases.values())
    outputs = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(*stacked))
    return {case: jax.tree.map(lambda x, i=i: x[i], outputs) for i, case in enumerate(cases)}


def factor_between(before, after):
    """By what the updates were multiplied: 1, c or 1/c; or "other"."""

    def distance(factor):
        return np.sqrt(np.mean((after - factor * before) ** 2) / np.mean(after**2))

    distances = {label: distance(factor) for label, factor in (("1", 1.0), ("c", C), ("1/c", 1 / C))}
    nearest = min(distances, key=lambda label: distances[label])
    assert not SAME <= distances[nearest] <= OTHER, f"neither equal nor different: {distances}"
    return nearest if distances[nearest] < SAME else "other"


@pytest.mark.thorough
def test_the_page_says_what_an_update_depends_on(name):
    """In the last of 4 steps. For `width`, a repeated tensor is compared with the repeated update of the original."""
    updates = {case: outputs[0]["matrix"][-1] for case, outputs in results(name).items()}
    found = {column: factor_between(updates["plain"], updates[column]) for column in COLUMNS if column != "width"}
    found["width"] = factor_between(np.tile(updates["plain"], (2, 2)), results(name)["plain"][0]["wide"][-1])
    stated = page_table()[name]
    if stated["gradient times c"].endswith(" in the limit"):
        assert found["gradient times c"] == "other", "it holds without the limit"
        found["gradient times c"] = factor_between(updates["limit"], updates["limit times c"]) + " in the limit"
    assert found == stated


def test_huge_gradients_leave_no_trace_that_is_not_finite(name):
    for case in extreme():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(results(name)[case])), case
