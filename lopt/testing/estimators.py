"""What every gradient estimator keeps, on a scalar problem whose gradient is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.horizons import Horizon
from lopt.own.foreign import check_members
from lopt.testing.broken import check_value, require, runs
from lopt.types import Estimate, GradientEstimator, InnerProblem

REPEATS = 64  # independent estimates, whose spread gives the error of their mean


class Dials(NamedTuple):
    """What `dialled` does, as numbers, so that one compiled program serves many checks.

    Attributes:
      slope, curve, noise: s_0 = 0, s' = s + slope theta + curve theta^2 + noise(own key) noise.
      direct, scale, shift: the loss is scale (s + direct theta) + shift, of s before the update.
      final: 1 where the loss is 0 but for the last step's, which is of s after the update.
      bound: for a theta above it the loss is NaN.
      bad: share of the trajectories whose loss is NaN, and share of those whose gradient is not finite.
    """

    slope: Any = 1.0
    curve: Any = 0.0
    noise: Any = 0.0
    direct: Any = 0.0
    scale: Any = 1.0
    shift: Any = 0.0
    final: Any = 0.0
    bound: Any = np.inf
    bad: Any = 0.0


def cheap_noise(key: jax.Array) -> jax.Array:
    """A number in [0, 2) that is quick to compile."""
    return (jax.random.key_data(key) / 2.0**32).sum()


def dialled(dials: Dials, **fields: Any) -> InnerProblem:
    """A scalar problem that its `dials` turn into several; the state has a key, integers and flags in it."""

    def init(theta, key, horizon):
        bad = jax.random.key_data(key) / 2.0**32 < dials.bad
        return {"s": 0 * theta, "t": jnp.zeros((), jnp.int32), "horizon": horizon, "key": key, "bad": bad}

    def step(theta, state, key):
        bad_loss, bad_gradient = state["bad"]
        moved = dials.slope * theta + dials.curve * theta**2 + dials.noise * cheap_noise(state["key"])
        s, t = state["s"] + moved, state["t"] + 1
        loss = jnp.where(dials.final > 0, jnp.where(t == state["horizon"], s, 0), state["s"])
        loss += (
            dials.direct * theta + jnp.sqrt(jnp.where(bad_gradient, 0 * theta, 1)) - 1
        )  # at 0 the slope is infinite, times 0
        loss = jnp.where(bad_loss | (theta > dials.bound), jnp.nan, dials.scale * loss + dials.shift)
        return {**state, "s": s, "t": t, "key": key}, loss

    return InnerProblem(init, step, evaluate=lambda theta, state, key: state["s"], **fields)


Answers = Callable[..., Estimate]  # `(theta, **dials) -> estimates`, stacked


def three_estimates(estimator: GradientEstimator, **fields: Any) -> Answers:
    """Jitted `(theta, **dials) -> answers`, the first three at a fixed theta on the problem with these dials."""

    @jax.jit
    def run(theta, dials):
        return _estimates(estimator, dialled(dials, **fields), theta, jax.random.key(0), 3)

    return lambda theta, **dials: run(jnp.float32(theta), jax.tree.map(jnp.float32, Dials(**dials)))


def exact_linear(horizon: Horizon, multiple_of: int) -> float:
    """d/dtheta of E[sum_t t theta] / E[T], over t = 0 to T - 1."""
    lengths, probabilities = horizon.table(multiple_of)
    lengths = lengths.astype(float)
    return float(probabilities @ (lengths * (lengths - 1) / 2) / (probabilities @ lengths))


def check_estimator(estimator: GradientEstimator, *, biased: bool = False) -> None:
    """Checks what meta-training takes for granted of an estimator; takes seconds with short horizons.

    The unbiasedness is judged on the losses t theta, from the mean over a longest trajectory of windows, so for an
    estimator in lockstep at a fixed horizon, and for one that is staggered at any. It has `horizon` and, if it takes
    windows, `truncation`. An estimator that takes other problems than these, such as final losses only, is beyond this
    check.

    Args:
      estimator: with settings; give it a short horizon, and enough pairs to be told from noise.
      biased: whether it is meant to be biased, so that its mean is not judged.

    Raises:
      InputError: it is no estimator, or refuses the problem.
      Broken: a rule is broken.
    """
    check_members("estimator", estimator, repr(estimator)[:200])
    check_value(estimator)
    answers = three_estimates(estimator, cap=None)
    check_answers(answers(0.7))
    check_scales(answers)
    check_exploding(answers)
    if not biased:
        check_unbiased(estimator)


def check_answers(found: Estimate) -> None:
    """The gradient is that of theta's structure, finite; loss and info are scalars."""
    rule = "estimate returns an Estimate: a gradient like theta, the mean loss, scalars in info"
    shapes = {"grad": np.shape(found.grad), "loss": np.shape(found.loss)} | {
        k: np.shape(v) for k, v in found.info.items()
    }
    wrong = {name: shape[1:] for name, shape in shapes.items() if shape != (3,)}
    require(not wrong, rule, f"of a scalar theta: {wrong}", "take the mean over pairs")
    finite = np.isfinite(found.grad).all() and np.isfinite(found.loss).all()
    require(finite, "estimates on a smooth problem are finite", found, "look for a division by a count that may be 0")


def check_scales(answers: Answers) -> None:
    """A constant in the loss cancels, and a factor comes out."""
    once, thrice = answers(0.7).grad, answers(0.7, scale=3, shift=7).grad
    rule = "the gradient of 3 loss + 7 is 3 times that of the loss, on the same keys"
    remedy = "difference the two halves of a pair; a shaping by rank or sign is not for this check"
    require(np.allclose(thrice, 3 * np.asarray(once), rtol=1e-3), rule, (once, thrice), remedy)


def check_even(answers: Answers) -> None:
    """A loss that is the same at theta and -theta has no gradient at 0, exactly, where halves share their keys."""
    grad = answers(0.0, slope=0, curve=1, noise=1).grad
    rule = "antithetic halves of a pair share their keys, so that an even loss has no gradient"
    remedy = "give both halves the same key"
    require(np.allclose(grad, 0, atol=1e-7), rule, grad, remedy)  # halves may be rounded differently, and no more


def check_exploding(answers: Answers) -> None:
    """A loss that is not finite, of a part of the particles, does not reach the gradient."""
    found = answers(0.7, bad=0.3)
    rule = "pairs with a loss that is not finite are left out of the mean (here 3 of 10 are)"
    finite = np.isfinite(found.grad).all() and np.isfinite(found.loss).all()
    require(finite, rule, found, "average over the pairs whose losses are finite, and have 8 or more of them")


def check_unbiased(estimator: Any) -> None:
    """The mean of many estimates on the losses t theta is the exact gradient, within four standard errors."""
    truncation = getattr(estimator, "truncation", None)
    horizon: Horizon = estimator.horizon
    windows = 1 if truncation is None else -(-horizon.max_length // truncation)
    exact = exact_linear(horizon, truncation or 1)

    @jax.jit
    def means(keys):
        def one(key):
            return _estimates(estimator, dialled(Dials()), jnp.float32(0.7), key, windows).grad.mean()

        return jax.lax.map(one, keys)

    with runs("estimates can be mapped over keys", "write init and estimate with jax.numpy alone"):
        found = np.asarray(means(jax.random.split(jax.random.key(7), REPEATS)))
    mean, error = found.mean(), found.std(ddof=1) / np.sqrt(REPEATS)
    rule = f"the mean over a trajectory of estimates is d/dtheta E[sum of losses] / E[length], here {exact:.4g}"
    seen = f"{mean:.4g} with a standard error of {error:.2g}, from {REPEATS} trajectories"
    require(error < 0.1 * exact, "the estimate can be told from noise", seen, "give it more pairs or a shorter horizon")
    remedy = "look at what is credited to which noise, and divide by the mean length; or say biased=True"
    require(abs(mean - exact) < 4 * error + 1e-5 * exact, rule, seen, remedy)


def _estimates(estimator: Any, problem: InnerProblem, theta: jax.Array, key: jax.Array, number: int) -> Estimate:
    """The first estimates at a fixed theta, stacked."""

    def one(state, key):
        answer, state = estimator.estimate(problem, theta, state, key)
        return state, answer

    rule = "init starts the trajectories, and estimate returns an Estimate and a state of the same structure"
    with runs(rule, "return (Estimate, state), and cast in init what estimate returns"):
        state = estimator.init(problem, theta, key)
        return jax.lax.scan(one, state, jax.random.split(jax.random.fold_in(key, 1000), number))[1]
