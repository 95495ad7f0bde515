"""Commands that are killed a few times end with what an undisturbed one leaves; `make soak` kills them more often."""

import importlib.util
import random

import pytest

from benchmarks import soak as module
from benchmarks.killed import COMMANDS, cut_writes
from benchmarks.soak import LIBRARIES, Life, Outcome, draw_moment, report, soak

KILLS = 2


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what == "train" else pytest.mark.thorough) for what in COMMANDS]
)
def test_a_killed_command_ends_as_an_undisturbed_one(tmp_path, what):
    outcome = soak(COMMANDS[what], KILLS, 1000, tmp_path)
    assert outcome.differing == []
    assert (outcome.kills, outcome.folders >= 1) == (KILLS, True)


@pytest.mark.parametrize("hangs", [1, 3])
def test_a_command_that_hangs_is_no_kill(tmp_path, monkeypatch, hangs):
    """The undisturbed one, or one that goes on after a kill."""
    lives = [Life(0, 3, 1.0), Life(-9, 1, 0.5), Life(-9, 0, 1800.0, hung=True)]
    if hangs == 1:
        lives = lives[2:]
    rest = iter(lives)
    monkeypatch.setattr(module, "live", lambda command, place, moment: next(rest))
    monkeypatch.setattr(module, "cut_writes", lambda place: {"file"})
    (tmp_path / "log.txt").write_text("compiling\n")
    command = COMMANDS["train"]._replace(result=lambda place: {}, problems=lambda place: [])
    outcome = soak(command, 200, 1000, tmp_path)
    assert outcome.kills == (0 if hangs == 1 else 1)
    (told,) = outcome.differing
    assert told.endswith(": not at its end after 1800 s, compiling")


def test_a_command_is_left_until_it_hangs(tmp_path, monkeypatch):
    """Neither one that nobody wants to kill, nor one that was to be killed in a write that never comes."""
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.3)
    command = COMMANDS["train"]._replace(arguments=lambda place: ["list"])
    for moment in (None, module.Moment(0.3, 5)):
        life = module.live(command, tmp_path / "run", moment)
        assert (life.status, life.hung) == (-9, True)
    assert not module.live(command, tmp_path / "run", module.Moment(0.2)).hung


def test_what_a_kill_has_cut_is_seen(tmp_path):
    """Each kind by the name that it has while it is written; what is complete is nothing."""
    sealed = tmp_path / "checkpoints" / "2"
    (tmp_path / "export").mkdir()
    sealed.mkdir(parents=True)
    (sealed / "checksums.json").touch()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert cut_writes(tmp_path) == set()
    names = {".export.tmp": "export", ".export-ema.previous": "export", "checkpoints/4": "checkpoint"}
    names |= {"checkpoints/4.orbax-checkpoint-tmp": "checkpoint", "checkpoints/2/.checksums.json.12.tmp": None}
    names |= {".preparing-abcd_123": "data set", "cache/.runs-1.npz.345.tmp": "file"}
    for name, kind in names.items():
        (tmp_path / name).mkdir(parents=True)
        assert cut_writes(tmp_path) == ({kind} if kind else set()), name
        (tmp_path / name).rmdir()
    for torn in ('{"step": 3}\n', '{"st'):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n' + torn)
        assert cut_writes(tmp_path) == {"metrics"}


def test_all_that_is_loaded_once_is_there():
    """The server of forks is silent about a name that it cannot find, and each start then loads it again."""
    assert [name for name in LIBRARIES if importlib.util.find_spec(name) is None] == []


def test_moments_are_aimed_at_the_writes_that_there_are():
    rng = random.Random(0)
    moments = [draw_moment(rng, Life(0, 5, 3.0)) for _ in range(2000)]
    aimed = [moment for moment in moments if moment.writes]
    assert {moment.writes for moment in aimed} == {1, 2, 3, 4, 5}
    assert all(moment.seconds <= 3 for moment in moments if not moment.writes)
    assert len(aimed) / len(moments) == pytest.approx(0.75, abs=0.05)
    assert all(not draw_moment(rng, Life(0, 0, 3.0)).writes for _ in range(20))


def test_the_report_says_what_differed():
    outcome = Outcome(3, {"any": 2, "file": 2}, 5, 1, 90.0, ["killed-1: metrics"])
    assert report("train", outcome).splitlines() == [
        "train: 3 kills in 1.5 minutes, 5 starts, 1 folders",
        "kills that have cut a write: 2 (file 2)",
        "equal to a run that nobody killed: no",
        "  killed-1: metrics",
    ]
    assert report("train", outcome._replace(differing=[], cut={})).splitlines()[1:] == [
        "kills that have cut a write: 0 (none)",
        "equal to a run that nobody killed: yes",
    ]
