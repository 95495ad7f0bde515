"""SOAP against its paper's equations in numpy float64, and against Adam where the eigenbasis is the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.evaluation.soap import scale_by_soap, soap

STEPS, FREQUENCY = 9, 3
RNG = np.random.default_rng(0)
# No axis is longer than the others together: otherwise G G' is singular, and its eigenvectors are not unique.
GRADIENTS = [
    {
        "w": RNG.normal(size=(4, 4)) @ np.diag([3.0, 1.0, 0.5, 0.2]),
        "b": RNG.normal(size=4),
        "k": RNG.normal(size=(2, 3, 4)),
    }
    for _ in range(STEPS)
]


def directions(transformation, gradients, dtype):
    state = transformation.init(jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), gradients[0]))
    update, found = jax.jit(transformation.update), []
    for gradient in gradients:
        direction, state = update(jax.tree.map(lambda x: jnp.asarray(x, dtype), gradient), state)
        found.append(direction)
    return found


def along(x, matrix, axis):
    """matrix' x along an axis."""
    return np.moveaxis(np.einsum("ij,i...->j...", matrix, np.moveaxis(x, axis, 0)), 0, axis)


def by_hand(gradients, b1=0.95, b2=0.95, eps=1e-8):
    """One tensor, step by step, as the paper has it. Signs of eigenvectors cancel."""
    axes = range(gradients[0].ndim)
    m, v = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    grams = [np.zeros((n, n)) for n in m.shape]
    found, bases = [np.zeros_like(m)], []
    for t, g in enumerate(gradients):
        rows = [np.moveaxis(g, i, 0).reshape(g.shape[i], -1) for i in axes]
        if t > 0:
            rotated, m = g, b1 * m + (1 - b1) * g
            direction = m / (1 - b1**t)
            for i in axes:
                rotated, direction = along(rotated, bases[i], i), along(direction, bases[i], i)
            v = b2 * v + (1 - b2) * rotated**2
            direction = direction / (np.sqrt(v / (1 - b2**t)) + eps)
            for i in axes:
                direction = along(direction, bases[i].T, i)
            found.append(direction)
        grams = [b2 * gram + (1 - b2) * x @ x.T for gram, x in zip(grams, rows, strict=True)]
        if t == 0:
            bases = [np.linalg.eigh(gram)[1] for gram in grams]
        elif t % FREQUENCY == 0:
            bases = [np.linalg.qr(gram @ basis)[0] for gram, basis in zip(grams, bases, strict=True)]
    return found


@pytest.mark.parametrize("name", ["w", "k"])
def test_directions_are_those_of_the_equations(name, x64):
    found = directions(scale_by_soap(frequency=FREQUENCY), GRADIENTS, jnp.float64)
    for ours, wanted in zip(found, by_hand([g[name] for g in GRADIENTS]), strict=True):
        np.testing.assert_allclose(ours[name], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["no basis", "diagonal", "vector"])
def test_in_the_basis_of_the_parameters_it_is_adam(case, x64):
    """Without bases; with gradients whose G G' and G' G are diagonal; and for vectors. Adam sees all but the first."""
    gradients, settings = GRADIENTS, {"max_size": 1} if case == "no basis" else {}
    if case == "diagonal":
        gradients = [{"w": np.diag(g["b"])} for g in GRADIENTS]
    if case == "vector":
        gradients = [{"b": g["b"]} for g in GRADIENTS]
    ours = directions(scale_by_soap(frequency=FREQUENCY, **settings), gradients, jnp.float64)
    adam = directions(optax.scale_by_adam(0.95, 0.95), gradients[1:], jnp.float64)
    assert not any(np.any(x) for x in jax.tree.leaves(ours[0]))
    for mine, other in zip(ours[1:], adam, strict=True):
        for one, two in zip(*map(jax.tree.leaves, (mine, other)), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


def test_rotating_the_problem_rotates_the_steps(x64):
    """Where G becomes U G W, a step N becomes U N W. Adam has no such symmetry."""
    u, w = (np.linalg.qr(RNG.normal(size=(n, n)))[0] for n in (4, 4))
    plain = [{"w": g["w"]} for g in GRADIENTS]
    turned = [{"w": u @ g["w"] @ w} for g in GRADIENTS]
    for rule, same in ((scale_by_soap(frequency=FREQUENCY), True), (optax.scale_by_adam(0.95, 0.95), False)):
        one, two = (directions(rule, x, jnp.float64)[-1]["w"] for x in (plain, turned))
        assert np.allclose(u @ one @ w, two, atol=1e-6) == same


def test_decay_is_decoupled():
    rule = soap(0.1, weight_decay=0.5)
    params = {"w": jnp.ones((2, 2))}
    updates, _ = rule.update({"w": jnp.ones((2, 2))}, rule.init(params), params)
    np.testing.assert_allclose(jax.tree.leaves(updates), np.full((1, 2, 2), -0.05), rtol=1e-6)
