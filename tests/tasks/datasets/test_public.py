"""Public sets, written small with the features and splits that TFDS gives the real ones."""

import importlib.util

import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tests.tasks.datasets.made_up import png, real_features, write_set

ACCENTED = "\N{LATIN SMALL LETTER E WITH ACUTE}"  # two bytes, one character


def symbol(character: str) -> int:
    """The rule, written out anew."""
    return 95 if character == "\n" else ord(character) - 32 if 32 <= ord(character) < 127 else 96


def write_images(root, name, sizes):
    """Images whose first pixel is their number; the label is that, modulo the number of classes."""
    features, version = real_features(name)
    rng = np.random.default_rng(0)
    first, splits = 0, {}
    for split, size in sizes.items():
        examples = []
        for number in range(first, first + size):
            image = rng.integers(0, 256, features["image"].shape, np.uint8)
            image[0, 0] = number
            example = {"image": png(image), "label": number % features["label"].num_classes}
            other = {"id": str(number), "coarse_label": 7}
            examples.append(example | {key: other[key] for key in features if key in other})
        splits[split], first = examples, first + size
    return write_set(root, name, features, splits, version)


@pytest.mark.parametrize(
    ("name", "held", "expected", "classes"),
    [
        ("fashion_mnist", {"train": 20, "test": 5}, [16, 2, 2, 5], 10),
        ("kmnist", {"train": 20, "test": 5}, [16, 2, 2, 5], 10),
        ("cifar10", {"train": 20, "test": 5}, [16, 2, 2, 5], 10),
        ("cifar100", {"train": 20, "test": 5}, [16, 2, 2, 5], 100),
        ("svhn_cropped", {"train": 20, "test": 5, "extra": 7}, [16, 2, 2, 5], 10),
        ("imagenet_resized/8x8", {"train": 20, "validation": 5}, [16, 2, 2, 5], 1000),
        ("patch_camelyon", {"train": 20, "validation": 4, "test": 5}, [18, 2, 4, 5], 2),
    ],
)
def test_images_of_real_features(tmp_path, name, held, expected, classes):
    write_images(tmp_path, name, held)
    info = datasets.describe(name, tmp_path)
    data = datasets.load_images(name, tmp_path)
    assert (info.kind, info.num_classes, info.streams) == ("image", classes, False)
    assert list(info.split_sizes.values()) == expected
    numbers = [set(data[split]["image"][:, 0, 0, 0].tolist()) for split in SPLITS]
    assert [len(each) for each in numbers] == expected
    train = held["train"]
    if "validation" in held and "test" in held:
        assert numbers[0] | numbers[1] == set(range(train))
        assert numbers[2] == set(range(train, train + held["validation"]))
    else:
        assert numbers[0] | numbers[1] | numbers[2] == set(range(train))
        assert numbers[3] == set(range(train, train + 5))
    for arrays in data.values():
        assert arrays["image"].dtype == np.uint8
        assert arrays["image"].shape[1:] == info.shape
        assert arrays["label"].dtype == np.int32
        np.testing.assert_array_equal(arrays["label"], arrays["image"][:, 0, 0, 0].astype(int) % classes)
    assert datasets.list_prepared(tmp_path) == [name]
    assert datasets.prepare(name, tmp_path).parent == tmp_path / name


def write_texts(root, name, splits):
    features, version = real_features(name)
    examples = {
        split: [{key: text if key == "text" else "other" for key in features} for text in texts]
        for split, texts in splits.items()
    }
    return write_set(root, name, features, examples, version)


def test_text_of_one_example_a_split_is_cut_within_it(tmp_path):
    texts = {"train": "abcdefghi" * 10 + "J" * 10, "validation": f"k{ACCENTED}\n", "test": "\tlast~"}
    write_texts(tmp_path, "tiny_shakespeare", {split: [text] for split, text in texts.items()})
    info = datasets.describe("tiny_shakespeare", tmp_path)
    assert (info.kind, info.num_classes, info.shape, info.streams) == ("text", 0, (), False)
    data = datasets.load_text("tiny_shakespeare", tmp_path)
    assert tuple(data) == SPLITS
    wanted = ("abcdefghi" * 10, "J" * 10, texts["validation"], texts["test"])
    for symbols, text in zip(data.values(), wanted, strict=True):
        assert symbols.dtype == np.uint8
        assert symbols.tolist() == [symbol(character) for character in text]
    assert datasets.decode(data["valid"]) == "k\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize(
    ("name", "held", "shares"),
    [
        ("lm1b", ("train", "test"), (0.8, 0.1, 0.1)),
        ("wikipedia/20230601.simple", ("train",), (0.8, 0.05, 0.05, 0.1)),
        ("wiki40b/en", ("train", "validation", "test"), (0.9, 0.1)),
    ],
)
def test_texts_of_many_examples_are_joined_and_cut(tmp_path, name, held, shares):
    texts = {split: [f"{split} {i} {ACCENTED * (i % 3)}." for i in range(50)] for split in held}
    write_texts(tmp_path, name, texts)
    data = datasets.load_text(name, tmp_path)
    sizes = datasets.describe(name, tmp_path).split_sizes
    train = np.concatenate([data[split] for split in SPLITS[: len(shares)]])
    assert len(train) == sum(map(len, texts["train"])) + 49  # newlines between them
    lines = [[symbol(character) for character in text] for text in texts["train"]]
    found = [part.tolist() for part in np.split(train, np.flatnonzero(train == 95))]
    assert sorted(part[1:] if part[0] == 95 else part for part in found) == sorted(lines)
    for split, share in zip(SPLITS, shares, strict=False):
        assert abs(len(data[split]) - share * len(train)) <= 1
        assert sizes[split] >= len(data[split])  # counts bytes, and what TFDS stores around them
    if "test" in held:
        assert len(data["test"]) == sum(map(len, texts["test"])) + 49


def test_a_text_too_short_for_its_splits(tmp_path):
    write_texts(tmp_path, "wikipedia/20230601.simple", {"train": ["abcdefgh"]})
    with pytest.raises(InputError, match="is too short a text: nothing is left for valid"):
        datasets.load_text("wikipedia/20230601.simple", tmp_path)


def test_an_unprepared_text_says_what_to_do(tmp_path):
    for name in ("wikipedia/20230601.en", "wiki40b/en", "lm1b"):
        with pytest.raises(InputError, match=f"tfds build {name} --file_format=array_record"):
            datasets.load_text(name, tmp_path)
    write_texts(tmp_path, "lm1b", {"train": ["a"] * 50, "test": ["b"]})
    with pytest.raises(InputError, match=r"data set 'lm1b' is a text, not labelled images: .* such as text_rnn/lm1b"):
        datasets.load_images("lm1b", tmp_path)


def test_unexpected_features_are_named(tmp_path):
    import tensorflow_datasets as tfds

    number, row = tfds.features.Scalar(np.float32), tfds.features.Tensor(shape=(2,), dtype=np.float32)
    integers = tfds.features.Tensor(shape=(2,), dtype=np.int64)
    cases = {
        "sounds": ({"audio": row}, "no feature image or label, nor a text, but audio"),
        "texts": ({"text": number}, "text is no string"),
        "integers": ({"x": integers, "y": number}, "x is not a row of float32"),
        "targets": ({"x": row, "y": row}, "y is neither a class nor a float32"),
    }
    for name, (spec, reason) in cases.items():
        example = {key: np.zeros(feature.shape, feature.np_dtype) for key, feature in spec.items()}
        write_set(tmp_path, name, tfds.features.FeaturesDict(spec), {"train": [example] * 50})
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            datasets.describe(name, tmp_path)
    spec = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    write_set(tmp_path, "odd", spec, {"extra": [{"text": "a"}]})
    with pytest.raises(InputError, match="no split train, but extra"):
        datasets.describe("odd", tmp_path)


@pytest.mark.parametrize("content", [b"", "half"])
def test_damaged_text_is_reported(tmp_path, content):
    folder = write_texts(tmp_path, "lm1b", {"train": ["some text"] * 50, "test": ["more text"] * 50})
    (path,) = folder.glob("*train*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(InputError, match="damaged"):
        datasets.load_text("lm1b", tmp_path)


def test_own_table_is_read(tmp_path):
    import tensorflow_datasets as tfds

    spec = {"x": tfds.features.Tensor(shape=(2,), dtype=np.float32), "y": tfds.features.Scalar(np.float32)}
    rows = [{"x": np.array([i, -i], np.float32), "y": i / 2} for i in range(50)]
    write_set(tmp_path, "mine", tfds.features.FeaturesDict(spec), {"train": rows})
    assert datasets.describe("mine", tmp_path) == datasets.DatasetInfo(
        "mine", "table", 0, (2,), {"train": 40, "meta": 2, "valid": 3, "test": 5}, False
    )
    data = datasets.load_table("mine", tmp_path)
    x, y = (np.concatenate([data[split][key] for split in SPLITS]) for key in ("x", "y"))
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(np.sort(y), np.arange(50) / 2)
    np.testing.assert_array_equal(x, np.stack([2 * y, -2 * y], 1))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_an_image_feature_needs_tensorflow_to_write_and_the_messages_say_so(tmp_path):
    import tensorflow_datasets as tfds

    spec = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
    example = {"image": np.zeros((8, 8, 1), np.uint8), "label": 0}
    with pytest.raises(Exception, match=r"(?i)tensorflow"):
        write_set(tmp_path, "mine", tfds.features.FeaturesDict(spec), {"train": [example] * 50})
    spec["image"] = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32)
    floats = {**example, "image": example["image"].astype(np.float32)}
    write_set(tmp_path, "floats", tfds.features.FeaturesDict(spec), {"train": [floats] * 50})
    with pytest.raises(InputError, match=r"uint8\): tfds\.features\.Image needs TensorFlow"):
        datasets.describe("floats", tmp_path)
    with pytest.raises(InputError, match=r"by python -m lopt tasks prepare FOLDER: docs/own_data\.md"):
        datasets.describe("nothing_like_it", tmp_path)
