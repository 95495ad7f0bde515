"""The settings of a meta-training run, as a person gives them: names and numbers, checked before anything is built."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.teacher import TEACHERS, Teacher
from lopt.names import MAX_WHOLE, InputError, parse_spec, spell, split_list
from lopt.optimizers import OPTIMIZERS
from lopt.own import foreign
from lopt.types import GradientEstimator, LearnedOptimizer, TaskMixture


def setting(default: Any, doc: str) -> Any:
    """A field with its documentation; the commands make their flags of it."""
    return dataclasses.field(default=default, metadata={"doc": doc})


# The least values of whole numbers that nothing else checks. Of 20 inner steps, 5 % are one: the final loss is its.
_LEAST = {
    "outer_steps": 1,
    "data_block_steps": 1,
    "valid_every": 0,
    "valid_horizon": 20,
    "valid_seeds": 1,
    "max_recoveries": 0,
}


@dataclasses.dataclass(frozen=True)
class MetaTrainConfig:
    """Everything that decides the result of a run. The `doc` of each field says what it means, as does `--help`.

    `optimizer` and `estimator` may be objects in the place of names, and names may be those of other people's classes
    (`lopt.own.foreign`), whose code is run to check the settings. An estimator that is an object has its own
    `num_pairs`, `sigma`, `truncation` and `horizon`: those here are not read then.
    """

    optimizer: str | LearnedOptimizer = setting(
        "mlp",
        "learned optimizer, NAME[:setting=value]..., or your own, FILE.py:CLASS[:setting=value]...; names: "
        f"{', '.join(sorted(OPTIMIZERS))}",
    )
    tasks: str = setting(
        "image_mlp",
        "tasks to train on: a comma list of [WEIGHT*]FAMILY[/DATASET][:setting=value]...[+AUGMENTATION...], or a named "
        "pool, or your own, FILE.py:CLASS[:setting=value]...; python -m lopt tasks list shows them all",
    )
    tasks_per_step: int = setting(0, "task families drawn per outer step; 0: all of them")
    draw: str = setting(
        "weight",
        "how they are drawn: weight, by their weights; or cost, by weight over the square root of what an inner step "
        "costs, where expensive ones count more when they are drawn, so that the mean stays the same",
    )
    family_scale: str = setting(
        "none",
        "how each task family's meta-gradient is scaled before the mean: none; normalised, by its running root mean "
        "square, so that no family dominates; or signed, to the sign of each coordinate",
    )
    init_from: str = setting(
        "",
        "where theta starts: a run, one of its checkpoints (RUN/checkpoints/STEP), an export or a shipped optimizer, "
        "with a theta of the same form; empty: fresh",
    )
    freeze: str = setting(
        "", "comma list of parts of theta that are not trained, by path, such as scheduler or mlp/kernel_0"
    )
    estimator: str | GradientEstimator = setting(
        "pes",
        "meta-gradient estimator, NAME[:setting=value]..., or your own, FILE.py:CLASS[:setting=value]...; names: "
        f"{', '.join(sorted(ESTIMATORS))}",
    )
    num_pairs: int = setting(16, "antithetic pairs of particles per task family")
    sigma: float = setting(0.01, "standard deviation of the perturbations of theta")
    truncation: int = setting(50, "K, inner steps per window; each window gives one meta-gradient estimate")
    horizon: str = setting(
        "200:2000",
        "T, inner steps per trajectory: a number, SHORTEST:LONGEST (log-uniform) or SHORTEST:LONGEST:uniform; with "
        ":grow=N at the end, LONGEST is reached after N outer steps",
    )
    meta_loss: str = setting(
        "meta_batch",
        "what an inner step costs: train, the loss of the batch before its update; meta_batch, the loss of a fresh "
        "batch of the meta split after it; mixed[:share], both, with this share of the latter; final, the loss of a "
        "fresh batch at the end of the trajectory alone",
    )
    meta_transform: str = setting(
        "none",
        "the scale of that cost: none; or log[:floor], on which every factor between the trivial predictor's loss and "
        "floor times it counts the same",
    )
    meta_weight: str = setting(
        "uniform",
        "how much inner step t of T weighs: uniform, 1; or late[:power], (power + 1) (t / T)^power",
    )
    teacher: str = setting(
        "none",
        "a hand-made optimizer that the rule's updates are drawn to at first, NAME[:learning rate]; names: "
        f"{', '.join(TEACHERS)}; none: no teacher (docs/meta_training.md)",
    )
    teacher_steps: int = setting(0, "outer steps over which the weight of the teacher falls to 0")
    teacher_weight: float = setting(
        1.0, "its weight w at first: an inner step costs 1 - w times its loss plus w times the distance to the teacher"
    )
    outer_steps: int = setting(1000, "updates of theta")
    outer_optimizer: str = setting("adam", "what updates theta: adam, adamw or sgd")
    outer_learning_rate: float = setting(1e-2, "its peak learning rate")
    outer_schedule: str = setting("cosine", "from the peak to 0 over outer_steps: cosine or linear; or constant")
    outer_warmup_steps: int = setting(0, "outer steps of linear warm-up")
    outer_clip_norm: float = setting(1.0, "the meta-gradient is clipped to this norm; 0: never")
    outer_weight_decay: float = setting(1e-4, "decoupled weight decay of adamw")
    theta_ema: float = setting(
        0.0, "decay per outer step of an average of theta, such as 0.99, which is exported too; 0: none"
    )
    valid_tasks: str = setting(
        "", "tasks to validate on, as for tasks, such as pool_valid; empty: no validation (docs/meta_training.md)"
    )
    valid_every: int = setting(
        0, "outer steps between validations; 0: as many as keep their time at 10 % of the run's, by the clock"
    )
    valid_horizon: int = setting(1000, "inner steps of each training of a validation")
    valid_seeds: int = setting(2, "trainings of each task per validation")
    max_recoveries: int = setting(
        2, "times that the run goes back to a good checkpoint, at half the outer rate, before it stops"
    )
    data_block_steps: int = setting(64, "outer steps that draw their batches from one block of a data set that streams")
    seed: int = setting(0, "of everything random in the run")

    def __post_init__(self):
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{field.name} must be a finite number, not {value}")
            if isinstance(value, int) and field.name != "seed" and abs(value) > MAX_WHOLE:
                raise InputError(f"{field.name} must be at most {MAX_WHOLE:,}, not {value:,}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be between 0 and 2^32 - 1, not {self.seed}")
        self.build(TaskMixture((), ()), PairLayout())  # every setting is checked by what it sets

    @property
    def may_grow(self) -> tuple[str, ...]:
        """Settings that may change when a run goes on. Without a schedule, more steps leave the earlier ones alone."""
        return ("outer_steps",) if self.outer_schedule == "constant" else ()

    def as_json(self) -> dict[str, Any]:
        """All settings as plain values; objects and classes of other people become `module:Class:setting=value`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if _is_own(self.optimizer):
            values["optimizer"] = spell(self._build_optimizer(), OPTIMIZERS)
        if _is_own(self.estimator):
            values["estimator"] = spell(self._build_estimator(PairLayout()), ESTIMATORS)
        if not isinstance(self.estimator, str):
            own = _own_settings(self.estimator)
            values |= {name: own[name] for name in ("num_pairs", "sigma", "truncation") if name in own}
            values["horizon"] = str(self.trajectory_lengths())
        return values

    def trajectory_lengths(self) -> Horizon:
        """The horizons of the run, the estimator's own where it is an object."""
        if isinstance(self.estimator, str):
            return Horizon.parse(self.horizon)
        own = _own_settings(self.estimator).get("horizon")
        return own if isinstance(own, Horizon) else Horizon.parse(self.horizon)

    def pairs(self) -> int:
        """Number of antithetic pairs, the estimator's own where it is an object."""
        own = {} if isinstance(self.estimator, str) else _own_settings(self.estimator)
        return own.get("num_pairs", self.num_pairs)

    def build(self, tasks: TaskMixture, layout: PairLayout) -> MetaTraining:
        """What the settings stand for.

        Args:
          tasks: what the setting `tasks` stands for.
          layout: which device runs which pair.

        Raises:
          InputError: a setting is unknown or out of its range.
        """
        return MetaTraining(
            optimizer=self._build_optimizer(),
            families=tasks.families,
            weights=tasks.weights,
            families_per_step=self.tasks_per_step,
            draw=self.draw,
            frozen=tuple(split_list(self.freeze)),
            family_scale=self.family_scale,
            estimator=self._build_estimator(layout),
            outer_optimizer=OuterOptimizer(
                name=self.outer_optimizer,
                learning_rate=self.outer_learning_rate,
                schedule=self.outer_schedule,
                warmup_steps=self.outer_warmup_steps,
                clip_norm=self.outer_clip_norm,
                weight_decay=self.outer_weight_decay,
                num_steps=self.outer_steps,
            ),
            objective=Objective(
                self.meta_loss,
                self.meta_transform,
                self.meta_weight,
                Teacher.parse(self.teacher, self.teacher_steps, self.teacher_weight),
            ),
            layout=layout,
            theta_ema=self.theta_ema,
        )

    def _build_optimizer(self) -> LearnedOptimizer:
        if isinstance(self.optimizer, str):
            return foreign.make("optimizer", parse_spec(self.optimizer), OPTIMIZERS)
        return self.optimizer

    def _build_estimator(self, layout: PairLayout) -> GradientEstimator:
        if isinstance(self.estimator, str):
            return foreign.make(
                "estimator",
                parse_spec(self.estimator),
                ESTIMATORS,
                num_pairs=self.num_pairs,
                sigma=self.sigma,
                truncation=self.truncation,
                horizon=Horizon.parse(self.horizon),
                layout=layout,
            )
        own = self.estimator
        return dataclasses.replace(own, layout=layout) if "layout" in _own_settings(own) else own  # type: ignore[type-var]


def _is_own(given: Any) -> bool:
    """Whether it is an object, or the place of a class of other people's, and no name."""
    return not isinstance(given, str) or foreign.is_place(parse_spec(given).name)


def _own_settings(estimator: GradientEstimator) -> Mapping[str, Any]:
    """The settings of an estimator object, empty where it is no dataclass."""
    if not dataclasses.is_dataclass(estimator):
        return {}
    return {field.name: getattr(estimator, field.name) for field in dataclasses.fields(estimator)}
