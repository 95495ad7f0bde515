"""The outer step: gradient estimates of all families, their mean, optax, a new theta. The jit boundary is here."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.distributed import PairLayout
from lopt.inner import MetaLoss, inner_training
from lopt.names import InputError, check_known
from lopt.types import Data, Estimate, GradientEstimator, InnerProblem, LearnedOptimizer, PyTree, TaskFamily, Theta

OUTER_OPTIMIZERS = {"adam": optax.scale_by_adam, "adamw": optax.scale_by_adam, "sgd": optax.identity}
SCHEDULES = ("constant", "cosine", "linear")
BLOCK_STEPS = 64  # the most outer steps in one dispatch


@dataclasses.dataclass(frozen=True)
class OuterOptimizer:
    """How theta follows the meta-gradient.

    Attributes:
      name: of `OUTER_OPTIMIZERS`.
      learning_rate: its peak.
      schedule: from the peak to 0 over `num_steps` outer steps (cosine, linear), or constant.
      warmup_steps: outer steps of linear increase from 0.
      clip_norm: the meta-gradient's norm is clipped to this; 0 for never.
      weight_decay: decoupled; used by adamw.
      num_steps: length of the schedule.
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
            raise InputError(f"warm-up of {self.warmup_steps} outer steps in a run of {self.num_steps}")

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


def initial_theta(optimizer: LearnedOptimizer, seed: int | jax.Array) -> Theta:
    """Theta before the first outer step of a run with this seed."""
    return optimizer.init_theta(_run_keys(seed)[0])


def _run_keys(seed: int | jax.Array) -> jax.Array:
    """Keys of a run: for theta, for the start of the trajectories, for the outer steps."""
    return jax.random.split(jax.random.key(seed), 3)


class OuterState(NamedTuple):
    """The whole of a run: with the config, it is the checkpoint.

    Attributes:
      theta: meta-parameters.
      optimizer_state: of the outer optimizer.
      estimator_states: one a family; arrays have a leading pair axis.
      step: outer steps done, int32.
      key: the run's key; step n uses fold_in(key, n).
    """

    theta: Theta
    optimizer_state: optax.OptState
    estimator_states: tuple[PyTree, ...]
    step: jax.Array
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """What is trained, on what, and how: everything static of a run, hashable, so that jit knows it by value.

    The meta-gradient is that of sum_i w_i J_i / sum_i w_i over the families. An outer step estimates it from all of
    them, or from `families_per_step` of them, drawn independently with probability w_i / sum_j w_j: unbiased too.
    `data` is everywhere a tuple with one entry a family, what their `load` gave.

    Attributes:
      weights: w, one a family; empty for equal ones.
      families_per_step: how many an outer step draws; 0 for all of them.
    """

    optimizer: LearnedOptimizer
    families: tuple[TaskFamily, ...]
    estimator: GradientEstimator
    outer_optimizer: OuterOptimizer
    meta_loss: MetaLoss = "meta_batch"
    layout: PairLayout = PairLayout()
    weights: tuple[float, ...] = ()
    families_per_step: int = 0

    def __post_init__(self):
        if self.weights and len(self.weights) != len(self.families):
            raise InputError(f"{len(self.weights)} weights for {len(self.families)} task families")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise InputError(f"the weights of the tasks must be above 0, not {', '.join(map(str, self.weights))}")
        if self.families_per_step < 0:
            raise InputError(f"tasks_per_step must be at least 0, not {self.families_per_step}")

    def _shares(self) -> list[float]:
        """The weights, scaled so that their mean is 1."""
        weights = self.weights or (1.0,) * len(self.families)
        return [weight * len(weights) / sum(weights) for weight in weights]

    def _problems(self, data: tuple[Data, ...]) -> list[InnerProblem]:
        return [
            inner_training(self.optimizer, family, family_data, meta_loss=self.meta_loss)
            for family, family_data in zip(self.families, data, strict=True)
        ]

    def _init(self, seed: jax.Array, data: tuple[Data, ...]) -> OuterState:
        _, start_key, key = _run_keys(seed)
        theta = initial_theta(self.optimizer, seed)
        states = tuple(
            self.estimator.init(problem, theta, jax.random.fold_in(start_key, i))
            for i, problem in enumerate(self._problems(data))
        )
        optimizer_state = self.outer_optimizer.transformation().init(theta)
        return OuterState(theta, optimizer_state, states, jnp.zeros((), jnp.int32), key)

    def _estimate(self, i: int, problem: InnerProblem, theta: Theta, state: PyTree, key: jax.Array) -> Any:
        """Family i's estimate and new estimator state; `key` is the outer step's."""
        return self.estimator.estimate(problem, theta, state, jax.random.fold_in(key, i))

    def _estimate_all(self, state: OuterState, data: tuple[Data, ...], key: jax.Array) -> tuple[Estimate, Any, Any]:
        """The weighted mean of all families' estimates, the new estimator states, each family's loss."""
        problems = self._problems(data)
        done = [
            self._estimate(i, problem, state.theta, old, key)
            for i, (problem, old) in enumerate(zip(problems, state.estimator_states, strict=True))
        ]
        estimates = [
            Estimate(*jax.tree.map(lambda x, w=w: w * x, e)) for (e, _), w in zip(done, self._shares(), strict=True)
        ]
        mean = jax.tree.map(lambda *xs: jnp.mean(jnp.stack(xs), axis=0), *estimates)
        return mean, tuple(new for _, new in done), [e.loss for e, _ in done]

    def _estimate_some(self, state: OuterState, data: tuple[Data, ...], key: jax.Array) -> tuple[Estimate, Any, Any]:
        """As `_estimate_all` of the families drawn; the loss of one that is not drawn is NaN."""
        problems = self._problems(data)
        draw_key, slots_key = jax.random.split(key)
        logits = jnp.log(jnp.asarray(self._shares()))

        def visit(i: int, states: tuple[PyTree, ...], key: jax.Array) -> tuple[Estimate, tuple[PyTree, ...]]:
            estimate, new = self._estimate(i, problems[i], state.theta, states[i], key)
            return estimate, (*states[:i], new, *states[i + 1 :])

        def body(carry, slot):
            states, losses = carry
            drawn = jax.random.categorical(jax.random.fold_in(draw_key, slot), logits)
            branches = [functools.partial(visit, i) for i in range(len(problems))]
            # Drawn twice, a family goes on by two windows; the slot keeps their randomness apart.
            estimate, states = jax.lax.switch(drawn, branches, states, jax.random.fold_in(slots_key, slot))
            return (states, losses.at[drawn].set(estimate.loss)), estimate

        losses = jnp.full(len(problems), jnp.nan)
        slots = jnp.arange(self.families_per_step)
        (states, losses), estimates = jax.lax.scan(body, (state.estimator_states, losses), slots)
        return jax.tree.map(lambda x: x.mean(0), estimates), states, list(losses)

    def _step(self, state: OuterState, data: tuple[Data, ...]) -> tuple[OuterState, Mapping[str, jax.Array]]:
        estimate = self._estimate_some if self.families_per_step else self._estimate_all
        step_key = jax.random.fold_in(state.key, state.step)
        (grad, loss, info), estimator_states, losses = estimate(state, data, step_key)
        transformation = self.outer_optimizer.transformation()
        updates, optimizer_state = transformation.update(grad, state.optimizer_state, state.theta)
        theta = optax.apply_updates(state.theta, updates)
        metrics = {
            "meta_loss": loss,
            **info,
            "grad_norm": optax.tree.norm(grad),  # of the mean, not the mean of the norms
            "update_norm": optax.tree.norm(updates),
            **{f"meta_loss/{f.name}": loss for f, loss in zip(self.families, losses, strict=True)},
        }
        return OuterState(theta, optimizer_state, estimator_states, state.step + 1, state.key), metrics

    def shardings(self, state: OuterState) -> OuterState:
        """Where a state lives: estimator states are split over devices by pairs, the rest is everywhere."""
        everywhere = jax.tree.map(lambda _: self.layout.replicated, state)
        split = jax.tree.map(lambda _: self.layout.split, state.estimator_states)
        return everywhere._replace(estimator_states=split)

    def template(self, data: tuple[Data, ...]) -> OuterState:
        """The state's shapes, types and shardings, without computing it. Raises what a bad combination raises."""
        shapes = jax.eval_shape(self._init, jnp.zeros((), jnp.uint32), data)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings(shapes)
        )

    def init(self, seed: int, data: tuple[Data, ...]) -> OuterState:
        """The state before the first outer step."""
        shardings = self.shardings(self.template(data))
        return jax.jit(self._init, out_shardings=shardings)(jnp.asarray(seed, jnp.uint32), data)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def outer_steps(
    training: MetaTraining, state: OuterState, data: tuple[Data, ...], num_steps: jax.Array
) -> tuple[OuterState, Mapping[str, jax.Array]]:
    """Runs `num_steps` outer steps in one dispatch.

    `num_steps` is traced, so that one program serves every block length and results cannot depend on it.

    Args:
      state: donated.
      num_steps: int32, at most `BLOCK_STEPS`.

    Returns:
      The new state, and metrics of `[BLOCK_STEPS]` each, of which the first `num_steps` are filled.
    """
    metrics_shape = jax.eval_shape(training._step, state, data)[1]
    rows = jax.tree.map(lambda x: jnp.zeros((BLOCK_STEPS, *x.shape), x.dtype), metrics_shape)

    def body(i, carry):
        state, rows = carry
        state, metrics = training._step(state, data)
        return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

    state, rows = jax.lax.fori_loop(0, num_steps, body, (state, rows))
    # As they came in: the compiler's own choice would make the next call another program.
    return jax.lax.with_sharding_constraint(state, training.shardings(state)), rows
