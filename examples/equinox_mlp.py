"""Trains an Equinox network with a learned optimizer: `python examples/equinox_mlp.py [EXPORT]`."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
NUM_STEPS = 200


@eqx.filter_value_and_grad
def loss_fn(model: eqx.nn.MLP, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((jax.vmap(model)(x)[:, 0] - y) ** 2)


@eqx.filter_jit
def train_step(model: eqx.nn.MLP, state, x: jax.Array, y: jax.Array):
    loss, grads = loss_fn(model, x, y)
    # Activation functions are leaves of an Equinox module too: give the rule only the arrays.
    updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_array), value=loss)
    return eqx.apply_updates(model, updates), state, loss


x = jax.random.normal(jax.random.key(0), (256, 2))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] ** 2
model = eqx.nn.MLP(2, 1, width_size=32, depth=1, key=jax.random.key(1))
tx = lopt.load(NAME, num_steps=NUM_STEPS)
state = tx.init(eqx.filter(model, eqx.is_array))
losses = []
for _ in range(NUM_STEPS):
    model, state, loss = train_step(model, state, x, y)
    losses.append(loss)
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
