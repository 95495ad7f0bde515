"""How theta follows the meta-gradient: clipping, an optax optimizer, a schedule."""

import dataclasses

import optax

from lopt.names import InputError, check_known

OUTER_OPTIMIZERS = {"adam": optax.scale_by_adam, "adamw": optax.scale_by_adam, "sgd": optax.identity}
SCHEDULES = ("constant", "cosine", "linear")


@dataclasses.dataclass(frozen=True)
class OuterOptimizer:
    """How theta follows the meta-gradient.

    Attributes:
      name: one of `OUTER_OPTIMIZERS`.
      learning_rate: peak learning rate.
      schedule: how the rate falls from its peak to 0 over `num_steps` outer steps: cosine or linear; or constant.
      warmup_steps: outer steps of linear increase from 0.
      clip_norm: the meta-gradient's norm is clipped to this; 0 for never.
      weight_decay: decoupled weight decay, used by adamw.
      num_steps: length of the schedule, in outer steps.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 0
    clip_norm: float = 1.0
    weight_decay: float = 1e-4
    num_steps: int = 1000

    def __post_init__(self):
        check_known("outer optimizer", self.name, OUTER_OPTIMIZERS)
        check_known("outer schedule", self.schedule, SCHEDULES)
        if self.learning_rate <= 0:
            raise InputError(f"the outer learning rate must be above 0, not {self.learning_rate}")
        if self.clip_norm < 0 or self.weight_decay < 0:
            raise InputError("the clipping norm and the weight decay of the outer optimizer must be at least 0")
        if not 0 <= self.warmup_steps < self.num_steps:
            raise InputError(
                f"a warm-up of {self.warmup_steps} outer steps must be shorter than the run of {self.num_steps}"
            )

    def learning_rate_schedule(self) -> optax.Schedule:
        decay_steps = self.num_steps - self.warmup_steps
        after = {
            "constant": optax.constant_schedule(self.learning_rate),
            "cosine": optax.cosine_decay_schedule(self.learning_rate, decay_steps),
            "linear": optax.linear_schedule(self.learning_rate, 0.0, decay_steps),
        }[self.schedule]
        if not self.warmup_steps:
            return after
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([warmup, after], [self.warmup_steps])

    def transformation(self) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        decay = optax.add_decayed_weights(self.weight_decay) if self.name == "adamw" else optax.identity()
        rule = OUTER_OPTIMIZERS[self.name]()
        return optax.chain(clip, rule, decay, optax.scale_by_learning_rate(self.learning_rate_schedule()))
