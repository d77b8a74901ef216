from dataclasses import replace

import pytest
from tests.lab.report.page_folders import write_run

from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import read_run


def points(mean, low, high):
    return {"mean": mean / 100, "low": None if low is None else low / 100, "high": None if high is None else high / 100}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("key", ["train_loss", "test_loss"])
@pytest.mark.parametrize("loss", [None, float("nan")])
def test_a_run_that_diverged_says_so_first(tmp_path, finished, key, loss):
    write_run(tmp_path, finished=finished)
    run = read_run(tmp_path)
    healthy = words.run_headline(run)
    assert (healthy.sign, "iverged" in healthy.title) == ("", False)
    history = [dict(found) for found in run.history]
    history[1][key] = history[2][key] = loss
    found = words.run_headline(replace(run, history=history))
    assert found.title.startswith("Diverged: 97." if finished else "Not finished, diverged: 93.")
    assert f"The loss was not finite {history[1]['updates']} updates after the start." in found.lead
    assert found.sign == "bad"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9604, "0.960"), (3.7, "3.70"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234"), (0, "0.00")],
)
def test_seconds(value, text):
    assert words.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.654, "1.65×"), (1.949, "1.95×"), (1.96, "2.0×"), (15.0, "15.0×")])
def test_times(value, text):
    assert words.times(value) == text


def test_intervals():
    assert words.interval_note({"median": 2.0, "low": 1.6, "high": 2.5}) == "95 % interval [1.60, 2.50]"
    assert words.interval_note({"median": 0.5, "low": 0.4, "high": 0.8}, inverse=True) == "95 % interval [1.25, 2.50]"
    assert words.interval_note({"median": 1.0, "low": 0.4, "high": 1.8}).endswith("; no difference shown")
    assert words.interval_note({"median": 1.0, "low": None, "high": None}) == ""
    assert words.ratio_cell({"median": None, "low": None, "high": None}) == "–"
    assert words.ratio_cell({"median": 2.0, "low": None, "high": None}) == "2.00×"
    assert words.difference(points(0.25, None, None)) == "+0.25"


def test_plain_values():
    assert [words.plain(value) for value in (None, True, False, 0.5, 1e-5, 12345, "sgd")] == [
        "none", "yes", "no", "0.5", "1e-05", "12,345", "sgd",
    ]  # fmt: skip
    assert words.sizes([16]) == "16"
    assert words.sizes([16, 32, 64]) == "16, 32, 64"
    assert words.sizes([256, 512, 1024, 2048]) == "256 to 2,048"


def test_a_run_no_better_than_chance_says_so_first(tmp_path):
    write_run(tmp_path)
    run = read_run(tmp_path)
    found = words.run_headline(replace(run, result={**run.result, "at_chance": True, "chance": 0.1028}))
    assert found.title.startswith("No better than chance: 97.")
    assert found.lead.startswith("Always answering the most frequent class gets 10.3 %. The batch went from 16 to 256")
    assert found.sign == "bad"
    assert words.run_headline(replace(run, result={**run.result, "at_chance": False, "chance": 0.1})).sign == ""


def test_epochs_of_a_run(tmp_path):
    write_run(tmp_path)
    run = read_run(tmp_path)
    assert words.epochs(run) == "14 epochs"
    assert words.epochs(replace(run, config={**run.config, "epochs": 1})) == "1 epoch"
    assert words.epochs(replace(run, result=None, history=run.history[:3])) == "3 of 14 epochs"
    lost = [*run.history[:2], {**run.history[2], "train_loss": None}]
    assert words.epochs(replace(run, history=lost)) == "3 of 14 epochs", "it was stopped there"


def test_names_in_a_sentence():
    assert [words.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip


def test_lines_do_not_break_before_a_sign_or_within_an_interval():
    assert words.html("within 1 % of <b>, by 2.0 [-1, +3] and [1.72, 16.17]") == (
        "within 1&nbsp;% of &lt;b&gt;, by 2.0 [-1,&nbsp;+3] and [1.72,&nbsp;16.17]"
    )
