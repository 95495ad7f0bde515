"""The Henon map and its moments; a recurrent net that reads numbers; the log-bilinear model: all against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from tasks.sequences.forecast import SETTLING, Forecast, henon
from tasks.sequences.text_bilinear import Bilinear

KEY = jax.random.key(0)


def test_series_follow_the_map_and_stay_bounded():
    a, length = 1.4, 6
    starts = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 300)).astype(np.float32)
    x = [*starts.astype(np.float64)]
    for _ in range(SETTLING + length):
        x.append(1 - a * x[-1] ** 2 + 0.3 * x[-2])
    series = np.asarray(henon(jnp.asarray(a), jnp.asarray(starts), length))
    assert series.shape == (300, length)
    assert np.abs(np.array(x)).max() < 1.5
    # Chaos doubles a rounding error every 1.7 steps, so only the recurrence itself is compared beyond the first steps.
    np.testing.assert_allclose(series[:, 2:], 1 - a * series[:, 1:-1] ** 2 + 0.3 * series[:, :-2], atol=1e-5)
    np.testing.assert_allclose(np.std(series), np.std(np.array(x)[-length:]), rtol=0.1)


def test_batches_are_standardised_and_have_their_noise():
    family = Forecast(batch_size=2000, noise=0.5)
    config = family.sample(KEY)
    clean = Forecast(batch_size=2000, noise=0).sample_batch({}, KEY, config, "train")["series"]
    noisy = family.sample_batch({}, KEY, config, "train")["series"]
    assert noisy.shape == (2000, 9)
    # The moments are of one series of 512 numbers, some of them alike.
    np.testing.assert_allclose([clean.mean(), clean.std()], [0, 1], atol=0.1)
    np.testing.assert_allclose([(noisy - clean).mean(), (noisy - clean).std()], [0, 0.5], atol=0.02)
    np.testing.assert_allclose(family.task(config).normalize(jnp.asarray(1.25)), 1)


def test_the_forecast_of_a_gru_that_reads_numbers():
    family = Forecast(width=3, length=4, batch_size=2)
    config = family.sample(KEY)
    task = family.task(config)
    params = jax.tree.map(lambda p: p + 0.2, task.init(KEY))
    batch = family.sample_batch({}, KEY, config, "train")
    y = np.asarray(batch["series"], np.float64)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    s = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    h, errors = np.zeros((2, 3)), []
    for t in range(4):
        x = y[:, t : t + 1] @ p["input"]["kernel"] + p["input"]["bias"]
        (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, 1), np.split(h @ p["recurrent"]["kernel"], 3, 1)
        z = s(xz + hz)
        h = z * h + (1 - z) * np.tanh(xn + s(xr + hr) * hn)
        errors.append((h @ p["output"]["kernel"] + p["output"]["bias"])[:, 0] - y[:, t + 1])
    np.testing.assert_allclose(task.loss(params, KEY, batch), np.mean(np.square(errors)), rtol=1e-5)


def test_bilinear_logits_look_back_at_the_context_alone():
    module = Bilinear(num_symbols=5, rank=3, context=2)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (2, 4))
    E, c, W, b = (rng.normal(size=shape) for shape in ((5, 3), (2, 3), (3, 5), (5,)))
    params = {"embed": {"embedding": E}, "scale": c, "readout": {"kernel": W, "bias": b}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    found = module.apply({"params": params}, jnp.asarray(tokens))
    for i in range(2):
        for t in range(4):
            context = c[0] * E[tokens[i, t]] + (c[1] * E[tokens[i, t - 1]] if t else 0)
            np.testing.assert_allclose(np.asarray(found)[i, t], context @ W + b, rtol=1e-4, atol=1e-5)
