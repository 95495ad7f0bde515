"""metrics.jsonl survives interruptions, progress tells this invocation's rate, and wandb may fail unfelt."""

import io
import json
import logging
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from rich.logging import RichHandler

from lopt.meta_training.metrics import Columns, MetricsLog, read_columns
from lopt.meta_training.progress import Progress
from lopt.names import InputError
from lopt.tracking import _Wandb, open_tracker


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_after_the_step_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        log.write([{"step": 1, "meta_loss": 0.5}, {"step": 2, "meta_loss": 0.4}])
        log.write([{"step": 3, "meta_loss": 0.3}])
        assert len(read(path)) == 3  # flushed
    with open(path, "a") as file:
        file.write('{"step": 4, "meta_lo')
    with MetricsLog(path, 2) as log:
        assert [row["step"] for row in read(path)] == [1, 2]
        log.write([{"step": 3, "meta_loss": 0.25}])
    with MetricsLog(path, 3):
        pass
    assert read(path) == [{"step": i + 1, "meta_loss": x} for i, x in enumerate((0.5, 0.4, 0.25))]
    with MetricsLog(path, 0):
        assert path.read_text() == ""
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_what_is_not_finite_is_null_and_arrays_are_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = {"step": np.int64(1), "nan": math.nan, "inf": jnp.float32(jnp.inf), "half": jnp.bfloat16(0.5), "flag": True}
    with MetricsLog(path, 0) as log:
        log.write([row | {"each": [np.float32(-np.inf), 2.5], "name": "pes", "vector": np.arange(2)}])
    expected = {"step": 1, "nan": None, "inf": None, "half": 0.5, "flag": True}
    assert read(path) == [expected | {"each": [None, 2.5], "name": "pes", "vector": [0, 1]}]


@pytest.mark.parametrize("line", ["hello", "[1]", '{"loss": 1}', '{"step": null}'])
def test_another_programs_file_is_refused(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    text = f'{{"step": 9}}\n{line}\n{{"step": 9}}\n'
    path.write_text(text)
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl is not a row of metrics"):
        MetricsLog(path, 5)
    assert path.read_text() == text


@pytest.mark.parametrize("steps", [(1, 2, 2, 3), (1, 3, 2)])
def test_a_step_twice_is_refused(tmp_path, steps):
    path = tmp_path / "metrics.jsonl"
    text = "".join(f'{{"step": {step}}}\n' for step in steps)
    path.write_text(text)
    with pytest.raises(InputError, match=r"line 3 of .*metrics\.jsonl is of step 2, and the line before of step [23]"):
        MetricsLog(path, 5)
    assert path.read_text() == text


def test_rows_that_are_missing_are_told(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 5, 6, 9)))
    with MetricsLog(path, 6):
        assert "metrics.jsonl lacks the rows of 2 outer steps, the first of step 3" in caplog.text
    assert [row["step"] for row in read(path)] == [1, 2, 5, 6]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def run_progress(console, *, total, start, steps, seconds):
    clock = Clock()
    with Progress(total, start=start, console=console, clock=clock) as progress:
        for step in steps:
            clock.now += seconds
            progress.update(step, meta_loss=step / 1000)


def test_lines_are_rare_and_tell_the_rate_of_this_invocation():
    stream = io.StringIO()
    # 1 step a second from 500 on: 5 % of the run, 50 s, is rarer than 10 s
    run_progress(Console(file=stream), total=1000, start=500, steps=range(501, 621), seconds=1.0)
    lines = stream.getvalue().splitlines()
    assert [re.findall(r"step (\d+)/1000", line) for line in lines] == [["501"], ["551"], ["601"], ["620"]]
    assert lines[0] == "step 501/1000, meta-loss 0.501"
    assert lines[-1] == "step 620/1000, 1 steps/s, meta-loss 0.62, 0:06:20 left"
    stream = io.StringIO()
    # 20 steps a second: 10 s is rarer
    run_progress(Console(file=stream), total=1000, start=0, steps=range(20, 1001, 20), seconds=1.0)
    steps = [int(step) for step in re.findall(r"step (\d+)/", stream.getvalue())]
    assert steps == [20, 220, 420, 620, 820, 1000]
    assert stream.getvalue().endswith("20 steps/s, meta-loss 1, 0:00:00 left\n")


def test_the_rate_forgets_what_is_older_than_its_window():
    stream, clock = io.StringIO(), Clock()
    with Progress(10_000, console=Console(file=stream), clock=clock) as progress:
        clock.now += 100  # compiling
        progress.update(1)
        for i in range(40):
            clock.now += 1
            progress.update(1 + 2 * (i + 1))
    first, last = stream.getvalue().splitlines()
    assert first == "step 1/10000"
    assert last == "step 81/10000, 2 steps/s, 1:22:40 left"


def test_nothing_is_printed_for_a_run_that_is_over_or_has_no_rate():
    stream, clock = io.StringIO(), Clock()
    with Progress(10, start=10, console=Console(file=stream), clock=clock):
        pass
    assert stream.getvalue() == ""
    with Progress(10, console=Console(file=stream), clock=clock) as progress:
        progress.update(1, meta_loss=math.nan)
    assert stream.getvalue() == "step 1/10, meta-loss nan\n"


def test_a_run_that_goes_back_is_told_with_a_new_rate_and_its_scores():
    stream, clock = io.StringIO(), Clock()
    with Progress(100, console=Console(file=stream), clock=clock) as progress:
        for step in (10, 50, 20, 30):
            clock.now += 20
            progress.update(step, valid=(0.5, 0.25))
    assert stream.getvalue().splitlines() == [
        "step 10/100, validation 0.5 (best 0.25)",
        "step 50/100, 2 steps/s, validation 0.5 (best 0.25), 0:00:25 left",
        "step 20/100, validation 0.5 (best 0.25)",
        "step 30/100, 0.5 steps/s, validation 0.5 (best 0.25), 0:02:20 left",
    ]


def test_a_bar_on_a_terminal_shares_the_console_of_logging(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    handler = RichHandler(console=console, show_path=False, show_time=False)
    logging.getLogger().addHandler(handler)
    try:
        clock = Clock()
        with Progress(100, start=40, clock=clock) as progress:
            progress.update(40)
            clock.now += 5
            progress.update(50, meta_loss=0.5)
            logging.getLogger().warning("a message")
    finally:
        logging.getLogger().removeHandler(handler)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    rows = [row.rstrip() for row in re.split(r"[\r\n]+", plain) if row.strip()]
    assert "WARNING  a message" in rows
    assert re.fullmatch(r"[━╸╺ ]+ step 50/100, 2 steps/s, meta-loss 0.5, 0:00:25 left", rows[-1])
    bar = rows[-1].split(" step")[0]
    assert bar.count("━") + bar.count("╸") + bar.count("╺") == 40


def test_disabled_does_not_import_wandb(tmp_path):
    code = (
        "import sys; from lopt.tracking import open_tracker\n"
        f"tracker = open_tracker('disabled', config={{}}, workdir={str(tmp_path)!r}, kind='train')\n"
        "tracker.log({'step': 1}, step=1); tracker.finish()\n"
        "assert 'wandb' not in sys.modules and 'orbax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="unknown wandb mode 'on'"):
        open_tracker("on", config={}, workdir=tmp_path, kind="train")


# A server that takes a run and then goes away; in the other modes it is never there.
WANDB = """
import http.server, json, math, sys, threading, time
import numpy as np
from lopt.tracking import Histogram, open_tracker

class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        project = {"id": "p", "name": "lopt", "entity": {"id": "e", "name": "me"}}
        run = {"id": "r", "name": "r", "displayName": "r", "sweepName": None, "historyLineCount": 0, "project": project}
        user = {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}
        data = {"viewer": user, "model": {"bucket": None}, "upsertBucket": {"bucket": run, "inserted": True}}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args):
        pass

mode, vanishing, workdir = sys.argv[1], sys.argv[2] == "vanishing", sys.argv[3]
if vanishing:
    import os
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"

def timed(action, *args, **kwargs):
    start = time.monotonic()
    result = action(*args, **kwargs)
    seconds.append(time.monotonic() - start)
    return result

seconds = []
if mode == "online":
    import wandb  # waiting is what is measured, and not how busy the machine is
tracker = timed(open_tracker, mode, config={"seed": 1}, workdir=workdir, kind="train", lowest=("valid/*",))
if vanishing:
    server.shutdown()
    server.server_close()
def log():
    for step in range(1, 101):
        spread = Histogram(np.array([1, 2]), np.array([0.0, 1.0, 2.0]))
        tracker.log({"step": step, "meta_loss": math.nan, "theta/a": spread}, step=step)
timed(log)
timed(tracker.finish)
tracker.log({"step": 101}, step=101)
print(json.dumps([type(tracker).__name__, *seconds]))
"""


def run_wandb(mode, workdir, *, server="absent", key="0" * 40):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(workdir / "no_netrc"), "WANDB_API_KEY": key}
    command = [sys.executable, "-W", "error", "-c", WANDB, mode, server, str(workdir)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(process):
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return *json.loads(stdout), stderr


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A folder of workdirs and the processes that track into them: all at the same time, as most of it is waiting."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "offline").mkdir()
    (folder / "offline" / "wandb_id").write_text("abcd1234")
    processes = {
        "offline": run_wandb("offline", folder / "offline", key=""),
        "unreachable": run_wandb("online", folder / "unreachable"),
        "vanishing": run_wandb("online", folder / "vanishing", server="vanishing"),
        "no key": run_wandb("online", folder / "no key", key=""),
    }
    yield folder, processes
    for process in processes.values():
        process.kill()
        process.communicate()


def test_offline_continues_the_run_of_the_workdir(tracked):
    folder, processes = tracked
    kind, *_, stderr = result_of(processes["offline"])
    assert (kind, stderr) == ("_Wandb", "")
    (run,) = (folder / "offline" / "wandb").glob("offline-run-*")
    assert (run / "run-abcd1234.wandb").stat().st_size > 5_000


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("wrong", "kind", "opening", "finishing", "warning"),
    [
        ("unreachable", "_NoTracker", (4, 10), (0, 0.1), "going on without wandb: .*connection refused"),
        ("vanishing", "_Wandb", (0, 10), (4, 10), "going on without wandb, because finishing it failed: Timed out.*"),
        ("no key", "_NoTracker", (0, 10), (0, 0.1), "going on without wandb: No API key configured.*"),
    ],
)
def test_online_costs_at_most_ten_seconds_and_a_warning(tracked, wrong, kind, opening, finishing, warning):
    folder, processes = tracked
    actual, opened, logged, finished, stderr = result_of(processes[wrong])
    assert actual == kind
    assert opening[0] <= opened <= opening[1]
    assert logged < 2
    assert finishing[0] <= finished <= finishing[1]
    assert re.fullmatch(f"WARNING:root:{warning}\n", stderr)
    assert re.fullmatch("[0-9a-f]{8}", (folder / wrong / "wandb_id").read_text())


def test_paths_are_logged_as_pictures(tmp_path):
    import wandb
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    tracker: Any = object.__new__(_Wandb)
    logged = []
    tracker._run = SimpleNamespace(log=lambda row, step: logged.append((row, step)))
    tracker.log({"loss": 1.5, "curves": tmp_path / "a.png"}, step=0)
    ((row, step),) = logged
    assert (row["loss"], step) == (1.5, 0)
    assert isinstance(row["curves"], wandb.Image)
    assert row["curves"].image.size == (3, 2)


def test_columns_are_read_on_from_where_the_file_ended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    columns = Columns(path)
    with pytest.raises(FileNotFoundError):
        columns.look()
    path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "b": null, "c": "text"}\n{"step": 3, "a"')
    found = columns.look()
    assert list(found) == ["step", "a", "b", "c"]
    np.testing.assert_array_equal(found["a"], [0.5, np.nan])
    with open(path, "a") as file:
        file.write(f': 7, "d": {10**400}}}\n')
    found = columns.look()
    np.testing.assert_array_equal(found["a"], [0.5, np.nan, 7])
    np.testing.assert_array_equal(found["d"], [np.nan, np.nan, np.inf])
    assert all(len(values) == 3 for values in found.values())
    with MetricsLog(path, 1) as log:  # a run that goes back to a checkpoint
        log.write([{"step": 2, "a": 9.0}, {"step": 3, "a": 8.0}, {"step": 4, "a": 7.0}])
    np.testing.assert_array_equal(columns.look()["a"], [0.5, 9, 8, 7])
    assert set(columns.look()) == {"step", "a"}
    path.write_text('{"step": 1, "a": 3}\n')  # shorter than what was read
    np.testing.assert_array_equal(columns.look()["a"], [3])


@pytest.mark.parametrize("line", ["hello", "[1]", "3", "[" * 100_000])
def test_columns_of_what_is_no_row(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"line 1|Expecting value"):
        read_columns(tmp_path / "metrics.jsonl")
