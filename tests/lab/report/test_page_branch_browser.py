"""Pages of branchings, alone and beside a study with a probe, in a real browser."""

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.page_branches import write_branch
from tests.lab.report.page_hands import press
from tests.lab.report.page_studies import write_probe, write_study
from tests.lab.report.test_page_gallery import OVERLAPS
from tests.lab.report.test_page_study_browser import SEEN

from adabatch.lab.report import page

pytestmark, browser = chromium.NEEDED, chromium.browser

IDS = ["branch-cost", "branch-harmless", "branch-schedule"]
STUDY = ["cost", "curves", "seconds", "speedup", "trade", "updates"]
CHARTS = {
    "one": IDS,
    "few": IDS,
    "two": [f"{name}-{place}" for name in IDS for place in (1, 2)],
    "all": [*IDS, *STUDY],
}
MARKS = "document.querySelectorAll('#branch-cost .trace[data-arm=\"{}\"] .mark').length"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branchings")
    write_branch(folder / "one", truth=True)
    write_branch(folder / "few", windows=(1 / 16,), forks=(0.2,), growth="none")
    write_branch(folder / "other", model="lenet", forks=(0.1, 0.5))
    write_study(folder / "study")
    write_probe(folder / "probe")
    together = {"two": ("one", "other"), "all": ("study", "one", "probe")}
    found = {name: page.write(folder / name) for name in ("one", "few")}
    return found | {
        name: page.write_together([folder / one for one in names], folder / f"{name}.html")
        for name, names in together.items()
    }


@pytest.mark.parametrize(
    ("device", "dark"),
    [(DESKTOP, False), (PHONE | {"width": 400}, True), (PHONE | {"width": 320}, False)],
    ids=["desktop", "phone", "small"],
)
@pytest.mark.parametrize("name", CHARTS)
def test_it_draws_fits_and_asks_nobody(browser, pages, name, device, dark):
    browser.open(pages[name], device=device, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run(SEEN) == sorted(CHARTS[name])
    assert browser.run("[...document.querySelectorAll('.chart')].every(c => c.querySelectorAll('.line, .mark').length)")
    assert browser.run(OVERLAPS) == []
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth") <= device["width"]
    outside = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(outside) == []


def test_the_legend_hides_a_fork_and_a_tolerance(browser, pages):
    browser.open(pages["one"])
    assert browser.run(MARKS.format("at 5 %")) == 3 * 3 * 2  # of each window three costs and three truths
    browser.click('.chip[data-arm="at 5 %"]')
    browser.wait(f"{MARKS.format('at 5 %')} === 0")
    assert browser.run(MARKS.format("at 15 %")) == 3 * 3 * 2
    lines = "document.querySelectorAll('#branch-harmless .trace .line').length"
    assert browser.run(lines) == 3 * 3
    browser.click('.chip[data-arm="tolerance 1 %"]')
    browser.wait(f"{lines} === 6")
    assert browser.complaints() == []


def test_bounds_are_open_marks_and_intervals_stand_upright(browser, pages):
    browser.open(pages["one"])
    assert browser.run("document.querySelectorAll('#branch-cost .mark.open').length") == 2
    upright = "[...document.querySelectorAll('#branch-cost .whisker')].map(p => p.getAttribute('d').match(/V/g).length)"
    assert sum(browser.run(upright)) == 3 * 4 * 3 - 2


def test_staircases_are_drawn_as_such(browser, pages):
    """Lines of the schedule go across and up, never aslant."""
    browser.open(pages["one"])
    path = browser.run("document.querySelector('#branch-schedule .line').getAttribute('d')")
    assert set(path) & set("MHVL") == set("MHV")
    ticks = "[...document.querySelectorAll('#branch-schedule .tick{}')].map(t => t.textContent)"
    assert browser.run(ticks.format(".x"))[-1] == "100 %"
    assert sorted(browser.run(ticks.format(":not(.x)")), key=int) == ["16", "32", "128"]


def test_the_arrow_keys_read_costs_and_truth(browser, pages):
    browser.open(pages["one"])
    browser.run("document.querySelector('#branch-cost').focus()")
    said = "document.querySelector('#branch-cost + .tip').textContent"
    press(browser, "ArrowRight")
    assert browser.run(said).startswith("at 5 %batch 32, LR ×1.41")
    assert browser.run(said).endswith("times the samples")
    for _ in range(12):
        press(browser, "ArrowDown")
        if "in truth" in browser.run(said):
            break
    assert "in truth" in browser.run(said)
    assert browser.complaints() == []


def test_the_machine_stands_below_the_borders(browser, pages):
    browser.open(pages["all"])
    marks = "[...document.querySelectorAll('#updates .trace[data-arm=\"\"] .mark')].length"
    assert browser.run(marks) == 2
    names = "[...document.querySelectorAll('#updates .tick:not(.x)')].map(t => t.textContent)"
    assert browser.run(names)[-1] == "machine"
    assert "Which comes first" in browser.run("document.querySelector('main').innerText")
    browser.click("input[value=train] + span")
    assert browser.run(marks) == 2
    assert browser.run(SEEN) == sorted(CHARTS["all"])
    assert browser.complaints() == []
