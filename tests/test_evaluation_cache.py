"""Entries are found by what decides them, and by nothing else."""

import dataclasses

import jax
import numpy as np
import pytest

from lopt import evaluation_cache
from lopt.baselines import BASELINES
from lopt.evaluation_cache import EvaluationCache, arrays_sha, sources
from lopt.names import InputError
from lopt.training import Learned
from tests.test_scores import result
from tests.toy_family import Quadratic

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
    assert again._replace(rates=0, tuning=0, chosen=0, long=0) == entry._replace(rates=0, tuning=0, chosen=0, long=0)
    for ours, theirs in zip(jax.tree.leaves(entry[2:6]), jax.tree.leaves(again[2:6]), strict=True):
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


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--cache="):
        EvaluationCache(tmp_path / "file").write("bowl", DESCRIPTION, result().entries["adam"])


def test_arrays_are_told_apart():
    x = np.arange(6.0)
    trees = [{"a": x}, {"b": x}, {"a": x + 1}, {"a": x.astype(np.float32)}, {"a": x.reshape(2, 3)}, {"a": x[:5]}]
    assert len({arrays_sha(tree) for tree in trees}) == len(trees)
    assert arrays_sha({"a": x}) == arrays_sha({"a": x[::-1].copy()[::-1]})  # laid out the other way round


def test_sources_are_those_of_what_is_run(monkeypatch):
    from lopt.optimizers.mlp import MLPOptimizer
    from tasks import parse_tasks

    (family,) = parse_tasks("image_mlp/digits+noisy_gradient")
    found = sources([family, Learned(MLPOptimizer())])
    assert {"tasks.augment", "tasks.augmentations", "tasks.image_mlp", "tasks.images", "tasks.datasets"} <= set(found)
    assert {"lopt.training", "lopt.optimizers.mlp", "lopt.optimizers.features"} <= set(found)
    assert not {"tasks.image_conv", "tasks.pools", "lopt.optimizers.velo", "lopt.baselines"} & set(found)
    assert list(sources([Quadratic(), BASELINES["adam"]])) == ["lopt.baselines", "tests.toy_family"]

    read = evaluation_cache.read_source
    monkeypatch.setattr(
        evaluation_cache, "read_source", lambda file: read(file) + b"\n" * file.endswith("/features.py")
    )
    now = sources([family, Learned(MLPOptimizer())])
    assert [name for name in now if now[name] != found[name]] == ["lopt.optimizers.features"]


def test_settings_are_part_of_a_rule():
    adam = BASELINES["adam"]
    assert dataclasses.replace(adam, settings=(("b1", 0.8),)).describe() != adam.describe()
    assert dataclasses.replace(adam, schedule=BASELINES["adam_cosine"].schedule).describe() != adam.describe()
