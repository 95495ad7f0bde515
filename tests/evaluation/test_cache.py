"""Entries are found by what decides them, and by nothing else."""

import copy
import dataclasses
import importlib
import io
import sys
import tracemalloc
import types
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.evaluation import cache as evaluation_cache
from lopt.evaluation import tuning
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.cache import EvaluationCache, arrays_sha, sources
from lopt.evaluation.contestants import as_pretrained, contestants
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.runs import Learned, Runner
from lopt.names import InputError
from lopt.optimizers.mlp import MLPOptimizer
from tasks import parse_tasks
from tests.evaluation.test_scores import result
from tests.toy_family import Quadratic

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = {"task": "bowl", "horizon": 20}


@pytest.fixture
def cache(tmp_path):
    return EvaluationCache(tmp_path / "made" / "here")


@pytest.mark.parametrize("name", ["learned", "adam", "adam_cosine"])
def test_an_entry_is_read_as_it_was_written(cache, name):
    entry = result().entries[name]
    assert cache.read("bowl", DESCRIPTION) is None
    cache.write("bowl", DESCRIPTION, entry)
    again = cache.read("bowl", DESCRIPTION)
    assert again.best == entry.best
    assert (again.label, again.kind, again.flops_per_step) == (entry.label, entry.kind, entry.flops_per_step)
    plain = {"label": None, "kind": None, "settings": None}
    assert again.settings.tolist() == entry.settings.tolist()
    for ours, theirs in zip(*(jax.tree.leaves(x._replace(**plain)) for x in (entry, again)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert cache.read("bowl", {**DESCRIPTION, "horizon": 21}) is None


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_damaged_file_is_made_again(cache, keep):
    cache.write("bowl/digits:a=(1,)", DESCRIPTION, result().entries["adam"])
    (file,) = cache.folder.iterdir()
    assert file.name.startswith("bowl_digits_a_1-")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.warns(UserWarning, match="damaged, so it is made again"):
        assert cache.read("bowl/digits:a=(1,)", DESCRIPTION) is None


def test_whatever_is_damaged_is_made_again(cache):
    """Any flipped byte: the entry is read as it was, or not at all; nothing else is raised."""
    entry = result().entries["adam_cosine"]
    cache.write("bowl", DESCRIPTION, entry)
    (file,) = cache.folder.iterdir()
    good, damaged = file.read_bytes(), 0
    rng = np.random.default_rng(0)
    for place in rng.integers(len(good), size=400):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        file.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = cache.read("bowl", DESCRIPTION)
        damaged += again is None
        if again is not None:
            for ours, theirs in zip(jax.tree.leaves(entry[2:7]), jax.tree.leaves(again[2:7]), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert damaged > 200


def claim(shape, *, size=None, kind="<f4"):
    """An npz file whose only array says that it has a shape; the archive may say a size, too."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rates.npy", header.getvalue() + bytes(64 if np.dtype(kind).itemsize else 0))
    data = buffer.getvalue()
    if size is not None:  # of the central directory's entry: bytes 24 to 28
        at = data.index(b"PK\x01\x02") + 24
        data = data[:at] + size.to_bytes(4, "little") + data[at + 4 :]
    return data


def on_one_another(number):
    """A file of zeros in an npz whose directory has it `number` times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rates.npy", bytes(4_000_000))
        for i in range(number):
            again = copy.copy(archive.filelist[0])
            again.filename = f"{i}.npy"
            archive.filelist.append(again)
    return buffer.getvalue()


CLAIMS = [claim((10**11,)), claim((10**6, 10**5)), claim((4,), size=4 * 10**9), claim((10**11,), kind="<U0")]
CLAIMS.append(on_one_another(100))
KINDS = ["one axis", "two axes", "size of the member", "empty words", "members on one another"]


@pytest.mark.parametrize("data", CLAIMS, ids=KINDS)  # the bytes hold the time
def test_claims_of_hundreds_of_gigabytes_are_not_believed(data, cache):
    cache.write("bowl", DESCRIPTION, result().entries["adam"])
    (file,) = cache.folder.iterdir()
    file.write_bytes(data)
    tracemalloc.start()
    with pytest.warns(UserWarning, match="damaged, so it is made again"):
        assert cache.read("bowl", DESCRIPTION) is None
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_an_entry_of_another_description_is_not_taken(cache):
    entry = result().entries["adam"]
    cache.write("bowl", DESCRIPTION, entry)
    (file,) = cache.folder.iterdir()
    cache.write("bowl", {**DESCRIPTION, "horizon": 21}, entry)
    (other,) = set(cache.folder.iterdir()) - {file}
    other.rename(file)
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.read("bowl", DESCRIPTION) is None


def test_a_folder_that_cannot_be_written(tmp_path):
    """Before the runs it is refused; after them, the entry is not lost with it."""
    (tmp_path / "file").write_text("")
    cache = EvaluationCache(tmp_path / "file")
    with pytest.raises(InputError, match="--cache="):
        cache.check()
    with pytest.warns(UserWarning, match="cannot keep runs"):
        cache.write("bowl", DESCRIPTION, result().entries["adam"])


def test_arrays_are_told_apart():
    x = np.arange(6.0)
    trees = [{"a": x}, {"b": x}, {"a": x + 1}, {"a": x.astype(np.float32)}, {"a": x.reshape(2, 3)}, {"a": x[:5]}]
    assert len({arrays_sha(tree) for tree in trees}) == len(trees)
    assert arrays_sha({"a": x}) == arrays_sha({"a": x[::-1].copy()[::-1]})  # laid out the other way round


FAMILY = "image_mlp/digits+noisy_gradient"
RULES = {"learned": Learned(MLPOptimizer()), "baseline": BASELINES["adam_cosine"]}


def roots(rule):
    return [*parse_tasks(FAMILY), RULES[rule], BASELINES["adam"], tuning]


def test_sources_are_those_of_what_is_run():
    found = set(sources(roots("learned")))
    assert {
        "tasks.augmentations.augmented",
        "tasks.augmentations.gradients",
        "tasks.images.image_mlp",
        "tasks.datasets",
    } <= found
    assert {
        "lopt.evaluation.runs",
        "lopt.evaluation.measures",
        "lopt.trained.transform",
        "lopt.optimizers.parts.networks",
    } <= found
    assert not {"tasks.images.image_conv", "tasks.pools", "lopt.optimizers.velo", "lopt.evaluation.scores"} & found
    assert {"lopt.evaluation.baselines", "tests.toy_family"} <= set(sources([Quadratic(), BASELINES["adam"]]))


@pytest.mark.parametrize("rule", RULES)
def test_every_file_that_decides_a_run_decides_the_key(rule, monkeypatch):
    found, read = sources(roots(rule)), evaluation_cache.read_source
    for changed in found:
        file = sys.modules[changed].__file__
        monkeypatch.setattr(evaluation_cache, "read_source", lambda path, f=file: read(path) + b"\n" * (path == f))
        now = sources(roots(rule))
        assert [name for name in now if now[name] != found[name]] == [changed]


def test_libraries_are_known_by_their_folders(tmp_path, monkeypatch):
    """Also those that a virtual environment sees from another; a person's own package counts wherever it lies."""
    places = ("other/site-packages/their_library", "debian/dist-packages/their_other", "work/my_package")
    for place in map(tmp_path.joinpath, places):
        place.mkdir(parents=True)
        (place / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(str(place.parent))
    names = ("their_library", "their_other", "my_package", "lopt", "tasks", "json")
    assert [name for name in names if evaluation_cache._is_ours(name)] == ["my_package", "lopt", "tasks"]


@pytest.mark.parametrize("rule", RULES)
def test_no_code_of_ours_runs_that_the_key_does_not_know(rule):
    """Whatever Python function of ours is entered while an entry is made, its file is among the sources."""
    (family,), entered = parse_tasks(FAMILY), set()

    def note(frame, event, argument):
        entered.add(frame.f_code.co_filename)

    hypers = MLPOptimizer().init_theta(jax.random.key(0)) if rule == "learned" else np.float32(0.1)
    hypers, data = jax.tree.map(lambda x: np.stack([x, x]), hypers), jax.tree.map(jax.numpy.asarray, family.load())
    jax.clear_caches()  # what is traced already would not be entered
    sys.setprofile(note)
    try:
        where = {"family": family, "data": data, "seed": 7, "split": "valid", "layout": PairLayout()}
        clock = Runner(rule=BASELINES["adam"], hypers=np.ones(1, np.float32), **where, max_steps=2, capacity=1)
        budget = {"horizon": 2, "num_seeds": 1, "long": False, "max_steps": 2}
        tuning.make_entry(RULES[rule], hypers, (0.1, 0.2), clock, **where, **budget)
    finally:
        sys.setprofile(None)
    ours = {
        path for path in map(Path, entered) if path.is_relative_to(ROOT / "lopt") or path.is_relative_to(ROOT / "tasks")
    }
    known = {Path(str(sys.modules[name].__file__)) for name in sources(roots(rule))}
    assert {"runs.py", "transform.py" if rule == "learned" else "baselines.py"} <= {path.name for path in ours}
    assert ours - known == set()


def test_imports_are_followed_in_every_form(tmp_path, monkeypatch):
    package = tmp_path / "mine"
    package.mkdir()
    for name in ("a", "b", "c", "d"):
        (package / f"{name}.py").write_text("")
    (package / "__init__.py").write_text("from mine import d\nX = 1\n")
    lines = ["import mine.a, numpy as np", "from . import b", "from mine import X", "def f():", "    from .c import y"]
    (package / "c.py").write_text("y = 1")
    (package / "task.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    wanted = ["mine", "mine.a", "mine.b", "mine.c", "mine.d", "mine.task"]
    assert list(sources([importlib.import_module("mine.task")])) == wanted


def test_a_source_that_cannot_be_found_is_an_error():
    with pytest.raises(InputError, match=r"ghost .* its source is not in a file"):
        sources([types.ModuleType("ghost")])


VARIANTS = {
    "horizon": lambda e, c, f, d: (dataclasses.replace(e, horizon=21), c, f, d),
    "num_seeds": lambda e, c, f, d: (dataclasses.replace(e, num_seeds=3), c, f, d),
    "seed": lambda e, c, f, d: (dataclasses.replace(e, seed=1), c, f, d),
    "split": lambda e, c, f, d: (dataclasses.replace(e, split="test"), c, f, d),
    "sequential": lambda e, c, f, d: (dataclasses.replace(e, layout=PairLayout(1, sequential=False)), c, f, d),
    "rule": lambda e, c, f, d: (e, c._replace(rule=BASELINES["adamw"]), f, d),
    "hypers": lambda e, c, f, d: (e, c._replace(hypers=c.hypers * 2), f, d),
    "rates": lambda e, c, f, d: (e, c._replace(rates=(0.5, *c.rates[1:])), f, d),
    "settings": lambda e, c, f, d: (e, c._replace(settings=("decay", *c.settings[1:])), f, d),
    "reference": lambda e, c, f, d: (e, c._replace(name="other"), f, d),
    "task": lambda e, c, f, d: (e, c, dataclasses.replace(f, dim=4), d),
    "data": lambda e, c, f, d: (e, c, f, {"x": np.zeros(2)}),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_whatever_decides_an_entry_decides_its_key(what):
    evaluation = Evaluation(20, 2)
    trained = as_pretrained((MLPOptimizer(), MLPOptimizer().init_theta(jax.random.key(0))))
    contestant = next(x for x in contestants(trained, evaluation.baselines) if x.name == "adam")
    same = (evaluation, contestant, Quadratic(), {})

    def description(evaluation, contestant, family, data):
        return evaluation._description(contestant, family, data)

    assert description(*same) == description(*same)
    assert description(*VARIANTS[what](*same)) != description(*same)
    relabelled = contestant._replace(label="other", kind="untuned")
    assert description(evaluation, relabelled, Quadratic(), {}) == description(*same)


def test_settings_are_part_of_a_rule():
    adam = BASELINES["adam"]
    assert dataclasses.replace(adam, settings=(("b1", 0.8),)).describe() != adam.describe()
    assert dataclasses.replace(adam, schedule=BASELINES["adam_cosine"].schedule).describe() != adam.describe()
