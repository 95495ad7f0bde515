"""The rules with a learned schedule or a per-tensor LSTM, against optax or an independent float64 computation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.optimizers.celo import Celo
from lopt.optimizers.celo_adam import CeloAdam
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.optimizers.nn_adam import NNAdam
from lopt.optimizers.parts.progress import init_loss_averages, loss_features, update_loss_averages
from lopt.optimizers.rnn_mlp import RNNMLPOptimizer
from lopt.optimizers.velo import Velo
from lopt.trained.published import convert
from tests.optimizers.velo_in_numpy import CeloInNumpy, sigmoid, velo_tree

PARAMS = {
    "b": np.asarray([0.5, -2.0, 0.1], np.float32),
    "w": np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32),
}
EXACT = [np.asarray(p, np.float64) for p in PARAMS.values()]
LOSSES = (2.0, 1.5, 30.0, 1.0)


def grads_at(step):
    return {name: np.sin(np.asarray(p, np.float32) * (step + 1)) for name, p in PARAMS.items()}


def exact_grads(step):
    return [np.asarray(g, np.float64) for g in grads_at(step).values()]


@functools.partial(jax.jit, static_argnums=0)
def start(optimizer, theta, num_steps):
    return optimizer.init(theta, jax.tree.map(jnp.asarray, PARAMS), num_steps=num_steps)


@functools.partial(jax.jit, static_argnums=0)
def update(optimizer, theta, grads, state, loss):
    return optimizer.update(theta, grads, state, jax.tree.map(jnp.asarray, PARAMS), value=loss)


def fresh(optimizer):
    return jax.tree.map(np.asarray, jax.jit(optimizer.init_theta)(jax.random.key(3)))


def follow(optimizer, theta, losses=LOSSES, num_steps=40):
    state = start(optimizer, theta, np.int32(num_steps))
    for step, loss in enumerate(losses):
        updates, state = update(optimizer, theta, grads_at(step), state, np.float32(loss))
        yield [np.asarray(x, np.float64) for x in updates.values()]


def drawn(optimizer):
    """A theta without zeros, so that every part of it matters."""
    rng = np.random.default_rng(0)

    def draw(x):
        return ((1 / np.sqrt(x.shape[0]) if x.ndim > 1 else 0.3) * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(optimizer.init_theta, jax.random.key(3)))


def assert_close(updates, expected, rtol=2e-4):
    for ours, theirs in zip(updates, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0.1 * rtol * np.abs(theirs).max())


def zeros() -> list[Any]:
    """One running mean per tensor."""
    return [0.0] * len(EXACT)


def lstm(theta, carry, x):
    """Rows are tensors."""
    gates = np.concatenate([x, carry[1]], axis=1) @ theta["kernel_lstm"] + theta["bias_lstm"]
    i, f, candidate, o = np.split(gates, 4, axis=1)
    c = sigmoid(f + 1) * carry[0] + sigmoid(i) * np.tanh(candidate)
    return c, sigmoid(o) * np.tanh(c)


def clipped_log(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5)


def test_fresh_learnable_sgd_is_sgd():
    optimizer = LearnableSGD(learning_rate=3e-3, momentum=0.8)
    sgd: Any = optax.sgd(3e-3, momentum=0.8)
    state = sgd.init(PARAMS)
    for step, updates in enumerate(follow(optimizer, fresh(optimizer))):
        expected, state = sgd.update(grads_at(step), state)
        assert_close(updates, [np.asarray(x) for x in expected.values()], rtol=1e-5)


def test_learnable_sgd_has_the_schedule_of_learnable_adam():
    optimizer = LearnableSGD(schedule_terms=2)
    theta = {**fresh(optimizer), "schedule": np.asarray([0.7, -0.4], np.float32)}
    plain = LearnableSGD()
    pairs = zip(follow(optimizer, theta), follow(plain, fresh(plain)), strict=True)
    for step, (updates, unscheduled) in enumerate(pairs):
        factor = np.exp(0.7 * np.cos(np.pi * step / 40) - 0.4 * np.cos(2 * np.pi * step / 40))
        assert_close(updates, [factor * x for x in unscheduled], rtol=1e-5)
    assert (optimizer.requires, plain.requires) == ({"num_steps"}, frozenset())


def celo_tree(adam):
    tree = velo_tree(np.random.default_rng(1), 8, 1, inputs=18)
    if adam:
        del tree["ff_mod_stack"], tree["rnn_params"]["rnn_to_controls"]
    return tree


def test_celo_in_numpy():
    tree = celo_tree(adam=False)
    name, settings, theta = convert(tree)
    assert (name, settings) == ("celo", {"lstm_size": 8, "hidden_sizes": (4, 4)})
    reference = CeloInNumpy(tree, EXACT, 40, 1.0)
    for step, updates in enumerate(follow(Celo(**settings), theta)):
        assert_close(updates, reference.step(EXACT, exact_grads(step), LOSSES[step]))


def test_celo_without_its_scheduler_steps_with_the_mlp_alone():
    tree = celo_tree(adam=False)
    tree["rnn_params"]["step_size"] = {"w": np.zeros((8, 1), np.float32), "b": np.log([10.0]).astype(np.float32)}
    _, settings, theta = convert(tree)
    bare = Celo(**settings, scheduled=False)
    assert bare.requires == {"params"}
    reference = CeloInNumpy(tree, EXACT, 40, 1.0)  # its scheduler says 1 at all times
    for step, updates in enumerate(follow(bare, theta)):
        assert_close(updates, reference.step(EXACT, exact_grads(step), LOSSES[step]))


def test_celo_adam_in_numpy():
    tree = celo_tree(adam=True)
    name, settings, theta = convert(tree)
    assert (name, settings) == ("celo_adam", {"lstm_size": 8})
    reference = CeloInNumpy(tree, EXACT, 40, 1.0)
    m, v = zeros(), zeros()
    for step, updates in enumerate(follow(CeloAdam(**settings), theta)):
        reference.recur(np.tile(reference.progress(LOSSES[step]), (2, 1)))
        reference.t += 1
        scale = 1e-3 * 0.1 * np.exp(reference.linear("step_size", reference.h)[0, 0])
        for i, (g, update) in enumerate(zip(exact_grads(step), updates, strict=True)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            root = np.sqrt(v[i] / (1 - 0.999 ** (step + 1)) + 1e-10)
            assert_close([update], [-scale * m[i] / (1 - 0.9 ** (step + 1)) / (root + 1e-8)])


def test_the_first_losses_may_be_anything():
    """A loss that is not finite counts as the limit after the first finite one, and is ignored before."""
    averages = expected = jax.jit(init_loss_averages)(np.int32(100))
    take, features = jax.jit(update_loss_averages), jax.jit(loss_features)
    for loss in (np.nan, np.inf, 3.0, np.nan, 2.0):
        averages = take(averages, np.float32(loss))
    for loss in (3.0, 6.0, 2.0):
        expected = take(expected, np.float32(loss))
    np.testing.assert_allclose(averages.means, expected.means, rtol=1e-6)
    np.testing.assert_allclose(features(averages), features(expected), rtol=1e-4)
    assert np.abs(features(averages)).max() > 0.1


def test_fresh_nn_adam_is_adam_without_correction():
    optimizer = NNAdam(learning_rate=2e-3)
    m, v = zeros(), zeros()
    for step, updates in enumerate(follow(optimizer, fresh(optimizer))):
        for i, g in enumerate(exact_grads(step)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            assert_close([updates[i]], [-2e-3 * m[i] / (1e-8 + np.sqrt(v[i] + 1e-10))])


def test_nn_adam_in_numpy():
    optimizer = NNAdam(lstm_size=4)
    theta = {**drawn(optimizer), "hyperparameters": fresh(optimizer)["hyperparameters"]}
    theta["lstm"]["bias_readout"] = np.asarray([2.0, -1.0, 3.0, 1.0], np.float32)  # edits that show
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
    hyper = [exact["hyperparameters"]] * 2
    carry = [np.tile(exact["lstm"][name], (2, 1)) for name in ("initial_c", "initial_h")]
    m, v = zeros(), zeros()
    for step, updates in enumerate(follow(optimizer, theta)):
        rows = []
        for i, (p, g) in enumerate(zip(EXACT, exact_grads(step), strict=True)):
            lr, one_minus_b1, one_minus_b2, eps = np.exp(10 * hyper[i])
            m[i] = (1 - one_minus_b1) * m[i] + one_minus_b1 * g
            v[i] = (1 - one_minus_b2) * v[i] + one_minus_b2 * g**2
            assert_close([updates[i]], [-lr * (1 + eps) * m[i] / (eps + np.sqrt(v[i] + 1e-10))])
            means, variances = ([f(x) for x in (p, g, m[i], v[i])] for f in (np.mean, np.var))
            logs = 0.5 * clipped_log(np.array([*means, *variances, np.abs(g).mean()]))
            rows.append([*logs, *np.sign(means[:3]), -1.0, 1.0 if p.ndim == 1 else -1.0, *(0.2 * hyper[i])])
        carry = lstm(exact["lstm"], carry, np.array(rows))
        edits = carry[1] @ exact["lstm"]["readout"] + exact["lstm"]["bias_readout"]
        hyper = [h + 0.01 * edit for h, edit in zip(hyper, edits, strict=True)]


def test_rnn_mlp_in_numpy():
    optimizer = RNNMLPOptimizer(hidden_sizes=(6, 5), lstm_size=4)
    theta = drawn(optimizer)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
    net, mlp = exact["lstm"], exact["mlp"]
    carry = [np.tile(net[name], (2, 1)) for name in ("initial_c", "initial_h")]
    to_lstm, from_lstm = np.tile(net["first_to_lstm"], (2, 1)), net["first_from_lstm"]
    decays = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
    m, v = zeros(), zeros()
    mean = variance = 0.0
    size = 0.01
    for step, updates in enumerate(follow(optimizer, theta)):
        loss = LOSSES[step]
        mean = 0.9 * mean + 0.1 * loss
        variance = 0.9 * variance + 0.1 * (mean - loss) ** 2
        weight = 1 / (1 - 0.9 ** (step + 1))
        places = [np.clip((x - weight * mean) / np.sqrt(weight * variance + 1e-8), -5, 5) for x in (loss, 0)]
        bound = 10 * size / (1 - 0.99 ** (step + 1))
        grads = [np.clip(g, -bound, bound) for g in exact_grads(step)]
        size = 0.99 * size + 0.01 * np.sqrt(1e-8 + np.mean([np.mean(g**2) for g in grads]))
        rows = []
        for i, (p, g) in enumerate(zip(EXACT, grads, strict=True)):
            b = decays.reshape(5, *[1] * p.ndim)
            m[i], v[i] = b * m[i] + (1 - b) * g, b * v[i] + (1 - b) * g**2
            means, variances = ([f(x) for x in (m[i], v[i], p)] for f in (np.mean, np.var))
            logs = clipped_log(np.array([*means, *variances, np.linalg.norm(p), np.linalg.norm(g)]))
            shape = np.log([*p.shape, 1, 1, 1, 1][:4]) - 1
            rows.append([*logs, *np.sign(means), -1.0, *shape, *places, *from_lstm, *to_lstm[i]])
        carry = lstm(net, carry, np.array(rows))
        messages = carry[1] @ net["kernel_to_mlp"] + net["bias_to_mlp"]
        from_lstm = (carry[1] @ net["kernel_from_lstm"] + net["bias_from_lstm"]).mean(0)
        scales = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
        for i, (p, g) in enumerate(zip(EXACT, grads, strict=True)):
            root = 1 / np.sqrt(v[i] + 1e-6)
            x = np.concatenate([np.stack([g, p, np.log(np.abs(p) + 1e-8)]), m[i], m[i] * root, v[i], root])
            x = x.reshape(23, -1).T
            x = x / np.sqrt(1e-5 + (x**2).mean(0))
            facts = [np.log(2) - 1, np.log(p.size), np.log(np.linalg.norm(p) + 1e-8)]
            constants = np.concatenate([np.sin(step / (np.pi * scales)), facts, messages[i]])
            x = np.concatenate([x, np.tile(constants, (len(x), 1))], axis=1)
            for layer in range(3):
                x = x @ mlp[f"kernel_{layer}"] + mlp[f"bias_{layer}"]
                x = np.maximum(x, 0) if layer < 2 else x
            expected = -1e-3 * x[:, 0] * np.exp(1e-3 * x[:, 1])
            assert_close([updates[i]], [expected.reshape(p.shape)])
            to_lstm[i] = x[:, 2:].mean(0)


def test_velo_small_has_the_size_of_the_celo_paper():
    shapes = jax.eval_shape(Velo(lstm_size=64, num_mlps=32, weight_scale=1.0).init_theta, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 46337
