"""A small classifier of scikit-learn's handwritten digits, and its training by any optimizer of optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
DATA = {"x": jnp.asarray(images / 16, jnp.float32), "label": jnp.asarray(labels)}


def init(key: jax.Array, width: int = 32) -> dict[str, jax.Array]:
    """Weights of a perceptron with one hidden layer."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, width)) / 8,
        "bias": jnp.zeros(width),
        "out": jax.random.normal(second, (width, 10)) / width**0.5,
    }


def loss(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats, of a batch of 128 digits that the key draws."""
    rows = jax.random.randint(key, (128,), 0, len(labels))
    hidden = jax.nn.relu(DATA["x"][rows] @ params["hidden"] + params["bias"])
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ params["out"], DATA["label"][rows]).mean()


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(tx: optax.GradientTransformationExtraArgs, num_steps: int, unit: float | jax.Array = 1.0) -> jax.Array:
    """Losses of a training, `[num_steps]`, of parameters that are counted in a unit: the network has p * unit."""

    def loss_in_units(params, key):
        return loss(jax.tree.map(lambda p: p * unit, params), key)

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss_in_units)(params, key)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    params = jax.tree.map(lambda p: p / unit, init(jax.random.key(0)))
    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(1), num_steps))[1]


def smooth(losses: jax.Array, width: int = 15) -> np.ndarray:
    """Running means, without the ends."""
    return np.convolve(np.asarray(losses), np.ones(width) / width, mode="valid")
