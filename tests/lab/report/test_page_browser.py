"""The page in a real browser, as a person sees and uses it."""

import json
import subprocess
import sys

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.page_folders import DECIDED, write_comparison, write_run
from tests.lab.report.page_hands import SAID, box, hover, press, shown

from adabatch.lab.report import page

pytestmark, browser = chromium.NEEDED, chromium.browser

CHARTS = ["accuracy", "course", "every-run", "throughput", "time"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_comparison(folder / "comparison")
    write_comparison(folder / "single", seeds=1, names=("fixed-small", "mine", "a-name-as-long-as-they-get-in-a-study"))
    write_run(folder / "run")
    write_run(folder / "unfinished", finished=False)
    write_run(folder / "decided", DECIDED)
    return {name: page.write(folder / name) for name in ("comparison", "single", "run", "unfinished", "decided")}


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["comparison", "single", "run", "unfinished", "decided"])
def test_it_draws_without_a_complaint_and_asks_nobody(browser, pages, name, device):
    browser.open(pages[name], device=device)
    assert browser.run("[...document.querySelectorAll('.chart')].every(c => c.querySelectorAll('.line, .mark').length)")
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.parametrize("width", [320, 375])
@pytest.mark.parametrize("name", ["comparison", "single", "run", "unfinished", "decided"])
def test_a_narrow_window_does_not_overflow(browser, pages, name, width):
    browser.open(pages[name], device=PHONE | {"width": width})
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    # Nothing stands out of its card but what scrolls there.
    outside = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(outside) == []


def test_every_curve_of_every_arm_is_drawn(browser, pages):
    browser.open(pages["comparison"])
    assert browser.run("[...document.querySelectorAll('.chart')].map(c => c.id).sort()") == CHARTS
    for arm, count in {"fixed-small": 3, "adaptive": 5, "uncoupled": 5, "fixed-large": 5}.items():
        assert shown(browser, arm) == count
    # Four arms, each with a mean, a batch size and an LR; a band and an end for each.
    paths = "[...document.querySelectorAll('#course .line')].map(p => p.getBBox().width)"
    assert sum(width > 200 for width in browser.run(paths)) == 12
    assert browser.run("document.querySelectorAll('#course .band').length") == 4


def test_the_pointer_is_told_all_arms_at_once(browser, pages):
    browser.open(pages["comparison"])
    said = hover(browser, 0.6)
    assert "samples" in said
    for arm in ("fixed-small", "fixed-large", "adaptive", "uncoupled"):
        assert f"{arm} 9" in said
    assert said.count("±") == 4


def test_the_pointer_between_two_evaluations_is_told_the_nearest(browser, pages):
    browser.open(pages["comparison"])
    share = 7.45 * 1437 / (14 * 1437 * 1.02)
    assert hover(browser, share).startswith("10,059 samples")


def test_the_pointer_on_batch_size_and_lr(browser, pages):
    browser.open(pages["comparison"])
    assert "adaptive batch 256" in hover(browser, 0.9, panel=1)
    assert "adaptive LR 0." in hover(browser, 0.9, panel=2)


def test_the_legend_hides_and_shows_an_arm_everywhere(browser, pages):
    browser.open(pages["comparison"])
    browser.click(".chip[data-arm=adaptive]")
    browser.wait("!document.querySelector(\"#time .trace[data-arm='adaptive']\")")
    assert shown(browser, "adaptive") == 0
    assert shown(browser, "uncoupled") == 5
    assert browser.run("document.querySelector('.chip[data-arm=adaptive]').getAttribute('aria-pressed')") == "false"
    assert "adaptive" not in hover(browser, 0.6)
    browser.click(".chip[data-arm=adaptive]")
    browser.wait("document.querySelector(\"#time .trace[data-arm='adaptive']\") !== null")
    assert shown(browser, "adaptive") == 5
    assert browser.complaints() == []


def test_the_switch_changes_what_curves_are_drawn_against(browser, pages):
    browser.open(pages["comparison"])
    title = "document.querySelector('#course .xtitle').textContent"
    last = "[...document.querySelectorAll('#course .tick.x')].pop().textContent"
    assert (browser.run(title), browser.run(last)) == ("samples", "20k")
    browser.click("input[value=updates] + span")
    browser.wait(f"{title} === 'updates'")
    assert browser.run(last) == "1.2k"
    assert "updates" in hover(browser, 0.3)
    browser.click("input[value=seconds] + span")
    browser.wait(f"{title} === 'seconds of training'")
    assert browser.run(last) == "8"
    browser.click("input[value=samples] + span")
    browser.wait(f"{title} === 'samples'")
    assert browser.run(last) == "20k"
    assert browser.complaints() == []


def test_the_switch_works_by_keyboard(browser, pages):
    browser.open(pages["comparison"])
    browser.run("document.querySelector('input[value=samples]').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    browser.wait("document.querySelector('#course .xtitle').textContent === 'updates'")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, pages, dark):
    browser.open(pages["comparison"], dark=dark)
    contrast = """(() => {
      const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = (c) => rgb(c).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!c.endsWith(', 0)')) return c; } };
      const of = (e, c) => { const [a, b] = [light(c), light(ground(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05); };
      return [...document.querySelectorAll('h1, h1 em, .lead, .note, td, th, .label, .value, .chip, .switch span')]
        .map((e) => [e.className || e.tagName, of(e, getComputedStyle(e).color)])
        .concat([...document.querySelectorAll('.chart text')].map((e) => ['chart ' + e.textContent,
          of(e.closest('.chart'), getComputedStyle(e).fill)])).filter((found) => found[1] < 4.5);
    })()"""
    assert browser.run(contrast) == []


def test_charts_follow_the_theme_while_the_page_is_open(browser, pages):
    browser.open(pages["single"])
    colour = "getComputedStyle(document.querySelector('#course .xtitle')).fill"
    light = browser.run(colour)
    browser.theme(dark=True)
    browser.wait(f"{colour} !== '{light}'")
    ink = "getComputedStyle(document.querySelector(\"#course .trace[data-arm='mine'] .line\")).stroke"
    assert browser.run(ink) == "rgb(232, 235, 238)", "black lines would be lost on a dark ground"


def middle_of_the_course(browser):
    x, y, width, height = box(browser)
    return x + width / 2, y + height / 4


def test_a_finger_scrolls_the_page_over_a_chart(browser, pages):
    browser.open(pages["comparison"], device=PHONE)
    x, y = middle_of_the_course(browser)
    before = browser.run("scrollY")
    browser.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for step in range(1, 11):
        browser.send("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x, "y": y - 15 * step}])
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait(f"scrollY > {before} + 50", seconds=10)


def test_a_tap_tells_what_is_there(browser, pages):
    browser.open(pages["comparison"], device=PHONE)
    x, y = middle_of_the_course(browser)
    browser.send("Input.synthesizeTapGesture", x=x, y=y)
    browser.wait(f"{SAID}.includes('updates')", seconds=10)


def test_a_page_that_asks_or_complains_is_noticed(browser, pages, tmp_path):
    """The checks above would notice a missing policy, a requested address and a thrown error."""
    text = pages["run"].read_text()
    policy = text[text.index("<meta http-equiv") : text.index('<meta name="viewport"')]
    bad = "<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); throw new Error('broken')</script>"
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace(policy, "").replace("<main>", f"<main>{bad}"))
    browser.open(broken)
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    assert len(browser.complaints()) >= 2
    held = tmp_path / "held.html"
    held.write_text(text.replace("<main>", f"<main>{bad}"))
    browser.open(held)
    assert browser.held_back() == ["csp"], "the policy keeps it from asking"


def test_the_arrow_keys_read_a_chart(browser, pages):
    browser.open(pages["comparison"])
    browser.run("document.querySelector('#course').focus()")
    press(browser, "ArrowRight")
    assert browser.run(SAID).startswith("1,437 samples")
    press(browser, "ArrowRight")
    assert browser.run(SAID).startswith("2,874 samples")
    assert "adaptive 7" in browser.run(SAID)
    press(browser, "ArrowDown")
    assert "adaptive batch" in browser.run(SAID)
    press(browser, "End")
    assert browser.run(SAID).startswith("20,118 samples")
    press(browser, "Escape")
    assert browser.run(SAID) == ""
    browser.run("document.querySelector('#time').focus()")
    press(browser, "ArrowRight")
    assert browser.run("document.querySelector('#time + .tip').textContent").startswith("fixed-large")
    press(browser, "ArrowDown")
    assert browser.run("document.querySelector('#time + .tip').textContent").startswith("adaptive")


def test_a_part_can_be_looked_at_closely(browser, pages):
    browser.open(pages["comparison"])
    x, y, width, height = box(browser)
    ticks = "[...document.querySelectorAll('#course .tick')].map(t => t.textContent).join()"
    whole = browser.run(ticks)
    browser.mouse("mouseMoved", x + 0.5 * width, y + height / 2)
    browser.mouse("mousePressed", x + 0.5 * width, y + height / 2, button="left", clickCount=1)
    browser.mouse("mouseMoved", x + 0.9 * width, y + height / 2, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 0.9 * width, y + height / 2, button="left", clickCount=1)
    browser.wait(f"{ticks} !== {json.dumps(whole)}", seconds=10)
    assert not browser.run(ticks).endswith(",0")
    browser.run("document.querySelector('#course').focus()")
    press(browser, "Escape")
    browser.wait(f"{ticks} === {json.dumps(whole)}", seconds=10)
    assert browser.complaints() == []


def test_a_name_in_markup_stays_text(browser, tmp_path):
    name = "<img src=x onerror=document.title=1>"
    write_comparison(tmp_path, seeds=1, names=("fixed-small", name))
    browser.open(page.write(tmp_path))
    assert f"{name} 9" in hover(browser, 0.6)
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.title") != "1"


def test_without_chromium_the_tests_say_how_to_get_it(tmp_path):
    code = "from tests.lab.report.chromium import executable, HOW_TO_INSTALL; print(executable(), HOW_TO_INSTALL)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": str(tmp_path)}
    )
    assert done.stdout.startswith("None ")
    assert "apt-get install -y chromium" in done.stdout


def test_a_decision_says_why_and_the_noise_how_sure_it_is(browser, pages):
    browser.open(pages["decided"])
    assert "noise_scale asks: grows to 64" in hover(browser, 4 / 14, panel=2)
    assert "noise scale 80" in (told := hover(browser, 4 / 14, panel=3))
    assert "48 to 200" in told
    # The open end reaches beyond the panel, which cuts it.
    high = "document.querySelectorAll('#course .band')[0].getBBox().height"
    assert browser.run(high) > box(browser, 3)[3]
