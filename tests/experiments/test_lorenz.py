"""Lorenz: loss and exact gradient at the start, the truth as the optimum, and the weaker finding of a short run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lorenz
from experiments.lorenz import START, STEPS, THETA, TIME_STEP, A, B, R, mean_loss


def trajectory(a: float, r: float) -> np.ndarray:
    """z after each step, by numpy."""
    x, y, z = START
    heights = []
    for _ in range(STEPS):
        change = (a * (y - x), x * (r - z) - y, x * y - B * z)
        x, y, z = x + TIME_STEP * change[0], y + TIME_STEP * change[1], z + TIME_STEP * change[2]
        heights.append(z)
    return np.asarray(heights)


@pytest.mark.usefixtures("x64")
def test_loss_and_exact_gradient_at_the_start():
    theta = jnp.asarray(THETA)
    assert float(mean_loss(theta)) == pytest.approx(353.6, abs=1)
    expected = np.mean((trajectory(*np.exp(THETA)) - trajectory(A, R)) ** 2)
    np.testing.assert_allclose(mean_loss(theta), expected, atol=0.1)  # chaos amplifies the last digit
    np.testing.assert_allclose(jax.grad(mean_loss)(theta), [3.4e4, -1e6], rtol=0.05)


@pytest.mark.usefixtures("x64")
def test_no_loss_at_the_truth():
    # Chaos amplifies what rounding leaves of exp(log(a)).
    assert float(mean_loss(jnp.log(jnp.asarray([A, R])))) < 1e-12


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert lorenz.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    rows = {
        label: {row["what"]: row["reached"] for row in method["findings"]}
        for label, method in numbers["methods"].items()
    }
    assert rows["pes"]["spread, ln a"] > 2 * rows["nres"]["spread, ln a"]
    assert rows["pes"]["spread, ln r"] > rows["nres"]["spread, ln r"]
    assert max(rows[label]["loss, last 20"] for label in rows) < 250
