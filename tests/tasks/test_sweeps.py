"""Tasks along an axis, by their names."""

import pytest

from lopt.names import InputError
from tasks import parse_tasks
from tasks.sweeps import AXES, variants


def names(text, axis):
    (family,) = parse_tasks(text)
    return {label: found.name for label, found in variants(family, axis).items()}


def test_widths_batches_and_scales_are_multiples_of_the_tasks_own():
    head = "image_mlp/digits"
    assert names(f"{head}:hidden_sizes=(32,6)", "width") == {
        "0.25 x": f"{head}:hidden_sizes=(8,1)",
        "0.5 x": f"{head}:hidden_sizes=(16,3)",
        "1 x": f"{head}:hidden_sizes=(32,6)",
        "2 x": f"{head}:hidden_sizes=(64,12)",
        "4 x": f"{head}:hidden_sizes=(128,24)",
        "8 x": f"{head}:hidden_sizes=(256,48)",
        "16 x": f"{head}:hidden_sizes=(512,96)",
    }
    assert list(names("text_transformer/python_docs:width=16", "width").values())[-1].endswith(":width=256")
    assert list(names(head, "batch_size").values()) == [
        f"{head}:batch_size=32", f"{head}:batch_size=64", head, f"{head}:batch_size=256", f"{head}:batch_size=512",
    ]  # fmt: skip
    assert list(names(head, "init_scale").values())[:2] == [f"{head}:init_scale=0.25", f"{head}:init_scale=0.5"]


def test_depths_repeat_the_first_layer_or_set_the_depth():
    assert list(names("image_mlp/digits:hidden_sizes=(9,5)", "depth").values())[1].endswith(":hidden_sizes=(9,9)")
    assert names("image_vit/digits", "depth")["4"] == "image_vit/digits:depth=4"


def test_data_sets_are_those_of_the_same_kind_its_own_first():
    found = names("image_mlp/mnist_5k:hidden_sizes=(8,)+label_noise", "dataset")
    assert list(found) == ["mnist_5k", "digits", "glyphs", "patches"]
    assert found["glyphs"] == "image_mlp/glyphs:hidden_sizes=(8,)+label_noise"


@pytest.mark.parametrize(
    ("text", "axis", "message"),
    [
        ("quadratic", "width", "no hidden_sizes or widths or width"),
        ("table_mlp/wine:hidden_sizes=()", "depth", "cannot be swept"),
        ("quadratic", "dataset", "reads no data set"),
        ("image_mlp/digits", "breadth", "Did you mean"),
    ],
)
def test_a_task_without_the_setting_says_so(text, axis, message):
    (family,) = parse_tasks(text)
    with pytest.raises(InputError, match=message):
        variants(family, axis)


def test_every_axis_keeps_the_task_itself():
    (family,) = parse_tasks("image_mlp/digits")
    for axis in AXES:
        assert family in variants(family, axis).values()
