from dataclasses import replace

import pytest
from tests.report.checks import comparison
from tests.report.page_folders import write_run

from adabatch.report import page_tables
from adabatch.report import page_words as words
from adabatch.report.page_data import read_run


def against(compare, **changes):
    compare["against_fixed_small"]["adaptive"] |= changes
    return compare


def points(mean, low, high):
    return {"mean": mean / 100, "low": None if low is None else low / 100, "high": None if high is None else high / 100}


def test_the_headline_of_a_comparison():
    compare = against(
        comparison(),
        updates_ratio=3.351,
        seconds_ratio={"median": 2.24, "low": 2.1, "high": 2.4},
        accuracy_difference=points(-0.1, -0.4, 0.2),
    )
    found = words.comparison_headline(compare)
    assert found.title == (
        "A batch growing from 16 to 256 takes 3.4× fewer updates and 2.2× less time than a fixed batch of 16."
    )
    assert found.lead == "Test accuracy differs by −0.10 [−0.40, +0.20] points: within 1 % is shown."
    assert found.sign == "good"
    assert words.arm_sentence(compare, "adaptive") == (
        "adaptive: 3.4× fewer updates, 2.2× less time; accuracy −0.10 [−0.40, +0.20] points: within 1 % is shown."
    )


def test_what_is_not_shown_is_not_claimed():
    compare = against(
        comparison(),
        seconds_ratio={"median": 1.3, "low": 0.9, "high": 1.8},
        within_margin={"verdict": "not shown"},
        accuracy_difference=points(-0.4, -1.4, 0.6),
    )
    found = words.comparison_headline(compare)
    assert found.title.endswith("than a fixed batch of 16; a difference in time is not shown.")
    assert found.lead.endswith("within 1 % is not shown.")
    assert found.sign == "open"


def test_a_loss_of_accuracy_is_said_loudly():
    compare = against(
        comparison(),
        updates_ratio=0.5,
        seconds_ratio={"median": 0.5, "low": 0.4, "high": 0.6},
        within_margin={"verdict": "worse"},
        accuracy_difference=points(-10, -11, -9),
    )
    found = words.comparison_headline(compare)
    assert "takes 2.0× more updates and 2.0× more time than" in found.title
    assert found.lead == "But test accuracy falls: −10.00 [−11.00, −9.00] points; within 1 % is refuted."
    assert found.sign == "bad"


def test_seeds_that_do_not_differ_are_named_as_the_reason():
    reason = "the seeds do not differ, so their spread is unknown"
    within = {"verdict": "not shown", "words": f"not shown, {reason}"}
    found = words.comparison_headline(against(comparison(), within_margin=within, accuracy_difference=points(0, 0, 0)))
    assert found.lead.endswith(f"within 1 % is not shown, {reason}.")
    assert found.sign == "open"


def test_an_arm_that_diverged_earns_no_tick():
    compare = against(
        comparison(), within_margin={"verdict": "not shown", "words": "not shown, 2 of its 3 runs diverged"}
    )
    for arm in compare["arms"]:
        arm["diverged"] = {"adaptive": 2, "fixed-small": 1}.get(arm["name"], 0)
    found = words.comparison_headline(compare)
    assert found.lead == (
        "But adaptive diverged in 2 of 3 runs and fixed-small diverged in 1 of 3 runs: a loss was not finite, and "
        "accuracy within 1 % is not shown."
    )
    assert found.sign == "bad"
    assert words.arm_sentence(compare, "adaptive").endswith("within 1 % is not shown, 2 of its 3 runs diverged.")
    assert "<td>2 of 3</td>" in page_tables.comparison_table(compare)
    found = words.comparison_headline(compare | {"against_fixed_small": {}})
    assert found.lead.endswith(
        "But fixed-small diverged in 1 of 3 runs and adaptive diverged in 2 of 3 runs: a loss was not finite."
    )
    assert found.sign == "bad"


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


def test_another_arm_takes_the_headline_where_adaptive_is_absent():
    compare = comparison(names=("fixed-small", "fixed-large"))
    assert words.hero(compare) == "fixed-large"
    assert words.comparison_headline(compare).title.startswith("fixed-large takes 16.1× fewer updates")


def test_without_fixed_small_the_best_arm_is_named():
    compare = comparison(names=("fixed-large", "adaptive")) | {"against_fixed_small": {}}
    found = words.comparison_headline(compare)
    assert (found.title, found.sign) == ("2 arms on digits", "")
    assert found.lead == "adaptive reaches the highest test accuracy: 95.20 ± 0.20 %."


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
