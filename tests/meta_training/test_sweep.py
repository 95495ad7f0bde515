"""Sweeps: how they are written, what their folders are called, that failures stay alone, and the table."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lopt.meta_training.metrics import final_meta_loss
from lopt.meta_training.run import Run
from lopt.meta_training.sweep import Member, Result, folder_name, members, read_axes, run_sweep, table
from lopt.names import InputError


def test_values_are_parted_at_commas_or_given_one_by_one():
    assert read_axes(["outer_learning_rate=1e-3,3e-3", "seed=0,1"]) == {
        "outer_learning_rate": [0.001, 0.003],
        "seed": [0, 1],
    }
    assert read_axes(["tasks=a,b"]) == {"tasks": ["a", "b"]}
    assert read_axes(["tasks=a,b", "tasks=c"]) == {"tasks": ["a,b", "c"]}
    assert read_axes(["optimizer=mlp:hidden_sizes=(4,4),lstm"]) == {"optimizer": ["mlp:hidden_sizes=(4,4)", "lstm"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "write --sweep=NAME=VALUE,VALUE"),
        ("seed=", "write --sweep=NAME=VALUE,VALUE"),
        ("sed=1", "unknown setting to sweep over: 'sed'. Did you mean 'seed'"),
        ("seed=0.5", "seed must be a whole number, not '0.5'"),
        ("sigma=small", "sigma must be a number, not 'small'"),
        ("sigma=0.1,1e-1", "sigma has the value 0.1 twice"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_axes([text])


def test_folders_are_named_after_the_values():
    assert folder_name({"outer_learning_rate": 1e-3, "seed": 0}) == "outer_learning_rate=0.001__seed=0"
    odd = [folder_name({"tasks": text}) for text in ("image_mlp/digits", "image_mlp digits", "é/../x", "t" * 300)]
    assert odd[0].startswith("tasks=image_mlp-digits-")
    assert len(set(odd)) == 4
    assert all("/" not in name and len(name) < 130 and name.isascii() for name in odd)


def test_all_combinations_become_runs(tmp_path):
    axes = {"sigma": [0.1, 0.2], "seed": [0, 1, 2]}
    sweep = members(tmp_path, axes, {"outer_steps": 7, "seed": 9})
    assert [tuple(member.varied.values()) for member in sweep] == [(s, k) for s in (0.1, 0.2) for k in (0, 1, 2)]
    assert sweep[-1] == Member(
        tmp_path / "sigma=0.2__seed=2", {"sigma": 0.2, "seed": 2}, {"outer_steps": 7, "sigma": 0.2, "seed": 2}
    )
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is the folder of a run"):
        members(tmp_path, axes, {})


def test_the_final_meta_loss_is_the_mean_of_the_last_twentieth():
    losses = np.arange(60.0)
    assert final_meta_loss({"meta_loss": losses}) == (57 + 58 + 59) / 3
    assert final_meta_loss({"meta_loss": losses[:5]}) == 4
    losses[58] = np.nan
    assert final_meta_loss({"meta_loss": losses}) == 58
    assert np.isnan(final_meta_loss({"meta_loss": np.full(3, np.nan)}))
    assert np.isnan(final_meta_loss({}))


@dataclasses.dataclass
class Started:
    """Stands for `meta_train`: the run of seed 1 fails, and that of seed 3 is stopped by a signal."""

    seeds: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, member):
        seed = member.settings["seed"]
        self.seeds.append(seed)
        if seed == 1:
            raise RuntimeError("out of\n memory")
        member.folder.mkdir(parents=True, exist_ok=True)
        rows = [{"step": 1, "meta_loss": 1.0}, {"step": 2, "meta_loss": 1 / (1 + seed)}]
        (member.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Run(member.folder, 1 if seed == 3 else 2, 2, 2 if seed == 3 else None)


def test_a_run_that_fails_does_not_stop_the_others_and_a_signal_does(tmp_path):
    start = Started()
    sweep = members(tmp_path, {"seed": [0, 1, 2, -1]}, {})
    results, number = run_sweep(sweep, start)
    assert number is None
    assert start.seeds == [0, 1, 2]  # a seed below 0 is refused before
    assert [result.failed for result in results] == [False, True, False, True]
    assert results[1].state == "failed: out of memory"
    assert results[3].state == "refused: seed must be between 0 and 2^32 - 1, not -1"
    assert [result.meta_loss for result in results[::2]] == [1, 1 / 3]
    results, number = run_sweep(members(tmp_path, {"seed": [3, 4]}, {}), start)
    assert number == 2
    assert [result.state for result in results] == ["at step 1 of 2"]
    with pytest.raises(InputError, match="seed must be between"):
        run_sweep(sweep[3:], start)


def test_the_score_is_the_best_one_of_theta_or_of_its_average(tmp_path):
    def start(member):
        member.folder.mkdir(parents=True)
        rows = [
            {"valid_score": 1.5, "valid_ema_score": 1.2},
            {},
            {"valid_score": 0.9, "valid_ema_score": 1.1},
            {"valid_score": 1.3},
        ]
        rows = [{"step": step, "meta_loss": 1.0} | row for step, row in enumerate(rows, 1)]
        (member.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Run(member.folder, 4, 4)

    results, _ = run_sweep(members(tmp_path, {"seed": [0]}, {}), start)
    assert results[0].valid_score == 0.9


def test_the_table_has_the_best_run_first_and_the_failed_ones_last():
    def result(seed, *numbers, failed=False):
        state = "failed: why" if failed else "finished"
        return Result(Member(Path(f"W/{seed}"), {"sigma": 0.1, "seed": seed}, {}), state, failed, *numbers)

    lines = table([result(0, 0.1, failed=True), result(1, 0.5), result(2, 0.25), result(3)]).splitlines()
    assert [line.split() for line in lines] == [
        ["sigma", "seed", "meta-loss", "folder", "state"],
        ["0.1", "2", "0.25", "W/2", "finished"],
        ["0.1", "1", "0.5", "W/1", "finished"],
        ["0.1", "3", "-", "W/3", "finished"],
        ["0.1", "0", "0.1", "W/0", "failed:", "why"],
    ]
    scored = table([result(1, 0.5, 0.9), result(2, 0.25, 1.1), result(0, failed=True)]).splitlines()
    assert [line.split()[1:4] for line in scored] == [
        ["seed", "meta-loss", "valid_score"],
        ["1", "0.5", "0.9"],
        ["2", "0.25", "1.1"],
        ["0", "-", "-"],
    ]
    mixed = table([result(1, 0.5, 0.9), result(2, 0.25)]).splitlines()  # scores and losses cannot be compared
    assert [line.split()[1] for line in mixed] == ["seed", "2", "1"]
