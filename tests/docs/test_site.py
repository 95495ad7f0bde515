"""The site that `make docs` has left in runs/docs/html: it loads nothing from elsewhere, and its links lead somewhere.

Each test is skipped where there is no such site, so build it first.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.evaluation.browser import MISSING, browser
from tests.test_imports import ROOT

SITE = ROOT / "runs" / "docs" / "html"
PAGES = sorted(SITE.rglob("*.html"))
OPENED = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))  # all that the side of a page names
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}

pytestmark = pytest.mark.skipif(not (SITE / "searchindex.js").exists(), reason="no site: make docs")


class Page(HTMLParser):
    """What a page loads, what it links to, its anchors, and its pictures without a text."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.anchors, self.silent = set(), set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        if tag in LOADING:
            self.loads.add(values.get(LOADING[tag]))
        if tag == "link" and values.get("rel") not in ("canonical", "index", "search", "next", "prev", "author"):
            self.loads.add(values.get("href"))
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if tag == "img" and not values.get("alt"):
            self.silent.add(values.get("src"))


@pytest.fixture(scope="module")
def pages():
    return {path: Page(path) for path in PAGES}


def test_nothing_is_loaded_from_another_host(pages):
    for path, page in pages.items():
        assert not [x for x in page.loads if x and re.match(r"(https?:)?//", x)], path
    for sheet in SITE.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\s]+", sheet.read_text()), sheet


def test_links_within_the_site_lead_to_pages_and_headings(pages):
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            there = (path.parent / target).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there.exists(), f"{path} links to {link}"
            if anchor and there in pages:
                assert anchor in pages[there].anchors, f"{path} links to {link}"


def test_every_picture_has_a_text(pages):
    assert {path: page.silent for path, page in pages.items() if page.silent} == {}


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_browser_asks_nobody_else_and_the_pages_fit_a_phone(tmp_path):
    with browser(tmp_path) as page:
        page.resize(390, 844)
        for name in (*OPENED, "estimators/pes", "optimizers/blend", "gallery/variance", "api/lopt.guard"):
            page.open(SITE / f"{name}.html")
            events = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
            sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
            asked = [each["request"]["url"].partition(":")[0] for each in sent]
            assert asked
            assert not {"http", "https", "ws", "wss"} & set(asked)
            width = page.run("return document.documentElement.scrollWidth")
            assert width <= 390, f"{name} is {width} wide"
        assert not [entry for entry in page.log("browser") if "Failed to load" in entry["message"]]
