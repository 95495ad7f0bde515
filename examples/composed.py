"""A learned rule for kernels with weight decay and a schedule, Adam for biases, clipping, two batches per update:
`python examples/composed.py [EXPORT]`."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
STEPS = 400
learned = lopt.scale_by_learned(NAME, num_steps=STEPS // 2)
schedule = optax.cosine_decay_schedule(1.0, STEPS // 2)  # a factor: the rule has its own step size
decayed = optax.chain(learned, optax.add_decayed_weights(1e-4), optax.scale_by_learning_rate(schedule))
rules = optax.partition({"learned": decayed, "adam": optax.adam(1e-2)}, {"kernel": "learned", "bias": "adam"})
clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.apply_if_finite(rules, max_consecutive_errors=3))
tx: Any = optax.MultiSteps(clipped, every_k_schedule=2)

x = jax.random.normal(jax.random.key(0), (2, 128, 10))
y = x @ jax.random.normal(jax.random.key(1), (10,)) + 1
params = {"kernel": jnp.zeros(10), "bias": jnp.zeros(())}
state = tx.init(params)


@jax.jit
def train_step(params, state, x, y):
    loss, grads = jax.value_and_grad(lambda p: jnp.mean((x @ p["kernel"] + p["bias"] - y) ** 2))(params)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss


losses = [0.0] * STEPS
for i in range(STEPS):
    params, state, losses[i] = train_step(params, state, x[i % 2], y[i % 2])
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
