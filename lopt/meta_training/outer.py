"""The outer step: gradient estimates of the families, their mean, optax, a new theta."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.distributed import PairLayout
from lopt.meta_training import draws, mixture
from lopt.meta_training.freezing import Rebuild, check_frozen, of_trained_part, split_theta
from lopt.meta_training.inner import inner_training
from lopt.meta_training.measures import measure
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer_optimizer import OuterOptimizer
from lopt.names import InputError, check_known, check_numbers
from lopt.seeds import initial_theta, run_keys
from lopt.trees import describe_leaves, differences
from lopt.types import Data, Estimate, GradientEstimator, InnerProblem, LearnedOptimizer, PyTree, TaskFamily, Theta

Visit = tuple[Estimate, PyTree]


class OuterState(NamedTuple):
    """The whole state of a run: a checkpoint holds this, beside the config.

    Attributes:
      theta: meta-parameters.
      optimizer_state: state of the outer optimizer.
      estimator_states: one per family; arrays have a leading pair axis.
      step: outer steps done, int32.
      key: the run's key; step n uses fold_in(key, n).
      squares: how large the estimates of each family have been; () unless `family_scale` is normalised.
      theta_ema: exponential moving average of theta over the outer steps, from the first theta on; None without one.
    """

    theta: Theta
    optimizer_state: optax.OptState
    estimator_states: tuple[PyTree, ...]
    step: jax.Array
    key: jax.Array
    squares: PyTree = ()
    theta_ema: Theta | None = None


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """Everything static about a run: what is trained, on what, and how. Hashable, so that jit knows it by value.

    The meta-gradient is that of sum_i w_i J_i / sum_i w_i over the families. An outer step estimates it from all of
    them, or from `families_per_step` of them, drawn independently with probability w_i / sum_j w_j, which is unbiased
    too; or more often where an estimate costs less, as `draws.py` says. A `family_scale` divides each family's estimate
    by its usual size before; `mixture.scale` says what that biases. `data` is always a tuple with one entry per family,
    as its `load` returned it.

    Attributes:
      optimizer: the rule whose theta is trained.
      families: the task families of the mixture.
      estimator: of the meta-gradient.
      outer_optimizer: how theta follows the meta-gradient.
      objective: what an inner step costs.
      layout: which device runs which pair.
      weights: w, one per family; empty for equal weights.
      families_per_step: number of families that an outer step draws; 0 for all of them.
      draw: by weight, or by weight over the square root of the cost.
      frozen: paths of the parts of theta that are not trained.
      family_scale: none; normalised, by a running root mean square of each family's estimates; or signed.
      theta_ema: decay d of the average m of theta, m <- d m + (1 - d) theta; 0 for none.
    """

    optimizer: LearnedOptimizer
    families: tuple[TaskFamily, ...]
    estimator: GradientEstimator
    outer_optimizer: OuterOptimizer
    objective: Objective = Objective()
    layout: PairLayout = PairLayout()
    weights: tuple[float, ...] = ()
    families_per_step: int = 0
    draw: str = "weight"
    frozen: tuple[str, ...] = ()
    family_scale: str = "none"
    theta_ema: float = 0.0

    def __post_init__(self):
        check_known("family_scale", self.family_scale, mixture.FAMILY_SCALES)
        check_known("draw", self.draw, draws.DRAWS)
        if self.draw != "weight" and not self.families_per_step:
            raise InputError(
                f"draw={self.draw} is about the families that an outer step draws, and tasks_per_step is 0, so that it "
                "runs all of them: give the number to draw, or leave draw out"
            )
        if not 0 <= self.theta_ema < 1:
            raise InputError(f"theta_ema must be at least 0 and below 1, not {self.theta_ema}")
        check_frozen(self.optimizer, self.frozen)
        if self.weights and len(self.weights) != len(self.families):
            raise InputError(f"{len(self.weights)} weights for {len(self.families)} task families")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise InputError(f"the weights of the tasks must be above 0, not {', '.join(map(str, self.weights))}")
        if self.families_per_step < 0:
            raise InputError(f"tasks_per_step must be at least 0, not {self.families_per_step}")
        if self.families and self.families_per_step > len(self.families):
            raise InputError(
                f"tasks_per_step is {self.families_per_step}, of {len(self.families)} task families: 0 stands for all"
            )
        for kind in ("optimizer", "estimator", "outer_optimizer"):
            check_numbers(kind.replace("_", " "), getattr(self, kind))
        for family in self.families:
            check_numbers(f"task {family.name}", family)

    def shares(self) -> list[float]:
        """The weights of the families, scaled so that their mean is 1."""
        weights = self.weights or (1.0,) * len(self.families)
        return [weight * len(weights) / sum(weights) for weight in weights]

    def _weights(self) -> list[float]:
        """Weights of an outer step's estimates: drawn families count alike, as the draw has used their weights."""
        return [1.0] * self.families_per_step if self.families_per_step else self.shares()

    def odds(self, data: tuple[Data, ...]) -> draws.Odds | None:
        """How families are drawn by cost; None where the weights alone decide."""
        if self.draw == "weight":
            return None
        return draws.odds(self.shares(), [count.cost for count in self.counts(data)])

    def counts(self, data: tuple[Data, ...]) -> list[draws.Count]:
        """What an inner step of each family runs, by tracing one: rule and task together."""
        theta, key = jax.eval_shape(self.optimizer.init_theta, jax.random.key(0)), jax.eval_shape(jax.random.key, 0)
        found = []
        for family, each in zip(self.families, data, strict=True):

            def problem(data: Data, family: TaskFamily = family) -> InnerProblem:
                return inner_training(self.optimizer, family, data, objective=self.objective)

            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), each)
            horizon = jax.ShapeDtypeStruct((), jnp.int32)
            state = jax.eval_shape(lambda d, *given, of=problem: of(d).init(*given), shapes, theta, key, horizon)
            step = jax.make_jaxpr(lambda d, *given, of=problem: of(d).step(*given))(shapes, theta, state, key)
            found.append(draws.count(step.jaxpr))
        return found

    def problem(self, family: int, data: Data, rebuild: Rebuild, step: jax.Array | int = 0) -> InnerProblem:
        """The inner problem of one family in outer step `step`, as a function of the trained part of theta."""
        problem = inner_training(self.optimizer, self.families[family], data, objective=self.objective, outer_step=step)
        return of_trained_part(problem, rebuild) if self.frozen else problem

    def _init(self, seed: jax.Array, data: tuple[Data, ...], theta: Theta | None) -> OuterState:
        _, start_key, key = run_keys(seed)
        theta = initial_theta(self.optimizer, seed) if theta is None else theta
        trained, rebuild = split_theta(theta, self.frozen)
        states = tuple(
            self.estimator.init(self.problem(i, each, rebuild), trained, jax.random.fold_in(start_key, i))
            for i, each in enumerate(data)
        )
        optimizer_state = self.outer_optimizer.transformation().init(trained)
        squares = mixture.no_squares(self.family_scale, len(self.families))
        average = theta if self.theta_ema else None
        return OuterState(theta, optimizer_state, states, jnp.zeros((), jnp.int32), key, squares, average)

    def estimate(self, family: int, theta: Theta, state: PyTree, data: Data, key: jax.Array, step: jax.Array) -> Visit:
        """One family's estimate in outer step `step`, and its new estimator state; `key` is that of the visit."""
        trained, rebuild = split_theta(theta, self.frozen)
        problem = self.problem(family, data, rebuild, step)
        return self.estimator.estimate(problem, trained, state, jax.random.fold_in(key, family), step=step)

    def follow(
        self,
        state: OuterState,
        estimates: Sequence[Estimate],
        drawn: jax.Array,
        rate_scale: jax.Array | float,
        odds: draws.Odds | None = None,
    ) -> tuple[OuterState, Mapping[str, jax.Array]]:
        """The outer step that follows from estimates, and its metrics; estimator states stay as they are.

        Args:
          state: before the step.
          estimates: one per family, or one per draw.
          drawn: the families that they are of, int32 `[estimates]`.
          rate_scale: what the outer learning rate is multiplied by.
          odds: by which families are drawn; None for their weights.
        """
        weights = self._weights() if odds is None else odds.ratios[drawn]
        said = mixture.gather(estimates, drawn, weights, self.family_scale, state.squares, len(self.families))
        trained, rebuild = split_theta(state.theta, self.frozen)
        grad = said.mean.grad
        transformation = self.outer_optimizer.transformation()
        # Without a usable estimate theta must not move, and momentum would move it.
        usable = jnp.isfinite(optax.tree.norm(grad))
        # Dtypes are those of the state before: with x64 on, optax's counts would make float64 of them.
        moved = optax.tree.cast_like(
            transformation.update(grad, state.optimizer_state, trained), (trained, state.optimizer_state)
        )
        still = jax.tree.map(jnp.zeros_like, trained), state.optimizer_state
        updates, optimizer_state = jax.tree.map(lambda new, old: jnp.where(usable, new, old), moved, still)
        updates = optax.tree.scale(rate_scale, updates)  # as the rate would: each update is proportional to it
        theta = rebuild(optax.apply_updates(trained, updates))
        average = state.theta_ema
        if average is not None:  # in this form a part that is frozen stays what it is, to the last bit
            average = jax.tree.map(lambda m, x: m + (1 - self.theta_ema) * (x - m), average, theta)
        new = OuterState(
            theta, optimizer_state, state.estimator_states, state.step + 1, state.key, said.squares, average
        )
        metrics = measure(self.families, said, updates, trained)
        if (teacher := self.objective.teacher) is not None:
            metrics = {**metrics, "teacher_weight": teacher.weight_at(state.step)}
        return new, metrics

    def shardings(self, state: OuterState) -> OuterState:
        """Where a state lives: estimator states are split over the devices by pairs, and every device has the rest."""
        everywhere = jax.tree.map(lambda _: self.layout.replicated, state)
        split = jax.tree.map(lambda _: self.layout.split, state.estimator_states)
        return everywhere._replace(estimator_states=split)

    def template(self, data: tuple[Data, ...]) -> OuterState:
        """Shapes, types and shardings of the state, without computing it. Raises InputError for a bad combination."""
        shapes = jax.eval_shape(self._init, jnp.zeros((), jnp.uint32), data, None)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings(shapes)
        )

    def check_theta(self, theta: Theta) -> None:
        """Raises InputError unless `theta` is one of this optimizer's."""
        wanted = describe_leaves(jax.eval_shape(self.optimizer.init_theta, jax.random.key(0)))
        if different := differences(describe_leaves(theta), wanted):
            raise InputError(f"the theta to start from is not one of this optimizer: {different}")

    def init(self, seed: int, data: tuple[Data, ...], theta: Theta | None = None) -> OuterState:
        """The state before the first outer step, from a fresh theta or from a given one that `check_theta` accepts."""
        return _first_state(self, np.asarray(seed, np.uint32), data, theta)


@functools.partial(jax.jit, static_argnums=0)
def _first_state(training: MetaTraining, seed: jax.Array, data: tuple[Data, ...], theta: Theta | None) -> OuterState:
    """A function of the module, so that JAX knows it again for an equal training."""
    state = training._init(seed, data, theta)
    return jax.lax.with_sharding_constraint(state, training.shardings(state))
