import pytest
from rich.console import Console
from tests.lab.report.checks import comparison, made
from tests.lab.test_tuning import TUNING

from adabatch.lab.report import headline
from adabatch.lab.report.terminal import compare_table, plain, probe_table, reduced_table, tuning_table


def cells(text, label):
    (line,) = [line for line in text.splitlines() if line.strip("|").split("|")[0].strip() == label]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.fixture
def text():
    return plain(compare_table(made(comparison(seeds=3))))


def test_the_table_has_a_column_per_arm(text):
    assert text.splitlines()[0].startswith("digits, cnn_small on cpu, 3 seeds: adaptive, ")
    assert [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")][1:] == [
        "fixed-small",
        "fixed-large",
        "adaptive",
        "uncoupled",
    ]


def test_every_figure_of_the_arms(text):
    assert cells(text, "batch size") == ["16", "256", "16 to 256", "16 to 256"]
    assert cells(text, "updates") == ["1,800", "112", "360", "360"]
    assert cells(text, "samples") == ["28,740"] * 4
    assert cells(text, "test accuracy, %")[0] == "94.90 ± 0.20"
    assert cells(text, "training seconds")[0] == "2.10 [2.00, 2.20]"
    assert cells(text, "samples/s at 16") == ["14,640", "-", "14,640", "14,640"]
    assert cells(text, "samples/s at 256") == ["-", "24,240", "24,240", "24,240"]
    assert cells(text, "updates to 94 %") == ["300", "not reached", "300", "not reached"]
    assert cells(text, "seconds to 94 %") == ["1.68", "not reached", "1.12", "not reached"]  # 1.68 / 1.50


def test_every_figure_against_the_baselines(text):
    small, large = text.split("against fixed-large")
    assert cells(small, "- fewer updates") == ["-", "16.07x", "5.00x", "5.00x"]
    assert cells(small, "- faster")[2] == "1.67x [1.62, 1.72]"
    assert cells(small, "- faster to 94 %") == ["-", "-", "1.50x", "-"]
    assert cells(small, "- accuracy, points")[2] == "+0.30 [-0.10, +0.70]"
    assert cells(small, "- within 1 %")[2] == "shown"
    assert cells(large, "- fewer updates") == ["0.06x", "-", "0.31x", "0.31x"]


def test_one_seed_prints_no_interval_anywhere():
    text = plain(compare_table(made(comparison(seeds=1))))
    assert "[" not in text
    assert "±" not in text
    assert text.startswith("digits, cnn_small on cpu, 1 seed: adaptive, ")


def test_without_fixed_large_its_rows_are_absent():
    assert "against fixed-large" not in plain(compare_table(made(comparison(names=("fixed-small", "adaptive")))))


def test_some_runs_that_reach_the_target_are_counted():
    compare = comparison(seeds=10)
    compare["arms"][2]["to_target"]["reached"] = 7
    text = plain(compare_table(made(compare)))
    assert cells(text, "updates to 94 %")[2] == "300 (7 of 10)"
    compare["arms"][2] |= {"updates_to_target": None, "seconds_to_target": None}
    assert cells(plain(compare_table(made(compare))), "seconds to 94 %")[2] == "in 7 of 10 runs"
    assert "reached by fixed-large in 0 of 10 runs, adaptive in 7 of 10 runs, uncoupled in 0 of 10 runs" in " ".join(
        headline.sentences(made(compare))
    )


def test_a_narrow_terminal_shows_whole_intervals():
    console = Console(width=90, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(compare_table(made(comparison()), narrow=True))
    shown = console.export_text()
    console.file.close()
    assert "[1.62, 1.72]" in shown
    assert "[-10.40, -9.60]" in shown
    assert "…" not in shown


def test_plain_has_one_line_for_each_row_however_many_arms_there_are():
    compare = comparison()
    rows = len(plain(compare_table(made(compare))).splitlines())
    first = compare["arms"][2]
    compare["arms"] += [first | {"name": f"an arm of a long name, number {place}"} for place in range(12)]
    text = plain(compare_table(made(compare)))
    assert len(text.splitlines()) == rows
    assert {line.count("|") for line in text.splitlines()[2:]} == {18}
    assert cells(text, "training seconds")[-1] == "1.26 [1.20, 1.32]"


def test_plain_leaves_the_table_as_it_was():
    table = compare_table(made(comparison()))
    before = (table.box, table.title)
    plain(table)
    assert (table.box, table.title) == before


def test_the_probe_table():
    probe = {
        "task": "digits",
        "model": "cnn_small",
        "device": "cpu",
        "curve": [
            {
                "batch_size": 16,
                "samples_per_second": {"median": 8000.0, "min": 7000.0, "max": 9000.0},
                "against_first": None,
            },
            {
                "batch_size": 32,
                "samples_per_second": {"median": 16000.0, "min": 15000.0, "max": 17000.0},
                "against_first": {"median": 2.0, "low": 1.9, "high": 2.1},
            },
        ],
    }
    text = plain(probe_table(probe))
    (first,) = [line for line in text.splitlines() if line.startswith("|") and " 16 |" in line]
    assert [cell.strip() for cell in first.strip("|").split("|")] == ["16", "8,000", "7,000 to 9,000", "0.002", "-"]
    assert "2.00x [1.90, 2.10]" in text
    for point in probe["curve"]:
        point["compute_seconds"] = {"median": 0.0015}
    assert cells(plain(probe_table(probe)), "16") == ["8,000", "7,000 to 9,000", "0.002", "-", "0.00150"]
    for point, peak in zip(probe["curve"], (3 * 2**20, None), strict=True):
        point["peak_bytes"] = peak
    assert cells(plain(probe_table(probe)), "16")[3:] == ["-", "3 MiB", "0.00150"]
    assert cells(plain(probe_table(probe)), "32")[4] == "-"


def test_the_table_of_a_tuning():
    text = plain(tuning_table(TUNING))
    assert text.startswith("Speed of digits, small_cnn on cpu with a switch against without, 95 %")
    assert cells(text, "switch") == ["at 16", "at 256", "whole training", "saves, s", "prepares, s", "taken"]
    shown = ["1.20x [1.10, 1.30]", "-", "1.20x [1.10, 1.30]", "2.50", "-", "yes"]
    assert cells(text, "channels last") == shown
    assert cells(text, "compile") == ["-"] * 5 + ["no"]


def test_the_table_of_all_reduces():
    times = {"median": 0.001, "min": 0.0005, "max": 0.002}
    curve = [{"bytes": 2**26, "seconds": times}, {"bytes": 1000, "seconds": times}]
    text = plain(
        reduced_table(
            {"world_size": 3, "backend": "gloo", "curve": curve, "gradients": {"seconds": {**times, "max": 4}}}
        )
    )
    assert text.startswith("All-reduce over 3 processes (gloo)")
    assert cells(text, "64 MiB") == cells(text, "1000 bytes") == ["0.00100", "0.000500 to 0.00200"]
    assert cells(text, "the gradients") == ["0.00100", "0.000500 to 4.00"]
