"""The settings of a meta-training run, as a person gives them: names and numbers, checked before anything is built."""

import dataclasses
from typing import Any

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.meta_training.inner import META_LOSSES, MetaLoss
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.names import InputError, build, check_known, parse_spec, split_list
from lopt.optimizers import OPTIMIZERS
from lopt.types import TaskMixture


def setting(default: Any, doc: str) -> Any:
    """A field with its documentation; the commands make their flags of it."""
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class MetaTrainConfig:
    """All that decides the result of a run. What each field means is its `doc`; `meta_train.py --help` prints it."""

    optimizer: str = setting(
        "mlp", f"learned optimizer, NAME[:setting=value]...; names: {', '.join(sorted(OPTIMIZERS))}"
    )
    tasks: str = setting(
        "image_mlp",
        "tasks to train on: a comma list of [WEIGHT*]FAMILY[/DATASET][:setting=value]...[+AUGMENTATION...], or a named "
        "pool; python -m tasks list shows them all",
    )
    tasks_per_step: int = setting(0, "task families that an outer step draws, by their weights; 0: all of them")
    init_from: str = setting(
        "", "where theta starts: a run, an export or a shipped optimizer with a theta of the same form; empty: fresh"
    )
    freeze: str = setting(
        "", "comma list of parts of theta that stay as they are, by path, such as scheduler or mlp/kernel_0"
    )
    estimator: str = setting(
        "pes", f"meta-gradient estimator, NAME[:setting=value]...; names: {', '.join(sorted(ESTIMATORS))}"
    )
    num_pairs: int = setting(16, "antithetic pairs of particles a task family")
    sigma: float = setting(0.01, "standard deviation of the perturbations of theta")
    truncation: int = setting(50, "K, inner steps a window: one meta-gradient estimate each")
    horizon: str = setting(
        "200:2000",
        "T, inner steps a trajectory: a number, SHORTEST:LONGEST (log-uniform) or SHORTEST:LONGEST:uniform; with "
        ":grow=N behind, LONGEST is reached after N outer steps",
    )
    meta_loss: MetaLoss = setting(
        "meta_batch",
        "what an inner step costs: train, the loss of the batch before its update; meta_batch, the loss of a fresh "
        "batch of the meta split after it; final, that loss at the end of the trajectory alone",
    )
    outer_steps: int = setting(1000, "updates of theta")
    outer_optimizer: str = setting("adam", "what updates theta: adam, adamw or sgd")
    outer_learning_rate: float = setting(1e-2, "its peak learning rate")
    outer_schedule: str = setting("cosine", "from the peak to 0 over outer_steps: cosine or linear; or constant")
    outer_warmup_steps: int = setting(0, "outer steps of linear warm-up")
    outer_clip_norm: float = setting(1.0, "the meta-gradient is clipped to this norm; 0: never")
    outer_weight_decay: float = setting(1e-4, "decoupled weight decay of adamw")
    seed: int = setting(0, "of everything random in the run")

    def __post_init__(self):
        if self.outer_steps < 1:
            raise InputError(f"outer_steps must be at least 1, not {self.outer_steps}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be between 0 and 2^32 - 1, not {self.seed}")
        check_known("meta_loss", self.meta_loss, META_LOSSES)
        self.build(TaskMixture((), ()), PairLayout())  # every setting is checked by what it sets

    @property
    def may_grow(self) -> tuple[str, ...]:
        """Settings that may change when a run goes on. Without a schedule, more steps leave the earlier ones alone."""
        return ("outer_steps",) if self.outer_schedule == "constant" else ()

    def build(self, tasks: TaskMixture, layout: PairLayout) -> MetaTraining:
        """What the settings stand for.

        Args:
          tasks: what the setting `tasks` stands for; this library does not know the pool.

        Raises:
          InputError: a setting is unknown or out of its range.
        """
        return MetaTraining(
            optimizer=build("optimizer", parse_spec(self.optimizer), OPTIMIZERS),
            families=tasks.families,
            weights=tasks.weights,
            families_per_step=self.tasks_per_step,
            frozen=tuple(split_list(self.freeze)),
            estimator=build(
                "estimator",
                parse_spec(self.estimator),
                ESTIMATORS,
                num_pairs=self.num_pairs,
                sigma=self.sigma,
                truncation=self.truncation,
                horizon=Horizon.parse(self.horizon),
                layout=layout,
            ),
            outer_optimizer=OuterOptimizer(
                name=self.outer_optimizer,
                learning_rate=self.outer_learning_rate,
                schedule=self.outer_schedule,
                warmup_steps=self.outer_warmup_steps,
                clip_norm=self.outer_clip_norm,
                weight_decay=self.outer_weight_decay,
                num_steps=self.outer_steps,
            ),
            meta_loss=self.meta_loss,
            layout=layout,
        )
