"""Trains a Flax Linen network in a TrainState with a learned rule: `python examples/linen_train_state.py [EXPORT]`."""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
NUM_STEPS = 200


@jax.jit
def train_step(state: TrainState, x: jax.Array, y: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss_fn(params):
        return jnp.mean((state.apply_fn({"params": params}, x)[:, 0] - y) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    # Not state.apply_gradients(grads=grads): it does not pass on the loss, which learned rules may read.
    # tx may be an optax.MultiSteps, or a chain with a learned rule in it, too.
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, value=loss)  # type: ignore[call-arg]
    new = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=new, opt_state=opt_state), loss


x = jax.random.normal(jax.random.key(0), (256, 2))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] ** 2
model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(1)])
tx = lopt.load(NAME, num_steps=NUM_STEPS)
state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(1), x)["params"], tx=tx)
losses = [0.0] * NUM_STEPS
for step in range(NUM_STEPS):
    state, losses[step] = train_step(state, x, y)
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
