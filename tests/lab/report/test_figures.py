import json
import re

from tests.lab.report.checks import made
from tests.lab.report.page_folders import write_comparison, write_run

from adabatch.lab.report import blocks, figures
from adabatch.lab.report.figures import COLUMNS, Done, Interim
from adabatch.lab.report.folders import read
from adabatch.lab.report.terminal import interim_table, plain
from adabatch.lab.training.config import SETTINGS


def rows_of(html):
    """Label and cells of each row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html.replace("&nbsp;", " "))
    cells = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_every_figure_of_a_comparison(tmp_path):
    compare = write_comparison(tmp_path)
    rows = rows_of(blocks.table(figures.comparison(made(compare))))
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


def labels(table):
    """The labels of the rows of each group, by the group's title."""
    return {title: [label for label, _ in rows] for title, rows in table.groups}


def test_which_rows_a_comparison_has(tmp_path):
    """A new row is written down here."""
    compare = made(write_comparison(tmp_path))
    of_arms = ["batch size", "updates", "samples", "test accuracy, %", "training seconds"]
    to_target = ["updates to 95 %", "seconds to 95 %"]
    against = {
        "against fixed-small": [
            "fewer updates", "faster", "faster to 95 %", "accuracy, points", "worst seed, points", "within 1 %",
        ],
        "against fixed-large": ["fewer updates", "faster"],
    }  # fmt: skip
    sizes = [16, 32, 64, 128, 256]
    spread = [*of_arms[:3], "test accuracy, % (± std)", "training seconds [min, max]"]
    speeds = {"samples per second at": [f"batch {size}" for size in sizes]}
    assert labels(figures.comparison(compare)) == {"": spread + to_target, **against, **speeds}
    typed = [*of_arms, *(f"samples/s at {size}" for size in sizes), *to_target]
    assert labels(figures.comparison_typed(compare)) == {"": typed, **against}


def test_some_runs_that_reach_the_target_are_counted(tmp_path):
    compare = write_comparison(tmp_path)
    compare["arms"][2]["to_target"]["reached"] = 2
    assert rows_of(blocks.table(figures.comparison(made(compare))))["updates to 95 %"][2] == "316 (2 of 3)"


def test_settings_that_differ_stand_apart_from_those_shared(tmp_path):
    write_comparison(tmp_path, seeds=1)
    settings = {name: runs[0].config for name, runs in read(tmp_path).runs.items()}
    differ, shared = figures.settings(settings)
    rows = rows_of(blocks.table(differ))
    assert sorted(rows) == ["", "batch size", "coupling", "growth", "lr"]
    assert rows["batch size"] == ["16", "256", "16", "16"]
    assert rows["growth"] == ["none", "none", "2", "2"]
    assert ("momentum", "0.9") in shared
    shown = [*rows, *dict(shared)]
    assert sorted(shown) == sorted(["", *(name.replace("_", " ") for name in SETTINGS if name != "seed")])


def test_every_evaluation_and_every_change_of_a_run(tmp_path):
    write_run(tmp_path)
    run = read(tmp_path)
    rows = rows_of(blocks.table(figures.history(run)))
    assert len(rows) == 15
    assert rows["20,118"][0] == "376"
    assert rows["2,874"][2:4] == ["16", "0.006"]
    changes = rows_of(blocks.table(figures.decisions(run)))
    assert list(changes) == ["from sample", "2,874", "5,748", "8,622", "11,496"]
    assert changes["8,622"] == ["128", "x2 every 2 epochs"]


def test_no_change_no_table(tmp_path):
    write_run(tmp_path)
    values = json.loads((tmp_path / "result.json").read_text()) | {"decisions": []}
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert figures.decisions(read(tmp_path)) is None


# A comparison under way.


def interim(*done, seeds=range(10)):
    runs = {run: Done(0.97 + 0.002 * place, 376, 1.0 + place, diverged=False) for place, run in enumerate(done)}
    return Interim("digits, small_cnn", ["fixed-small", "adaptive"], seeds, runs)


def test_what_is_missing_and_how_far_it_is():
    found = interim(("fixed-small", 0), ("adaptive", 0), ("fixed-small", 1), ("adaptive", 3), ("adaptive", 4))
    assert found.title == "Unfinished: 5 of 20 runs are done"
    assert found.missing == "fixed-small: seeds 2 to 9; adaptive: seeds 1, 2, 5 to 9"
    first, second = found.sentences()
    assert first == "Missing: fixed-small: seeds 2 to 9; adaptive: seeds 1, 2, 5 to 9."
    assert second == (
        "Nothing is claimed before all runs are done: the arms may differ by the seeds that they have so far. "
        "The same adabatch compare command goes on."
    )
    assert interim(("adaptive", 1), seeds=[0, 1]).missing == "fixed-small: seeds 0, 1; adaptive: seed 0"
    assert Interim("digits", ["a"], [0], {}).title == "Unfinished: 0 of 1 run is done"
    whole = interim(("adaptive", 0), ("fixed-small", 0), seeds=[0])
    assert (whole.missing, whole.sentences()[0]) == ("", "All runs are done; the outcome is not written yet.")


def test_a_row_for_each_arm():
    found = interim(("fixed-small", 0), ("fixed-small", 1))
    assert found.rows() == [
        ("fixed-small", ["2 of 10", "97.10 ± 0.14", "376", "1.50", "-"]),
        ("adaptive", ["0 of 10", "-", "-", "-", "-"]),
    ]
    assert all(len(cells) == len(COLUMNS) for _, cells in found.rows())
    lost = Interim("digits", ["a"], [0], {("a", 0): Done(0.1, 5, 1.0, diverged=True)})
    assert lost.rows() == [("a", ["1 of 1", "10.00", "5", "1.00", "1"])]


def test_the_table_says_that_it_is_unfinished_and_claims_nothing():
    text = plain(interim_table(interim(("fixed-small", 0), ("adaptive", 0))))
    assert text.splitlines()[0] == "digits, small_cnn. Unfinished: 2 of 20 runs are done"
    assert [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")] == ["", *COLUMNS]
    for word in ("faster", "fewer", "within", "against", "x ", "["):
        assert word not in text
