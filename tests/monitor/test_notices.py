"""What is warned of: one run for each warning, which is well but for that; and what is said and advised of it."""

import json
import os

import pytest

from lopt.monitor.notices import notices_of
from lopt.monitor.numbers import numbers_of
from tests.monitor.example import row, rows, touch, watcher, write


def changed(count, since, **changes):
    return [row(step, **(changes if step >= since else {})) for step in range(1, count + 1)]


def validated(*scores):
    return [row(10 * i, valid_score=score) for i, score in enumerate(scores, 1)]


# rows; whether it is grave, what is said, and what is advised
ROWS = {
    "ill": (changed(20, 15, left_out=1.0, grad_norm=None), True, "since outer step 15, no pair gave", "larger sigma"),
    "at the cap": (changed(60, 5, capped=1.0), True, "since outer step 11, every inner step is at the cap", "shorter"),
    "zero": (changed(20, 20, grad_norm=0.0), True, "20, the meta-gradient is exactly zero", "meta_loss"),
    "not finite": (changed(20, 20, update_norm=None), True, "theta is not finite after outer step 20", "clipping"),
    "far": (validated(0.5, 0.8), False, "is 0.8, and the best was 0.5 after outer step 10", "export-best/"),
    "fallen": (validated(0.5, 1.1), True, "the newest validation is 1.1", "--outer_learning_rate"),
    "capped": (changed(100, 80, capped=0.3), False, "30\N{NO-BREAK SPACE}% of the inner steps", "--sigma"),
    "risen": (changed(200, 150, capped=0.1), False, "10\N{NO-BREAK SPACE}% of the inner steps", "usual at the start"),
    "left out": (changed(20, 1, left_out=0.2), False, "20\N{NO-BREAK SPACE}% of the pairs are left out", "horizons"),
    "noise": (changed(20, 1, grad_norm=0.1, grad_variance=0.01), False, "nearly all noise", "--num_pairs"),
    "waiting": (changed(20, 1, seconds_data=20.0), False, "of the time goes into data", "a larger --data_block_steps"),
    "saving": (changed(20, 1, seconds_saving=20.0), False, "of the time goes into saving", "--checkpoint_every"),
}  # fmt: skip
WELL = {
    "well": rows(100),
    "near its best": validated(0.5, 0.6),
    "never capped less": changed(200, 1, capped=0.2),
    "hardly capped more": [row(step, capped=0.19 if step < 150 else 0.2395) for step in range(1, 201)],
    "recovered from illness": changed(20, 1, left_out=1.0)[:10] + rows(20)[10:],
    "of another version": [{"step": step, "meta_loss": 0.5} for step in range(1, 20)],
    "starting": [],
}


def told(folder):
    (run,) = watcher(folder).look()
    return notices_of(run, numbers_of(run))


@pytest.mark.parametrize("name", ROWS)
def test_what_is_wrong_is_said_with_what_to_do(tmp_path, name):
    made, grave, text, advice = ROWS[name]
    first, *more = told(write(tmp_path / "run", made, outer_steps=1000))
    assert text in first.text
    assert advice in first.advice
    assert first.grave == grave
    # Where all pairs are left out or capped, the shares say so too.
    assert len(more) <= (1 if name in ("ill", "at the cap", "noise") else 0)


@pytest.mark.parametrize("name", WELL)
def test_nothing_is_said_of_a_run_that_is_well(tmp_path, name):
    assert told(write(tmp_path / "run", WELL[name], outer_steps=1000)) == []


def test_of_the_process(tmp_path):
    folder = write(tmp_path / "run", rows(10), age=600)
    (notice,) = told(folder)
    assert notice.text.startswith("it has stopped after outer step 10 of 100, 10 min ago: no process on this machine")
    (folder / ".lock").write_text(str(os.getpid()))
    touch(folder, 600)
    (notice,) = told(folder)
    assert notice.text == "its process is there and has written nothing for 10 min"
    assert notice.grave
    assert told(write(tmp_path / "done", rows(100), age=1e6)) == []


def test_of_recoveries_and_of_damage(tmp_path):
    folder = write(tmp_path / "run", rows(10))
    items = [{"at": 9, "back_to": 3, "reason": "it fell"}, {"at": 8, "back_to": 5, "reason": "theta is not finite"}]
    (folder / "run.json").write_text(json.dumps({"valid_every": None, "recoveries": items}))
    (notice,) = told(folder)
    assert "2 times, at last from outer step 8 to 5 (theta is not finite)" in notice.text
    (folder / "metrics.jsonl").write_text("hello\n")
    assert [notice.grave for notice in told(folder)] == [True, False]
