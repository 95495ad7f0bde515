"""Swimmer: the equations of motion against conservation laws and a second derivation, and the short run's finding."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import swimmer
from experiments.swimmer import LENGTH, MASS, RODS, acceleration, centres, mass_matrix, problem

Q = jnp.asarray([0.3, -0.2, 0.4, 1.1, 0.2])
V = jnp.asarray([0.5, 0.1, -0.7, 1.3, 0.4])


@pytest.mark.usefixtures("x64")
def test_acceleration_is_that_of_lagrange(monkeypatch):
    """Without drag, d/dt dL/dv - dL/dq = 0 for L = v M(q) v / 2, differentiated by JAX as it stands."""
    monkeypatch.setattr(swimmer, "DRAG", 0.0)
    q, v = Q.astype(float), V.astype(float)

    def energy(q, v):
        return v @ mass_matrix(q) @ v / 2

    @jax.jit
    def both(q, v):
        _, change_with_q = jax.jvp(lambda q: jax.grad(energy, 1)(q, v), (q,), (v,))
        expected = jnp.linalg.solve(mass_matrix(q), jax.grad(energy)(q, v) - change_with_q)
        return acceleration(q, v, jnp.zeros(2)), expected

    np.testing.assert_allclose(*both(q, v), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_torques_of_joints_move_no_centre_of_mass(monkeypatch):
    monkeypatch.setattr(swimmer, "DRAG", 0.0)
    q, v, torque = Q.astype(float), V.astype(float), jnp.asarray([2.0, -3.0])

    def pushed(torque):
        a = acceleration(q, v, torque)
        jacobian, change = jax.jvp(jax.jacfwd(centres), (q,), (v,))
        return (jacobian @ a + change @ v).mean(0)  # the centre of mass

    np.testing.assert_allclose(pushed(torque), 0, atol=1e-10)
    # Nor the angular momentum: sum of r x m a and of the rods' own spins.
    a = acceleration(q, v, torque)
    jacobian, change = jax.jvp(jax.jacfwd(centres), (q,), (v,))
    linear, places = jacobian @ a + change @ v, centres(q)
    spin = MASS * jnp.sum(places[:, 0] * linear[:, 1] - places[:, 1] * linear[:, 0])
    np.testing.assert_allclose(spin + MASS * LENGTH**2 / 12 * a[2:].sum(), 0, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_drag_takes_energy_and_a_straight_swimmer_glides():
    q, v = Q.astype(float), V.astype(float)
    power = v @ mass_matrix(q) @ (acceleration(q, v, jnp.zeros(2)) - _without_drag(q, v))
    assert power < 0
    straight, ahead = jnp.zeros(5), jnp.asarray([1.0, 0, 0, 0, 0])
    np.testing.assert_allclose(acceleration(straight, ahead, jnp.zeros(2)), 0, atol=1e-12)
    sideways = acceleration(straight, jnp.asarray([0, 1.0, 0, 0, 0]), jnp.zeros(2))
    np.testing.assert_allclose(sideways[1], -swimmer.DRAG * LENGTH / MASS, rtol=1e-10)


def _without_drag(q, v):
    drag, swimmer.DRAG = swimmer.DRAG, 0.0
    try:
        return acceleration(q, v, jnp.zeros(2))
    finally:
        swimmer.DRAG = drag


def test_nothing_done_goes_nowhere():
    swims = problem()
    state = swims.init(jnp.zeros((2, 8)), jax.random.key(0), jnp.asarray(10))
    assert jnp.abs(state[0][2:]).max() > 0.01
    assert state[0].shape == state[1].shape == (2 + RODS,)
    _, loss = swims.step(jnp.zeros((2, 8)), state, jax.random.key(0))
    assert float(loss) == 0.0


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert swimmer.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers["methods"]) == {"nres, K = 10", "truncated_es, K = 10"}
