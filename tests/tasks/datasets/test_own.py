"""Arrays of a person's own as a set: what is read back is what was written, and what cannot be written is refused."""

import sys

import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets, parse_tasks

RNG = np.random.default_rng(0)
IMAGES = {"image": RNG.integers(0, 256, (200, 8, 8, 1), np.uint8), "label": np.arange(200) % 3}
ROWS = {"x": np.arange(120.0).reshape(60, 2), "y": np.arange(60.0) / 2}


def test_images_are_cut_and_read_by_a_family_without_tensorflow(tmp_path):
    datasets.write_set("mine", {"train": IMAGES}, tmp_path)
    info = datasets.describe("mine", tmp_path)
    assert (info.kind, info.num_classes, info.shape) == ("image", 3, (8, 8, 1))
    found = datasets.load_images("mine", tmp_path)
    assert {split: len(found[split]["label"]) for split in SPLITS} == {
        "train": 160,
        "meta": 10,
        "valid": 10,
        "test": 20,
    }
    labels = {bytes(row): label for row, label in zip(IMAGES["image"].reshape(200, -1), IMAGES["label"], strict=True)}
    for split in SPLITS:
        rows = np.asarray(found[split]["image"], np.uint8).reshape(len(found[split]["label"]), -1)
        assert [labels[bytes(row)] for row in rows] == found[split]["label"].tolist()
    (family,) = parse_tasks("image_mlp/mine", data_dir=str(tmp_path))
    assert family.load()["train"]["label"].shape == (160,)
    assert "tensorflow" not in sys.modules


def test_splits_of_ones_own_stay(tmp_path):
    splits = {split: {name: x[10 * i : 10 * i + 10 + i] for name, x in ROWS.items()} for i, split in enumerate(SPLITS)}
    datasets.write_set("rows", splits, tmp_path)
    found = datasets.load_table("rows", tmp_path)
    for split in SPLITS:
        np.testing.assert_array_equal(np.sort(found[split]["y"]), np.float32(splits[split]["y"]))
        np.testing.assert_array_equal(found[split]["x"][:, 0], 4 * found[split]["y"])


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("Mine", {"train": IMAGES}, "must be small letters"),
        ("digits", {"train": IMAGES}, "is built in"),
        ("mine", {}, "has the splits none: it must be a folder FOLDER with train.npz"),
        ("mine", {"train": IMAGES, "val": IMAGES}, "has the splits train, val"),
        ("mine", {"train": IMAGES, "test": IMAGES}, "must have train alone, or all of train, meta, valid, test"),
        ("mine", {"train": {"image": IMAGES["image"]}}, "mine, train has image: it must be"),
        (
            "mine",
            {"train": {**IMAGES, "image": IMAGES["image"] / 255}},
            r"image must be uint8 .* is float64\[200, 8, 8, 1\]",
        ),
        ("mine", {"train": {**IMAGES, "label": IMAGES["label"] - 1}}, r"labels must be whole numbers from 0, \[200\]"),
        ("mine", {"train": {**ROWS, "x": np.full((60, 2), np.nan)}}, "x must be finite numbers"),
        ("mine", {"train": {"x": np.zeros((0, 2)), "y": np.zeros(0)}}, "has an empty array"),
        ("mine", {s: IMAGES if s != "test" else ROWS for s in SPLITS}, "its splits differ in the shape"),
    ],
)
def test_what_is_refused(name, splits, message, tmp_path):
    with pytest.raises(InputError, match=message):
        datasets.write_set(name, splits, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:100], lambda data: b"\x93NUMPY" + data[:50]])
def test_a_file_that_is_no_archive_is_named(tmp_path, damage):
    folder = tmp_path / "raw"
    folder.mkdir()
    np.savez(folder / "train.npz", **ROWS)
    (folder / "train.npz").write_bytes(damage((folder / "train.npz").read_bytes()))
    with pytest.raises(InputError, match=r"cannot read .*train\.npz"):
        datasets.write_folder(folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()
