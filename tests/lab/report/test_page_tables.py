import json
import re

from tests.lab.report.page_folders import write_comparison, write_run

from adabatch.lab.report import page_tables as tables
from adabatch.lab.report.page_data import read


def rows_of(html):
    """Label and cells of each row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html.replace("&nbsp;", " "))
    cells = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_every_figure_of_a_comparison(tmp_path):
    compare = write_comparison(tmp_path)
    rows = rows_of(tables.comparison_table(compare))
    assert rows[""] == ["fixed-small", "fixed-large", "adaptive", "uncoupled"]
    assert rows["batch size"] == ["16", "256", "16 to 256", "16 to 256"]
    assert rows["updates"] == ["1,260", "84", "376", "376"]
    assert rows["samples"] == ["20,118"] * 4
    accuracy = compare["arms"][2]["test_accuracy"]
    assert rows["test accuracy, % (± std)"][2] == f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f}"
    seconds = compare["arms"][0]["train_seconds"]
    shown = re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", rows["training seconds [min, max]"][0])
    for text, key in zip(shown.groups(), ("median", "min", "max"), strict=True):
        assert abs(float(text) - seconds[key]) < 0.06
    assert rows["updates to 95 %"][1:] == ["not reached", "316", "not reached"]
    assert rows["batch 32"][0] == "–"
    assert rows["within 1 %"] == ["–", "✗ refuted", "✓ shown", "✗ refuted"]
    ratio = compare["against_fixed_small"]["adaptive"]["seconds_to_target_ratio"]
    assert rows["faster to 95 %"][2] == f"{ratio['median']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def test_some_runs_that_reach_the_target_are_counted(tmp_path):
    compare = write_comparison(tmp_path)
    compare["arms"][2]["to_target"]["reached"] = 2
    assert rows_of(tables.comparison_table(compare))["updates to 95 %"][2] == "316 (2 of 3)"


def test_settings_that_differ_stand_apart_from_those_shared(tmp_path):
    write_comparison(tmp_path, seeds=1)
    settings = {name: runs[0].config for name, runs in read(tmp_path).runs.items()}
    differ, shared = tables.settings_tables(settings)
    rows = rows_of(differ)
    assert sorted(rows) == ["", "batch size", "coupling", "growth", "lr"]
    assert rows["batch size"] == ["16", "256", "16", "16"]
    assert rows["growth"] == ["none", "none", "2", "2"]
    assert "<dt>momentum</dt><dd>0.9</dd>" in shared
    assert "seed" not in shared


def test_every_evaluation_and_every_change_of_a_run(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    rows = rows_of(tables.history_table(run))
    assert len(rows) == 15
    assert rows["20,118"][0] == "376"
    assert rows["2,874"][2:4] == ["16", "0.006"]
    changes = rows_of(tables.decisions_table(run))
    assert list(changes) == ["from sample", "2,874", "5,748", "8,622", "11,496"]
    assert changes["8,622"] == ["128", "x2 every 2 epochs"]


def test_no_change_no_table(tmp_path):
    write_run(tmp_path)
    values = json.loads((tmp_path / "result.json").read_text()) | {"decisions": []}
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert tables.decisions_table(read(tmp_path)) == ""


def test_text_is_escaped():
    html = tables.table(["<b>"], [("<i>", [("<u>", ["<s>"])])], corner="<a>", marked=True)
    assert not re.search(r"<(b|u|s|a)>|<i>", html)
    assert tables.facts([("<b>", "<i>")]).count("&lt;") == 2
