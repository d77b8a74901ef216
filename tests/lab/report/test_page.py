import errno
import json
import re
import subprocess
import sys

import pytest
from tests.lab.report.page_folders import GROWING, write_comparison, write_run

from adabatch.lab.report import page
from adabatch.lab.report.folders import read


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def without_scripts(text):
    return re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL).replace("&nbsp;", " ")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "comparison"
    write_comparison(folder)
    return folder


@pytest.fixture(scope="module")
def text(comparison):
    return page.write(comparison).read_text(encoding="utf-8")


def test_the_page_lies_in_the_folder(comparison, text):
    assert (comparison / "report.html").read_text(encoding="utf-8") == text
    assert not list(comparison.glob(".*"))


def test_the_same_folder_gives_the_same_page(comparison, text, tmp_path):
    assert page.write(comparison, tmp_path / "other.html").read_text(encoding="utf-8") == text


def test_nothing_outside_the_file_is_named(text):
    shown = without_scripts(text)
    assert not re.search(r"https?:|//|url\(|@import", shown.replace("<!doctype html>", ""))
    assert re.findall(r'(?:src|href)="([^"]*)"', shown) == ["data:,"]
    assert "default-src 'none'" in shown


def test_a_page_is_small(text):
    assert len(text.encode()) < 200_000


def long_run(folder, evaluations):
    found = write_run(folder).to_json()
    one = found["history"][0]
    found["history"] = [
        one | {"samples": 64 * place, "epoch": place // 23, "updates": place, "seconds": place / 7, "lr": 0.1 / place}
        | {"test_accuracy": 0.9 - 0.3 / place**0.5, "test_loss": 1 + 1 / place, "train_loss": 1 / place}
        for place in range(1, evaluations + 1)
    ]  # fmt: skip
    found["decisions"] = [
        {"clock": 64 * 7 * place, "batch_size": 16 + place, "reason": "x"} for place in range(1, 1400)
    ]
    (folder / "result.json").write_text(json.dumps(found))


def test_a_page_of_10_000_evaluations_is_small(tmp_path):
    long_run(tmp_path, 10_000)
    text = page.write(tmp_path).read_text()
    assert len(text.encode()) < 1_500_000
    shown = re.sub("<[^>]*>", "", without_scripts(text))
    assert re.search(r"[\d,]+ of 10,000 evaluations; the folder of the run holds all of them\.", shown)
    assert re.search(r"[\d,]+ of 1,399 changes; the folder of the run holds all of them\.", shown)
    (line,) = [t for t in data_of(text)["charts"]["course"]["traces"] if t["yaxis"] == "y" and "text" in t]
    assert (line["x"][0], line["x"][-1]) == (64, 640_000)


def test_of_a_short_run_nothing_is_left_out(tmp_path):
    long_run(tmp_path, 400)
    assert "evaluations; the folder" not in page.write(tmp_path).read_text()


@pytest.mark.slow
def test_ten_long_arms_make_a_small_page(tmp_path):
    names = ("fixed-small", *(f"mine-{place}" for place in range(9)))
    write_comparison(tmp_path, names=names, seeds=1)
    for name in names:
        long_run(tmp_path / "runs" / name / "seed-0", 10_000)
    assert len(page.write(tmp_path).read_bytes()) < 3_000_000


def test_a_page_needs_no_extra(comparison, tmp_path):
    """A page needs torch and numpy alone."""
    code = (
        "import sys; from pathlib import Path; sys.modules |= dict.fromkeys(['matplotlib', 'rich', 'typer']);"
        "from adabatch.lab.report import page; page.write(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(comparison), str(tmp_path / "page.html")], check=True)
    assert (tmp_path / "page.html").read_text() == page.html(read(comparison))


def test_every_chart_has_its_place(text):
    charts = data_of(text)["charts"]
    assert sorted(charts) == ["accuracy", "course", "every-run", "throughput", "time"]
    assert sorted(re.findall(r'class="chart[^"]*" id="([^"]*)"', text)) == sorted(charts)


def test_a_legend_entry_for_every_arm_in_its_colour(text):
    arms = re.findall(r'class="chip" aria-pressed="true" data-arm="([^"]*)"', text)
    assert arms == ["fixed-small", "fixed-large", "adaptive", "uncoupled"]
    assert '[data-arm="adaptive"]{--arm:#D55E00}' in text
    assert re.search(r'prefers-color-scheme: dark\) \{.*\[data-arm="adaptive"\]\{--arm:#F2722B\}', text)
    assert {trace["meta"]["arm"] for trace in data_of(text)["charts"]["course"]["traces"]} == set(arms)


def test_the_headline_cards_and_table_say_what_was_found(comparison, text):
    compare = json.loads((comparison / "compare.json").read_text())
    ratio = compare["against_fixed_small"]["adaptive"]["seconds_ratio"]
    shown = re.sub("<[^>]*>", "", without_scripts(text))
    gains = f"takes 3.4× fewer updates and is {ratio['median']:.1f}× faster than a fixed batch of 16."
    assert f"adaptive, a batch growing from 16 to 256, {gains}" in shown
    assert f"95 % interval [{ratio['low']:.2f}, {ratio['high']:.2f}]" in shown
    assert f"{ratio['median']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]" in shown
    assert "step:0.7:2" in shown
    assert "0123456789ab, with changes" in shown


def test_a_comparison_without_fixed_small_has_no_claims(tmp_path):
    write_comparison(tmp_path, names=("adaptive", "uncoupled"))
    text = page.write(tmp_path).read_text()
    assert sorted(data_of(text)["charts"]) == ["course", "every-run", "throughput"]
    assert "2 arms on digits" in text
    assert "In words" not in text


def test_one_seed_claims_nothing(tmp_path):
    write_comparison(tmp_path, seeds=1)
    shown = without_scripts(page.write(tmp_path).read_text())
    assert "within 1 % is not shown, one seed gives no interval" in shown
    assert "±" not in shown
    assert "95 % interval" not in shown


def test_a_run_tells_evaluations_and_decisions(tmp_path):
    found = write_run(tmp_path)
    shown = re.sub("<[^>]*>", " ", without_scripts(page.write(tmp_path).read_text()))
    assert f"{100 * found.test_accuracy:.1f} % test accuracy on digits after 376 updates" in shown
    assert "The batch went from 16 to 256 samples in 4 steps, and throughput from 1," in shown
    assert shown.count("x2 every 2 epochs") == 4
    assert "20,118 samples, 14 epochs" in shown


def test_samples_that_were_dropped_are_not_counted(tmp_path):
    found = write_run(tmp_path)
    values = json.loads((tmp_path / "result.json").read_text()) | {"samples": 19_000}
    (tmp_path / "result.json").write_text(json.dumps(values))
    shown = without_scripts(page.write(tmp_path).read_text())
    assert "19,000 samples, 14 epochs" in shown
    assert f"{19_000 / found.history[-1].seconds:,.0f} samples per second" in shown


def test_a_run_under_way_says_so(tmp_path):
    write_run(tmp_path, finished=False)
    shown = without_scripts(page.write(tmp_path).read_text())
    assert "Not finished: 93." in shown
    assert "Epoch 5 of 14." in shown


def test_text_cannot_break_out(tmp_path):
    write_run(tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())
    evil = "</script><script>alert(1)</script><!--"
    found["decisions"][0]["reason"] = evil
    (tmp_path / "result.json").write_text(json.dumps(found))
    config = json.loads((tmp_path / "config.json").read_text()) | {"task": evil}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = page.write(tmp_path).read_text()
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_names_cannot_break_out_of_data_and_style(tmp_path):
    write_comparison(tmp_path, seeds=1, names=("fixed-small", "<script>}&"))
    text = page.write(tmp_path).read_text()
    (raw,) = re.findall(r'id="data">(.*?)</script>', text)
    assert not set("<>&") & set(raw)
    assert "<script>}" not in text
    assert "<script>}&" in {trace["meta"]["arm"] for trace in data_of(text)["charts"]["course"]["traces"]}


def test_a_loss_that_ran_away_leaves_a_gap(tmp_path):
    write_run(tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())
    found["history"][3] |= {"test_loss": float("nan"), "train_loss": float("inf")}
    (tmp_path / "result.json").write_text(json.dumps(found))
    ys = [trace["y"] for trace in data_of(page.write(tmp_path).read_text())["charts"]["course"]["traces"]]
    assert sum(value is None for y in ys for value in y) == 2


def test_where_the_data_lie_is_nobodys_business(tmp_path):
    write_run(tmp_path)
    config = GROWING.to_json() | {"data": "/home/somebody/cifar"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = page.write(tmp_path).read_text()
    assert "somebody" not in text
    assert "<dd>cifar</dd>" in text


@pytest.mark.parametrize("place", ["missing/report.html", "file/report.html"])
def test_a_place_that_cannot_be_written(comparison, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`out` must be a file that can be written, got .*; take another place"):
        page.write(comparison, tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_system_that_is_read_only(comparison, tmp_path, monkeypatch):
    """There even removing a missing file fails."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.replace", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(OSError, match=r"`out` must be a file that can be written, .* \(Read-only file system\); take"):
        page.write(comparison, tmp_path / "report.html")


def test_a_page_is_replaced_whole_or_not_at_all(comparison, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        page.write(comparison, out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
