"""The MLP family: batches, loss and gradient against numpy, what its name says, and that nothing is traced twice."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import FAMILIES, image_mlp, parse_tasks
from tasks.image_mlp import ImageMLP


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def family(data_dir):
    return ImageMLP(data_dir=data_dir)


@pytest.fixture(scope="module")
def data(family):
    return family.load()


@pytest.fixture
def made_up(monkeypatch):
    """Stands in for the data sets: a function that sets the images [n, h, w, c] of every split."""

    def use(images):
        arrays = {"image": images, "label": np.arange(len(images), dtype=np.int32) % 10}
        info = image_mlp.datasets.DatasetInfo("digits", 10, images.shape[1:], dict.fromkeys(SPLITS, len(images)))
        monkeypatch.setattr(image_mlp.datasets, "describe", lambda name, data_dir: info)
        monkeypatch.setattr(image_mlp.datasets, "load_images", lambda name, data_dir: dict.fromkeys(SPLITS, arrays))

    return use


def test_load_has_all_splits_and_the_train_splits_moments(data):
    assert {split: data[split]["image"].shape for split in SPLITS} == {
        "train": (1000, 64),
        "meta": (297, 64),
        "valid": (250, 64),
        "test": (250, 64),
    }
    assert {(data[s]["image"].dtype.name, data[s]["label"].dtype.name) for s in SPLITS} == {("uint8", "int32")}
    np.testing.assert_allclose(data["mean"], [data["train"]["image"].astype(float).mean()], rtol=1e-6)
    np.testing.assert_allclose(data["std"], [data["train"]["image"].astype(float).std()], rtol=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_batches_are_standardised_images_of_their_split(family, data, split):
    batch = family.sample_batch(data, jax.random.key(3), {}, split)
    assert (batch["image"].shape, batch["image"].dtype) == ((128, 64), jnp.float32)
    pixels = np.rint(np.asarray(batch["image"]) * data["std"] + data["mean"]).astype(np.uint8)
    known = {(i.tobytes(), int(y)) for i, y in zip(data[split]["image"], data[split]["label"], strict=True)}
    drawn = [(i.tobytes(), int(y)) for i, y in zip(pixels, np.asarray(batch["label"]), strict=True)]
    assert set(drawn) <= known
    assert len(set(drawn)) > 80  # with replacement from 250: 100 different ones expected


def test_batches_depend_on_the_key_alone(family, data):
    draw = jax.jit(lambda data, key: family.sample_batch(data, key, {}, "train"))
    first, again, other = (draw(data, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["label"], other["label"])


def test_every_image_is_drawn_equally_often(made_up):
    made_up(np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1))
    family = ImageMLP(size=1, batch_size=70_000)
    labels = family.sample_batch(family.load(), jax.random.key(0), {}, "test")["label"]
    # 10000 each, with a standard deviation of 93.
    np.testing.assert_allclose(np.bincount(labels), [10_000] * 7, atol=4 * 93)


@pytest.mark.parametrize(("shape", "size"), [((28, 28), 8), ((8, 8), 5), ((8, 8), 12), ((6, 9), 4)])
def test_resizing_agrees_with_jax(shape, size):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 1), np.uint8)
    ours = image_mlp.resize_images(images, size, 1).astype(float)
    jaxs = jax.image.resize(images.astype(np.float32), (3, size, size, 1), "linear", antialias=True)
    np.testing.assert_allclose(ours, jaxs, atol=0.501)  # ours is rounded


def test_resizing_by_hand():
    # Half the size: each new pixel weighs 4 old ones 1, 3, 3, 1 along an axis; at the border 3, 3, 1 remain.
    line = np.array([0, 80, 160, 240], np.uint8)
    image = np.broadcast_to(line[None, None, :, None], (1, 4, 4, 1))
    expected = [round((3 * 0 + 3 * 80 + 160) / 7), round((80 + 3 * 160 + 3 * 240) / 7)]
    np.testing.assert_array_equal(image_mlp.resize_images(image, 2, 1)[0, :, :, 0], [expected, expected])


def test_colour_and_grey():
    red, green, blue = (np.zeros((1, 2, 2, 3), np.uint8) for _ in range(3))
    for channel, image in enumerate((red, green, blue)):
        image[..., channel] = 200
    grey = [int(image_mlp.resize_images(image, 2, 1)[0, 0, 0, 0]) for image in (red, green, blue)]
    assert grey == [60, 117, 23]  # 200 times .299, .587, .114
    np.testing.assert_array_equal(image_mlp.resize_images(red, 2, 3), red)
    colour = image_mlp.resize_images(np.full((1, 4, 4, 1), 7, np.uint8), 2, 3)
    np.testing.assert_array_equal(colour, np.full((1, 2, 2, 3), 7))


def test_colour_channels_are_standardised_apart(made_up):
    images = np.random.default_rng(0).integers(0, 60, (500, 4, 4, 3), np.uint8) + np.array([0, 90, 180], np.uint8)
    images[..., 2] = 255  # without contrast
    made_up(images)
    family = ImageMLP(size=4, channels=3, batch_size=500)
    data = family.load()
    assert data["mean"].shape == data["std"].shape == (3,)
    pixels = family.sample_batch(data, jax.random.key(0), {}, "train")["image"].reshape(500, 16, 3)
    np.testing.assert_allclose(pixels.mean((0, 1)), [0, 0, 0], atol=0.1)
    np.testing.assert_allclose(pixels.std((0, 1)), [1, 1, 0], atol=0.1)


ACTIVATIONS = {  # value and derivative, in float64
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def loss_and_gradient(params, images, labels, activation):
    """Mean cross-entropy and its gradient in float64 numpy, by backpropagation written out."""
    value, derivative = ACTIVATIONS[activation]
    layers = [params[f"layer_{i}"] for i in range(len(params))]
    inputs, sums = [np.asarray(images, np.float64)], []
    for i, layer in enumerate(layers):
        sums.append(inputs[-1] @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)[None, :])
        inputs.append(value(sums[-1]) if i < len(layers) - 1 else sums[-1])
    probability = np.exp(sums[-1]) / np.exp(sums[-1]).sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probability[rows, labels]).mean()
    probability[rows, labels] -= 1
    delta, gradient = probability / len(labels), {}
    for i in reversed(range(len(layers))):
        gradient[f"layer_{i}"] = {"w": inputs[i].T @ delta, "b": delta.sum(0)}
        if i > 0:
            delta = (delta @ np.asarray(layers[i]["w"], np.float64).T) * derivative(sums[i - 1])
    return loss, gradient


@pytest.mark.parametrize(("activation", "hidden_sizes"), [("relu", (32,)), ("tanh", (6, 5)), ("relu", ())])
def test_loss_and_gradient_agree_with_numpy(data, activation, hidden_sizes):
    family = ImageMLP(activation=activation, hidden_sizes=hidden_sizes)
    task = family.task({})
    key = jax.random.key(1)
    batch = family.sample_batch(data, key, {}, "train")
    params = jax.tree.map(lambda leaf: leaf + 0.1, task.init(key))  # so that biases are not zero
    loss, gradient = jax.value_and_grad(task.loss)(params, key, batch)
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


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_initial_params_keep_the_size_of_activations(data, activation):
    family = ImageMLP(hidden_sizes=(256, 256), activation=activation)
    task = family.task({})
    params = task.init(jax.random.key(0))
    assert {name: leaf["w"].shape for name, leaf in params.items()} == {
        "layer_0": (64, 256),
        "layer_1": (256, 256),
        "layer_2": (256, 10),
    }
    gain = 1 if activation == "tanh" else 2
    for i, expected in enumerate([gain / 64, gain / 256, 1 / 256]):
        np.testing.assert_allclose(params[f"layer_{i}"]["w"].var(), expected, rtol=0.15)  # 2560 weights: 3% a sd
        assert not params[f"layer_{i}"]["b"].any()
    batch = family.sample_batch(data, jax.random.key(1), {}, "train")
    assert 0.9 < task.normalize(task.loss(params, jax.random.key(2), batch)) < 1.5


def test_vmapped_over_keys_equals_one_by_one(family, data):
    def gradient(data, key):
        task = family.task(family.sample(key))
        batch = family.sample_batch(data, key, {}, "train")
        return jax.value_and_grad(task.loss)(task.init(key), key, batch)

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(data, keys)
    for i in range(3):
        one = jax.jit(gradient)(data, keys[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6), together, one)


def test_adam_learns_with_one_trace(family, data):
    traces = 0
    adam = optax.adam(0.01)

    @jax.jit
    def step(carry, data, key):
        nonlocal traces
        traces += 1
        params, state = carry
        task = family.task({})
        batch = family.sample_batch(data, key, {}, "train")
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(params, updates), state), task.normalize(loss)

    params = family.task({}).init(jax.random.key(0))
    carry, losses = (params, adam.init(params)), []
    for i in range(50):
        carry, loss = step(carry, data, jax.random.fold_in(jax.random.key(1), i))
        losses.append(float(loss))
    assert traces == 1
    assert losses[0] > 0.9
    assert np.mean(losses[-5:]) < 0.15
    batch = family.sample_batch(data, jax.random.key(2), {}, "valid")
    assert family.task({}).metrics(carry[0], jax.random.key(3), batch)["accuracy"] > 0.85


def test_equal_settings_are_one_static_argument(family, data):
    traces = []

    def draw(family, data, key):
        traces.append(family)
        return family.sample_batch(data, key, {}, "train")

    jitted = jax.jit(draw, static_argnums=0)
    jitted(family, data, jax.random.key(0))
    jitted(ImageMLP(data_dir="elsewhere"), data, jax.random.key(1))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, not 0"),
        ({"size": 8.0}, "size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"num_classes": 1}, "num_classes must be a whole number of at least 2"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3"),
        ({"hidden_sizes": 32}, "hidden_sizes must be a tuple"),
        ({"hidden_sizes": [32]}, "hidden_sizes must be a tuple"),
        ({"hidden_sizes": (32, -1)}, "hidden_sizes must be a tuple"),
        ({"activation": "rely"}, "unknown activation 'rely'. Did you mean 'relu'"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageMLP(**settings)


def test_wrong_number_of_classes_is_refused(data_dir):
    with pytest.raises(InputError, match="'digits' has 10 classes: num_classes is 9"):
        ImageMLP(num_classes=9, data_dir=data_dir).load()


def test_names():
    assert ImageMLP().name == "image_mlp/digits"
    assert ImageMLP(dataset="mnist_5k", size=4, num_classes=7).name == "image_mlp/mnist_5k:size=4"
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
