"""Numbers that no machine can serve, or that are no numbers, are refused before anything is built."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

import lopt
from lopt.distributed import num_cores
from lopt.meta_training import budget
from lopt.meta_training.config import MetaTrainConfig
from lopt.names import InputError, check_numbers
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.mlp import MLPOptimizer
from tests.toy_family import Quadratic

FIELDS = MetaTrainConfig.__dataclass_fields__
FLOATS = [name for name, field in FIELDS.items() if isinstance(field.default, float)]
WHOLE = [name for name, field in FIELDS.items() if isinstance(field.default, int) and name != "seed"]


def config(**settings: Any) -> MetaTrainConfig:
    return MetaTrainConfig(**settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", FLOATS)
def test_settings_of_a_run_are_finite(name, value):
    with pytest.raises(InputError, match=f"{name} must be a finite number"):
        config(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_settings_of_a_run_fit_into_an_int32(name):
    with pytest.raises(InputError, match=f"{name} must be at most 2,147,483,647"):
        config(**{name: 10**23})


def numbers() -> Iterator[tuple[str, str]]:
    """Every setting of every rule that is a number."""
    for rule, kind in OPTIMIZERS.items():
        for name, field in kind.__dataclass_fields__.items():
            if isinstance(field.default, float):
                yield rule, name


@pytest.mark.parametrize(("rule", "name"), list(numbers()))
def test_settings_of_rules_are_finite(rule, name):
    with pytest.raises(InputError, match=f"{name}"):
        MetaTrainConfig(optimizer=f"{rule}:{name}=1e999")


def test_numbers_are_found_in_tuples_and_within():
    with pytest.raises(InputError, match=r"rule: hidden_sizes must be at most .*, not 9,000,000,000"):
        check_numbers("rule", MLPOptimizer(hidden_sizes=(4, 9_000_000_000)))
    check_numbers("rule", MLPOptimizer())
    check_numbers("anything", object())


REFUSED = {
    "pairs": ({"num_pairs": 2_000_000_000}, r"needs at least [\d,.]+ GiB of memory, and this machine has [\d,.]+ GiB"),
    "network": ({"optimizer": "mlp:hidden_sizes=(1000000,1000000)"}, "GiB of memory"),
    "start": ({"horizon": "2000000000", "truncation": 50, "num_pairs": 512}, "would take .* hours"),
    "lengths": ({"horizon": "10:2000000000", "truncation": 5}, "more than 1,000,000 different lengths"),
    "families": ({"tasks_per_step": 5}, "of 1 task families"),
    "devices": ({"devices": num_cores() + 97}, "CPU cores|devices asked for"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_machine_can_serve_is_refused_with_both_figures(tmp_path, what):
    settings, message = REFUSED[what]
    defaults = {"optimizer": "learnable_sgd", "truncation": 5, "horizon": "5", "num_pairs": 2}
    with pytest.raises(InputError, match=message):
        lopt.meta_train(**{**defaults, **settings}, tasks=Quadratic(), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_memory_of_this_machine_is_what_linux_says():
    with open("/proc/meminfo") as file:
        kilobytes = int(next(line for line in file if line.startswith("MemTotal")).split()[1])
    assert budget.machine_bytes() == pytest.approx(1024 * kilobytes, rel=0.05)
    assert os.sysconf("SC_PAGE_SIZE") > 0
