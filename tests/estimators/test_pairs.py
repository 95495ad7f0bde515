"""The mean over pairs and what is logged of it, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from lopt.estimators import pairs

GRADS = np.asarray([[1.0, -2.0], [3.0, 0.5], [np.nan, 7.0], [-1.0, 4.0], [0.5, 0.25]], np.float32)
LOSSES = np.asarray([[1.0, 3.0], [2.0, 5.0], [1.0, 1.0], [np.inf, 0.0], [4.0, 4.5]], np.float32)
USED = [0, 1, 4]  # the others have a gradient or a loss that is not finite
CAPPED, STARTED, POSITION = [0.0, 0.5, 0.25, 1.0, 0.0], [True, False, False, True, False], [0, 4, 2, 0, 10]


FINAL, ENDED = 7 * LOSSES, [True, False, True, False, True]
MIDDLE, STEPS = [0.1, 0.9, 0.5, 0.5, 0.7], [5, 5, 5, 5, 7]


def answer(rows, *, final_loss=False, whole=False):
    terms = [
        pairs.pair_terms(
            jnp.asarray(GRADS[i]), jnp.asarray(LOSSES[i]), capped=jnp.asarray(CAPPED[i], jnp.float32),
            started=jnp.asarray(STARTED[i]), position=jnp.asarray(POSITION[i]),
            final=jnp.asarray(FINAL[i]), ended=jnp.asarray(ENDED[i]), steps=STEPS[i],
            middle=None if whole else jnp.asarray(MIDDLE[i], jnp.float32),
        )
        for i in rows
    ]  # fmt: skip
    sums = jax.tree.map(lambda *x: jnp.stack(x).sum(0), *terms)
    return pairs.mean_over_pairs(sums, len(rows), {"a": jnp.zeros(()), "b": jnp.zeros(1)}, final_loss=final_loss)


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
        "inner_steps": 2 * sum(STEPS),
        "meta_loss_first_third": LOSSES[0].mean(),
        "meta_loss_middle_third": np.nan,  # of a pair that is left out alone
        "meta_loss_last_third": LOSSES[[1, 4]].mean(),
    }
    assert mean.info.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(mean.info[name], value, rtol=1e-5, err_msg=name)


def test_whole_trajectories_and_final_losses_have_no_thirds():
    for other in (answer(range(5), whole=True), answer(range(5), final_loss=True)):
        assert not any("third" in name for name in other.info)


def test_one_pair_has_no_spread_and_none_no_loss():
    alone, none = answer([1]), answer([2, 3])
    assert alone.info["grad_variance"] == 0
    assert np.isnan(np.r_[none.grad["a"], none.grad["b"]]).all()  # zero would let momentum move theta
    assert np.isnan(none.loss)
    assert none.info["left_out"] == 1


def test_a_final_loss_is_the_mean_over_the_trajectories_that_ended():
    """The pairs 0, 1 and 4 are used, and the first and the last of them have ended."""
    mean = answer(range(5), final_loss=True)
    np.testing.assert_allclose(mean.loss, FINAL[[0, 4]].mean(), rtol=1e-6)
    assert np.isnan(answer([1, 3], final_loss=True).loss)
