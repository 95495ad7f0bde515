"""A teacher: a hand-made optimizer whose update a rule's is drawn to, with a weight that fades out over a run."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from lopt.names import InputError, check_known
from lopt.types import Params, PyTree

# How much direction and size count: those of ELO. At most, an update costs 0.7 * 2 + 0.3 * 2 = 2, the cap of a loss.
DIRECTION, SIZE, MOST = 0.7, 0.3, 2.0


class _Optimizer(NamedTuple):
    """Attributes: constructor takes a learning rate; rate is the one by default."""

    constructor: Callable[[float], optax.GradientTransformation]
    rate: float


TEACHERS = {
    "sgdm": _Optimizer(lambda rate: optax.sgd(rate, momentum=0.9), 0.1),
    "adam": _Optimizer(optax.adam, 0.01),
    "adamw": _Optimizer(lambda rate: optax.adamw(rate, weight_decay=0.01), 0.01),
    "muon": _Optimizer(lambda rate: contrib.muon(rate, consistent_rms=0.2), 0.01),
}


class TeacherState(NamedTuple):
    """Attributes: optimizer is the teacher's own state; distance is that of the rule's last update from the teacher's,
    0 before the first one and where the weight is 0."""

    optimizer: PyTree
    distance: jax.Array


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Makes the cost of an inner step (1 - w) l + w d, with d the distance of its update from the teacher's.

    The teacher has a state of its own, and sees the gradients and params of the rule's training, which goes where the
    rule leads it. In outer step n, counted from 0, w = weight max(0, 1 - n / steps). Where w is 0, the teacher is not
    computed.

    Attributes:
      name: one of `TEACHERS`.
      learning_rate: its constant rate, which decides the size that updates are drawn to.
      steps: outer steps until the weight is 0.
      weight: w in the first outer step, at most 1.

    Raises:
      InputError: an unknown name, or a number out of its range.

    Source: the expert of ELO (arXiv 2607.06772), whose trajectories also follow a mixture of both updates, and whose
    rates fall; here they do not.
    """

    name: str
    learning_rate: float
    steps: int
    weight: float = 1.0

    def __post_init__(self):
        check_known("teacher", self.name, TEACHERS)
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"teacher: the learning rate must be above 0 and finite, not {self.learning_rate:g}")
        if self.steps < 1:
            raise InputError(
                f"teacher_steps must be at least 1 with a teacher, not {self.steps}: it is the number of outer steps "
                "until the teacher no longer counts"
            )
        if not 0 <= self.weight <= 1:
            raise InputError(f"teacher_weight must be between 0 and 1, not {self.weight:g}")

    @staticmethod
    def parse(text: str, steps: int, weight: float) -> "Teacher | None":
        """Reads `none`, or `NAME[:learning rate]`."""
        name, colon, rate = text.partition(":")
        check_known("teacher", name, ["none", *TEACHERS])
        if name == "none":
            if colon or steps:
                known = ", ".join(TEACHERS)
                raise InputError(f"teacher: none takes no rate and no teacher_steps; give a teacher: {known}")
            return None
        try:
            return Teacher(name, float(rate) if colon else TEACHERS[name].rate, steps, weight)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"teacher: {rate!r} is no learning rate; write {name} or {name}:{TEACHERS[name].rate:g}"
            ) from None

    def weight_at(self, step: jax.Array) -> jax.Array:
        """w in outer step `step`, counted from 0."""
        return self.weight * jnp.maximum(0, 1 - step / self.steps)

    def init(self, params: Params) -> TeacherState:
        """The state before the first update."""
        return TeacherState(self._optimizer().init(params), jnp.zeros(()))

    def follow(
        self, weight: jax.Array, grads: Params, state: TeacherState, params: Params, updates: Params
    ) -> TeacherState:
        """The teacher's step on what the rule has seen, and the distance of the rule's `updates` from it."""

        def taught() -> TeacherState:
            own, new = self._optimizer().update(grads, state.optimizer, params)
            return optax.tree.cast_like(TeacherState(new, distance(updates, own)), state)

        return jax.lax.cond(weight > 0, taught, lambda: state._replace(distance=jnp.zeros_like(state.distance)))

    def _optimizer(self) -> optax.GradientTransformation:
        return TEACHERS[self.name].constructor(self.learning_rate)


def distance(updates: Params, wanted: Params) -> jax.Array:
    """mean_i 0.7 (1 - cos(u_i, e_i)) + 0.3 min(2, |log10(|u_i| / |e_i|)|) over tensors i, between 0 and 2.

    A tensor that the teacher does not move counts 0. One that only the teacher moves has cosine 0 and the size of 2
    decades. An update that is not finite counts 2.

    Args:
      updates: u, the rule's.
      wanted: e, the teacher's, of the same form.
    """
    each = jax.tree.map(_distance, updates, wanted)
    return jnp.mean(jnp.stack(jax.tree.leaves(each)))


def _distance(update: jax.Array, wanted: jax.Array) -> jax.Array:
    (u, u_norm, u_scale), (e, e_norm, e_scale) = _scaled(update), _scaled(wanted)
    some, both = e_norm > 0, (u_norm > 0) & (e_norm > 0)
    u_norm, e_norm = jnp.where(both, u_norm, 1), jnp.where(both, e_norm, 1)
    cosine = jnp.sum(u * e) / (u_norm * e_norm)
    decades = jnp.abs(jnp.log10(u_norm) - jnp.log10(e_norm) + jnp.log10(u_scale) - jnp.log10(e_scale))
    size = jnp.where(both, jnp.minimum(decades, MOST), MOST)
    value = jnp.where(some, DIRECTION * (1 - cosine) + SIZE * size, 0)
    return jnp.where(jnp.isfinite(update).all() & jnp.isfinite(wanted).all(), value, MOST)


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x / s, its norm, and s, the largest size in x: squares then neither overflow nor vanish, nor do derivatives."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = jnp.sum((x / scale) ** 2)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / scale, norm, scale
