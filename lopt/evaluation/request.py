"""What an evaluation was asked for: read, refused where it cannot be done, and told as plain values."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from lopt.distributed import PairLayout, devices_per_process
from lopt.evaluation.contestants import Contestant, contestants, tuned_baseline
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.sweeps import Point, points
from lopt.evaluation.untuned import POOL
from lopt.names import InputError, check_known
from lopt.own import foreign
from lopt.pool import read_mixture
from lopt.trained.pretrained import Pretrained
from lopt.types import Data, TaskFamily
from lopt.version import versions

PROTOCOL = "tuned"  # the default


class Request(NamedTuple):
    """What was asked for.

    Attributes:
      pretrained: the optimizer that the evaluation is about.
      others: other learned optimizers.
      evaluation: the protocol of every training.
      families: the tasks.
      pool: the tasks on which the settings of the untuned protocol are chosen; none where it was not asked for.
      axes: the axes of the sweeps.
      stops: where the sweep of each task along each axis stops.
    """

    pretrained: Pretrained
    others: Sequence[Pretrained]
    evaluation: Evaluation
    families: Sequence[TaskFamily]
    pool: Sequence[TaskFamily]
    axes: Sequence[str]
    stops: Mapping[tuple[str, TaskFamily], Mapping[str, Point]]

    @property
    def contestants(self) -> list[Contestant]:
        """All that take part, but for baselines at one setting, which is not known yet."""
        return contestants(self.pretrained, self.evaluation.baselines, self.others)

    @property
    def tuned(self) -> list[Contestant]:
        """The baselines with their trials."""
        return [tuned_baseline(baseline) for baseline in self.evaluation.baselines]

    @property
    def points(self) -> list[Evaluation]:
        """The protocol of every point of the sweeps."""
        return [point.evaluation for stop in self.stops.values() for point in stop.values()]

    def load(self) -> tuple[dict[TaskFamily, Data], dict[TaskFamily, Data]]:
        """The data of the tasks, and of those of the pool. Raises InputError where a task lacks the split."""
        data = {family: self.evaluation.layout.load(family) for family in (*self.families, *self.pool)}
        for family, arrays in data.items():
            self.evaluation.check_split(family, arrays)
        return {family: data[family] for family in self.families}, {family: data[family] for family in self.pool}

    def configuration(self) -> dict[str, Any]:
        """Everything that decides the numbers, as plain values: results with an equal one may be replaced."""
        evaluation = self.evaluation
        return {
            "optimizer": str(self.pretrained.optimizer),
            "theta_sha256": self.pretrained.card["theta_sha256"],
            "tasks": [family.name for family in self.families],
            "horizon": evaluation.horizon,
            "num_seeds": evaluation.num_seeds,
            "seed": evaluation.seed,
            "split": evaluation.split,
            "baselines": {baseline.name: _plain(baseline.trials) for baseline in evaluation.baselines},
            "untuned_on": [family.name for family in self.pool],
            "learned": {other.name: other.card["theta_sha256"] for other in self.others},
            "sweep": list(self.axes),
        }

    def origin(self) -> dict[str, Any]:
        """Where the numbers come from, for the report."""
        configuration, layout = self.configuration(), self.evaluation.layout
        return {
            "title": f"{self.pretrained.name} after {configuration['horizon']:,} steps",
            "optimizer": configuration["optimizer"],
            "checkpoint": str(self.pretrained.path),
            "theta_sha256": configuration["theta_sha256"],
            "created": datetime.date.today().isoformat(),
            "versions": versions(),
            "hardware": f"{layout.num_devices} x {jax.devices()[0].device_kind}",
            "setting": {name: configuration[name] for name in ("horizon", "num_seeds", "seed", "split", "untuned_on")},
        }


def read_tasks(trained: Any, pretrained: Pretrained, given: Any, data_dir: str | None) -> Sequence[TaskFamily]:
    """The tasks that were given, or those that a run has at hand, or those that the card names.

    Raises:
      InputError: there are none, or the card names some that are not part of lopt.
    """
    given = getattr(trained, "tasks", None) if given is None else given
    if given is not None:
        return read_mixture(given, data_dir).families
    tasks = pretrained.card.get("tasks")
    if tasks is None:
        raise InputError(f"{pretrained.path} does not say what it was trained on: give tasks, or --tasks")
    if foreign.names_code(tasks):
        raise InputError(
            f"{pretrained.name} was trained on {tasks}, which is not all part of lopt, and no code is run because "
            "a file names it: give the tasks yourself, as objects or --tasks=FILE.py:CLASS"
        )
    return read_mixture(tasks, data_dir).families


def read_protocol(protocol: str, families: Iterable[TaskFamily], data_dir: str | None) -> Sequence[TaskFamily]:
    """The tasks that choose the settings of the untuned protocol: none for `tuned`.

    Args:
      protocol: `tuned`; or `both`, or `both:TASKS` for other tasks than those of `pool_valid`.
      families: the tasks that are evaluated.
      data_dir: where data sets are looked for.

    Raises:
      InputError: another text, or a task that is evaluated, too.
    """
    name, _, tasks = protocol.partition(":")
    check_known("protocol", name, ["tuned", "both"])
    if name == "tuned":
        if tasks:
            raise InputError(f"the protocol 'tuned' takes no tasks, as in {protocol!r}: write both:{tasks}")
        return ()
    pool = read_mixture(tasks or POOL, data_dir).families
    if twice := sorted({family.name for family in pool} & {family.name for family in families}):
        raise InputError(
            f"{twice[0]} is evaluated, so it cannot choose settings: name other tasks, as in both:pool_small"
        )
    return pool


def read_horizon(pretrained: Pretrained, horizon: int | None) -> int:
    """The steps of a training, by default the longest of the meta-training."""
    if horizon is None and "horizon" not in pretrained.card:
        raise InputError(f"{pretrained.name} does not say how long it was trained for: give a horizon")
    return pretrained.card["horizon"][1] if horizon is None else horizon


def read_layout(devices: int | None) -> PairLayout:
    """So many devices of each process, by default all. Raises InputError where there are fewer."""
    available = devices_per_process()
    devices = available if devices is None else devices
    if not 1 <= devices <= available:
        raise InputError(f"{devices} devices asked for, {available} there")
    return PairLayout(devices * jax.process_count(), sequential=jax.default_backend() == "cpu")


def read_stops(
    axes: Iterable[str], evaluation: Evaluation, families: Sequence[TaskFamily], data_dir: str | None
) -> dict[tuple[str, TaskFamily], dict[str, Point]]:
    """Where the sweep of each task along each axis stops."""
    return {(axis, family): points(axis, evaluation, family, data_dir) for axis in axes for family in families}


def _plain(trials: Sequence[Mapping[str, float]]) -> list[Any]:
    """Trials as rates, or as dicts where they have more."""
    return [trial if len(trial) > 1 else next(iter(trial.values())) for trial in trials]
