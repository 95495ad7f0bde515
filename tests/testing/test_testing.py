"""The checks for anyone's tests: they pass what is right, and name the rule where one of them is broken."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, PES
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.testing import Broken, check_estimator, check_optimizer, check_task
from lopt.types import SPLITS
from tests.toy_family import Quadratic


@dataclasses.dataclass(frozen=True)
class Task(Quadratic):
    """loss = mean((p - batch)^2) / 2.01 with p_0 = 0 and batches of N(1, 0.1^2) by split, and one thing wrong."""

    wrong: str = ""
    noise: float = 0.1

    @property
    def name(self):
        return "task"

    def sample(self, key):
        return {}

    def task(self, config):
        def loss(params, key, batch):
            stopped = jax.lax.stop_gradient(params["p"]) if self.wrong == "slope" else 0
            value = jnp.mean((params["p"] + stopped - batch) ** 2)
            return {"nan": value / 0, "vector": value[None]}.get(self.wrong, value)

        kind = {"bfloat16": jnp.bfloat16, "integers": jnp.int32}.get(self.wrong, jnp.float32)
        scale = 100 if self.wrong == "scale" else 1.01
        metrics = lambda params, key, batch: {"all": batch} if self.wrong == "metrics" else {}  # noqa: E731
        start = 0.3 * (self.wrong == "slope")
        return (
            super()
            .task({"scale": 1})
            ._replace(
                init=lambda key: {"p": jnp.full((self.dim,), start, kind)},
                loss=loss,
                normalize=lambda loss: loss[None] / scale if self.wrong == "normalize" else loss / scale,
                metrics=metrics,
            )
        )

    def sample_batch(self, data, key, config, split):
        size = self.dim + (self.wrong == "shapes" and split == "test")
        key = key if self.wrong == "same" else jax.random.fold_in(key, SPLITS.index(split))
        batch = 1 + self.noise * jax.random.normal(key, (size,))
        if self.wrong == "traced":
            return 1 + float(batch[0])
        return batch if self.wrong != "random" else batch + np.random.default_rng().normal()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", ""),
        ("same", "batches differ by key and by split"),
        ("shapes", "batches of all splits have the same shapes"),
        ("traced", "all methods but load can be traced and vmapped"),
        ("nan", "loss, gradient and metrics of fresh params are finite"),
        ("vector", "all methods but load can be traced"),
        ("integers", "all methods but load can be traced and vmapped"),
        ("normalize", "the normalized loss is a scalar|all methods but load"),
        ("scale", "normalize makes 1 of the loss of the trivial predictor"),
        ("metrics", "metrics are scalars by name"),
        ("slope", "the loss rises along its gradient by the gradient's norm"),
    ],
)
def test_tasks(wrong, message):
    family: Any = Task(wrong=wrong)
    if not message:
        check_task(family, learning_rate=0.1, bound=0.2)
        with pytest.raises(Broken, match=r"50 steps of Adam at 1e-06 lower the normalized loss to 0\.95"):
            check_task(family, learning_rate=1e-6)
        return
    with pytest.raises(Broken, match=rf"(?s){message}.*\n  seen: .*\n  to do: .*"):
        check_task(family, learning_rate=0.1, bound=0.2)


class Identity(Task):
    """A family that is equal to itself alone."""

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


def test_a_family_that_is_equal_to_itself_alone_is_compiled_again_and_again():
    with pytest.raises(Broken, match="settings decide equality and hash"):
        check_task(Identity())


def test_params_of_low_precision_are_a_persons_own_choice():
    check_task(Task(wrong="bfloat16"), learning_rate=0.1, bound=0.2)


def test_what_is_no_task_rule_or_estimator():
    with pytest.raises(InputError, match="is no task family: it has no name"):
        check_task(PES())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no optimizer: it has no requires"):
        check_optimizer(PES())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no estimator: it has no estimate"):
        check_estimator(Rule())  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Momentum with a learned rate, and one thing wrong."""

    wrong: str = ""
    function: Any = None

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"loss"} if self.wrong == "requires" else {"value"})

    def init_theta(self, key):
        return {"log": 0.1 * jax.random.normal(key, (), jnp.float32)}

    def init(self, theta, params, *, num_steps):
        start = jnp.zeros(2 if self.wrong == "state" else (), None if self.wrong == "x64" else jnp.float32)
        trace = params if self.wrong == "donation" else jax.tree.map(jnp.zeros_like, params)
        return {"trace": trace, "count": start}

    def update(self, theta, grads, state, params, *, value):
        bounded = value if self.wrong == "loss" else jnp.nan_to_num(jnp.clip(value, -10, 10))
        trace = jax.tree.map(lambda t, g: 0.9 * t + g + 0 * jnp.float32(bounded), state["trace"], grads)
        size = sum(jnp.sum(jnp.abs(t)) for t in jax.tree.leaves(trace)) if self.wrong == "sees" else 1.0
        if self.wrong == "zero":
            trace = jax.tree.map(lambda t: t / jnp.max(jnp.abs(t)), trace)
        if self.wrong == "shape":
            trace = jax.tree.map(lambda t: t[None], trace)
        if self.wrong == "empty":
            size = jnp.max(jnp.stack([jnp.sum(t) for t in jax.tree.leaves(trace)]) * 0 + 1)
        updates = jax.tree.map(lambda t: -0.01 * jnp.exp(theta["log"]) * t / size, trace)
        return updates, {"trace": trace, "count": state["count"].sum() + 1.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", ""),
        ("requires", "requires is a frozenset out of"),
        ("state", "the state has the same structure, shapes and types after every update"),
        ("x64", "states are float32 and int32 under x64 too"),
        ("sees", "updates of a tensor are its own"),
        ("zero", "init and update take tensors of every rank|gradients of zero give finite updates"),
        ("loss", "a loss of inf gives finite updates"),
        ("shape", "updates have the shapes of params|init and update take tensors of every rank"),
        ("empty", "no params, no updates"),
        ("donation", "each array of a fresh state is an array of its own"),
        ("function", "a rule can be exported"),
    ],
)
def test_rules(wrong, message):
    rule = Rule(wrong, jnp.tanh if wrong == "function" else None)
    if not message:
        check_optimizer(rule)
        return
    with pytest.raises(Broken, match=rf"(?s)({message}).*\n  seen: .*\n  to do: .*"):
        check_optimizer(rule)


@dataclasses.dataclass(frozen=True)
class Wrong(PES):  # pyright: ignore[reportGeneralTypeIssues]
    """PES, and one thing wrong."""

    wrong: str = ""

    def estimate(self, problem, theta, state, key, *, step=None):
        answer, state = super().estimate(problem, theta, state, key, step=step)
        grad = {
            "biased": 0.8 * answer.grad,
            "vector": answer.grad[None],
            "shift": answer.grad + answer.loss,
            "nan": jnp.where(answer.info["left_out"] > 0, jnp.nan, answer.grad),
        }.get(self.wrong, answer.grad)
        return answer._replace(grad=grad), (state, 1) if self.wrong == "state" else state


SMALL: dict[str, Any] = {"num_pairs": 64, "truncation": 5, "horizon": Horizon(10, 20), "layout": PairLayout(1, False)}


ESTIMATOR_ROWS = {
    "": "",
    "biased": "the mean over a trajectory of estimates is",
    "vector": "a gradient like theta",
    "shift": "the gradient of 3 loss \\+ 7 is 3 times",
    "nan": "pairs with a loss that is not finite are left out",
    "state": "a state of the same structure",
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(*row, marks=[pytest.mark.thorough] * (row[0] in ("", "vector", "shift")))
        for row in ESTIMATOR_ROWS.items()
    ],
)
def test_estimators(wrong, message):
    estimator = Wrong(wrong=wrong, **SMALL)
    if not message:
        check_estimator(estimator)
        return
    with pytest.raises(Broken, match=rf"(?s){message}.*\n  seen: .*\n  to do: .*"):
        check_estimator(estimator)


FITTING = [name for name in ESTIMATORS if name not in ("pes_telescoping", "guided_es")]  # those need other problems
BIASED = ("truncated_es", "inverse_variance", "tbptt")


@pytest.mark.thorough
@pytest.mark.parametrize("name", FITTING)
def test_every_estimator_passes(name):
    known = {field.name for field in dataclasses.fields(ESTIMATORS[name])}
    settings = {key: value for key, value in SMALL.items() if key in known}
    check_estimator(ESTIMATORS[name](**settings), biased=name in BIASED)
