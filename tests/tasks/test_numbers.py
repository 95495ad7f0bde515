"""Numbers that no training could use or pay for are refused when a family is made: every family, every setting."""

import dataclasses
import math
import time
from typing import Any

import jax
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from tasks import AUGMENTATIONS, FAMILIES, checks, parse_tasks
from tasks.naming import settings
from tasks.train_optimizer import TrainOptimizer

GIGABYTE = 10**9
MEMORY = 16 * GIGABYTE
NOT_FINITE = (math.nan, math.inf, -math.inf)
HUGE = (10**9, 2**31 - 1, 10**11, 10**23, 1e11, 1e30, 10**400)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of 16 GB; the function sets another memory."""

    def use(memory):
        monkeypatch.setattr(checks, "machine_memory", lambda: memory)

    use(MEMORY)
    return use


def default(name) -> Any:
    """A family or an augmentation at its default settings, as an object, with nothing read."""
    if name in AUGMENTATIONS:
        return AUGMENTATIONS[name]()
    if FAMILIES[name].constructor is TrainOptimizer:
        return parse_tasks(name, optimizers=OPTIMIZERS)[0]
    return FAMILIES[name].constructor()


def numbers():
    """Each number among the settings of families and augmentations: (name, setting, how to set it to a value)."""
    for name in (*FAMILIES, *AUGMENTATIONS):
        for field in settings(default(name)):
            value = getattr(default(name), field.name)
            if type(value) in (int, float):
                yield name, field.name, lambda x, value=value: x
            elif isinstance(value, tuple) and type(value[0]) in (int, float):
                yield name, field.name, lambda x, value=value: (*value[:-1], x)


NUMBERS = list(numbers())
every_number = pytest.mark.parametrize(("name", "setting", "place"), NUMBERS, ids=[f"{n}:{s}" for n, s, _ in NUMBERS])


def test_the_table_has_the_numbers_that_there_are():
    found = {(name, setting) for name, setting, _ in NUMBERS}
    assert len(found) == len(NUMBERS) > 60
    assert {("image_mlp", "hidden_sizes"), ("random_mlp", "init_scales"), ("noisy_gradient", "high")} <= found


@pytest.mark.whole_table
@every_number
@pytest.mark.parametrize("value", NOT_FINITE)
def test_what_is_not_finite_is_refused(name, setting, place, value):
    with pytest.raises(InputError, match=rf"^(low and high|{setting}) must (be|lie)") as error:
        dataclasses.replace(default(name), **{setting: place(value)})
    assert "\n" not in str(error.value)


@every_number
def test_what_is_huge_is_refused_at_once_or_is_cheap(name, setting, place):
    """Never built: a number that is accepted makes params that fit, by the shapes that JAX gives them."""
    start, messages = time.process_time(), []
    for value in HUGE:
        try:
            family = dataclasses.replace(default(name), **{setting: place(value)})
        except InputError as error:
            messages.append(str(error))
            continue
        assert type(value) is not float or value <= 1e18
        assert value <= 2**31 - 1 or type(getattr(default(name), setting)) is not int
        if name in FAMILIES:
            assert param_bytes(family) <= MEMORY
    assert time.process_time() - start < 5
    assert messages
    assert all("\n" not in message and len(message) < 400 for message in messages)


def param_bytes(family):
    def init(key):
        return family.task(family.sample(key)).init(key)

    return sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "train_optimizer"])
def test_the_estimate_of_memory_is_of_the_right_size(name, machine):
    """Refused where not even the params fit, accepted where a hundred times the params and a megabyte fit."""
    family = default(name)
    size = param_bytes(family)
    machine(size // 4)
    with pytest.raises(InputError, match=r"GB of memory, most of it for .* and this machine has .* choose smaller"):
        dataclasses.replace(family)
    machine(100 * size + 10**6 * 16)
    dataclasses.replace(family)


@pytest.mark.parametrize(
    "text",
    [
        "image_mlp/digits:hidden_sizes=(1000000000,1000000000)",
        "image_mlp/digits:init_scale=nan",
        "image_mlp/digits:init_scale=1e999",
        "image_mlp/digits:batch_size=100000000000",
        "image_mlp/digits:batch_size=1e11",
        "image_mlp/digits:size=1000000",
        "image_vit/digits:depth=100000",
        "text_transformer/python_docs:length=100000",
        "quadratic:dimension=1000000",
        "quadratic:condition=1e300",
        "quadratic+noisy_gradient:high=1e30",
        "quadratic+delay_gradient:high=1000000000",
        "1e999*quadratic",
        "nan*quadratic",
        "1e-300*quadratic",
        "quadratic" + 30 * "+scale_loss",
        f"quadratic:dimension={10**4000}",
    ],
)
def test_as_people_type_them(text):
    with pytest.raises(InputError) as error:
        parse_tasks(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 5000 if len(text) > 4000 else len(str(error.value)) < 400


def test_images_that_would_not_fit_are_refused_before_they_are_resized():
    (family,) = parse_tasks("image_mlp/digits:size=2000:batch_size=1:hidden_sizes=(1,)")
    with pytest.raises(InputError, match="GB of memory, most of it for the images, and this machine has 16 GB"):
        family.load()


def test_a_few_augmentations_may_follow_each_other():
    (family,) = parse_tasks("quadratic" + 8 * "+scale_loss")
    assert family.name.count("+") == 8
    with pytest.raises(InputError, match="at most 8 augmentations"):
        parse_tasks("quadratic" + 9 * "+scale_loss")
