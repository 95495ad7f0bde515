"""What every learned optimizer keeps, on one tree with tensors of all ranks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.own.foreign import check_members
from lopt.testing.broken import all_finite, check_value, require, runs
from lopt.trained.export import check_exportable
from lopt.trained.transform import as_optax
from lopt.types import LearnedOptimizer, PyTree

SHAPES = {
    "scalar": (),
    "vector": (5,),
    "one": (1, 1),
    "matrix": (3, 4),
    "cube": (2, 3, 2),
    "kernel": (2, 2, 1, 3),
    "empty": (0, 2),
}
INPUTS = frozenset({"value", "params", "num_steps"})
NOT_FINITE = (jnp.inf, -jnp.inf, jnp.nan)


def check_optimizer(rule: LearnedOptimizer, *, sees_all_tensors: bool = False) -> None:
    """Checks all that meta-training, evaluation and `lopt.load` take for granted of a rule; takes some seconds.

    Args:
      rule: the rule; a small one is checked as well as a large one, and faster.
      sees_all_tensors: whether the update of a tensor depends on the others, as it may.

    Raises:
      InputError: it is no rule.
      Broken: a rule of rules is broken.
    """
    trials = RuleTrials(rule)
    trials.check_value()
    trials.check_requires()
    trials.check_types()
    trials.check_x64()
    trials.check_vmap(sees_all_tensors=sees_all_tensors)
    for bad in (0.0, *NOT_FINITE):
        trials.check_finite(bad)
    trials.check_no_params()
    trials.check_donation()


@functools.partial(jax.jit, static_argnums=0)
def run(rule: LearnedOptimizer, theta: PyTree, params: PyTree, values: jax.Array) -> tuple[PyTree, PyTree]:
    """One update per loss, on gradients that depend on the step, with fixed params; the last updates and the state."""

    def update(state: PyTree, inputs: Any) -> tuple[PyTree, PyTree]:
        step, value = inputs
        grads = jax.tree.map(lambda p: p * (0.5 + step), params)
        updates, state = rule.update(theta, grads, state, params, value=value)
        return state, updates

    state = rule.init(theta, params, num_steps=jnp.asarray(10))
    state, updates = jax.lax.scan(update, state, (jnp.arange(len(values)), values))
    return jax.tree.map(lambda x: x[-1], updates), state


LOSSES = np.ones(5, np.float32)


def make_params(*without: str) -> dict[str, np.ndarray]:
    """A tensor of every rank, but for the named ones."""
    generator = np.random.default_rng(0)
    shapes = {name: shape for name, shape in SHAPES.items() if name not in without}
    return {name: np.asarray(generator.normal(size=shape), np.float32) for name, shape in shapes.items()}


@dataclasses.dataclass(frozen=True)
class RuleTrials:
    """The checks of one rule, which share what they have run."""

    rule: LearnedOptimizer

    @functools.cached_property
    def thetas(self) -> PyTree:
        """Two thetas, along the first axis."""
        keys = jax.random.split(jax.random.key(1), 2)
        with runs("init_theta can be traced and vmapped", "write it with jax.numpy alone"):
            return jax.tree.map(np.asarray, jax.jit(jax.vmap(self.rule.init_theta))(keys))

    def theta(self, i: int) -> PyTree:
        """One of the two thetas."""
        return jax.tree.map(lambda x: x[i], self.thetas)

    def check_value(self) -> None:
        """It has all that a rule has, is hashable, and can be exported: plain settings, theta of float32."""
        check_members("optimizer", self.rule, repr(self.rule)[:200])
        check_value(self.rule)
        with runs("a rule can be exported", "make it a frozen dataclass of plain settings, with a theta of float32"):
            check_exportable(self.rule)

    def check_requires(self) -> None:
        """`requires` names only inputs that exist; `check_types` withholds the others."""
        wanted = self.rule.requires
        require(wanted <= INPUTS, f"requires is a frozenset out of {sorted(INPUTS)}", wanted, "name no others")

    def check_types(self) -> None:
        """Updates have the params' shapes, bfloat16 is kept outside, and the state keeps its structure and types."""
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), make_params())
        tx = as_optax(self.rule, self.theta(0), num_steps=10)
        call = lambda grads, state, p: tx.update(grads, state, p, value=jnp.ones((), jnp.bfloat16))  # noqa: E731
        with runs("init and update take tensors of every rank, with 0 elements too", "handle (), (1, 1) and (0, 2)"):
            start = jax.eval_shape(tx.init, params)
            updates, state = jax.eval_shape(call, params, start, params)
        found = {name: u.shape for name, u in updates.items()}
        require(found == SHAPES, "updates have the shapes of params", found, "keep each tensor's shape")
        rule = "the state has the same structure, shapes and types after every update, so that all steps share a trace"
        before, after = ((jax.tree.structure(x), list(map(str, jax.tree.leaves(x)))) for x in (start, state))
        require(before == after, rule, f"{start}\n  then: {state}", "cast in init what update returns")
        kinds = sorted({str(x.dtype) for x in jax.tree.leaves(state)} - {"float32", "int32"})
        require(not kinds, "states are float32 and int32", kinds, "cast in init and update")

    def check_x64(self) -> None:
        """Types are float32 and int32 where `jax_enable_x64` is on, so it may be set at any time."""
        params, rule = make_params("scalar", "one", "cube", "kernel", "empty"), self.rule
        with jax.enable_x64(True), runs("a rule can be traced under jax_enable_x64", "name the dtypes"):
            theta = jax.eval_shape(rule.init_theta, jax.random.key(1))
            state = jax.eval_shape(lambda theta, p: rule.init(theta, p, num_steps=10), theta, params)
            call = lambda theta, g, state, p: rule.update(theta, g, state, p, value=jnp.asarray(1.5))  # noqa: E731
            updates, new_state = jax.eval_shape(call, theta, params, state, params)
        kinds = {str(x.dtype) for x in jax.tree.leaves((theta, updates))}
        require(kinds == {"float32"}, "theta and updates are float32 under x64 too", kinds, "name the dtypes")
        kinds = {str(x.dtype) for x in jax.tree.leaves((state, new_state))} - {"float32", "int32"}
        require(not kinds, "states are float32 and int32 under x64 too", kinds, "write jnp.zeros((), jnp.int32)")

    def check_vmap(self, *, sees_all_tensors: bool) -> None:
        """Under vmap over theta, one tensor alone (or all, in another order, where they see each other) is the same."""
        params = make_params("cube", "matrix")
        names = sorted(params, reverse=True) if sees_all_tensors else ("kernel",)  # trees are in sorted order
        renamed = {f"{i}": key for i, key in enumerate(names)}
        some = {new: params[old] for new, old in renamed.items()}
        with runs("update can be scanned, and vmapped over theta", "write init and update with jax.numpy alone"):
            together, _ = jax.vmap(lambda theta: run(self.rule, theta, some, LOSSES))(self.thetas)
        what = "do not depend on the names and the order of tensors" if sees_all_tensors else "of a tensor are its own"
        for i in range(2):
            alone, _ = run(self.rule, self.theta(i), params, LOSSES)
            for new, old in renamed.items():
                close = np.allclose(together[new][i], alone[old], rtol=2e-4, atol=1e-6 * np.abs(alone["kernel"]).max())
                remedy = "map over tensors; or, if they are meant to see each other, say sees_all_tensors=True"
                require(close, f"updates {what}, vmapped or not", (together[new][i], alone[old]), remedy)

    def check_finite(self, bad: float) -> None:
        """Updates and state stay finite with gradients of zero (`bad` 0), and with losses that are `bad`."""
        params = make_params("cube", "matrix")
        if not bad:
            found = run(self.rule, self.theta(0), jax.tree.map(np.zeros_like, params), LOSSES)
            rule, remedy = "gradients of zero give finite updates", "add an epsilon where gradients are divided by"
        elif "value" in self.rule.requires:
            found = run(self.rule, self.theta(0), params, np.asarray([bad, 1.0, 3e38, bad, 0.5], np.float32))
            rule, remedy = (
                f"a loss of {bad} gives finite updates",
                "clip the loss, or leave it out where it is not finite",
            )
        else:
            return
        require(all_finite(found), rule, found, remedy)

    def check_no_params(self) -> None:
        """A tree without params has no updates."""

        def update(theta: PyTree) -> PyTree:
            state = self.rule.init(theta, {}, num_steps=10)
            return self.rule.update(theta, {}, state, {}, value=jnp.ones(()))[0]

        rule = "no params, no updates"
        with runs(rule, "take no maximum over tensors without a start"):
            found = jax.eval_shape(update, self.theta(0))
        require(found == {}, rule, found, "return a tree like that of the gradients")

    def check_donation(self) -> None:
        """A state that is made outside of jit can be donated: no array is in it twice, nor is one of the params."""
        params = jax.tree.map(jnp.asarray, make_params())
        state = self.rule.init(jax.tree.map(jnp.asarray, self.theta(0)), params, num_steps=10)
        leaves = [leaf for leaf in jax.tree.leaves((state, params)) if isinstance(leaf, jax.Array)]
        distinct = len({id(leaf) for leaf in leaves})
        require(
            distinct == len(leaves),
            "each array of a fresh state is an array of its own, so that a jitted step can take the state over",
            f"{len(leaves) - distinct} of {len(leaves)} arrays of state and params are there twice",
            "make an array for each field, also where they begin alike",
        )
