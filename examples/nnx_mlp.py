"""Trains a Flax NNX network with a learned optimizer: `python examples/nnx_mlp.py [EXPORT]`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
NUM_STEPS = 200


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden, self.out = nnx.Linear(2, 32, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))[:, 0]


@nnx.jit
def train_step(model: MLP, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, grads, value=loss)
    return loss


x = jax.random.normal(jax.random.key(0), (256, 2))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] ** 2
model = MLP(nnx.Rngs(0))
tx = lopt.load(NAME, num_steps=NUM_STEPS)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
losses = [train_step(model, optimizer, x, y) for _ in range(NUM_STEPS)]
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
