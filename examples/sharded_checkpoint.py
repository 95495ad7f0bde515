"""Parameters and state sharded over all devices, saved and restored halfway: `python examples/sharded_checkpoint.py`.

JAX_NUM_CPU_DEVICES=2 in front of the command makes two devices of a CPU. As in the other examples, [EXPORT] may follow.
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1 as ocp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NAME = sys.argv[1] if len(sys.argv) > 1 else "demo_mlp"
tx = lopt.load(NAME, num_steps=200)
mesh = jax.make_mesh((jax.device_count(),), ("rows",))
params = jax.device_put(jnp.zeros((64, 8)), jax.NamedSharding(mesh, jax.P("rows")))
state = tx.init(params)  # outside jit, so that it is sharded like params
target = jax.random.normal(jax.random.key(0), (64, 8))


@jax.jit
def train_step(params, state):
    loss, grads = jax.value_and_grad(lambda params: jnp.mean((params - target) ** 2))(params)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss


params, state, first = train_step(params, state)
with tempfile.TemporaryDirectory() as folder:
    for step in range(1, 200):
        params, state, last = jax.block_until_ready(train_step(params, state))  # on a CPU, several in flight may hang
        if step == 100:
            ocp.save(f"{folder}/middle", (params, state))
            params, state = ocp.load(f"{folder}/middle", (params, state))  # placed like these
print(f"first loss {first:.4f}, last loss {last:.4f}")
