"""The command that draws runs: the picture it writes, and what it answers where there is no run."""

import json

import pytest

from lopt.plot import main, read_runs


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same name in two folders; the second one is writing its third row."""
    for i, text in enumerate(("", '{"step": 3, "meta_l')):
        folder = tmp_path / f"{i}" / "run"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        rows = [{"step": step, "meta_loss": 0.5 / step, "grad_norm": None} for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + text)
    return [str(tmp_path / f"{i}" / "run") for i in (0, 1)]


def test_the_picture_is_written_where_asked(runs, tmp_path, capsys):
    assert main([*runs, f"--out={tmp_path}/x.png"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/x.png\n"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert main(runs) == 0
    assert main(runs[:1]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/plot.png\n{runs[0]}/plot.png\n"


def test_runs_are_named_as_far_as_it_takes_to_tell_them_apart(runs):
    histories = read_runs(runs)
    assert list(histories) == ["0/run", "1/run"]
    assert list(read_runs(runs[1:])) == ["run"]
    assert histories["1/run"]["meta_loss"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ABSENT"], "ABSENT is no folder: give what was --workdir"),
        (["."], "is not the folder of a run"),
        (["RUN", "RUN"], "a run is given twice"),
        (["RUN", "--out=x.pdf"], "a name that ends with .png"),
        (["RUN", "--out=ABSENT/x.png"], "there is no folder"),
        (["EMPTY"], "has made no outer step yet"),
        (["BROKEN"], "cannot read"),
        (["RUN"] * 57, "at most 56 runs"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(arguments, message, runs, tmp_path, capsys):
    for name in ("EMPTY", "BROKEN"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "BROKEN" / "metrics.jsonl").write_text("hello\n")
    where = {"RUN": runs[0], **{name: str(tmp_path / name) for name in ("EMPTY", "BROKEN", "ABSENT")}}
    for name, path in where.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("plot: ")
    assert error.count("\n") == 1
    assert message.replace("ABSENT", where["ABSENT"]) in error
