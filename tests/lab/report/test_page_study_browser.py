"""Pages of studies in a real browser."""

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.page_hands import press
from tests.lab.report.page_studies import write_study
from tests.lab.report.test_page_gallery import OVERLAPS

from adabatch.lab.report import page

pytestmark, browser = chromium.NEEDED, chromium.browser

CHARTS = ["cost", "curves", "seconds", "speedup", "trade", "updates"]
SEEN = "[...document.querySelectorAll('.chart')].filter(c => c.getClientRects().length).map(c => c.id).sort()"
LINES = "[...document.querySelectorAll('#updates .trace[data-arm=\"{}\"] :is(.line, .mark)')].length"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_study(folder / "little")
    write_study(folder / "one", rules=("linear",), seeds=1)
    write_study(folder / "much", models=("mlp", "cnn_small", "lenet"), fractions=(1.0, 0.5), edge=True)
    for name, critical in (("mnist", 200), ("fashion_mnist", 90)):
        write_study(folder / "folders" / name, task=name, critical=critical)
    found = {name: page.write(folder / name) for name in ("little", "one", "much")}
    return found | {"folders": page.write_together([folder / "folders" / name for name in ("mnist", "fashion_mnist")])}


@pytest.mark.parametrize(
    ("device", "dark"),
    [(DESKTOP, False), (PHONE | {"width": 400}, True), (PHONE | {"width": 320}, False)],
    ids=["desktop", "phone", "small"],
)
@pytest.mark.parametrize("name", ["little", "one", "much", "folders"])
def test_it_draws_fits_and_asks_nobody(browser, pages, name, device, dark):
    browser.open(pages[name], device=device, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run(SEEN) == CHARTS
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


def test_the_switch_of_the_loss_changes_charts_tables_and_words(browser, pages):
    browser.open(pages["little"])
    said = "document.querySelector('main').innerText"
    assert "to test loss 0.14" in browser.run(said)
    assert "to training loss 0.15" not in browser.run(said)
    browser.click("input[value=train] + span")
    browser.run("document.querySelector('#curves').focus()")
    press(browser, "ArrowRight")
    browser.wait("document.querySelector('#curves + .tip').textContent.includes('training loss 0.')")
    assert "to training loss 0.15" in browser.run(said)
    assert "to test loss 0.14" not in browser.run(said)
    assert browser.complaints() == []


def pick(browser, value):
    browser.run(
        f"(() => {{ const s = document.querySelector('select'); s.value = '{value}';"
        "s.dispatchEvent(new Event('change')); })()"
    )


def test_the_menu_changes_which_lines_are_drawn(browser, pages):
    browser.open(pages["much"])
    chips = "[...document.querySelectorAll('.chip')].filter(c => c.getClientRects().length).map(c => c.dataset.arm)"
    batches = [f"batch {size}" for size in (16, 32, 64, 128, 256)]
    assert browser.run(chips) == ["LR linear", "LR constant", *batches]
    pick(browser, "rule-0")
    assert browser.run(chips) == [
        "mlp, 100 %", "mlp, 50 %", "cnn_small, 100 %", "cnn_small, 50 %", "lenet, 100 %", "lenet, 50 %",
    ]  # fmt: skip
    assert browser.run(SEEN) == [name for name in CHARTS if name != "curves"], "they would be too many"
    assert browser.run(LINES.format("lenet, 50 %")) > 5
    pick(browser, "network-2")
    browser.wait(f"{SEEN}.length === 6")
    assert browser.run(LINES.format("LR linear")) > 5
    assert browser.run("document.querySelectorAll('#curves .line').length") == 2 * 5 * 3
    assert browser.complaints() == []


def test_the_legend_hides_a_rule_in_every_chart_and_a_batch_size_in_the_curves(browser, pages):
    browser.open(pages["little"])
    browser.click('.chip[data-arm="LR constant"]')
    browser.wait(f"{LINES.format('LR constant')} === 0")
    assert browser.run("document.querySelectorAll('.chart .trace[data-arm=\"LR constant\"]').length") == 0
    assert browser.run(LINES.format("LR linear")) > 5
    before = browser.run("document.querySelectorAll('#curves .line').length")
    browser.click('.chip[data-arm="batch 64"]')
    browser.wait(f"document.querySelectorAll('#curves .line').length === {before - 6}")


def test_runs_that_did_not_arrive_are_open_marks(browser, pages):
    browser.open(pages["little"])
    opened = "[...document.querySelectorAll('#updates .trace[data-arm=\"{}\"] .mark.open')].length"
    assert browser.run(opened.format("LR constant")) == 9
    assert browser.run(opened.format("LR linear")) == 0
    fill = "getComputedStyle(document.querySelector('#updates .mark.open')).fill"
    assert browser.run(fill) == "none"


def test_intervals_stand_upright(browser, pages):
    browser.open(pages["little"])
    upright = "[...document.querySelectorAll('#seconds .whisker')].map(p => p.getAttribute('d').match(/V/g).length)"
    assert browser.run(upright) == [5, 2]


def test_the_ideal_is_grey_and_dashed(browser, pages):
    browser.open(pages["little"])
    line = "document.querySelector('#speedup .trace[data-arm=\"\"] .line')"
    assert browser.run(f"getComputedStyle({line}).stroke") == browser.run(
        "getComputedStyle(document.querySelector('#speedup .tick')).fill"
    )
    assert browser.run(f"{line}.getAttribute('stroke-dasharray')")


def test_the_arrow_keys_read_the_main_chart(browser, pages):
    browser.open(pages["little"])
    browser.run("document.querySelector('#updates').focus()")
    said = "document.querySelector('#updates + .tip').textContent"
    press(browser, "ArrowRight")
    assert browser.run(said).startswith("LR linearbatch 16")
    assert browser.run(said).endswith("updates")
    press(browser, "End")
    assert "batch 256" in browser.run(said)


def test_curves_against_updates_and_time(browser, pages):
    browser.open(pages["little"])
    title = "document.querySelector('#curves .xtitle').textContent"
    ticks = "[...document.querySelectorAll('#curves .tick.x')].map(t => t.textContent).join()"
    assert browser.run(title) == "samples"
    before = browser.run(ticks)
    browser.click("input[value=updates] + span")
    browser.wait(f"{title} === 'updates'")
    assert browser.run(ticks) != before
    browser.click("input[value=seconds] + span")
    browser.wait(f"{title} === 'seconds of training'")
    assert browser.complaints() == []
