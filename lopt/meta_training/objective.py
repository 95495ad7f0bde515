"""What an inner step costs: which batch counts, on which scale, how much each step weighs, and who teaches."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lopt.meta_training.teacher import Teacher
from lopt.names import InputError, check_known

# In units of the trivial predictor's loss. A particle that has diverged pays this for the rest of its horizon, so the
# cap must be well above the cost of a bad start, and low enough that one such particle does not drown the others.
LOSS_CAP = 2.0
META_LOSSES = ("train", "meta_batch", "final", "mixed")
TRANSFORMS = ("none", "log")
WEIGHTS = ("uniform", "late")


@dataclasses.dataclass(frozen=True)
class Objective:
    """J = E[sum_t w_t l_t] / E[T], where l_t = min(transform(normalized loss), cap), and NaN counts as cap.

    Attributes:
      meta_loss: whose loss counts: `train`, the training batch before the update; `meta_batch`, a fresh batch of the
        split `meta` after it; `mixed[:share]`, (1 - share) of the first plus share of the second, 0.5 by default;
        `final`, the fresh batch after the last step alone.
      transform: `none`, or `log[:floor]`: 1 - log(l + floor) / log(floor), which is 1 at the trivial predictor and 0
        where l = 0, so that every factor between 1 and the floor, 1e-4 by default, counts the same.
      weight: `uniform`, w_t = 1; or `late[:power]`, w_t = (power + 1) (t / T)^power for step t of T, power 1 by
        default, whose mean over a trajectory is near 1.
      teacher: a hand-made optimizer; while it teaches, l_t is mixed with the distance from its update.

    Raises:
      InputError: one of them is none of these, or its number is out of range.
    """

    meta_loss: str = "meta_batch"
    transform: str = "none"
    weight: str = "uniform"
    teacher: Teacher | None = None

    def __post_init__(self):
        mixed, floor, power = self._mixed, self.floor, self.power
        if mixed is not None and not 0 < mixed < 1:
            raise InputError(f"meta_loss: the share of the fresh batch must be between 0 and 1, not {mixed:g}")
        if floor is not None and not 1e-30 <= floor < 1:
            raise InputError(f"meta_transform: the floor must be at least 1e-30 and below 1, not {floor:g}")
        if power is not None and not 0 < power <= 100:
            raise InputError(f"meta_weight: the power must be above 0 and at most 100, not {power:g}")
        if self.final and power is not None:
            raise InputError("meta_weight: with meta_loss=final only the last step counts; leave it uniform")
        if self.final and self.teacher is not None:
            raise InputError(
                "teacher: with meta_loss=final only the last step counts, and a teacher is followed at each step: take "
                "another meta_loss, with meta_weight=late for a rule that is trained for the end"
            )

    @property
    def final(self) -> bool:
        """Whether only the last step counts."""
        return self.meta_loss == "final"

    @property
    def share(self) -> float:
        """Share of the fresh batch in the loss; the rest is that of the training batch."""
        return float(self.meta_loss != "train") if self._mixed is None else self._mixed

    @property
    def _mixed(self) -> float | None:
        return _number("meta_loss", self.meta_loss, META_LOSSES, {"mixed": 0.5})

    @property
    def floor(self) -> float | None:
        """Floor of a logarithmic loss."""
        return _number("meta_transform", self.transform, TRANSFORMS, {"log": 1e-4})

    @property
    def power(self) -> float | None:
        """Power of late weights."""
        return _number("meta_weight", self.weight, WEIGHTS, {"late": 1.0})

    def cost(self, normalized: jax.Array, cap: float = LOSS_CAP) -> jax.Array:
        """The cost of a normalized loss, before it is weighted."""
        cost = normalized
        if self.floor is not None:
            cost = 1 - jnp.log(jnp.maximum(normalized, 0) + self.floor) / math.log(self.floor)
        return jnp.where(cost < cap, cost, cap)  # False for NaN

    def weight_of(self, step: jax.Array, horizon: jax.Array) -> jax.Array:
        """w_t for step t, counted from 1, of `horizon`."""
        assert self.power is not None
        return (self.power + 1) * (step.astype(jnp.float32) / horizon.astype(jnp.float32)) ** self.power


def _number(setting: str, text: str, known: tuple[str, ...], defaults: dict[str, float]) -> float | None:
    """The number of a setting `name[:number]`; None for a name that has none."""
    name, colon, number = text.partition(":")
    check_known(setting, name, known)
    if name not in defaults:
        if colon:
            raise InputError(f"{setting}: {name} takes no number, so {text!r} cannot be read")
        return None
    try:
        return float(number) if colon else defaults[name]
    except ValueError:
        raise InputError(f"{setting}: {number!r} is no number; write {name} or {name}:{defaults[name]:g}") from None
