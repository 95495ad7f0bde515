"""One setting for all tasks: the trial that is closest to the best on all of them."""

import jax
import numpy as np
import pytest

from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.contestants import one_setting
from lopt.evaluation.request import read_protocol
from lopt.evaluation.untuned import choose, untuned_contestants
from lopt.names import InputError
from tests.evaluation.test_deciding import runs, tuned
from tests.evaluation.test_scores import result, untuned
from tests.toy_family import Bowl


def grid(*trials):
    return tuned("Adam", [(np.full(2, train), np.full(2, valid)) for train, valid in trials], [([1, 1], [1, 1])] * 3)


# The middle trial is the best on no task, within a factor of 2 on both; each other one fails on one task.
FIRST, SECOND = grid((1, 1), (2, 2), (1e6, 1e6)), grid((1e6, np.inf), (2, 2), (1, 1))


def test_the_trial_that_is_never_far_from_the_best_is_chosen():
    assert choose([FIRST, SECOND]) == 1
    assert choose([FIRST]) == 0
    assert choose([FIRST, SECOND, SECOND, SECOND]) == 2  # 1, 1, 1 and 10 against four times 2


def test_training_and_validation_count_alike():
    assert choose([grid((1, 8), (3, 1), (9, 9))]) == 1  # 1 x 8 against 3 x 1
    assert choose([grid((1, 2), (3, 1), (9, 9))]) == 0


def test_where_every_trial_diverges_the_first_is_taken_and_nothing_is_tuned_without_trials():
    assert choose([grid((np.nan, 1), (np.nan, 1), (np.nan, 1))]) == 0
    assert choose([untuned("Prodigy", runs([1, 1], [1, 1]))]) == 0


def test_a_contestant_at_one_setting_shares_the_program_of_the_tuned_one():
    pool = {"a": result(adam=FIRST), "b": result(adam=SECOND)}
    (found,) = untuned_contestants([BASELINES["adam"]], pool)
    rate = BASELINES["adam"].rates[1]
    assert (found.name, found.kind, found.rates, found.label) == (
        "adam_untuned",
        "constant",
        (rate,),
        f"Adam (always lr {rate:.2g})",
    )
    np.testing.assert_allclose(found.hypers, np.full(15, rate), rtol=1e-6)
    several = one_setting(BASELINES["adamw_grid"], 3)
    assert several.label == "AdamW, 28 trials (always lr 0.001, weight decay 0.1, scheduled)"
    assert {name: np.unique(x).size for name, x in several.hypers.items()} == dict.fromkeys(several.hypers, 1)
    assert len(jax.tree.leaves(several.hypers)[0]) == 28


def test_protocols_by_name():
    assert read_protocol("tuned", [Bowl()], None) == ()
    names = [family.name for family in read_protocol("both", [Bowl()], None)]
    assert (len(names), names[0]) == (7, "forecast")
    assert [family.name for family in read_protocol("both:quadratic", [Bowl()], None)] == ["quadratic"]
    for text, message in (
        ("tunde", r"unknown protocol 'tunde'. Did you mean 'tuned'\?"),
        ("tuned:quadratic", "takes no tasks"),
        ("both:quadratic", "quadratic is evaluated, so it cannot choose settings"),
    ):
        with pytest.raises(InputError, match=message):
            read_protocol(text, read_protocol("both:quadratic", [], None), None)
