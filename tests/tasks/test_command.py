"""`python -m tasks`: what it prints and writes, wrong use, odd folders, a full disk, and being interrupted."""

import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from tasks import datasets
from tests.tasks.odd_paths import ODD_NAMES

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments, data_dir=None):
    data = [f"--data_dir={data_dir}"] if data_dir else []
    return subprocess.run(
        [sys.executable, "-m", "tasks", *arguments, *data], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_list_shows_families_pools_and_sets(tmp_path):
    result = command("list", data_dir=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for word in (
        "image_vit",
        "reparametrize",
        "held_out",
        "2*image_mlp/digits",
        "kjv",
        "when first used",
        str(tmp_path),
    ):
        assert word in result.stdout
    assert list(tmp_path.iterdir()) == []  # listing prepares nothing


def test_prepare_writes_a_set_once(tmp_path):
    result = command("prepare", "wine", data_dir=tmp_path)
    assert result.returncode == 0
    folder = Path(result.stdout.split("... ")[1].strip())
    assert folder.is_dir()
    assert folder.parent.parent == tmp_path
    assert "prepared" in command("list", data_dir=tmp_path).stdout


def test_show_draws_a_page(tmp_path):
    result = command("show", "table_mlp/wine:hidden_sizes=(4,)", "test_function", f"--out={tmp_path}", "--steps=5")
    assert (result.returncode, result.stderr) == (0, "")
    pages = [Path(line) for line in result.stdout.split()]
    assert [page.parent for page in pages] == [tmp_path] * 2
    assert all(page.read_bytes()[:4] == b"\x89PNG" for page in pages)


def test_a_reader_that_stops_reading_is_no_error():
    line = f"{sys.executable} -m tasks list | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (result.stderr, "Task families" in result.stdout) == ("", True)
    assert result.returncode in (0, 1)  # 0 where all was written before the reader had gone


@pytest.fixture
def here(monkeypatch, tmp_path, capsys):
    """The command within this process, as starting one takes seconds: arguments to its status and its stderr.

    Pages are a few bytes and nothing is trained. The working directory is `tmp_path`.
    """
    module = importlib.import_module("tasks.__main__")
    own = list(flags.FLAGS.flags_by_module_dict()[module.__name__])
    monkeypatch.setattr(module, "draw_page", lambda *arguments: None)
    monkeypatch.setattr(module, "to_png", lambda figure: b"page")
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)

    def call(*arguments):
        for flag in own:
            flag.unparse()
        try:
            status = module.main(module._parse_flags(["tasks", *arguments]))
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    yield call
    signal.signal(signal.SIGINT, handler)
    for flag in own:  # those that libraries have defined meanwhile stay
        delattr(flags.FLAGS, flag.name)
    del sys.modules[module.__name__]


def test_a_folder_of_arrays_becomes_a_set(here, tmp_path):
    folder = tmp_path / "raw" / "notes"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("to be or not to be, that is the question. " * 50)
    call = ("prepare", str(folder), f"--data_dir={tmp_path / 'data'}")
    assert here(*call) == (0, "")
    assert datasets.describe("notes", tmp_path / "data").kind == "text"
    status, message = here(*call)
    assert status == 2
    assert "delete that folder, or choose another name" in message


WRONG_COMMANDS = [
    (["lst"], "Did you mean 'list'"),
    (["prepare", "wine", "mnistt"], "mnist"),
    (["show"], "say what to show"),
    (["show", "image_mlp/nothing"], "unknown data set 'nothing'"),
    (["list", "x"], "takes no names"),
    (["list", "--dir=x"], "Unknown command line flag"),
    (["list", "--nologtostderr=1"], "--nologtostderr=1 does not take an argument"),
    (["show", "test_function", "--steps=0"], "flag --steps=0"),
    (["show", "test_function", "--steps=1000000000000"], "flag --steps="),
    (["show", "test_function", "--seed=-1"], "flag --seed="),
    (["show", "test_function", "--seed=1000000000000000000000000000000"], "flag --seed="),
    (["show", "image_mlp/digits:hidden_sizes=(1000000000,1000000000)"], "GB of memory, most of it for parameters"),
    (["prepare", "wine", "--data_dir=gs://bucket"], "must be a folder of this machine"),
    (["list", "--data_dir=gs://bucket"], "must be a folder of this machine"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_COMMANDS)
def test_wrong_commands_say_what_to_do(here, tmp_path, arguments, message):
    data = [] if any("data_dir" in word for word in arguments) else [f"--data_dir={tmp_path}"]
    status, answer = here(*arguments, *data)
    assert (status, answer.count("\n")) == (2, 1)
    assert answer.startswith("tasks: ")
    assert message in answer
    assert list(tmp_path.iterdir()) == []


def test_pages_go_to_any_folder(here, tmp_path):
    for name in ODD_NAMES:
        assert here("show", "test_function", f"--out=./{name}/pages") == (0, "")
        assert [path.name for path in (tmp_path / name / "pages").iterdir()] == ["test_function.png"]
    for name in ODD_NAMES[:4]:
        assert here("list", f"--data_dir={tmp_path}/{name}") == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ODD_NAMES)


def test_pages_that_cannot_be_written_are_refused_in_one_line(here, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "taken" / "test_function.png").mkdir(parents=True)
    places = ["file", "file/x", "link", "loop", "x" * 300, "/".join(["x" * 200] * 30), "taken", "/proc/1/fd/new"]
    for place in places:
        status, answer = here("show", "test_function", f"--out={place}")
        assert (status, answer.count("\n")) == (2, 1)
        assert answer.startswith(f"tasks: cannot write pages to {place}: ")
        assert answer.endswith("Choose another --out.\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "loop", "taken", "test_function.png"]


def refuse(code):
    def refused(*arguments):
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize(
    ("function", "behaviour", "reason"),
    [
        ("fsync", refuse(errno.ENOSPC), "No space left on device"),
        ("replace", refuse(errno.EDQUOT), "Disk quota exceeded"),
        ("access", lambda *arguments: False, "Permission denied"),
    ],
)
def test_a_disk_that_is_full_or_read_only(here, monkeypatch, tmp_path, function, behaviour, reason):
    if function == "access":  # said before anything is trained
        monkeypatch.setattr("tasks.__main__.draw_page", "never called")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, behaviour)
        answer = here("show", "test_function", "--out=pages")
    assert answer == (2, f"tasks: cannot write pages to pages: {reason}. Choose another --out.\n")
    assert list((tmp_path / "pages").iterdir()) == []


def test_a_long_name_is_cut_and_stays_its_own(here, tmp_path):
    names = [f"quadratic{'+reparametrize:low=0.00123456:high=1234.56' * 7}{end}" for end in ("", "+scale_loss")]
    assert len(names[0]) > 255
    assert here("show", *names, "--out=pages") == (0, "")
    pages = [path.name for path in (tmp_path / "pages").iterdir()]
    assert len(pages) == 2
    assert all(page.startswith("quadratic_reparametrize") and len(page) < 230 for page in pages)


@pytest.mark.parametrize(
    ("arguments", "function"),
    [(("show", "test_function", "--out=pages"), "draw_page"), (("prepare", "wine"), "datasets.prepare")],
)
def test_ctrl_c_ends_in_one_line(here, monkeypatch, arguments, function):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tasks.__main__.{function}", interrupt)
    assert here(*arguments) == (130, "tasks: interrupted; what was not finished has left no files\n")


def test_ctrl_c_while_a_set_is_made_leaves_nothing(tmp_path):
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    listen = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        listen,
        sys.executable,
        "-m",
        "tasks",
        "prepare",
        "glyphs",
        f"--data_dir={tmp_path}",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "glyphs"  # it takes seconds from here
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("\n")) == (130, 1)
    assert errors.startswith("tasks: interrupted")
    assert list(tmp_path.iterdir()) == []
