"""Running gradient estimators by name on inner problems: one compiled loop of estimates and updates of theta."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.meta_training.progress import Progress
from lopt.names import Spec, build
from lopt.types import GradientEstimator, InnerProblem, PyTree, Theta

UNENDING = Horizon(1_000_000, 1_000_000)  # longer than any run: a trajectory that is never reset
ALL_AT_ONCE = PairLayout(1, sequential=False)  # these problems are tiny: one vmap over particles is fastest
CALLS = 20  # of the compiled loop per run, so that progress shows


class Job(NamedTuple):
    """One line of an experiment.

    Attributes:
      problem: what is unrolled.
      estimator: a name in ESTIMATORS.
      settings: for the estimator, which ignores those that it does not have, so that methods can share them.
      optimizer: `(**optimizer_settings) -> optax transformation` of theta.
      theta: where to start, with a leading axis of independent runs.
      num_steps: updates of theta.
      record_every: updates between two records; divides num_steps.
    """

    problem: InnerProblem
    estimator: str
    settings: Mapping[str, Any]
    optimizer: Callable[..., optax.GradientTransformation]
    optimizer_settings: Mapping[str, Any]
    theta: Theta
    num_steps: int
    record_every: int

    def describe(self) -> dict[str, Any]:
        """Everything but the problem, as plain values."""
        estimator = self.build()
        fields = {key: value for key, value in vars(estimator).items() if key != "layout"}
        return {
            "estimator": self.estimator,
            **{key: str(value) if isinstance(value, Horizon) else value for key, value in fields.items()},
            "optimizer": self.optimizer.__name__,
            **self.optimizer_settings,
            "theta": jax.tree.map(_describe_array, self.theta),
            "num_steps": self.num_steps,
        }

    def build(self) -> Any:
        """The estimator. Raises InputError if there is none of this name."""
        return build("estimator", Spec(self.estimator, {}), ESTIMATORS, layout=ALL_AT_ONCE, **self.settings)


class Run(NamedTuple):
    """What one method did; arrays are numpy's, `[num_runs, num_records, ...]`.

    Attributes:
      steps: `[num_records + 1]`, updates made at each record of theta.
      theta: from the start on, so it has one record more than the others.
      grad: the mean of the estimates since the record before.
      seconds: of the run, compilation included.
    """

    steps: np.ndarray
    theta: Any
    grad: Any
    seconds: float


def _describe_array(x: jax.Array) -> Any:
    """The numbers, or dtype and shape if there are more than 16."""
    return np.asarray(x).tolist() if x.size <= 16 else f"{x.dtype}{list(x.shape)}"


def run_all(jobs: Mapping[str, Job], key: jax.Array) -> dict[str, Run]:
    """Runs every job with the same key. Raises InputError before the first one if an estimator does not exist."""
    estimators = {label: job.build() for label, job in jobs.items()}
    runs, done = {}, 0
    with Progress(sum(job.num_steps for job in jobs.values())) as progress:
        for label, job in jobs.items():
            runs[label] = run(
                job.problem,
                estimators[label],
                job.theta,
                job.optimizer(**job.optimizer_settings),
                job.num_steps,
                key,
                job.record_every,
                on_progress=lambda steps, done=done: progress.update(done + steps),
            )
            done += job.num_steps
    return runs


def run(
    problem: InnerProblem,
    estimator: GradientEstimator,
    theta: Theta,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    key: jax.Array,
    record_every: int,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Run:
    """Alternates an estimate and an update of theta, `num_steps` times, for each of the thetas along the first axis."""
    num_records, rest = divmod(num_steps, record_every)
    if rest:
        raise ValueError(f"{num_steps} steps cannot be recorded every {record_every}")
    records_per_call = num_records // max(n for n in range(1, CALLS + 1) if num_records % n == 0)

    def start(theta: Theta, key: jax.Array) -> PyTree:
        init_key, steps_key = jax.random.split(key)
        return theta, optimizer.init(theta), estimator.init(problem, theta, init_key), steps_key

    def update(carry: PyTree, step: jax.Array) -> tuple[PyTree, Theta]:
        theta, optimizer_state, state, key = carry
        estimate, state = estimator.estimate(problem, theta, state, jax.random.fold_in(key, step))
        updates, optimizer_state = optimizer.update(estimate.grad, optimizer_state, theta)
        return (optax.apply_updates(theta, updates), optimizer_state, state, key), estimate.grad

    def record(carry: PyTree, first: jax.Array) -> tuple[PyTree, tuple[Theta, Theta]]:
        steps = first + jnp.arange(record_every, dtype=jnp.int32)
        carry, grads = jax.lax.scan(update, carry, steps)
        return carry, (carry[0], jax.tree.map(lambda x: x.mean(0), grads))

    @jax.jit
    @jax.vmap
    def block(carry: PyTree, firsts: jax.Array) -> tuple[PyTree, tuple[Theta, Theta]]:
        return jax.lax.scan(record, carry, firsts)

    began = time.monotonic()
    num_runs = len(jax.tree.leaves(theta)[0])
    carry = jax.jit(jax.vmap(start))(theta, jax.random.split(key, num_runs))
    firsts = np.arange(0, num_steps, record_every, dtype=np.int32)
    records = []
    for i in range(0, num_records, records_per_call):
        these = np.broadcast_to(firsts[i : i + records_per_call], (num_runs, records_per_call))
        carry, recorded = block(carry, these)
        records.append(jax.device_get(recorded))
        on_progress((i + records_per_call) * record_every)
    thetas, grads = jax.tree.map(lambda *parts: np.concatenate(parts, 1), *records)
    thetas = jax.tree.map(lambda first, rest: np.concatenate([np.asarray(first)[:, None], rest], 1), theta, thetas)
    return Run(np.append(firsts, num_steps), thetas, grads, time.monotonic() - began)
