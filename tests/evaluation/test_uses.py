"""Ways to use an optimizer against the wrappers of optax, and what a learned rule is told."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.uses import DECAY, MAX_NORM, MINI_BATCHES, USES, Use, Used

STEPS, RATE = 12, 0.1
ROUNDED = optax.stateless(lambda updates, params: jax.tree.map(lambda x: x.astype("bfloat16").astype(x.dtype), updates))
SHORT, LONG = (optax.cosine_decay_schedule(RATE, steps) for steps in (STEPS // 2, 2 * STEPS))
COSINE = optax.cosine_decay_schedule(RATE, STEPS)
# Adam with a cosine schedule, used in each way, as anybody would write it.
PLAIN = {
    "as is": optax.adam(COSINE),
    "bfloat16": optax.chain(ROUNDED, optax.adam(COSINE)),
    "half num_steps": optax.adam(SHORT),
    "double num_steps": optax.adam(LONG),
    "loss withheld": optax.adam(COSINE),
    "gradient clipping": optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(COSINE)),
    "weight decay": optax.chain(optax.adam(COSINE), optax.add_decayed_weights(-DECAY)),
    "4 mini-batches": optax.MultiSteps(
        optax.adam(optax.cosine_decay_schedule(RATE, STEPS // MINI_BATCHES)), MINI_BATCHES
    ),
}


def descend(transformation):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)

    def loss(params):
        return 10 * jnp.mean((params["w"] - target) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transformation.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones((3, 4))}
    state = transformation.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params["w"]


@pytest.mark.parametrize("name", USES)
def test_uses_are_the_wrappers_of_optax(name):
    assert PLAIN.keys() == USES.keys()
    rule = Used(BASELINES["adam_cosine"], USES[name])
    found = descend(rule.transformation(jnp.float32(RATE), jnp.int32(STEPS)))
    plain = PLAIN[name]
    plain = plain if isinstance(plain, optax.MultiSteps) else optax.with_extra_args_support(plain)
    np.testing.assert_allclose(found, descend(plain), rtol=1e-5, atol=1e-6)
    as_is = descend(optax.with_extra_args_support(PLAIN["as is"]))
    assert np.allclose(found, as_is, atol=1e-6) == (name in ("as is", "loss withheld"))


@dataclasses.dataclass(frozen=True)
class Told:
    """A rule whose update is what it was told: the loss, and the length of the training."""

    def transformation(self, hyper, num_steps):
        def update(updates, state, params=None, **extra):
            del params
            return jax.tree.map(lambda x: jnp.zeros_like(x) + extra["value"] + 1000.0 * num_steps, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    def eval_params(self, state, params):
        return params

    def describe(self):
        return "told"


@pytest.mark.parametrize(
    ("name", "value", "steps"),
    [("as is", 2.5, 12), ("half num_steps", 2.5, 6), ("double num_steps", 2.5, 24), ("loss withheld", 1, 12)],
)
def test_what_a_rule_is_told(name, value, steps):
    transformation = Used(Told(), USES[name]).transformation(0.0, jnp.int32(STEPS))
    updates, _ = transformation.update({"w": jnp.ones(())}, (), {"w": jnp.ones(())}, value=jnp.float32(2.5))
    assert float(jax.tree.leaves(updates)[0]) == value + 1000 * steps


def test_the_average_of_a_rule_is_found_within_an_accumulation():
    rule = BASELINES["schedule_free_adamw"]
    for use in (Use(), Use(accumulate=2)):
        used, params = Used(rule, use), {"w": jnp.ones(3)}
        transformation = used.transformation(jnp.float32(RATE), jnp.int32(STEPS))
        state = transformation.init(params)
        np.testing.assert_allclose(used.eval_params(state, params)["w"], params["w"], rtol=1e-6)


def test_uses_are_told_apart():
    rules = [Used(BASELINES["adam"], use) for use in USES.values()]
    assert len({rule.describe() for rule in rules}) == len({*rules}) == len(USES)
