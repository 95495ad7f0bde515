"""The MLP family: loss and gradient against numpy, initial params, and what its name says."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks import FAMILIES, parse_tasks
from tasks.images.image_mlp import ImageMLP


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def batch():
    """Images [128, 64] and labels, made up."""
    images = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.arange(128) * 7 % 10}


ACTIVATIONS = {  # value and derivative, in float64
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def loss_and_gradient(params, images, labels, activation):
    """Mean cross-entropy and its gradient in float64 numpy, by backpropagation written out."""
    value, derivative = ACTIVATIONS[activation]
    layers = [
        {name: np.asarray(leaf, np.float64) for name, leaf in params[f"layer_{i}"].items()} for i in range(len(params))
    ]
    inputs, sums, scaled, spreads = [np.asarray(images, np.float64)], [], [], []
    for i, layer in enumerate(layers):
        z = inputs[-1] @ layer["w"] + layer["b"][None, :]
        if "scale" in layer:  # layer norm
            spreads.append(np.sqrt(z.var(1, keepdims=True) + 1e-6))
            scaled.append((z - z.mean(1, keepdims=True)) / spreads[-1])
            z = scaled[-1] * layer["scale"][None, :] + layer["shift"][None, :]
        sums.append(z)
        inputs.append(value(z) if i < len(layers) - 1 else z)
    probability = np.exp(sums[-1]) / np.exp(sums[-1]).sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probability[rows, labels]).mean()
    probability[rows, labels] -= 1
    delta, gradient = probability / len(labels), {}
    for i in reversed(range(len(layers))):
        gradient[f"layer_{i}"] = {}
        if "scale" in layers[i]:
            x = scaled[i]
            gradient[f"layer_{i}"] = {"scale": (delta * x).sum(0), "shift": delta.sum(0)}
            d = delta * layers[i]["scale"][None, :]
            delta = (d - d.mean(1, keepdims=True) - x * (d * x).mean(1, keepdims=True)) / spreads[i]
        gradient[f"layer_{i}"] |= {"w": inputs[i].T @ delta, "b": delta.sum(0)}
        if i > 0:
            delta = (delta @ layers[i]["w"].T) * derivative(sums[i - 1])
    return loss, gradient


@pytest.mark.parametrize(
    ("activation", "hidden_sizes", "layer_norm"),
    [("relu", (32,), False), ("tanh", (6, 5), False), ("relu", (), False), ("tanh", (6, 5), True)],
)
def test_loss_and_gradient_agree_with_numpy(batch, activation, hidden_sizes, layer_norm):
    task = ImageMLP(activation=activation, hidden_sizes=hidden_sizes, layer_norm=layer_norm).task({})
    key = jax.random.key(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1, task.init(key))  # so that biases are not zero
    loss, gradient = jax.jit(jax.value_and_grad(task.loss))(params, key, batch)
    expected = loss_and_gradient(params, batch["image"], np.asarray(batch["label"]), activation)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6), gradient, expected[1])


def test_loss_is_exact_for_huge_logits():
    params = {"layer_0": {"w": jnp.full((64, 10), 1e6), "b": jnp.zeros(10)}}
    batch = {"image": jnp.ones((2, 64)), "label": jnp.array([0, 9])}
    linear = ImageMLP(hidden_sizes=()).task({})
    np.testing.assert_allclose(linear.loss(params, jax.random.key(0), batch), math.log(10), rtol=1e-5)


def test_accuracy_counts_the_largest_logit():
    task = ImageMLP(size=1, hidden_sizes=(), num_classes=3).task({})
    params = {"layer_0": {"w": jnp.array([[1.0, 2.0, 3.0]]), "b": jnp.zeros(3)}}
    batch = {"image": jnp.array([[1.0], [1.0], [-1.0], [-1.0]]), "label": jnp.array([2, 0, 0, 0])}
    assert task.metrics(params, jax.random.key(0), batch) == {"accuracy": 0.75}


@pytest.mark.parametrize(("activation", "init_scale"), [("relu", 1.0), ("tanh", 1.0), ("gelu", 1.0), ("relu", 0.5)])
def test_initial_params_keep_the_size_of_activations(batch, activation, init_scale):
    task = ImageMLP(hidden_sizes=(256, 256), activation=activation, init_scale=init_scale).task({})
    params = task.init(jax.random.key(0))
    assert {name: leaf["w"].shape for name, leaf in params.items()} == {
        "layer_0": (64, 256),
        "layer_1": (256, 256),
        "layer_2": (256, 10),
    }
    gain = 1 if activation == "tanh" else 2
    for i, expected in enumerate([gain / 64, gain / 256, 1 / 256]):
        variance = params[f"layer_{i}"]["w"].var()
        np.testing.assert_allclose(variance, init_scale**2 * expected, rtol=0.15)  # 2560 weights: 3% a sd
        assert not params[f"layer_{i}"]["b"].any()
    assert 0.9 < task.normalize(task.loss(params, jax.random.key(2), batch)) < 1.5


def test_layer_norm_adds_a_scale_of_one_and_a_shift_of_zero_to_hidden_layers():
    plain, normed = (
        ImageMLP(hidden_sizes=(3,), layer_norm=on).task({}).init(jax.random.key(0)) for on in (False, True)
    )
    expected = {**plain, "layer_0": {**plain["layer_0"], "scale": jnp.ones(3), "shift": jnp.zeros(3)}}
    assert jax.tree.structure(normed) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, normed, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": 32}, "hidden_sizes must be a tuple"),
        ({"hidden_sizes": [32]}, "hidden_sizes must be a tuple"),
        ({"hidden_sizes": (32, -1)}, "hidden_sizes must be a tuple"),
        ({"activation": "rely"}, "unknown activation 'rely'. Did you mean 'relu'"),
        ({"init_scale": 0}, "init_scale must be a positive number, not 0"),
        ({"layer_norm": 1}, "layer_norm must be True or False, not 1"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageMLP(**settings)


def test_names():
    assert ImageMLP().name == "image_mlp/digits"
    assert ImageMLP(dataset="mnist_5k", size=4, num_classes=7).name == "image_mlp/mnist_5k:size=4"
    # Results and checkpoints have settings in this order.
    several = ImageMLP(batch_size=7, activation="tanh", hidden_sizes=(32, 32), channels=3, size=14)
    text = "image_mlp/digits:size=14:channels=3:hidden_sizes=(32,32):activation=tanh:batch_size=7"
    assert several.name == text
    assert ImageMLP(hidden_sizes=(4, 4)).name == "image_mlp/digits:hidden_sizes=(4,4)"


@pytest.mark.parametrize(
    "text",
    [
        "image_mlp/digits",
        "image_mlp/mnist_5k:size=14:channels=3",
        "image_mlp/digits:hidden_sizes=(32,):activation=tanh:batch_size=7",
        "image_mlp/digits:hidden_sizes=(4,4),image_mlp/digits:hidden_sizes=()",
        "image_mlp:size=4",
    ],
)
def test_parsed_families_come_back_from_their_names(text):
    families = parse_tasks(text)
    assert parse_tasks(",".join(family.name for family in families)) == families


def test_parse_tasks(data_dir):
    families = parse_tasks("image_mlp:size=4, image_mlp/digits:hidden_sizes=(4,4)", data_dir=data_dir)
    assert families == (
        ImageMLP(size=4),
        ImageMLP(dataset="mnist_5k", size=4),
        ImageMLP(hidden_sizes=(4, 4)),
    )
    assert {family.data_dir for family in families if isinstance(family, ImageMLP)} == {data_dir}
    assert FAMILIES["image_mlp"].datasets == ("digits", "mnist_5k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no task is named"),
        (" , ", "no task is named"),
        ("image_mpl", "unknown task family 'image_mpl'. Did you mean 'image_mlp'"),
        ("image_mlp/digit", "unknown data set 'digit'. Did you mean 'digits'"),
        ("image_mlp/", "unknown data set ''"),
        ("image_mlp:sise=4", "unknown setting of task family 'image_mlp': 'sise'. Did you mean 'size'"),
        ("image_mlp:num_classes=4", "unknown setting"),
        ("image_mlp:data_dir=x", "unknown setting"),
        ("image_mlp:size", "cannot read 'size'"),
        ("image_mlp:size=big", "size must be a whole number"),
        ("image_mlp,image_mlp/digits", "named more than once: image_mlp/digits"),
        ("image_mlp/digits:size=8,image_mlp/digits", "named more than once: image_mlp/digits"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(InputError, match=message):
        parse_tasks(text)
