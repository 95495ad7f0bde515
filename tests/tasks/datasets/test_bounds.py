"""What the files of a prepared set say of themselves is looked at before TFDS imports, reads or allocates anything."""

import json
import sys
import tracemalloc

import numpy as np
import pytest

from lopt.names import InputError
from tasks import datasets
from tasks.datasets import bounds

IMAGES = {"image": np.zeros((40, 2, 2, 1), np.uint8), "label": np.arange(40) % 3}
TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"


@pytest.fixture
def made(tmp_path):
    """The folder of a small set of images, `mine`."""
    datasets.write_set("mine", {"train": IMAGES}, tmp_path)
    return tmp_path / "mine" / "1.0.0"


def replace(folder, file, old, new):
    text = json.dumps(json.loads((folder / file).read_text()))
    assert old in text
    (folder / file).write_text(text.replace(old, new))


CLAIMS = {
    "another module": ("features.json", f'"{TENSOR}"', '"evil_module.Tensor"', "names 'evil_module.Tensor'"),
    "another spelling": (
        "features.json", f'"pythonClassName": "{TENSOR}"', '"python_class_name": "evil_module.Tensor"', "'evil_module",
    ),
    "the old form": ("features.json", '"featuresDict"', '"type": "evil_module.X", "featuresDict"', "'evil_module.X'"),
    "classes": ("features.json", '"numClasses": "3"', '"numClasses": "1000000000000"', "1,000,000,000,000 classes"),
    "a large image": (
        "features.json", '["2", "2", "1"]', '["1000000", "1000000", "1"]', r"\(1000000, 1000000, 1\) has 1,0.* bytes",
    ),
    "an image without pixels": ("features.json", '["2", "2", "1"]', '["0", "2", "1"]', "has 0 bytes"),
    "nested": ("features.json", '"numClasses"', f'"more": {"[" * 40}{"]" * 40}, "numClasses"', "nested too deeply"),
    "nested further": ("dataset_info.json", '"name"', f'"x": {"[" * 10**5}{"]" * 10**5}, "name"', "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "reason"), CLAIMS.values(), ids=CLAIMS)
def test_a_claim_is_refused_in_words(made, tmp_path, file, old, new, reason, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    replace(made, file, old, new)
    tracemalloc.start()
    for call in (datasets.describe, datasets.load_images):
        with pytest.raises(InputError, match=reason) as error:
            call("mine", tmp_path)
        assert len(str(error.value)) < 700
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert "evil_module" not in sys.modules


def test_a_huge_file_is_not_read(made, tmp_path):
    with open(made / "features.json", "r+b") as file:
        file.truncate(2**40)  # without a byte on the disk
    with pytest.raises(InputError, match=r"features\.json has 1,099,511,627,776 bytes, where at most 16,777,216"):
        datasets.describe("mine", tmp_path)


@pytest.mark.parametrize("claimed", ["41", "1000000000000"])
def test_more_examples_than_there_are_is_damage(made, tmp_path, claimed):
    replace(made, "dataset_info.json", '["40"]', f'["{claimed}"]')
    with pytest.raises(InputError, match="is damaged or half prepared"):
        datasets.load_images("mine", tmp_path)


def test_a_label_beyond_the_classes_is_refused(made, tmp_path):
    replace(made, "features.json", '"numClasses": "3"', '"numClasses": "2"')
    with pytest.raises(InputError, match="holds images without a label, or with one that is not below 2"):
        datasets.load_images("mine", tmp_path)


def test_a_block_is_bounded_by_its_bytes():
    sizes: dict[str, int] = dict.fromkeys(("train", "meta", "valid", "test"), 10**9)
    imagenet = (224, 224, 3)
    bounds.check_claims("image", 1000, imagenet, sizes, True)
    with pytest.raises(ValueError, match=r"a block of it has 180,\d+,\d+,\d+ bytes"):
        bounds.check_claims("image", 1000, (2048, 2048, 3), sizes, True)
    bounds.check_claims("image", 1000, (2048, 2048, 3), dict.fromkeys(sizes, 10), False)
    bounds.check_claims("text", 0, (), sizes, True)
