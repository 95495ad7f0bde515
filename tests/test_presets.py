"""The presets and the optimizers that ship: what their docstrings, the README and docs/optimizers.md promise."""

import functools
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.distributed import PairLayout
from lopt.evaluation.evaluate import evaluate
from lopt.meta_training.loop import Invocation, train
from lopt.optimizers import OPTIMIZERS
from lopt.trained.folders import shipped_folders
from lopt.trained.pretrained import Pretrained, load_pretrained
from lopt.trained.shipped import PURPOSES
from presets import PRESETS
from tasks import parse_mixture

DOCS = Path(__file__).parents[1] / "docs" / "optimizers.md"


SHIPPED = {name: {"mlp_digits": "demo_mlp", "lstm_digits": "demo_lstm"}.get(name, name) for name in PRESETS}

# Half of default Adam's mean loss, half of the untrained rule's, 3 times that of the best Adam.
README = {"adam_default": 0.5, "untrained": 0.5, "best_adam_by_mean_loss": 3.0}

# What ratios of `COMPARISONS` stay within, at T = 500 on the tasks of the preset. The docstrings have the figures seen.
# Those that are no demonstrations take an hour, and are held by tests/trained/test_recommended.py.
PROMISES = {
    "mlp_digits": README,
    "lstm_digits": README,
    "learnable_sgd_digits": {"adam_default": 0.2},
    "learnable_adam_digits": {"adam_default": 0.2},
    "nn_adam_digits": {"adam_default": 0.2},
    "blend_digits": {"adam_default": 0.2},
    "adafac_mlp_digits": {"adam_default": 0.3},
    "star_digits": {"adam_default": 0.3},
    "celo_adam_digits": {"adam_default": 0.3},
    "celo2_digits": {"adam_default": 0.3},
    "rnn_mlp_digits": {"adam_default": 0.3},
    "velo_digits": {"adam_default": 0.4},
    "celo_phase1_digits": {"adam_default": 0.3},
    "celo_digits": {"adam_default": 0.3},
}


def check_promise(pretrained: Pretrained, at_most: dict[str, float], data_dir: str, *, num_seeds: int) -> None:
    settings = {"horizon": 500, "num_seeds": num_seeds, "seed": 12345, "baselines": "adam", "devices": 2}
    report = evaluate(pretrained, **settings, data_dir=data_dir, say=None)
    for task, scores in report.scores.items():
        for name, bound in at_most.items():
            assert scores.ratios[name] <= bound, (task, name)


@pytest.fixture
def optimized():
    """Programs as the commands compile them: here they run for minutes."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_their_command_time_and_score(name):
    text = importlib.import_module(f"presets.{name}").__doc__ or ""
    assert f"python meta_train.py --preset={name}" in text
    assert f"`{SHIPPED[name]}`" in text
    assert "minutes" in text
    assert "over best Adam" in text


def test_every_architecture_has_a_preset_and_a_row_in_the_docs():
    assert {str(config.optimizer).split(":")[0] for config in PRESETS.values()} == set(OPTIMIZERS)
    assert set(re.findall(r"^\| `(\w+)` \| [\d,]+ ", DOCS.read_text(), flags=re.MULTILINE)) == set(OPTIMIZERS)


@pytest.mark.parametrize("preset", PRESETS)
def test_shipped_optimizers_are_small_and_of_their_preset(preset):
    pretrained = load_pretrained(SHIPPED[preset])
    assert sum(file.stat().st_size for file in pretrained.path.iterdir()) < 200_000
    assert f"--preset={preset} " in pretrained.card["command"]
    assert pretrained.card["config"] == {name: getattr(PRESETS[preset], name) for name in pretrained.card["config"]}


def test_what_ships_is_of_a_preset_and_its_quality_is_tested():
    assert set(shipped_folders()) == set(SHIPPED.values())
    assert {*PROMISES, *PURPOSES} == set(PRESETS)


def learned_decays(pretrained: Pretrained) -> np.ndarray:
    """All decays that theta holds, float64, by what they do: the first gradient, of 1, leaves 1 - b in a statistic."""
    rule, theta = pretrained.optimizer, pretrained.theta
    if not any(re.search("decay|logit|hyper", str(path)) for path, _ in jax.tree.leaves_with_path(theta)):
        return np.zeros(0)
    ones = {"w": jnp.ones((1,))}
    state = rule.init(theta, ones, num_steps=500)
    state = jax.jit(rule.update)(theta, ones, state, ones, value=jnp.ones(()))[1]
    match pretrained.card["architecture"]:
        case "adafac_mlp" | "star":
            left = jax.tree.leaves(state.statistics)
        case "learnable_adam":
            left = [optax.tree.get(state, name)["w"] for name in ("mu", "nu")]
        case "nn_adam":
            left = [state.m["w"], state.v["w"]]
        case "learnable_sgd":  # its momentum is a sum, and not a mean
            left = [jax.nn.sigmoid(-theta["logit_momentum"])]
        case other:
            raise NotImplementedError(other)
    return 1 - np.concatenate([np.ravel(x) for x in left]).astype(np.float64)


@pytest.mark.parametrize("name", shipped_folders())
def test_decays_of_shipped_optimizers_are_where_a_gradient_reaches(name):
    """Below 1e-3, a statistic is the last gradient; above 0.9999, its sum over a training of 1,000 steps, to 5 %."""
    pretrained = load_pretrained(name)
    decays = learned_decays(pretrained)
    numbers = {"adafac_mlp": 7, "star": 7, "learnable_adam": 2, "nn_adam": 2, "learnable_sgd": 1}
    assert decays.size == numbers.get(pretrained.card["architecture"], 0)
    assert np.all((decays > 1e-3) & (decays < 0.9999)), decays


def test_a_gradient_of_zero_gets_no_larger_update_than_those_around_it():
    """A vector, whose second moments are not means over rows: a decay of 0 would make them 0, and their roots 1e4."""
    rule, theta, *_ = load_pretrained("adafac_mlp_digits")
    now = np.linspace(-1, 1, 21, dtype=np.float32)
    random = np.random.default_rng(0)
    grads = random.standard_normal((64, 50, now.size), np.float32)
    grads[-1] = now
    params = {"w": jnp.asarray(random.standard_normal(grads[0].size, np.float32))}

    def step(state, grad):
        updates, state = rule.update(theta, {"w": grad}, state, params, value=None)
        return state, updates["w"]

    start = rule.init(theta, params, num_steps=None)
    updates = jax.jit(lambda grads: jax.lax.scan(step, start, grads)[1][-1])(grads.reshape(64, -1))
    sizes = np.sqrt(np.mean(np.square(updates.reshape(-1, now.size)), axis=0, dtype=np.float64))
    at_zero, around = sizes[10], np.delete(sizes, 10)
    assert at_zero < around.max()
    np.testing.assert_allclose(at_zero, sizes[[8, 9, 11, 12]].mean(), rtol=0.3)  # 50 parameters: 10 % by chance


def test_the_shipped_mlp_has_half_of_adams_mean_loss_on_one_task():
    """One training of 500 steps on the digits; the slow test has five for every task, and the best of many Adams."""
    (family,) = parse_mixture("image_mlp/digits").families
    data = jax.tree.map(jnp.asarray, family.load())
    init_key, steps_key = jax.random.split(jax.random.key(12345))
    config = family.sample(init_key)
    task = family.task(config)

    @functools.partial(jax.jit, static_argnums=0)
    def mean_loss(tx):
        def step(carry, key):
            params, state = carry
            batch = family.sample_batch(data, key, config, "train")
            loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
            updates, state = tx.update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), loss

        params = task.init(init_key)
        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(steps_key, 500))[1].mean()

    adam = optax.with_extra_args_support(optax.adam(1e-3))
    ratio = mean_loss(lopt.load("demo_mlp", num_steps=500)) / mean_loss(adam)
    assert ratio <= PROMISES["mlp_digits"]["adam_default"]


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("preset", PROMISES)
def test_shipped_optimizers_keep_their_promise(preset, tmp_path):
    check_promise(load_pretrained(SHIPPED[preset]), PROMISES[preset], str(tmp_path), num_seeds=5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", PROMISES)
def test_presets_reach_their_promise(name, tmp_path):
    config, layout = PRESETS[name], PairLayout(2)
    training = config.build(parse_mixture(config.tasks, data_dir=str(tmp_path / "data")), layout)
    train(training, config, Invocation(workdir=tmp_path / "run"))
    check_promise(load_pretrained(tmp_path / "run"), PROMISES[name], str(tmp_path / "data"), num_seeds=5)
