"""Hyperparameters as theta: exactly the optax optimizer, and tuned to optima that recursions give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.meta_training.tunables import OptaxRule, Tunable
from lopt.meta_training.tuning import tune
from lopt.names import InputError

PARAMS: dict[str, Any] = {"a": {"w": jnp.asarray([0.5, -2.0])}, "b": jnp.asarray([[1.0], [3.0]])}
STEPS, CURVATURE, NOISE, START = 60, 2.0, 0.5, 3.0


def follow(optimizer, num_steps=10) -> Any:
    params, state = PARAMS, optimizer.init(PARAMS)
    for step in range(num_steps):
        grads = jax.tree.map(lambda p, step=step: jnp.sin(p * (step + 1)), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), actual, expected)


def rule(factory, tunables, fixed=None):
    made = OptaxRule.make(factory, tunables, fixed or {}).for_params(PARAMS)
    return made, made.init_theta(jax.random.key(0))


def test_theta_zero_is_the_initial_optimizer():
    tunables = {"learning_rate": Tunable(3e-3, knots=3), "b1": Tunable(0.8, "logit"), "eps": Tunable(1e-6)}
    made, theta = rule(optax.adamw, tunables, {"weight_decay": 0.1})
    assert_close(follow(made.transformation(theta, 10)), follow(optax.adamw(3e-3, b1=0.8, eps=1e-6, weight_decay=0.1)))
    values = made.values(theta)
    np.testing.assert_allclose(values["learning_rate"], [3e-3] * 3, rtol=1e-6)
    np.testing.assert_allclose([values["b1"], values["eps"]], [0.8, 1e-6], rtol=1e-5)


def test_knots_are_straight_lines_in_the_scales_coordinates():
    made, theta = rule(optax.sgd, {"learning_rate": Tunable(0.1, knots=3), "momentum": Tunable(0.5, "logit", knots=2)})
    theta = {"learning_rate": jnp.asarray([0.0, 1.0, -2.0]), "momentum": jnp.asarray([-1.0, 2.0])}
    fractions = np.arange(11) / 10
    learning_rates = 0.1 * np.exp(np.interp(fractions, [0, 0.5, 1], [0, 1, -2]))
    momenta = 1 / (1 + np.exp(-np.interp(fractions, [0, 1], [-1, 2])))
    expected = {name: np.asarray(p, np.float64) for name, p in (("a", PARAMS["a"]["w"]), ("b", PARAMS["b"]))}
    trace = dict.fromkeys(expected, 0.0)
    for step in range(11):
        for name, p in expected.items():
            trace[name] = np.sin(p * (step + 1)) + momenta[step] * trace[name]
            expected[name] = p - learning_rates[step] * trace[name]
    reached = follow(made.transformation(theta, 11), 11)
    np.testing.assert_allclose(reached["a"]["w"], expected["a"], rtol=1e-4)
    np.testing.assert_allclose(reached["b"], expected["b"], rtol=1e-4)
    np.testing.assert_allclose(made.values(theta)["learning_rate"], 0.1 * np.exp([0, 1, -2]), rtol=1e-5)


def test_per_tensor():
    made, theta = rule(optax.adam, {"learning_rate": Tunable(0.1, per_tensor=True), "b1": Tunable(0.9, "logit")})
    assert set(theta["learning_rate"]) == {"a/w", "b"}
    theta["learning_rate"]["b"] = jnp.log(jnp.asarray([3.0]))
    reached = follow(made.transformation(theta, 10))
    assert_close(reached["a"], follow(optax.adam(0.1))["a"])
    assert_close(reached["b"], follow(optax.adam(0.3))["b"])
    assert made.values(theta)["learning_rate"] == pytest.approx({"a/w": 0.1, "b": 0.3}, rel=1e-5)


def noisy_loss(params, key, data):
    """h/2 (x - noise)^2, where SGD has closed moments."""
    return 0.5 * CURVATURE * jnp.mean((params["x"] - data["noise"] * jax.random.normal(key, (1,))) ** 2)


def clean_loss(params, key, data):
    del key, data
    return 0.5 * CURVATURE * jnp.mean(params["x"] ** 2)


def expected_losses(learning_rates):
    """h/2 E[x_t^2] after each step of SGD at these learning rates."""
    square, losses = START**2, []
    for rate in learning_rates:
        square = (1 - rate * CURVATURE) ** 2 * square + (rate * CURVATURE * NOISE) ** 2
        losses.append(0.5 * CURVATURE * square)
    return np.array(losses)


def tuned_sgd(knots=1, **settings):
    return tune(
        optax.sgd,
        {"learning_rate": Tunable(0.01, knots=knots)},
        init=lambda key: {"x": jnp.full(1, START)},
        loss=noisy_loss,
        objective=clean_loss,
        data={"noise": jnp.asarray(NOISE)},
        num_steps=STEPS,
        **settings,
    )


@pytest.mark.parametrize("estimator", ["pes", "tbptt:truncation=60"])
def test_constant_learning_rate_finds_its_optimum(estimator):
    found = tuned_sgd(estimator=estimator)
    best = min(expected_losses([rate] * STEPS).mean() for rate in np.geomspace(0.005, 0.9, 300))
    reached = expected_losses([found.hyperparameters["learning_rate"]] * STEPS).mean()
    assert expected_losses([0.01] * STEPS).mean() > 10 * best
    assert reached < 1.03 * best
    assert found.history.shape == (200,)
    assert found.history[-20:].mean() < 0.2 * found.history[:20].mean()


def test_schedule_for_the_final_loss_beats_every_constant():
    found = tuned_sgd(knots=3, final=True, estimator="nres")
    knots = found.hyperparameters["learning_rate"]
    schedule = np.exp(np.interp(np.arange(STEPS) / (STEPS - 1), [0, 0.5, 1], np.log(knots)))
    best_constant = min(expected_losses([rate] * STEPS)[-1] for rate in np.geomspace(0.005, 0.9, 300))
    assert expected_losses(schedule)[-1] < 0.9 * best_constant


def test_objective_need_not_be_differentiable():
    def error(params, key, data):
        del key, data
        return -jnp.mean(jnp.abs(params["x"]) < 0.5).astype(jnp.float32) + 1.5

    found = tune(
        optax.sgd,
        {"learning_rate": Tunable(0.05)},
        init=lambda key: {"x": jax.random.uniform(key, (50,), minval=1.0, maxval=5.0)},
        loss=lambda params, key, data: 50 * clean_loss(params, key, data),
        objective=error,
        num_steps=20,
        num_updates=100,
        sigma=0.3,
    )
    assert found.hyperparameters["learning_rate"] > 0.2
    assert found.history[:5].mean() > 1.2
    assert found.history[-5:].mean() < 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tunables": {}}, "nothing to tune"),
        ({"tunables": {"learning_rate": 1e-3}}, r"learning_rate must be a Tunable, .* write lopt\.Tunable\(0\.001\)"),
        ({"tunables": {"learning_rat": Tunable(0.1)}}, "Did you mean 'learning_rate'"),
        ({"tunables": {"momentum": Tunable(0.5, "logit")}}, "learning_rate"),
        ({"fixed": {"learning_rates": 0.1}}, "Did you mean 'learning_rate'"),
        ({"loss": lambda params, key, data: params["x"]}, "loss.* must return one number"),
        ({"objective": lambda params, key, data: jnp.nan * params["x"][0]}, "objective.* must be a finite number"),
        ({"estimator": "pse"}, "Did you mean 'pes'"),
        ({"num_steps": 0}, "at least 1"),
        ({"truncation": 7}, "multiple of the truncation"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "factory": optax.sgd,
        "tunables": {"learning_rate": Tunable(0.1)},
        "init": lambda key: {"x": jnp.ones(3)},
        "loss": clean_loss,
        "num_steps": 20,
        **change,
    }
    with pytest.raises(InputError, match=message):
        lopt.tune(**arguments)


@pytest.mark.parametrize(("initial", "scale"), [(0.0, "log"), (-1.0, "log"), (1.0, "logit"), (0.5, "lgo")])
def test_tunables_are_checked(initial, scale):
    with pytest.raises(InputError, match="scale"):
        Tunable(initial, scale)


def quadratic(params, key, data):
    """Smallest at 1, with fresh noise: 1 at the start."""
    return jnp.mean(jnp.square(params["w"].astype(jnp.float32) - 1)) + 0 * jax.random.normal(key)


def small(factory, tunables, dtype: Any = jnp.float32, **settings: Any):
    """A tuning by the estimator whose program is the quickest to make."""
    defaults: dict[str, Any] = {"num_steps": 4, "num_pairs": 2, "num_updates": 3, "loss": quadratic}
    defaults |= {"estimator": "full_es"} if "estimator" not in settings else {"truncation": 2}
    return tune(factory, tunables, init=lambda key: {"w": jnp.zeros((2, 3), dtype)}, **{**defaults, **settings})


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("factory", "fixed"),
    [(optax.adafactor, {}), (optax.lbfgs, {"linesearch": None}), (optax.sgd, {"nesterov": True, "momentum": 0.9}),
     (optax.adamw, {"nesterov": True}), (optax.contrib.muon, {})],
)  # fmt: skip
def test_only_what_is_tuned_is_traced(factory, fixed):
    """Arguments that decide the structure of an optimizer stay what they are, and so does what they decide."""
    tuned = small(factory, {"learning_rate": lopt.Tunable(0.1)}, fixed=fixed)
    rate = tuned.hyperparameters["learning_rate"]
    params, grads = {"w": jnp.ones((2, 3))}, {"w": jnp.full((2, 3), 0.5)}
    updates: list[Any] = [
        tx.update(grads, tx.init(params), params)[0] for tx in (tuned.optimizer, factory(rate, **fixed))
    ]
    np.testing.assert_allclose(updates[0]["w"], updates[1]["w"], rtol=1e-5)


def test_an_optimizer_that_asks_for_more_than_a_step_has_is_refused():
    with pytest.raises(InputError, match="lbfgs cannot be called by a training step"):
        small(optax.lbfgs, {"learning_rate": lopt.Tunable(0.1)})


@pytest.mark.parametrize("name", ["loss", "objective"])
@pytest.mark.parametrize("returned", [lambda x: (x, {"aux": x}), lambda x: x[None], lambda x: {"loss": x}])
def test_functions_that_return_more_than_a_number_are_refused(name, returned):
    with pytest.raises(InputError, match=f"{name}.* must return one number, .* it returns .*float32"):
        small(optax.sgd, {"learning_rate": lopt.Tunable(0.1)}, **{name: lambda *args: returned(quadratic(*args))})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_params_of_low_precision_keep_their_dtype(dtype):
    tuned = small(optax.adam, {"learning_rate": lopt.Tunable(0.1)}, dtype)
    assert np.isfinite(tuned.history).all()
    assert 0 < tuned.history[-1] < 1  # each step lowers the loss from 1


@pytest.mark.thorough
@pytest.mark.parametrize("estimator", ["pes", "nres", "pes_telescoping", "full_es", "bptt"])
def test_the_history_of_a_final_objective_is_that_objective(estimator):
    """With rates of nearly zero the objective stays what it is at the start, in every step that has one."""
    tuned = small(optax.sgd, {"learning_rate": lopt.Tunable(1e-9)}, final=True, estimator=estimator, num_updates=6,
                  num_pairs=4)  # fmt: skip
    told = np.isfinite(tuned.history)
    assert told.any()
    np.testing.assert_allclose(tuned.history[told], 1.0, rtol=1e-4)


@pytest.mark.parametrize("start", [2.0, 0.5, -3.0])
def test_a_diverged_training_counts_with_the_start_plus_its_size(start):
    """With an infinite rate every training diverges in its first step."""

    def loss(params, key, data):
        return start + jnp.sum(params["w"])

    tuned = small(optax.sgd, {"learning_rate": lopt.Tunable(1e30)}, loss=loss, num_updates=1,
                  objective=lambda params, key, data: start + jnp.sum(jnp.abs(params["w"])))  # fmt: skip
    np.testing.assert_allclose(tuned.history, start + abs(start), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tuning_under_x64(dtype):
    with jax.enable_x64(True):
        tuned = small(optax.adam, {"learning_rate": lopt.Tunable(0.1)}, dtype)
        assert tuned.history[-1] < 0.9
        params = {"w": jnp.zeros((2, 3), dtype)}
        updates: Any = tuned.optimizer.update(params, tuned.optimizer.init(params), params)[0]
        assert optax.apply_updates(params, updates)["w"].dtype == dtype  # type: ignore[index]
