"""The page of an evaluation: what stands in it. `test_page_in_browser.py` has what it does."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from lopt import figures
from lopt.evaluation import style
from lopt.evaluation.page import render
from lopt.page import sheet
from lopt.page.cells import number, significant, with_prefix
from tests.evaluation.page_example import example

DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """What stands in a page, read as HTML: tags left open, ids, addresses, and the cells of the rows by section."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.addresses, self.texts = [], [], [], []
        self.rows: dict[str, list[list[str]]] = {}
        self.bold: set[tuple[str, str]] = set()  # section and text
        self.best = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in ("meta", "link", "input", "img"):
            self.open.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "action", "data", "poster")]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "tr":
            self.rows.setdefault(self.ids[-1], []).append([])
        if tag in ("td", "th"):
            self.rows[self.ids[-1]][-1].append("")
            self.best = values.get("class") == "best"

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[self.ids[-1]][-1][-1] += data
            if self.best:
                self.bold.add((self.ids[-1], data))


def embedded(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012, "0.0120"), (0.99962, "1.000"), (2.345, "2.35"), (12345.6, "12346"), (1.2e-5, "1.20e-05")],
)
def test_three_digits_with_their_zeros(value, text):
    assert significant(value) == text


def test_plain_values_and_large_counts():
    assert [number(x) for x in (None, math.nan, "inf", math.inf, 3)] == [None, None, math.inf, math.inf, 3.0]
    assert [with_prefix(x) for x in (12, 2.5e6, 3.21e12)] == ["12", "2.50 M", "3.21 T"]


def test_the_page_stands_alone():
    text = render(example())
    page = Page(text)
    assert page.open == []  # every tag is closed, in order
    sections = [
        "deciding",
        "overall",
        "failures",
        "curves",
        "results",
        "profiles",
        "trials",
        "targets",
        "cost",
        "sweeps",
        "tuning",
        "provenance",
    ]
    assert [name for name in page.ids if name in sections] == sections
    assert set(page.addresses) == {"data:,", *(f"#{name}" for name in sections)}
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # a name, no address
    assert "@import" not in text
    assert "url(" not in text
    assert len(render({}).encode()) < 40_000


def test_tables_say_what_the_rows_say():
    page = Page(render(example()))
    rows = page.rows["results"]
    heads = [head.split("\n")[0] for head in rows[0]]
    assert heads[:6] == [
        "Optimizer",
        "Mean loss",
        "Final loss",
        "Loss (valid)",
        "Lowest loss (valid)",
        "Accuracy (valid)",
    ]
    assert rows[1] == ["image_mlp/digits2,410 parameters"]
    assert rows[2] == [
        *("Learned (lopt)", "0.0400", "0.0100", "0.0150", "0.0120 at 1,400", "99.0\N{NO-BREAK SPACE}%"),
        *("0.833", "1.25", "2.00", "≥ 4.00", "1.70", "0 of 5", "3.50 M"),
    ]
    assert rows[3][1:5] == ["diverged"] * 4
    assert rows[3][11] == "5 of 5"
    assert rows[6][:3] == ["Adam, cosine", DASH, "0.0120"]  # schedules have no mean loss
    assert rows[-1][5] == DASH  # no accuracy
    assert {
        ("results", "0.0400"),
        ("results", "0.0300"),
        ("results", "0.300"),
    } <= page.bold  # final losses, each task's
    assert not {("results", "0.0120"), ("results", "diverged"), ("results", DASH)} & page.bold
    decides = page.rows["deciding"]
    task = "text_rnn/<b>&</script>"
    of_training = ["0.833", "0.750", f"1.67 {task}", "2 of 3"]
    assert decides[1] == ["Learned (lopt)", *of_training, "1.25", "1.13", f"2.50 {task}", "0 of 3"]
    assert {("deciding", "0.833"), ("deciding", "1.25")} <= page.bold
    overall = page.rows["overall"]
    assert overall[1][0:2] == ["Learned (lopt)", "2.00 [1.80, 2.30]"]
    assert overall[1][3] == "1.20 text_rnn/<b>&</script>"
    assert overall[1][4] == DASH  # it is not compared with itself
    assert overall[1][6:] == ["≥ 4.00", "0 of 15"]
    assert page.rows["tuning"][4][-1] == "0.037 / 0.016"
    assert page.rows["tuning"][5][-1] == "0.016"
    assert page.rows["sweeps"][1] == ["Learned (lopt)", "2.00", "1.60", "1.10", "0.70", "0.30", "diverged"]


def test_what_budgets_buy_is_said_in_tables_words_and_pictures():
    text = render(example(), {"trials.png": b"one", "other.png": b"two"})
    page = Page(text)
    rows = page.rows["trials"]
    assert rows[0][1:] == ["1 trial", "2 trials", "4 trials", "8 trials", "15 trials", "Needs"]
    assert rows[1] == ["Learned (lopt)", *["1.50"] * 5, DASH]
    assert rows[2] == ["Adam", "2.00", "1.80", "1.46", "0.957", "0.458", "3"]
    assert rows[4] == ["Muon", "3.00", "2.00", DASH, DASH, DASH, "more than 2"]
    assert [row[-1] for row in rows[7:]] == ["more than 15", "more than 15", "more than 2"]
    words = " ".join("".join(page.texts).split())
    assert "final training loss: Adam, cosine 1, Adam 3, 1 of 3 baselines more than they have." in words
    assert "validation loss: 3 of 3 baselines more than they have." in words
    assert page.rows["targets"][1] == ["Learned (lopt)", "0.900", "0.500", "3 of 3"]
    assert page.rows["targets"][2] == ["Same rule, untrained", "0.800", "0.500", "2 of 3"]
    assert re.findall(r'<img [^>]*src="data:image/png;base64,([^"]*)"', text) == ["b25l"]  # the one that it speaks of


def test_the_cost_of_a_step_is_said():
    """In words only what repeats: FLOPs. Times stand in the table alone, with the range of their turns."""
    text = render(example())
    assert "One training step with Learned (lopt) takes 1.40 times the FLOPs of one with\nAdam" in text
    assert "times the time of one with Adam" not in text
    assert "ms per step" not in text
    # The turns of the task with the floor 30 range from 0.3 below to 0.6 above.
    assert Page(text).rows["cost"][1] == ["Learned (lopt)", "1.40", "1.90 [1.60, 2.50]"]


def test_few_seeds_are_cautioned_against():
    assert "few for" not in render(example())
    text = render(example() | {"caution": "2 seeds: too few for it."})
    assert Page(text).texts.count("2 seeds: too few for it.") == 1


def test_styles_are_those_of_the_pictures():
    """Colours and dashes of style.py are those of the style sheet; an optimizer's do not depend on the others."""
    css = sheet.read(sheet.FOLDER / "style.css")
    accent, *others = figures.COLOURS
    assert f"--accent: {accent};" in css
    day = {f"--c{i}": colour for i, colour in enumerate(others, start=1)}
    found = dict(re.findall(r"(--c\d): (#\w+);", css.split("@media")[0]))
    assert {name: full(colour) for name, colour in found.items()} == day
    dashes = {int(i): x for i, x in re.findall(r"\.d(\d) \{ stroke-dasharray: ([\d. ]+); \}", css)}
    assert {i: " ".join(f"{x:g}" for x in dash) for i, dash in enumerate(figures.DASHES) if dash} == dashes
    few, many = (style.styles(names) for names in (["learned", "muon", "x"], ["learned", *style.ORDER, "x", "y"]))
    assert few == {name: many[name] for name in few}
    assert many["learned"].classes == "c0 d0 wide"
    assert many["adam"].classes == "c1 d0"
    assert len(set(many.values())) == len(many)


def full(colour):
    return colour if len(colour) == 7 else "#" + "".join(2 * x for x in colour[1:])


def test_what_others_named_stays_text():
    evil = "</script><img src=x onerror=alert(1)>\"'&{{data}}"

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):  # "optimizer" is a key of other parts
            return {key: item if key == "optimizer" else spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return value + evil if isinstance(value, str) and value != "inf" else value

    content = example()
    text = render(spoil(content))
    page = Page(text)
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert page.open == []
    assert content["title"] + evil in page.texts
    assert embedded(text)["tasks"][1]["name"] == "text_rnn/<b>&</script>" + evil


@pytest.mark.parametrize("key", sorted(example()))
def test_absent_parts_are_left_out(key):
    content = example()
    del content[key]
    page = Page(render(content))
    gone = {
        "deciding": "deciding",
        "trials": "trials",
        "targets": "targets",
        "aggregate": "overall",
        "profiles": "profiles",
        "sweeps": "sweeps",
        "tasks": "curves",
    }
    assert gone.get(key) not in page.ids
    assert f"#{gone.get(key)}" not in page.addresses


def test_an_empty_evaluation_is_a_page():
    assert [name for name in Page(render({})).ids if name != "data"] == []


def test_a_warning_is_told_once():
    content = example()
    warning = f"{content['tasks'][1]['name']}: {content['tasks'][1]['warnings'][0]}"
    assert Page(render(content)).texts.count(warning) == 1
    content["failures"].append(warning)
    assert Page(render(content)).texts.count(warning) == 1


def test_nothing_failed_is_said_only_where_it_was_looked_for():
    content = example() | {"failures": []}
    assert "On none of these tasks" in render(content)
    del content["failures"]
    assert "On none of these tasks" not in render(content)


def test_many_optimizers_look_different_and_the_best_are_shown():
    content = example()
    names = [f"other{i}" for i in range(32)]
    content["optimizers"] |= {name: {"label": name, "kind": "constant", "tuning": ""} for name in names}
    content["aggregate"] += [{"optimizer": name, "iqm": 3 + i} for i, name in enumerate(names)]
    data = embedded(render(content))
    styles = [row["style"] for row in data["optimizers"].values()]
    assert len(set(styles)) == len(styles) == 38
    assert data["optimizers"]["learned"]["style"] == "c0 d0 wide"
    assert data["shown"] == ["learned", "adam", "other31", "other30", "other29", "other28", "other27"]


def test_curves_that_are_not_finite_are_null():
    content = example()
    content["tasks"][0]["curves"]["adam"]["median"][:4] = [math.nan, math.inf, "inf", 0.123456789]
    assert embedded(render(content))["tasks"][0]["curves"]["adam"]["median"][:4] == [None, None, None, 0.1234568]
