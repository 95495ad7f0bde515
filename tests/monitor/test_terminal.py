"""The dashboard as a terminal shows it: what stands in it, that it fits, and where the dots of a line are."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from lopt.meta_training.panels import Line, Panel
from lopt.monitor.dots import AXIS, draw
from lopt.monitor.terminal import LOWEST, Dashboard, changes_no_more
from tests.monitor.example import row, rows, seen, watcher, write


def shown(runs, width=100, height=40):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=True)
    console.print(Dashboard(runs))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rstrip("\n").split("\n")


@pytest.fixture
def sweep(tmp_path):
    write(tmp_path / "rate=0.001__seed=0", rows(40))
    write(tmp_path / "rate=0.01__seed=0", [row(step, capped=0.5, valid_score=2 / step) for step in range(1, 101)])
    write(tmp_path / "rate=0.1__seed=0", [])
    return watcher(tmp_path).look()


def test_several_runs(sweep):
    lines = shown(sweep, width=150)
    titles = "run state step s/step left meta-loss at first validation best at step signal capped left out"
    assert lines[0].split() == titles.split()
    assert lines[1].split()[:8] == ["1", "━", "rate=0.001__seed=0", "running", "40", "/", "100", "2"]
    assert lines[2].split()[3:6] == ["finished", "100", "/"]
    assert lines[3].split()[:6] == ["3", "━", "rate=0.1__seed=0", "starting", "0", "/"]
    assert any("meta-loss, running mean" in line and "validation score" in line for line in lines)
    assert lines[-2].startswith("!  rate=0.01__seed=0: 50\N{NO-BREAK SPACE}% of the inner steps are at the cap")
    assert "To do: usual at the start alone" in " ".join(lines[-2:])


def test_one_run_that_is_well_names_its_lines(tmp_path):
    made = [row(step, valid_score=0.5, valid_train=0.4) for step in range(1, 41)]
    lines = shown([seen(tmp_path / "run", made)])
    assert any("validation  1 valid_score  2 valid_train" in line for line in lines)
    assert any("size of the update" in line for line in lines)
    assert lines[-1] == "Nothing to warn of."


@pytest.mark.parametrize("height", [3, 12, 21, 22, 23, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_the_terminal(sweep, width, height):
    lines = shown(sweep, width, height)
    assert max(map(len, lines)) <= width
    told = len(shown(sweep, width, 1))  # the table and what is to be done are always there
    assert len(lines) <= max(height, told)
    rows_of_pictures = sum("step 100" in line for line in lines)  # below each row of pictures
    assert rows_of_pictures * LOWEST <= max(0, height - told)
    if width == 200:
        assert sum("running mean" in line for line in lines) == (height > 12)


def test_before_the_first_step(tmp_path):
    lines = shown([seen(tmp_path / "run", [])])
    assert lines[1].split() == ["run", "starting", "0", "/", "100"]
    assert len(lines) == 4


@pytest.mark.parametrize(("age", "over"), [(1.0, False), (1e5, True)])
def test_it_ends_when_nothing_goes_on(tmp_path, age, over):
    assert changes_no_more([seen(tmp_path / "a", rows(100)), seen(tmp_path / "b", rows(9), age=age)]) == over


def test_it_does_not_end_while_a_process_is_there(tmp_path):
    quiet = seen(tmp_path / "a", rows(9), age=1e5)
    assert changes_no_more([quiet])
    assert not changes_no_more([quiet._replace(alive=True)])


def test_names_are_no_markup(tmp_path):
    for name in ("[red]a", "[bold]b"):
        write(tmp_path / name, rows(10, capped=0.5))
    text = "\n".join(shown(watcher(tmp_path).look(), width=150))
    assert (text.count("[red]a"), text.count("[bold]b")) == (2, 2)  # in the table, and in a warning


def dots(picture):
    """The places of the dots of a picture: column and row, from the upper left of the plot."""
    found = set()
    for y, line in enumerate(str(picture).split("\n")[1:-1]):
        for x, letter in enumerate(line[AXIS:]):
            bits = ord(letter) - 0x2800 if letter >= "\u2800" else 0
            # The standard's order of the dots 1 to 8: down the left, down the right, then the two of the last line.
            places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
            found |= {(2 * x + i, 4 * y + j) for n, (i, j) in enumerate(places) if bits >> n & 1}
    return found


def test_dots_lie_where_the_values_are():
    steps = np.arange(0.0, 41)
    panel = Panel("a", "b", [Line("a", steps, steps, 0)])
    (picture,) = draw([panel], AXIS + 1 + 20, 2 + 10, 40)
    found = dots(picture)
    low, high = 0 - 0.06 * 40, 40 + 0.06 * 40  # as panels.scale_of has it
    for x, y in found:
        value = high - y / 39 * (high - low)
        assert abs(value - x) < 2.0  # one column is one step, one row 1.15
    assert {x for x, _ in found} == set(range(40))  # a step each, but for the last two


def test_a_logarithmic_axis_makes_a_line_of_powers():
    steps = np.arange(0.0, 40)
    panel = Panel("a", "b", [Line("a", steps, 10.0**-steps, 0)])
    (picture,) = draw([panel], AXIS + 1 + 20, 2 + 10, 39)
    assert str(picture).split("\n")[-1].split() == ["log", "0", "step", "39"]
    for x, y in dots(picture):
        assert abs(x * 37 / 39 + 1 - y) < 2.6


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        # 0 to 100 with 6 % on both sides; the sixth of ten rows has its middle at 0.45 of that.
        (np.linspace(0.0, 100, 101), ("106", "44.4", "-6")),
        (10.0 ** np.linspace(0, 2, 101), ("132", "7.73", "0.759")),  # 100^1.06, 100^(1.12 * 0.45 - 0.06), 100^-0.06
    ],
)
def test_an_axis_has_the_values_of_its_rows(values, labels):
    (picture,) = draw([Panel("a", "b", [Line("a", np.arange(0.0, 101), values, 0)])], 31, 2 + 10, 100)
    lines = str(picture).split("\n")[1:-1]
    assert tuple(lines[row].split()[0] for row in (0, 5, 9)) == labels


def test_of_several_values_in_a_column_the_newest_is_drawn():
    steps = np.arange(0.0, 400)
    columns = np.rint(steps / 399 * 39)
    values = np.append(columns[1:] != columns[:-1], True).astype(float)  # 1 where a column ends, else 0
    (picture,) = draw([Panel("a", "b", [Line("a", steps, values, 0)])], AXIS + 1 + 20, 2 + 10, 399)
    assert {y for _, y in dots(picture)} == {round(0.06 / 1.12 * 39)}  # the row of 1, below 6 % of margin
