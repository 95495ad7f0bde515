"""The mean over pairs and what is logged of it, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from lopt.estimators import pairs

GRADS = np.asarray([[1.0, -2.0], [3.0, 0.5], [np.nan, 7.0], [-1.0, 4.0], [0.5, 0.25]], np.float32)
LOSSES = np.asarray([[1.0, 3.0], [2.0, 5.0], [1.0, 1.0], [np.inf, 0.0], [4.0, 4.5]], np.float32)
USED = [0, 1, 4]  # the others have a gradient or a loss that is not finite
CAPPED, STARTED, POSITION = [0.0, 0.5, 0.25, 1.0, 0.0], [True, False, False, True, False], [0, 4, 2, 0, 10]


def answer(rows):
    terms = [
        pairs.pair_terms(
            jnp.asarray(GRADS[i]), jnp.asarray(LOSSES[i]), capped=jnp.asarray(CAPPED[i], jnp.float32),
            started=jnp.asarray(STARTED[i]), position=jnp.asarray(POSITION[i]),
        )
        for i in rows
    ]  # fmt: skip
    sums = jax.tree.map(lambda *x: jnp.stack(x).sum(0), *terms)
    return pairs.mean_over_pairs(sums, len(rows), {"a": jnp.zeros(()), "b": jnp.zeros(1)})


def test_a_few_pairs_by_hand():
    mean = answer(range(5))
    grads = GRADS[USED].astype(float)
    np.testing.assert_allclose(np.r_[mean.grad["a"], mean.grad["b"]], grads.mean(0), rtol=1e-6)
    np.testing.assert_allclose(mean.loss, LOSSES[USED].mean(), rtol=1e-6)
    expected = {
        "grad_norm": np.linalg.norm(grads.mean(0)),
        "grad_variance": grads.var(0, ddof=1).sum() / len(USED),  # of the mean, without bias
        "capped": np.mean(CAPPED),
        "started": np.mean(STARTED),
        "left_out": 2 / 5,
        "position": np.mean(POSITION),
        "position_std": np.std(POSITION),
    }
    assert mean.info.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(mean.info[name], value, rtol=1e-5, err_msg=name)


def test_one_pair_has_no_spread_and_none_no_loss():
    alone, none = answer([1]), answer([2, 3])
    assert alone.info["grad_variance"] == 0
    np.testing.assert_array_equal(np.r_[none.grad["a"], none.grad["b"]], 0)
    assert np.isnan(none.loss)
    assert none.info["left_out"] == 1
