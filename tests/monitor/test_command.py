"""The command: the files it writes, what it prints, that it goes on and ends, and what it refuses."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from lopt.monitor.__main__ import main
from tests.monitor.example import rows, write
from tests.test_imports import ROOT


@pytest.fixture
def run(tmp_path):
    return str(write(tmp_path / "run", rows(10)))


def test_files_are_written_where_asked(run, tmp_path, capsys):
    assert main([run, f"--png={tmp_path}/x.png", f"--html={tmp_path}/x.html"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/x.png\n{tmp_path}/x.html\n"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


def test_the_picture_has_the_table_and_what_is_to_be_done(run, monkeypatch):
    from lopt.monitor import picture
    from tests.monitor.example import watcher

    drawn = []
    monkeypatch.setattr(picture, "to_png", lambda figure: drawn.append(figure) or b"")
    picture.picture(watcher(run).look())
    (text,) = [text.get_text() for part in drawn[0].subfigs for text in part.texts if "meta-loss" in text.get_text()]
    assert text.split("\n")[1].split()[:5] == ["run", "running", "10", "/", "100"]
    assert text.split("\n")[-1] == "Nothing to warn of."
    assert len(drawn[0].subfigs[0].axes) == 3  # beside the panels


def test_where_there_is_no_terminal_it_is_printed_once(run, capsys):
    assert main([run]) == 0
    out = capsys.readouterr().out
    assert out.split("\n")[1].split()[:4] == ["run", "stopped", "10", "/"]  # long ago, by the clock of the example
    assert "meta-loss, running mean" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ABSENT"], "is no folder: give what was --workdir"),
        (["EMPTY"], "is not the folder of a run, and holds none"),
        (["NEW", "--png=x.png"], "new: no outer step to draw yet"),
        (["BROKEN", "--png=x.png"], "broken: no outer step to draw yet: "),
        (["RUN", "--png=x.pdf"], "give the name of a file that ends with .png"),
        (["RUN", "--html=x"], "give the name of a file that ends with .html"),
        (["RUN", "--png=ABSENT/x.png"], "there is no folder"),
        (["RUN", "--every=0"], "seconds between looks, at least 0.1"),
        (["RUN", "--every=nan"], "seconds between looks, at least 0.1"),
        (["RUN", "--every=inf"], "seconds between looks, at least 0.1"),
        (["RUN", "--serve", "--png=x.png"], "ask for one of the two"),
        (["RUN", "--port=1"], "--host and --port belong to --serve"),
        (["RUN", "--serve", "--port=99999"], "--port=99999: a port is a number from 0 to 65535"),
        (["RUN", "--serve", "--host=256.0.0.1", "--port=0"], "cannot listen on 256.0.0.1"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(arguments, message, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "new", [])
    (write(tmp_path / "broken", []) / "metrics.jsonl").write_text("hello\n")
    where = {"RUN": run, **{name: str(tmp_path / name.lower()) for name in ("EMPTY", "NEW", "BROKEN", "ABSENT")}}
    for name, path in where.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    before = set(tmp_path.rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"monitor: [^\n]+\n", error)
    assert message in error
    assert set(tmp_path.rglob("*")) == before


def test_flags_that_are_mistyped(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main([run, "--svre"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --svre" in capsys.readouterr().err


LISTEN = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@contextlib.contextmanager
def started(*arguments, **more):
    command = [sys.executable, "-c", LISTEN, sys.executable, "-m", "lopt.monitor", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()  # else a test that fails would wait for it


def test_it_serves_until_ctrl_c(run):
    with started(run, "--serve", "--port=0", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert b"outer step 10 of 100" in answer.read()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "")


def read_until(terminal, process, text):
    """What the process writes to its terminal, until this text is in it or the process has ended."""
    seen, end = "", time.monotonic() + 60
    while text not in seen and time.monotonic() < end:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 10_000).decode(errors="replace")
        elif ended:
            break
    return seen


@pytest.mark.thorough
def test_on_a_terminal_it_goes_on_until_the_run_is_over(tmp_path):
    folder = write(tmp_path / "run", rows(99))
    os.utime(folder / "metrics.jsonl")  # now
    ours, its = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with started(str(folder), "--every=0.1", stdout=its, stdin=its, env=environment) as process:
        assert "running" in read_until(ours, process, "99 / 100")
        write(folder, rows(100))
        assert "100 / 100" in read_until(ours, process, "finished")
        read_until(ours, process, "\0")
        process.wait(timeout=60)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (0, "")
    os.close(its)
    os.close(ours)
