"""What families on images share: loading, resizing, moments and batches, against numpy; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tasks.images.image_autoencoder import ImageAutoencoder
from tasks.images.image_mlp import ImageMLP
from tasks.images.reconstruction import pixel_moments
from tasks.images.resizing import resize_images


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
    """Stands in for the data sets: a function that sets the images [n, h, w, c] of every split, or of every block."""

    def use(blocks, streams=False):
        blocks = blocks if streams else [blocks]
        info = datasets.DatasetInfo("digits", "image", 10, blocks[0].shape[1:], dict.fromkeys(SPLITS, 99), streams)
        read = []

        def load_images(name, data_dir, *, seed=0, block=0):
            read.append((seed, block))
            chosen = blocks[(seed + block) % len(blocks)]
            arrays = {"image": chosen, "label": np.arange(len(chosen), dtype=np.int32) % 10}
            return dict.fromkeys(SPLITS, arrays)

        monkeypatch.setattr(datasets, "describe", lambda name, data_dir: info)
        monkeypatch.setattr(datasets, "load_images", load_images)
        return read

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
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape, 1), np.uint8)
    ours = resize_images(pixels, size, 1).astype(float)
    jaxs = jax.image.resize(pixels.astype(np.float32), (3, size, size, 1), "linear", antialias=True)
    np.testing.assert_allclose(ours, jaxs, atol=0.501)  # ours is rounded


def test_resizing_by_hand():
    # Half the size: each new pixel weighs 4 old ones 1, 3, 3, 1 along an axis; at the border 3, 3, 1 remain.
    line = np.array([0, 80, 160, 240], np.uint8)
    image = np.broadcast_to(line[None, None, :, None], (1, 4, 4, 1))
    expected = [round((3 * 0 + 3 * 80 + 160) / 7), round((80 + 3 * 160 + 3 * 240) / 7)]
    np.testing.assert_array_equal(resize_images(image, 2, 1)[0, :, :, 0], [expected, expected])


def test_colour_and_grey():
    red, green, blue = (np.zeros((1, 2, 2, 3), np.uint8) for _ in range(3))
    for channel, image in enumerate((red, green, blue)):
        image[..., channel] = 200
    grey = [int(resize_images(image, 2, 1)[0, 0, 0, 0]) for image in (red, green, blue)]
    assert grey == [60, 117, 23]  # 200 times .299, .587, .114
    np.testing.assert_array_equal(resize_images(red, 2, 3), red)
    colour = resize_images(np.full((1, 4, 4, 1), 7, np.uint8), 2, 3)
    np.testing.assert_array_equal(colour, np.full((1, 2, 2, 3), 7))


def test_colour_channels_are_standardised_apart(made_up):
    pixels = np.random.default_rng(0).integers(0, 60, (500, 4, 4, 3), np.uint8) + np.array([0, 90, 180], np.uint8)
    pixels[..., 2] = 255  # without contrast
    made_up(pixels)
    family = ImageMLP(size=4, channels=3, batch_size=500)
    data = family.load()
    assert data["mean"].shape == data["std"].shape == (3,)
    batch = family.sample_batch(data, jax.random.key(0), {}, "train")["image"].reshape(500, 16, 3)
    np.testing.assert_allclose(batch.mean((0, 1)), [0, 0, 0], atol=0.1)
    np.testing.assert_allclose(batch.std((0, 1)), [1, 1, 0], atol=0.1)


def test_pixel_moments_make_the_mean_images_error_one(made_up):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    pixels[:, 0] = 9  # without contrast
    mean, spread = pixel_moments(pixels)
    x = (pixels.reshape(50, 48).astype(float) - mean[None, :]) / spread[None, :]
    np.testing.assert_allclose(x.mean(0), np.zeros(48), atol=1e-6)
    np.testing.assert_allclose((x**2).mean(), 1, rtol=1e-6)
    assert pixel_moments(np.full((3, 2, 2, 1), 7, np.uint8))[1] == 1  # not 0
    made_up(pixels)
    family = ImageAutoencoder(size=4, channels=3, batch_size=9)
    batch = family.sample_batch(family.load(), jax.random.key(0), {}, "train")["image"]
    rows = [int(np.abs(x - row[None, :]).sum(1).argmin()) for row in np.asarray(batch)]
    np.testing.assert_allclose(batch, x[rows], atol=1e-5)


def test_a_block_has_its_own_images_and_the_moments_of_the_first(made_up):
    blocks = [np.random.default_rng(i).integers(0, 50 * (i + 1), (20, 4, 4, 1), np.uint8) for i in range(3)]
    read = made_up(blocks, streams=True)
    family = ImageMLP(size=4, data_dir="made up")
    assert family.streams
    first, second, third = family.load(), family.load(block=1), family.load(seed=1, block=1)
    for i, data in enumerate((first, second, third)):
        np.testing.assert_array_equal(data["train"]["image"], blocks[i].reshape(20, 16))
        np.testing.assert_array_equal(data["mean"], first["mean"])
        np.testing.assert_array_equal(data["std"], first["std"])
    np.testing.assert_allclose(first["std"], [blocks[0].astype(float).std()], rtol=1e-6)
    assert read == [(0, 0), (0, 1), (0, 0), (1, 1)]  # block 0 once more for its moments, not for every block


def test_a_set_that_fits_does_not_stream(family, data):
    assert not family.streams
    jax.tree.map(np.testing.assert_array_equal, family.load(seed=5, block=3), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, not 0"),
        ({"size": 8.0}, "size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"num_classes": 1}, "num_classes must be a whole number of at least 2"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageMLP(**settings)


def test_wrong_number_of_classes_is_refused(data_dir):
    with pytest.raises(InputError, match="'digits' has 10 classes, and the family has num_classes=9"):
        ImageMLP(num_classes=9, data_dir=data_dir).load()


def test_a_set_without_images_is_refused(data_dir):
    with pytest.raises(InputError, match="data set 'wine' is a table, not labelled images"):
        ImageMLP(dataset="wine", num_classes=3, data_dir=data_dir).load()
