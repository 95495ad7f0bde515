"""The same training in JAX and in PyTorch: gradients, losses and first parameters are given."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lopt
from lopt.torch.layouts import flax_axes

# Flax's shapes, by path, with the layout that the tensor has in PyTorch. Two are equal, so that they are stacked, and
# one is square, so that it does not tell rows from columns. `small_blocks` makes the longest one too large for a stack.
TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "a/kernel": ("kernel", (6, 4)),
    "a/bias": ("kernel", (4,)),
    "b/kernel": ("kernel", (6, 4)),
    "square/kernel": ("kernel", (5, 5)),
    "conv/kernel": ("kernel", (3, 2, 2, 4)),
    "embed/embedding": ("embedding", (7, 3)),
    "scale": ("kernel", ()),
    "long/kernel": ("kernel", (10, 25)),
}
NUM_STEPS = 100


class Training(NamedTuple):
    """What both worlds are given.

    Attributes:
      params: the first parameters by path, in Flax's layout.
      grads: gradients by path, `[num_steps, *shape]`.
      losses: `[num_steps]`.
    """

    params: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    losses: np.ndarray


def draw_training(num_steps: int = NUM_STEPS, names: tuple[str, ...] = tuple(TENSORS)) -> Training:
    """Gradients with a direction that lasts, noise, a spike, and elements and losses that are not finite."""
    rng = np.random.default_rng(0)
    shapes = {name: TENSORS[name][1] for name in names}
    params = {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()}
    grads = {
        name: 0.05 * rng.normal(size=shape) + 0.1 * rng.normal(size=(num_steps, *shape))
        for name, shape in shapes.items()
    }
    losses = 2 * np.exp(-np.arange(num_steps) / 30) + 0.1 * rng.normal(size=num_steps)
    losses[num_steps // 4] = 50.0
    losses[num_steps // 3] = np.nan
    for name in names[:2]:
        grads[name][num_steps // 2].flat[1] = np.inf
        grads[name][num_steps // 2 + 1].flat[0] = np.nan
    to_float32 = lambda tree: {name: x.astype(np.float32) for name, x in tree.items()}  # noqa: E731
    return Training(to_float32(params), to_float32(grads), losses.astype(np.float32))


def run_jax(path: Any, training: Training, **options: Any) -> tuple[dict[str, np.ndarray], int]:
    """The parameters after the training, and how many updates were given what is not finite."""
    tx = lopt.load(path, **options)
    params = {name: jnp.asarray(x) for name, x in training.params.items()}

    @jax.jit
    def train(params, state):
        def step(carry, inputs):
            params, state = carry
            grads, loss = inputs
            updates, state = tx.update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), (training.grads, training.losses))[0]

    params, state = train(params, tx.init(params))
    return {name: np.asarray(x) for name, x in params.items()}, int(optax.tree.get(state, "num_not_finite"))


def to_torch(name: str, x: np.ndarray) -> Any:
    """A tensor as PyTorch has it."""
    import torch  # pyright: ignore[reportMissingImports]

    axes = np.argsort(flax_axes(TENSORS[name][0], x.ndim)).astype(int)
    return torch.from_numpy(np.array(x.transpose(axes), order="C"))  # a copy, which the optimizer may overwrite


def to_flax(name: str, x: Any) -> np.ndarray:
    """A tensor of PyTorch as Flax has it."""
    return x.detach().float().numpy().transpose(flax_axes(TENSORS[name][0], x.ndim))


def torch_groups(training: Training, dtype: Any = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first parameters, and groups of them as `lopt.torch.param_groups` makes them."""
    params = {name: to_torch(name, x).to(dtype).requires_grad_() for name, x in training.params.items()}
    groups: dict[str, list[Any]] = {}
    for name, param in params.items():
        groups.setdefault(TENSORS[name][0], []).append((name.replace("/", "."), param))
    return params, [{"params": members, "layout": layout} for layout, members in groups.items()]


def step_torch(optimizer: Any, params: dict[str, Any], training: Training, i: int) -> None:
    """One update."""
    for name, param in params.items():
        param.grad = to_torch(name, training.grads[name][i]).to(param.dtype)
    optimizer.step(loss=float(training.losses[i]))


def run_torch(path: Any, training: Training, **options: Any) -> tuple[dict[str, np.ndarray], int]:
    """As `run_jax`."""
    from lopt.torch import Learned

    params, groups = torch_groups(training)
    optimizer = Learned(groups, path, **options)
    for i in range(len(training.losses)):
        step_torch(optimizer, params, training, i)
    return {name: to_flax(name, param) for name, param in params.items()}, int(optimizer.num_not_finite)


def assert_close(
    found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], training: Training, rtol: float = 1e-5
) -> None:
    """Compares what the training has moved: a tolerance of the parameters would hide a wrong update.

    The parameters are rounded in each of 100 steps, hence the tolerance of some 1e-7 of their size.
    """
    for name, first in training.params.items():
        moved = wanted[name] - first
        scale = np.sqrt(np.mean(np.square(moved)))
        np.testing.assert_allclose(
            found[name] - first, moved, rtol=rtol, atol=rtol * scale + 1e-7 * np.abs(first).max(), err_msg=name
        )
