"""Hyperparameters of an optax optimizer as theta: a learned optimizer that is any optax optimizer."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.names import InputError, check_known
from lopt.trees import map_with_name
from lopt.types import Params, PyTree, Theta

# From a value to the coordinate in which theta moves it, and back.
SCALES: dict[str, tuple[Callable[[float], float], Callable[[jax.Array], jax.Array]]] = {
    "log": (math.log, jnp.exp),
    "logit": (lambda value: math.log(value / (1 - value)), jax.nn.sigmoid),
    "linear": (lambda value: value, lambda coordinate: coordinate),
}


@dataclasses.dataclass(frozen=True)
class Tunable:
    """A hyperparameter: where it starts, how it may move, and whether it has a schedule or differs by tensor.

    Attributes:
      initial: its value at theta = 0.
      scale: "log" for positive numbers, "logit" for numbers between 0 and 1, "linear" for any.
      knots: values at equal distances over the training, with straight lines between them in the scale's coordinates;
        1 for a constant.
      per_tensor: every parameter tensor has its own; then all of the optimizer is run for each tensor on its own.
    """

    initial: float
    scale: str = "log"
    knots: int = 1
    per_tensor: bool = False

    def __post_init__(self):
        check_known("scale", self.scale, SCALES)
        try:
            SCALES[self.scale][0](self.initial)
        except (ValueError, ZeroDivisionError):
            wanted = "above 0" if self.scale == "log" else "between 0 and 1"
            raise InputError(f"an initial value on a {self.scale} scale must be {wanted}, not {self.initial}") from None
        if self.knots < 1:
            raise InputError(f"knots must be at least 1, not {self.knots}")

    def at(self, theta: jax.Array, fraction: jax.Array) -> jax.Array:
        """The value at a fraction of the training, for theta `[knots]`."""
        position = jnp.clip(fraction, 0, 1) * (self.knots - 1)
        return self.values(jnp.interp(position, jnp.arange(self.knots, dtype=theta.dtype), theta))

    def values(self, theta: jax.Array) -> jax.Array:
        to_coordinate, to_value = SCALES[self.scale]
        return to_value(to_coordinate(self.initial) + theta)


class OptaxRuleState(NamedTuple):
    """The state of a tuned training.

    Attributes:
      inner: state of the optax optimizer.
      num_steps: length of the training, int32.
    """

    inner: PyTree
    num_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class OptaxRule:
    """`inject_hyperparams(factory)` with theta's hyperparameters, as a `LearnedOptimizer`.

    Attributes:
      factory: makes the optimizer.
      tunables, fixed: arguments of the factory, by name.
      tensors: names of the parameter tensors; () if nothing differs by tensor.
    """

    factory: Callable[..., optax.GradientTransformation]
    tunables: tuple[tuple[str, Tunable], ...]
    fixed: tuple[tuple[str, Any], ...] = ()
    tensors: tuple[str, ...] = ()

    @staticmethod
    def make(
        factory: Callable[..., optax.GradientTransformation],
        tunables: Mapping[str, Tunable],
        fixed: Mapping[str, Any],
    ) -> "OptaxRule":
        """Raises InputError if the factory does not take these arguments, or needs others."""
        if not tunables:
            raise InputError("nothing to tune: give at least one hyperparameter")
        for name, tunable in tunables.items():
            if not isinstance(tunable, Tunable):
                raise InputError(
                    f"{name} must be a Tunable, not {tunable!r:.100}: write lopt.Tunable({tunable!r:.100}) to tune a "
                    'positive number from there, lopt.Tunable(0.9, "logit") one between 0 and 1, or give it in `fixed`'
                )
        signature = inspect.signature(factory)
        for name in (*tunables, *fixed):
            check_known("hyperparameter", name, signature.parameters)
        try:
            signature.bind(**tunables, **fixed)
        except TypeError as error:
            raise InputError(f"the optimizer's arguments: {error}; give it in `fixed`, or tune it") from error
        return OptaxRule(factory, tuple(tunables.items()), tuple(fixed.items()))

    def for_params(self, params: Params) -> "OptaxRule":
        """The rule for parameters of this structure. Raises InputError if a training cannot call the optimizer."""
        rule = self
        if any(tunable.per_tensor for _, tunable in self.tunables):
            rule = dataclasses.replace(self, tensors=tuple(jax.tree.leaves(_names(params))))

        def one_step(key: jax.Array, params: Params) -> Params:
            theta = rule.init_theta(key)
            state = rule.init(theta, params, num_steps=2)
            return rule.update(theta, params, state, params, value=jnp.zeros(()))[0]

        try:
            jax.eval_shape(one_step, jax.random.key(0), params)
        except Exception as error:  # whatever an optimizer raises
            raise InputError(
                f"{getattr(self.factory, '__name__', self.factory)} cannot be called by a training step, which has "
                f"gradients, params and value, the loss: {' '.join(str(error).split())[:300]}. If an argument of the "
                "optimizer does without what is missing, give it in `fixed` (lbfgs: linesearch=None)."
            ) from error
        return rule

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params", "num_steps"})

    def init_theta(self, key: jax.Array) -> Theta:
        del key

        def zeros(tunable):
            own = jnp.zeros(tunable.knots, jnp.float32)
            return dict.fromkeys(self.tensors, own) if tunable.per_tensor else own

        return {name: zeros(tunable) for name, tunable in self.tunables}

    def transformation(self, theta: Theta, num_steps: int | jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optax optimizer that theta stands for; its schedules count its own updates."""
        if not self.tensors:
            return self._injected(theta, num_steps, None)
        return optax.with_extra_args_support(
            optax.partition({tensor: self._injected(theta, num_steps, tensor) for tensor in self.tensors}, _names)
        )

    def _injected(
        self, theta: Theta, num_steps: int | jax.Array, tensor: str | None
    ) -> optax.GradientTransformationExtraArgs:
        def schedule(tunable, own, count):
            return tunable.at(own, count / jnp.maximum(num_steps - 1, 1))

        schedules = {
            name: functools.partial(schedule, tunable, theta[name][tensor] if tunable.per_tensor else theta[name])
            for name, tunable in self.tunables
        }
        # Only what is tuned is traced: arguments that decide the structure of an optimizer must be known to Python.
        static = [name for name in inspect.signature(self.factory).parameters if name not in schedules]
        inject = optax.inject_hyperparams(self.factory, static_args=static)
        return optax.with_extra_args_support(inject(**dict(self.fixed), **schedules))

    def values(self, theta: Theta) -> dict[str, Any]:
        """The hyperparameters of theta: a float each, or `[knots]`; a dict of these by tensor if per tensor."""

        def plain(tunable, own):
            values = np.asarray(tunable.values(jnp.asarray(own)))
            return values if tunable.knots > 1 else float(values[0])

        return {
            name: {tensor: plain(tunable, own) for tensor, own in theta[name].items()}
            if tunable.per_tensor
            else plain(tunable, theta[name])
            for name, tunable in self.tunables
        }

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> OptaxRuleState:
        assert num_steps is not None  # `requires` says so
        return OptaxRuleState(self.transformation(theta, num_steps).init(params), jnp.asarray(num_steps, jnp.int32))

    def update(
        self, theta: Theta, grads: Params, state: OptaxRuleState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, OptaxRuleState]:
        transformation = self.transformation(theta, state.num_steps)
        updates, inner = transformation.update(grads, state.inner, params, value=value)
        return updates, OptaxRuleState(inner, state.num_steps)


def _names(params: Params) -> Params:
    """Each tensor's path as its label, a tree like params."""
    return map_with_name(lambda name, _: name, params)
