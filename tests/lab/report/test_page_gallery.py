"""Pages that are hard to lay out, in a real browser: ten arms, long names, one evaluation, an arm that diverged."""

import json
from dataclasses import replace

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.lab.report.page_folders import GROWING, write_comparison, write_run
from tests.lab.report.page_hands import hover
from tests.lab.report.test_page import long_run

from adabatch.lab.report import page

pytestmark, browser = chromium.NEEDED, chromium.browser

LONG = "a-name-as-long-as-they-get-in-a-study-with-a-momentum-of-0.98-and-no-decay"
WINDOWS = {
    "phone": PHONE | {"width": 400},
    "desktop": DESKTOP,
    "wide": DESKTOP | {"width": 2000},
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Pages that are hard to lay out."""
    folder = tmp_path_factory.mktemp("gallery")
    own = tuple(f"mine-{place}" for place in range(8))
    write_comparison(folder / "ten", names=("fixed-small", LONG, *own))
    write_comparison(folder / "one", names=("mine",), seeds=2)
    write_run(folder / "once", replace(GROWING, epochs=1))
    diverge(folder / "diverged", write_comparison(folder / "diverged"))
    write_comparison(folder / "short", names=("fixed-small", "adaptive", LONG, "uncoupled"))
    only_the_end(folder / "short")
    wide(folder / "target", write_comparison(folder / "target", target=0.985))
    write_run(folder / "close")
    file = folder / "close" / "result.json"  # of batch sizes whose numbers have no room beside each other
    values = json.loads(file.read_text())
    values["samples_per_second"] = {str(size): 2.0 * size for size in (10_000, 10_100, 10_200, 10_300, 40_000)}
    file.write_text(json.dumps(values))
    return {path.name: page.write(path) for path in folder.iterdir()}


def diverge(folder, compare):
    """Makes the loss of the arm uncoupled not finite after the third evaluation."""
    (arm,) = [arm for arm in compare["arms"] if arm["name"] == "uncoupled"]
    arm["diverged"] = len(compare["seeds"])
    (folder / "compare.json").write_text(json.dumps(compare))
    for seed in compare["seeds"]:
        file = folder / "runs" / "uncoupled" / f"seed-{seed}" / "result.json"
        values = json.loads(file.read_text())
        for entry in values["history"][3:]:
            entry |= {"test_loss": float("nan"), "train_loss": float("nan"), "test_accuracy": 0.1}
        file.write_text(json.dumps(values))


def only_the_end(folder):
    """Keeps only the last evaluation of each run."""
    for file in folder.glob("runs/*/*/result.json"):
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"history": values["history"][-1:]}))


def wide(folder, compare):
    """Makes the interval of adaptive's accuracy so wide that zero and the margin almost coincide."""
    compare["against_fixed_small"]["adaptive"]["accuracy_difference"] |= {"low": -0.6, "high": 0.6}
    (folder / "compare.json").write_text(json.dumps(compare))


OVERLAPS = """(() => {
  const found = [];
  for (const chart of document.querySelectorAll('.chart')) {
    const texts = [...chart.querySelectorAll('text')].map((e) => [e.textContent, e.getBoundingClientRect()]);
    texts.forEach(([one, a], place) => {
      const card = chart.closest('.card').getBoundingClientRect();
      if (a.left < card.left || a.right > card.right) found.push(`${chart.id}: ${one} stands out of its card`);
      for (const [other, b] of texts.slice(place + 1)) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 3) found.push(`${chart.id}: ${one} over ${other}`); // boxes are higher than letters
      }
    });
  }
  return found;
})()"""


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["ten", "one", "once", "diverged", "close", "short", "target"])
def test_no_text_of_a_chart_runs_over_another(browser, gallery, name, window):
    browser.open(gallery[name], device=WINDOWS[window])
    assert browser.run(OVERLAPS) == []
    assert browser.run("document.documentElement.scrollWidth") <= WINDOWS[window]["width"]
    assert browser.complaints() == []


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["ten", "one", "once", "diverged"])
def test_every_axis_has_ticks_and_no_panel_is_empty(browser, gallery, name, window):
    browser.open(gallery[name], device=WINDOWS[window])
    few = (
        "[...document.querySelectorAll('.chart')].filter(c => c.querySelectorAll('.tick.x').length < 2 ||"
        " c.querySelectorAll('.tick:not(.x)').length < 1).map(c => c.id)"
    )
    assert browser.run(few) == []
    # Each panel of the main chart holds a line that is long, or a mark.
    empty = """[...document.querySelectorAll('#course clipPath')].filter((clip) => {
      const r = clip.querySelector('rect'), top = r.y.baseVal.value, bottom = top + r.height.baseVal.value;
      return ![...document.querySelectorAll('#course .trace :is(.line, .mark)')].some((e) => {
        const up = document.querySelector('#course').getBoundingClientRect().top;
        const b = e.getBoundingClientRect();
        return b.top - up >= top - 8 && b.bottom - up <= bottom + 8 && (b.width > 100 || e.matches('.mark'));
      });
    }).length"""
    assert browser.run(empty) == 0


def test_a_long_name_makes_no_wide_column(browser, gallery):
    browser.open(gallery["ten"])
    head = "[...document.querySelectorAll('thead th')].find(th => th.textContent.startsWith('a-name'))"
    assert browser.run(f"{head}.getBoundingClientRect().width") <= 190
    assert browser.run(f"{head}.textContent") == LONG


def test_a_long_name_is_whole_in_the_legend_and_under_the_pointer(browser, gallery):
    browser.open(gallery["ten"])
    assert browser.run(f"document.querySelector('.chip[title={json.dumps(LONG)}] span').textContent") == LONG
    assert LONG in hover(browser, 0.6)
    (cut,) = browser.run(
        "[...document.querySelectorAll('#accuracy .tick')].map(t => t.textContent).filter(t => t.includes('…'))"
    )
    assert cut.startswith(LONG + "a-name-as-long"), "the whole name is its title"
    assert cut.endswith("…no-decay"), "names that begin alike may differ at their ends"


@pytest.mark.parametrize("dark", [False, True])
def test_ten_arms_are_ten_colours_on_the_page(browser, gallery, dark):
    browser.open(gallery["ten"], dark=dark)
    strokes = "[...document.querySelectorAll('#course .line')].slice(0, 10).map(e => getComputedStyle(e).stroke)"
    assert len(set(browser.run(strokes))) == 10
    dashes = "[...document.querySelectorAll('#course .line')].slice(0, 10).map(e => e.getAttribute('stroke-dasharray'))"
    assert len(set(browser.run(dashes))) == 5


def test_tables_that_go_on_to_the_right_say_so(browser, gallery):
    browser.open(gallery["diverged"], device=WINDOWS["phone"])
    table = "[...document.querySelectorAll('.scroll')][0]"
    assert browser.run(f"{table}.previousElementSibling.textContent") == "more columns to the right →"
    assert browser.run(f"!{table}.previousElementSibling.hidden && {table}.classList.contains('cut')")
    browser.run(f"{table}.scrollLeft = 10000")
    browser.wait(f"!{table}.classList.contains('cut')", seconds=10)
    browser.open(gallery["diverged"])
    assert browser.run(f"{table}.previousElementSibling.hidden && !{table}.classList.contains('cut')")


def test_what_the_pointer_is_told_lies_over_everything(browser, gallery):
    browser.open(gallery["ten"])
    hover(browser, 0.6)
    assert browser.run("getComputedStyle(document.querySelector('.controls')).position") == "static"
    top = (
        "(() => { const b = document.querySelector('#course + .tip').getBoundingClientRect();"
        "document.querySelector('#course + .tip').style.pointerEvents = 'auto';"
        "return document.elementFromPoint(b.x + b.width / 2, Math.max(b.y, 0) + 20).closest('.tip') !== null; })()"
    )
    assert browser.run(top)


def test_a_run_with_many_changes_makes_no_endless_page(browser, tmp_path):
    long_run(tmp_path, 10_000)
    browser.open(page.write(tmp_path))
    assert browser.run("document.documentElement.scrollHeight") < 3000
    assert browser.run("document.querySelector('.prose').scrollHeight") > 3000, "the rest is there to scroll to"
    assert browser.complaints() == []
    assert (
        browser.run("Math.max(...[...document.querySelectorAll('#course .line')].map(e => e.getAttribute('d').length))")
        < 30_000
    )


def test_a_cut_axis_is_marked(browser, gallery):
    browser.open(gallery["diverged"])
    assert browser.run("document.querySelectorAll('#course .break').length") == 1
    browser.open(gallery["once"])
    assert browser.run("document.querySelectorAll('#course .break').length") == 0


def test_marks_of_one_evaluation_are_named_beside_them(browser, gallery):
    browser.open(gallery["short"], device=WINDOWS["phone"])
    told = browser.run("[...document.querySelectorAll('#course .told')].map(t => t.textContent)")
    assert sorted(text[:5] for text in told) == ["a-nam", "adapt", "fixed", "uncou"]
    assert all(text.endswith(" %") for text in told), "a long name is cut in its middle"


def test_a_target_at_the_top_is_told_below_its_line(browser, gallery):
    browser.open(gallery["target"], device=WINDOWS["phone"])
    middle = "(b => b.y + b.height / 2)([...document.querySelectorAll('#course {}')].find({}).getBoundingClientRect())"
    text = middle.format(".annotation", "t => t.textContent === 'target 98.5 %'")
    assert browser.run(text) > browser.run(middle.format(".shape", "e => e"))


@pytest.mark.parametrize("window", WINDOWS)
def test_zero_and_the_margin_have_room_beside_each_other(browser, gallery, window):
    browser.open(gallery["target"], device=WINDOWS[window])
    ends = "[...document.querySelectorAll('.interval span')].map(e => e.getBoundingClientRect())"
    margin, zero = browser.run(f"{ends}.map(b => [b.left, b.right])")
    assert margin[1] <= zero[0]


def test_a_wide_window_is_used(browser, gallery):
    browser.open(gallery["ten"], device=WINDOWS["wide"])
    assert browser.run("document.querySelector('#course svg').clientWidth") > 1400


def test_a_phone_shows_long_names_whole_and_leaves_no_holes(browser, gallery):
    browser.open(gallery["ten"], device=WINDOWS["phone"])
    cut = "[...document.querySelectorAll('.chip span')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.run(cut) == 0
    long = f"document.querySelector('.chip[title={json.dumps(LONG)}]').getBoundingClientRect()"
    assert browser.run(f"{long}.width") > 350
    assert browser.run(f"{long}.height") < 70
    browser.open(gallery["target"], device=WINDOWS["phone"])
    right = "[...document.querySelectorAll('.figure')].pop().getBoundingClientRect().right"
    assert browser.run(right) > 380


@pytest.mark.parametrize("window", WINDOWS)
def test_what_a_row_is_stays_in_sight(browser, gallery, window):
    browser.open(gallery["ten"], device=WINDOWS[window])
    box, first = "document.querySelector('.scroll')", "document.querySelector('.scroll tbody th')"
    before = browser.run(f"{first}.getBoundingClientRect().left")
    browser.run(f"{box}.scrollLeft = 300")
    assert browser.run(f"{box}.scrollLeft") > 100
    assert browser.run(f"{first}.getBoundingClientRect().left") == pytest.approx(before, abs=1)


def test_words_in_place_of_a_figure_stand_on_one_line(browser, gallery):
    browser.open(gallery["once"], device=WINDOWS["phone"])
    words = "[...document.querySelectorAll('.value')].find(e => e.textContent === 'not reached')"
    assert browser.run(f"{words}.getBoundingClientRect().height") < 45
    assert browser.run(f"{words}.scrollWidth <= {words}.clientWidth")
