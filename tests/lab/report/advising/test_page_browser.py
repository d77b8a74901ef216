"""Pages of advice in a real browser."""

import json

import pytest
from tests.lab.advices import advice, growing, no_gain, outcome
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.test_page_gallery import OVERLAPS

from adabatch.lab.report import page
from adabatch.lab.scaling import Estimate

pytestmark, browser = chromium.NEEDED, chromium.browser

FAR = growing("early", (None, 1.8, None), (None, 1.5, None))
FOUND = {
    "grow": advice(),
    "checked": advice(outcome=outcome()),
    "far": advice(growing=(FAR,), outcome=outcome(ratio=Estimate(None, 2.0, None), high=None)),
    "none": no_gain(),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advice")
    for name, found in FOUND.items():
        (folder / name).mkdir()
        (folder / name / "advice.json").write_text(json.dumps(found.to_json()))
    made = {name: page.write(folder / name) for name in FOUND}
    return made | {"several": page.write_together([folder / name for name in FOUND])}


@pytest.mark.parametrize(
    ("device", "dark"),
    [(DESKTOP, False), (PHONE | {"width": 400}, True), (PHONE | {"width": 320}, False)],
    ids=["desktop", "phone", "small"],
)
@pytest.mark.parametrize("name", [*FOUND, "several"])
def test_it_draws_fits_and_asks_nobody(browser, pages, name, device, dark):
    browser.open(pages[name], device=device, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    count = {"none": 0, "several": 1}.get(name, 2)
    assert browser.run("document.querySelectorAll('.chart').length") == count
    assert browser.run("[...document.querySelectorAll('.chart')].every(c => c.querySelectorAll('.line, .mark').length)")
    assert browser.run(OVERLAPS) == []
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth") <= device["width"]


def test_it_says_the_verdict_and_shows_the_outcome(browser, pages):
    said = "document.querySelector('main').innerText.replace(/\\u00a0/g, ' ')"
    browser.open(pages["checked"])
    assert "Growth pays here: 1.6× [1.3, 1.9]" in browser.run(said)
    assert "hold it" in browser.run(said)
    assert browser.run("document.querySelectorAll('#ratios .trace[data-arm=outcome] .mark').length") == 1
    browser.open(pages["none"])
    assert "No evidence that growth pays here." in browser.run(said)
    browser.open(pages["several"])
    assert "the 80 % interval held 2 of 2" in browser.run(said)
