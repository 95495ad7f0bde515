"""The numbers of a run against sums by hand, and how fast it is."""

import math

import numpy as np
import pytest

from lopt.monitor.numbers import numbers_of
from lopt.monitor.speed import block_seconds, seconds_per_step, time_shares, written_time
from tests.monitor.example import row, rows, seen


def test_the_numbers_of_a_run(tmp_path):
    made = rows(40)
    for step, score, average in ((10, 0.9, 1.2), (20, 0.5, 0.4), (40, 0.6, 0.7)):
        made[step - 1] |= {"valid_score": score, "valid_ema_score": average}
    for step in range(31, 41):
        made[step - 1] |= {"grad_norm": float(step), "grad_variance": float(step), "capped": 0.25}
    numbers = numbers_of(seen(tmp_path / "run", made))
    assert (numbers.step, numbers.total) == (40, 100)
    assert numbers.loss == pytest.approx((1 / 39 + 1 / 40) / 2)  # 5 % of 40 steps
    assert numbers.first == pytest.approx((1 + 1 / 2) / 2)
    assert (numbers.score, numbers.best, numbers.best_step) == (0.6, 0.4, 20)
    steps = np.arange(31.0, 41)  # the last ten; a ratio of means, not a mean of ratios
    assert numbers.signal == pytest.approx(np.mean(steps**2) / np.mean(steps))
    assert (numbers.capped, numbers.left_out) == (0.25, 0)
    assert numbers.seconds == pytest.approx(2.0)
    assert numbers.left == pytest.approx(120.0)


def test_what_is_not_there_is_not_a_number(tmp_path):
    numbers = numbers_of(seen(tmp_path / "run", [{"step": 1, "meta_loss": None}]))
    assert [name for name, x in numbers._asdict().items() if not math.isnan(x)] == ["step", "total"]
    assert math.isnan(numbers_of(seen(tmp_path / "run", rows(10), age=1e4)).left)  # it has stopped


def test_the_first_block_has_a_speed_too(tmp_path):
    assert seconds_per_step(seen(tmp_path / "run", rows(5)).history) == pytest.approx(2.0)
    assert math.isnan(seconds_per_step(seen(tmp_path / "new", rows(4)).history))


def test_the_speed_is_that_of_the_last_fifth_without_compiling(tmp_path):
    made = [row(step, seconds_training=10.0) for step in (5, 10)] + [row(15, seconds_training=99.0)]
    made += [row(20, seconds_training=20.0, seconds_validating=4.5, seconds_compiling=100.0)]
    history = seen(tmp_path / "run", made).history
    assert seconds_per_step(history) == pytest.approx((20 + 4.5 + 0.5) / 5)
    steps, seconds = block_seconds(history)
    np.testing.assert_array_equal(steps, [5, 10, 15, 20])
    np.testing.assert_allclose(seconds, [10.5, 10.5, 99.5, 125])
    shares = time_shares(history)
    wanted = {"training": 0.8, "validating": 0.18, "saving": 0.02, "data": 0}
    assert shares == pytest.approx({f"seconds_{part}": x for part, x in wanted.items()})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (5400, "1:30 h"), (86400, "24:00 h"), (2.5 * 86400, "2.5 days")],
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert written_time(seconds) == text
