"""Parts of theta that a run does not train: they are neither perturbed nor updated."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from lopt.names import InputError
from lopt.trees import by_name
from lopt.types import InnerProblem, LearnedOptimizer, Theta

Rebuild = Callable[[Theta], Theta]


def split_theta(theta: Theta, frozen: tuple[str, ...]) -> tuple[Theta, Rebuild]:
    """The trained part of theta, and the function that puts the frozen part back.

    Args:
      theta: nested dicts.
      frozen: paths such as `scheduler` or `mlp/kernel_0`. Everything below such a path is frozen. Without any path, the
        whole theta is trained.

    Returns:
      `({path: array}, rebuild)`, where `rebuild` gives a theta with the frozen arrays of this one.
    """
    if not frozen:
        return theta, lambda free: free
    named, structure = by_name(theta), jax.tree.structure(theta)
    held = {path: leaf for path, leaf in named.items() if _is_below(path, frozen)}

    def rebuild(free: Theta) -> Theta:
        whole = {**held, **free}
        return jax.tree.unflatten(structure, [whole[path] for path in named])

    return {path: leaf for path, leaf in named.items() if path not in held}, rebuild


def of_trained_part(problem: InnerProblem, rebuild: Rebuild) -> InnerProblem:
    """The problem as a function of the trained part of theta."""

    def through(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda free, *rest: function(rebuild(free), *rest)

    evaluate = None if problem.evaluate is None else through(problem.evaluate)
    return problem._replace(init=through(problem.init), step=through(problem.step), evaluate=evaluate)


def check_frozen(optimizer: LearnedOptimizer, frozen: tuple[str, ...]) -> None:
    """Raises InputError unless each path is one of the optimizer's theta, and something is left to train."""
    if not frozen:
        return
    # The key is made inside: outside, it would start a backend, and the commands set up JAX later.
    paths = list(by_name(jax.eval_shape(lambda: optimizer.init_theta(jax.random.key(0)))))
    for wanted in frozen:
        if not any(_is_below(path, (wanted,)) for path in paths):
            raise InputError(f"cannot freeze {wanted!r}: theta of this optimizer has {', '.join(paths)}")
    if all(_is_below(path, frozen) for path in paths):
        raise InputError(f"freezing {', '.join(frozen)} leaves nothing of theta to train")


def _is_below(path: str, parents: Iterable[str]) -> bool:
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)
