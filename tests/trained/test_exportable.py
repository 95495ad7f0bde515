"""What can be exported: every rule of lopt, and rules of other people, with the rule at hand."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import check_exportable, save_export
from tests.trained.small_export import CARD, MLP


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Update = -rate gradient exp(theta)."""

    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def init_theta(self, key):
        del key
        return {"log": jnp.zeros(())}

    def init(self, theta, params, *, num_steps):
        return ()

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g: -self.rate * jnp.exp(theta["log"]) * g, grads), state


@dataclasses.dataclass(frozen=True)
class Unwritable(Foreign):
    rate: Any = jnp.tanh


@dataclasses.dataclass(frozen=True)
class Doubles(Foreign):
    def init_theta(self, key):
        return {"log": jnp.zeros((), jnp.bfloat16)}


def test_a_rule_of_someone_elses_is_saved_and_loaded_with_the_rule_at_hand(tmp_path):
    rule = Foreign(rate=0.5, sizes=(3, 4))
    check_exportable(rule, tmp_path / "export")
    folder = save_export(tmp_path / "export", rule, {"log": np.float32(np.log(2))}, card=CARD)
    card = json.loads((folder / "card.json").read_text())
    assert card["architecture"].endswith("test_exportable:Foreign")
    assert card["settings"] == {"rate": 0.5, "sizes": [3, 4]}
    assert lopt.load_pretrained(folder, optimizer=rule).optimizer is rule
    tx: Any
    for tx, wanted in (lopt.load(folder, optimizer=rule), -1.0), (lopt.scale_by_learned(folder, optimizer=rule), 1.0):
        updates, _ = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
        np.testing.assert_allclose(updates["w"], wanted, rtol=1e-6)
    with pytest.raises(
        lopt.InputError, match=r"Foreign from .*test_exportable, .*optimizer=Foreign\(\.\.\.\).*'rate': 0\.5"
    ):
        lopt.load(folder)
    for other in (Foreign(), MLP, Foreign(rate=0.5)):
        with pytest.raises(lopt.InputError, match=r"theta belongs to .*Foreign:rate=0\.5"):
            lopt.load(folder, optimizer=other)


def test_a_rule_of_lopt_may_be_given_too(export):
    assert lopt.load_pretrained(export, optimizer=MLP).optimizer == MLP
    with pytest.raises(lopt.InputError, match="theta belongs to mlp"):
        lopt.load_pretrained(export, optimizer=OPTIMIZERS["mlp"]())


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_rule_is_exportable(rule):
    check_exportable(OPTIMIZERS[rule]())


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Unwritable(), "settings are numbers, words, None and tuples"),
        (Foreign(rate=float("nan")), "settings are numbers, words, None and tuples"),
        (Doubles(), "theta is float32, and its log is bfloat16"),
        (object(), "make the class a frozen dataclass"),
    ],
    ids=["function", "nan", "bfloat16", "object"],
)
def test_what_cannot_be_exported_is_said_before_the_training(rule, reason):
    with pytest.raises(lopt.InputError, match=reason):
        check_exportable(rule)
