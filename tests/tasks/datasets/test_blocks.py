"""Sets above the budget: what a block holds, that it is a function of seed and block, that no more is read."""

import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tasks.datasets import blocks
from tests.tasks.datasets.made_up import png, real_features, write_set

NUM_TRAIN, NUM_TEST = 200, 40
SIZES = {"train": 32, "meta": 8, "valid": 16, "test": 64}  # test has fewer than that


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data directory with a set of images and one of text."""
    root = tmp_path_factory.mktemp("public")
    features, version = real_features("svhn_cropped")
    images = np.random.default_rng(0).integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(images))  # at most 239
    examples = [{"id": "", "image": png(image), "label": i % 10} for i, image in enumerate(images)]
    write_set(root, "svhn_cropped", features, {"train": examples[:NUM_TRAIN], "test": examples[NUM_TRAIN:]}, version, 3)
    features, version = real_features("lm1b")
    # 1000 lines of 3 to 40 characters, each a number of its own
    lines = [{"text": f"{i:03d}" + "x" * (i % 38)} for i in range(1000)]
    write_set(root, "lm1b", features, {"train": lines[:800], "test": lines[800:]}, version)
    assert len(list(root.glob("svhn_cropped/*/*train*"))) == 3
    return root


@pytest.fixture
def small_budget(monkeypatch):
    """Both sets are above the budget; the list of how many examples each read took."""
    monkeypatch.setattr(blocks, "HELD_BYTES", {"image": 50_000, "text": 5_000, "table": 0})
    monkeypatch.setattr(blocks, "BLOCK_IMAGES", SIZES)
    monkeypatch.setattr(blocks, "BLOCK_SYMBOLS", {"train": 1000, "meta": 200, "valid": 300, "test": 10**6})
    taken = []
    read = datasets._Source.read

    def counted(self, chosen, *features):
        taken.append(len(chosen))
        return read(self, chosen, *features)

    monkeypatch.setattr(datasets._Source, "read", counted)
    return taken


def test_the_budget():
    assert not blocks.too_large("image", 256 << 20, 60_000)  # CIFAR-10 has 176 MiB
    assert blocks.too_large("image", (256 << 20) + 1, 60_000)
    assert blocks.too_large("image", 1 << 20, 1_281_167)  # ImageNet at 8x8: minutes to decode
    assert not blocks.too_large("text", 16 << 20, 1)
    assert blocks.too_large("text", (16 << 20) + 1, 1)


def numbers(data):
    return {split: arrays["image"][:, 0, 0, 0].tolist() for split, arrays in data.items()}


def test_image_blocks(root, small_budget):
    info = datasets.describe("svhn_cropped", root)
    assert info.streams
    assert list(info.split_sizes.values()) == [160, 20, 20, 40]
    first = datasets.load_images("svhn_cropped", root, seed=3, block=0)
    assert small_budget == [32, 8, 16, 40]
    again = datasets.load_images("svhn_cropped", root, seed=3, block=0)
    for split in SPLITS:
        np.testing.assert_array_equal(first[split]["image"], again[split]["image"])
        np.testing.assert_array_equal(first[split]["label"], first[split]["image"][:, 0, 0, 0] % 10)
    seen = {split: set() for split in SPLITS}
    found = [numbers(first)]
    for seed, block in ((3, 1), (3, 2), (4, 0), (4, 1), *((5, block) for block in range(20))):
        found.append(numbers(datasets.load_images("svhn_cropped", root, seed=seed, block=block)))
    for each in found:
        assert [len(each[split]) for split in SPLITS] == [32, 8, 16, 40]
        assert all(len(set(each[split])) == len(each[split]) for split in SPLITS)  # without replacement
        assert (each["valid"], each["test"]) == (found[0]["valid"], found[0]["test"])
        for split in SPLITS:
            seen[split] |= set(each[split])
    assert len({tuple(each["train"]) for each in found}) == len({tuple(each["meta"]) for each in found}) == len(found)
    # 25 blocks of a fifth of the split: an image is missed with probability 0.8^25 = 0.004
    assert len(seen["train"]) > 150
    assert len(seen["meta"]) == 20
    assert not seen["train"] & seen["meta"] | seen["train"] & seen["valid"] | seen["meta"] & seen["valid"]
    assert seen["test"] == set(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))


def test_text_blocks(root, small_budget):
    assert datasets.describe("lm1b", root).streams
    found = [datasets.load_text("lm1b", root, seed=seed, block=block) for seed, block in ((0, 0), (0, 1), (1, 0))]
    assert max(small_budget[:3]) < 150  # of 640, 80 and 80 that there are
    again = datasets.load_text("lm1b", root, seed=0, block=1)
    rest = sum(3 + i % 38 + 1 for i in range(800, 1000)) - 1
    lines = {}
    for data in found:
        assert [len(data[split]) for split in SPLITS] == [1000, 200, 300, rest]
        for split in ("valid", "test"):
            np.testing.assert_array_equal(data[split], found[0][split])
        for split in SPLITS:
            held = datasets.decode(data[split]).split("\n")[: -1 if split != "test" else None]
            for line in held:
                assert line == line[:3] + "x" * (int(line[:3]) % 38)
            assert len(set(held)) == len(held)
            lines.setdefault(split, set()).update(held)
    for split in SPLITS:
        np.testing.assert_array_equal(again[split], found[1][split])
        others = set().union(*(lines[other] for other in SPLITS if other != split))
        assert not lines[split] & others
    for split in ("train", "meta"):
        assert len({data[split].tobytes() for data in found}) == 3


def test_a_text_of_too_few_examples_to_be_read_in_blocks(tmp_path, small_budget):
    features, version = real_features("wikipedia/20230601.simple")
    articles = [{"title": "one", "text": "x" * 3000}] * 3
    write_set(tmp_path, "wikipedia/20230601.simple", features, {"train": articles}, version)
    with pytest.raises(InputError, match=r"wikipedia/20230601.simple.*a split is empty: .*'valid': 0"):
        datasets.describe("wikipedia/20230601.simple", tmp_path)


def test_text_is_drawn_again_where_examples_are_shorter_than_thought(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_SYMBOLS", dict.fromkeys(SPLITS, 100))
    counts = []

    def read(chosen):
        counts.append(len(chosen))
        return np.array(chosen) % 97  # one symbol each

    text = blocks.draw_text("train", 10**9, 20.0, read, seed=0, block=0)
    assert counts == [14, 28, 56, 112]  # 1.2 * 100 / 20 + 8, and twice as many until they do
    assert len(text) == 100
    short = blocks.draw_text("train", 40, 20.0, read, seed=0, block=0)
    assert sorted(short.tolist()) == list(range(40))


def test_draws_are_quick_and_without_replacement_from_a_large_set():
    drawn = blocks.draw_examples("train", 30_000_000, seed=1, block=2)
    assert len(drawn) == len(set(drawn.tolist())) == 8192
    assert (np.diff(drawn) > 0).all()
    # uniform over the set: mean (n - 1) / 2, standard deviation of the mean n / sqrt(12 * 8192)
    assert abs(drawn.mean() - 15e6) < 4 * 30e6 / np.sqrt(12 * 8192)
    assert not np.array_equal(drawn, blocks.draw_examples("train", 30_000_000, seed=2, block=1))
    with pytest.raises(ValueError, match="non-negative"):
        blocks.draw_examples("train", 10, seed=-1, block=0)
