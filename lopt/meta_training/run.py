"""The front door to meta-training: one call trains an optimizer, or goes on with a run, and returns what came out."""

import base64
import dataclasses
import html
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from lopt.distributed import default_layout
from lopt.extras import need
from lopt.figures import to_png
from lopt.meta_training.attempt import Invocation
from lopt.meta_training.checkpoint import KEEP
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.loop import train
from lopt.meta_training.metrics import final_meta_loss, read_columns
from lopt.meta_training.outer import MetaTraining
from lopt.meta_training.plots import plot_runs
from lopt.meta_training.workdir import CACHE, EXPORT, EXPORT_BEST, METRICS
from lopt.names import InputError, check_known
from lopt.optimizers import OPTIMIZERS
from lopt.own import foreign
from lopt.pool import read_mixture, spell_mixture
from lopt.trained.pretrained import Pretrained, load_pretrained
from lopt.trained.transform import as_optax
from lopt.types import GradientEstimator, LearnedOptimizer, TaskFamily, TaskMixture, Theta
from lopt.validation.validator import TaskValidator

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Run:
    """A meta-training run as its folder holds it.

    Attributes:
      workdir: the run's folder.
      step: outer steps done.
      outer_steps: outer steps that its config asks for.
      signal: number of the signal that stopped the call that returned this; None if none did.
      rule: the learned optimizer, as an object; None if it is one of lopt's, which its name in the card stands for.
      tasks: what the call that returned this has trained on, as objects; None for a run that was opened.
    """

    workdir: Path
    step: int
    outer_steps: int
    signal: int | None = None
    rule: LearnedOptimizer | None = dataclasses.field(default=None, compare=False, repr=False)
    tasks: TaskMixture | None = dataclasses.field(default=None, compare=False, repr=False)

    @staticmethod
    def open(workdir: str | os.PathLike, *, optimizer: LearnedOptimizer | None = None) -> "Run":
        """Reads a run that is there already, finished or not.

        Args:
          workdir: the run's folder.
          optimizer: the rule, for one that is not part of lopt.

        Raises:
          InputError: the folder holds no run, or the run of another rule.
        """
        folder = Path(workdir)
        try:
            asked = json.loads((folder / "config.json").read_bytes())["outer_steps"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} is not the folder of a run: {error}") from error
        card = load_pretrained(folder, optimizer=optimizer).card
        return Run(folder, int(card["outer_steps"]), int(asked), rule=optimizer)

    @property
    def finished(self) -> bool:
        """Whether all outer steps are done."""
        return self.step >= self.outer_steps

    @property
    def export(self) -> Path:
        """Folder of the trained optimizer, which `lopt.load` reads."""
        return self.workdir / EXPORT

    @property
    def pretrained(self) -> Pretrained:
        """The rule with its newest exported theta and its card."""
        return load_pretrained(self.export, optimizer=self.rule)

    @property
    def best(self) -> Pretrained:
        """The rule with the theta of the best validation so far. Raises InputError for a run without `valid_tasks`."""
        folder = self.workdir / EXPORT_BEST
        if not folder.exists():
            raise InputError(f"{self.workdir} has no {EXPORT_BEST}/: no theta of this run has been validated yet")
        return load_pretrained(folder, optimizer=self.rule)

    @property
    def optimizer(self) -> LearnedOptimizer:
        """The rule."""
        return self.pretrained.optimizer

    @property
    def theta(self) -> Theta:
        """The newest exported theta."""
        return self.pretrained.theta

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Every number of metrics.jsonl over the outer steps: arrays `[step]`, NaN where a step has no such number."""
        return read_columns(self.workdir / METRICS)

    def load(self, *, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        """The trained optimizer as an optax transformation; see `lopt.load`."""
        trained = self.pretrained
        return as_optax(trained.optimizer, trained.theta, num_steps=num_steps)

    def plot(self) -> "Figure":
        """What a person steers by, over the outer steps; `python -m lopt.monitor` shows several runs."""
        need("a picture", "matplotlib")
        return plot_runs({self.workdir.name or str(self.workdir): self.history})

    def __str__(self) -> str:
        state = "finished" if self.finished else "not finished"
        return (
            f"{self.workdir}: {state}, outer step {self.step} of {self.outer_steps}, "
            f"meta-loss {final_meta_loss(self.history):.4g} (mean of the last 5 %); trained optimizer in {self.export}"
        )

    def _repr_html_(self) -> str:
        picture = base64.b64encode(to_png(self.plot())).decode()
        return f'<p>{html.escape(str(self))}</p><img style="max-width: 100%" src="data:image/png;base64,{picture}">'


def meta_train(
    optimizer: str | LearnedOptimizer = "mlp",
    tasks: str | TaskFamily | TaskMixture | Sequence[str | TaskFamily] = "image_mlp",
    *,
    workdir: str | os.PathLike,
    estimator: str | GradientEstimator = "pes",
    checkpoint_every: int = 100,
    keep_checkpoints: int = KEEP,
    stop_after: int | None = None,
    devices: int | None = None,
    data_dir: str | None = None,
    cache: str | os.PathLike | None = None,
    wandb: str = "disabled",
    command: tuple[str, ...] = (),
    valid_tasks: str | TaskFamily | TaskMixture | Sequence[str | TaskFamily] = "",
    **settings: Any,
) -> Run:
    """Meta-trains an optimizer, or goes on with the run that is in `workdir`.

    Every outer step estimates the meta-gradient from windows of inner trainings on `tasks`, and moves theta against it.
    The run is saved as it goes on; Ctrl-C saves too, and the same call goes on from there. Where `jax.distributed` is
    initialised, all processes make the same call and share the pairs; the first one has the folder.

    Args:
      optimizer: the rule: a name with settings, `"mlp:hidden_sizes=(16,16)"`, or an object.
      tasks: what it is trained on: text as for `--tasks`, a family, a sequence of these, or a mixture with weights.
      workdir: folder of the run; made if absent, continued if it holds this run.
      estimator: of the meta-gradient: a name with settings, or an object, which then has its own `num_pairs`, `sigma`,
        `truncation` and `horizon`.
      checkpoint_every: outer steps between checkpoints.
      keep_checkpoints: how many of the latest are kept, to start other runs from by `init_from`; 0 for all.
      stop_after: stop after this many outer steps of this call.
      devices: devices of a process that share the pairs; None for as many as can.
      data_dir: where data sets are looked for; None for the default.
      cache: folder in which the reference runs of a validation are kept, for other runs too; None for one in the
        workdir, "" for none.
      wandb: "disabled", "offline" or "online".
      command: what the card says the run was made with.
      valid_tasks: what it is validated on, as for `tasks`, such as "pool_valid"; "" for no validation.
      **settings: any other field of `MetaTrainConfig`: `outer_steps`, `horizon`, `sigma`, `outer_learning_rate`, ...

    Returns:
      The run: theta, history, plot, and the trained optimizer.

    Raises:
      InputError: something asked for cannot be done; nothing has been trained or overwritten.
      CheckpointError: a checkpoint could not be written.
      PeerError: another process of the run has ended.
      StuckError: the run has stopped learning: theta does not move, or is no longer finite, or does worse and worse on
        the tasks of validation; going back to earlier checkpoints did not help.
    """
    config = _config(optimizer, tasks, estimator, settings)
    mixture = read_mixture(tasks, data_dir)
    validated = read_mixture(valid_tasks, data_dir) if valid_tasks else TaskMixture((), ())
    spelled = {"tasks": (tasks, mixture), "valid_tasks": (valid_tasks, validated)}
    texts = {name: given if _names_lopts(given) else spell_mixture(read) for name, (given, read) in spelled.items()}
    config = dataclasses.replace(config, **texts)
    layout = default_layout(config.pairs(), devices)
    training = config.build(mixture, layout)
    invocation = Invocation(Path(workdir), checkpoint_every, stop_after, wandb, command, keep_checkpoints)
    validator = None
    if validated.families:
        kept = Path(workdir, CACHE) if cache is None else Path(cache) if cache else None
        validator = _validator(training, config, validated.families, kept)
    outcome = train(training, config, invocation, validator)
    rule = None if type(training.optimizer) in OPTIMIZERS.values() else training.optimizer
    return Run(Path(workdir), outcome.step, config.outer_steps, outcome.signal, rule, mixture)


def _validator(
    training: MetaTraining, config: MetaTrainConfig, families: tuple[TaskFamily, ...], cache: Path | None
) -> TaskValidator:
    if both := sorted({family.name for family in families} & {family.name for family in training.families}):
        logging.warning("trained on and validated on: %s. The score will not tell of other tasks", ", ".join(both))
    return TaskValidator(
        training.optimizer,
        families,
        horizon=config.valid_horizon,
        num_seeds=config.valid_seeds,
        layout=training.layout,
        cache=cache,
    )


def _config(optimizer: Any, tasks: Any, estimator: Any, settings: dict[str, Any]) -> MetaTrainConfig:
    own = ("num_pairs", "sigma", "truncation", "horizon")
    own_arguments = {"optimizer", "tasks", "estimator", "valid_tasks"}
    known = {field.name for field in dataclasses.fields(MetaTrainConfig)} - own_arguments
    for name in settings:
        check_known("setting of meta_train:", name, known)
        if name in own and not isinstance(estimator, str):
            raise InputError(f"{name} is a setting of the estimator, which is given as an object: set it there")
    text = tasks if isinstance(tasks, str) else ""
    return MetaTrainConfig(optimizer=optimizer, tasks=text, estimator=estimator, **settings)


def _names_lopts(tasks: Any) -> bool:
    """Whether tasks are given as text, and all of them are lopt's."""
    return isinstance(tasks, str) and not foreign.names_code(tasks)
