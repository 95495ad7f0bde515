"""Trains a logistic regression in plain JAX with a learned optimizer: `python examples/plain_jax.py [EXPORT]`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
NUM_STEPS = 200

x = jax.random.normal(jax.random.key(0), (256, 10))
labels = x @ jax.random.normal(jax.random.key(1), (10,)) > 0

tx = lopt.load(NAME, num_steps=NUM_STEPS)
params = {"weights": jnp.zeros(10), "bias": jnp.zeros(())}
state = tx.init(params)


def loss_fn(params: dict[str, jax.Array], x: jax.Array, labels: jax.Array) -> jax.Array:
    logits = x @ params["weights"] + params["bias"]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


@jax.jit
def train_step(params: dict[str, jax.Array], state: optax.OptState, x: jax.Array, labels: jax.Array):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, labels)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss


losses = []
for _ in range(NUM_STEPS):
    params, state, loss = train_step(params, state, x, labels)
    losses.append(loss)
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
