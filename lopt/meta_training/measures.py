"""The numbers of an outer step that a person steers by: a row of metrics.jsonl."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from lopt.meta_training.mixture import VARIANCE, FamilyEstimates
from lopt.trees import by_name
from lopt.types import TaskFamily, Theta


def measure(
    families: Sequence[TaskFamily], said: FamilyEstimates, updates: Theta, theta: Theta
) -> Mapping[str, jax.Array]:
    """One scalar per name; docs/meta_training.md explains each.

    Args:
      families: the families of the mixture.
      said: their estimates in this outer step.
      updates: what is added to theta, of its trained part.
      theta: the trained part before that.
    """
    grad, loss, info = said.mean
    norm = optax.tree.norm(grad)  # of the mean, not the mean of the norms
    names = [family.name for family in families]
    return {
        "meta_loss": loss,
        **info,
        "grad_norm": norm,
        **({"grad_snr": norm**2 / info[VARIANCE]} if VARIANCE in info else {}),
        "update_norm": optax.tree.norm(updates),
        **{f"update_over_theta/{part}": x for part, x in relative_norms(updates, theta).items()},
        **{f"meta_loss/{name}": loss for name, loss in zip(names, list(said.losses), strict=True)},
        **{f"grad_norm/{name}": norm for name, norm in zip(names, list(said.norms), strict=True)},
    }


def relative_norms(updates: Theta, theta: Theta) -> dict[str, jax.Array]:
    """|updates| / |theta| of each part of theta, by its top-level key; `theta` where it is a single array."""
    squares: dict[str, list] = {}
    for (name, update), x in zip(by_name(updates).items(), jax.tree.leaves(theta), strict=True):
        part = squares.setdefault(name.partition("/")[0] or "theta", [0, 0])
        part[0], part[1] = part[0] + jnp.sum(update**2), part[1] + jnp.sum(x**2)
    return {name: jnp.sqrt(moved / size) for name, (moved, size) in squares.items()}
