"""Pages of several runs, of a comparison under way, of a plan and of a probe in a real browser."""

import json
from dataclasses import replace

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.page_folders import GROWING, write_run
from tests.lab.report.test_page_more import NOTE, PLAN, PROBE

from adabatch.lab.report import page

pytestmark, browser = chromium.NEEDED, chromium.browser

CHARTS = {"together": 2, "under_way": 1, "plan": 3, "probe": 1}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    names = ["first", "a-name-as-long-as-they-get-in-a-study-of-many-settings"]
    for name, finished in zip(names, (True, False), strict=True):
        write_run(folder / "together" / name, finished=finished)
    arms = ["fixed-small", "adaptive"]
    for arm, seed in (("fixed-small", 0), ("adaptive", 0), ("adaptive", 1)):
        place = folder / "under_way" / "runs" / arm / f"seed-{seed}"
        write_run(place, replace(GROWING, seed=seed), name=arm, finished=not seed)
    (folder / "under_way" / "comparison.json").write_text(json.dumps(NOTE | {"arms": arms}))
    for name, values in (("plan", PLAN), ("probe", PROBE)):
        (folder / name).mkdir()
        (folder / name / f"{name}.json").write_text(json.dumps(values))
    written = {name: page.write(folder / name) for name in ("under_way", "plan", "probe")}
    return written | {"together": page.write_together([folder / "together" / name for name in names])}


@pytest.mark.parametrize(
    ("device", "dark"), [(DESKTOP, False), (PHONE | {"width": 320}, True)], ids=["desktop", "phone"]
)
@pytest.mark.parametrize("name", CHARTS)
def test_it_draws_fits_and_asks_nobody(browser, pages, name, device, dark):
    browser.open(pages[name], device=device, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert (
        browser.run("[...document.querySelectorAll('.chart')].filter(c => c.querySelector('path')).length")
        == CHARTS[name]
    )
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth") <= device["width"]
    outside = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(outside) == []


def test_the_legend_of_a_plan_hides_a_line(browser, pages):
    browser.open(pages["plan"])
    assert browser.run("document.querySelectorAll('.chip').length") == 2
    assert browser.run("document.querySelector('.switch')") is None
    drawn = "document.querySelector('#batch').innerHTML.length"
    before = browser.run(drawn)
    browser.click('.chip[data-arm="growing batch"]')
    browser.wait(f"{drawn} < {before}", seconds=20)
