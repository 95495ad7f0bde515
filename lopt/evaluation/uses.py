"""Ways to use an optimizer for which a learned rule may not have been trained: `--sweep=use` compares them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lopt.evaluation.contestants import Contestant
from lopt.evaluation.runs import Rule
from lopt.types import Params, PyTree

MAX_NORM, DECAY, MINI_BATCHES = 1.0, 1e-4, 4


@dataclasses.dataclass(frozen=True)
class Use:
    """What a training loop does around an optimizer.

    Attributes:
      grads: what it does to gradients before the update.
      value: what it gives as the loss.
      updates: (updates, params) -> updates: what it does after the update.
      steps: what it says about the length of the training, as a multiple of the truth.
      accumulate: number of mini-batches whose mean gradient makes an update.
    """

    grads: Callable[[PyTree], PyTree] | None = None
    value: Callable[[jax.Array], jax.Array] | None = None
    updates: Callable[[PyTree, PyTree], PyTree] | None = None
    steps: float = 1.0
    accumulate: int = 1


@dataclasses.dataclass(frozen=True)
class Used:
    """A rule that is used in a certain way; itself a `runs.Rule`, with the state of the rule within."""

    rule: Rule
    use: Use

    def transformation(self, hyper: PyTree, num_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer as the loop sees it. `num_steps` counts mini-batches; the rule is told of updates."""
        use = self.use
        told = jnp.maximum(1, (num_steps * (use.steps / use.accumulate)).astype(jnp.int32))
        inner = self.rule.transformation(hyper, told)

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            updates = updates if use.grads is None else use.grads(updates)
            extra |= {} if use.value is None else {"value": use.value(extra["value"])}
            updates, state = inner.update(updates, state, params, **extra)
            return updates if use.updates is None else use.updates(updates, params), state

        whole = optax.GradientTransformationExtraArgs(inner.init, update)
        if use.accumulate == 1:
            return whole
        several: Any = optax.MultiSteps(whole, use.accumulate)  # itself, as its transformation drops the loss
        return optax.GradientTransformationExtraArgs(several.init, several.update)

    def eval_params(self, state: Any, params: Params) -> Params:
        """Those of the rule."""
        return self.rule.eval_params(state if self.use.accumulate == 1 else state.inner_opt_state, params)

    def describe(self) -> str:
        """The rule, and how it is used."""
        fields = {field.name: getattr(self.use, field.name) for field in dataclasses.fields(self.use)}
        words = {name: value.__name__ if callable(value) else value for name, value in fields.items()}
        return f"{self.rule.describe()} used with {words}"


def used(contestant: Contestant, use: Use) -> Contestant:
    """The contestant, and Adam with which it is timed, used in a certain way."""
    return contestant._replace(rule=Used(contestant.rule, use), reference=Used(contestant.reference, use))


def in_bfloat16(tree: PyTree) -> PyTree:
    """Rounded to bfloat16, as the gradients and losses of a training in mixed precision are."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), tree)


def clipped(grads: PyTree) -> PyTree:
    """The gradients, with a norm of at most `MAX_NORM` over all tensors."""
    norm = optax.tree.norm(grads)
    return jax.tree.map(lambda x: x * jnp.minimum(1.0, MAX_NORM / norm), grads)


def withheld(value: jax.Array) -> jax.Array:
    """1 for every loss: what a rule that reads the loss gets where nobody has it."""
    return jnp.ones_like(value)


def decayed(updates: PyTree, params: PyTree) -> PyTree:
    """The updates less `DECAY` times the parameters."""
    return jax.tree.map(lambda u, p: u - DECAY * p, updates, params)


USES = {
    "as is": Use(),
    "bfloat16": Use(grads=in_bfloat16, value=in_bfloat16),
    "half num_steps": Use(steps=0.5),
    "double num_steps": Use(steps=2.0),
    "loss withheld": Use(value=withheld),
    "gradient clipping": Use(grads=clipped),
    "weight decay": Use(updates=decayed),
    f"{MINI_BATCHES} mini-batches": Use(accumulate=MINI_BATCHES),
}
