from dataclasses import replace

import pytest
from tests.lab.report.checks import comparison, made
from tests.lab.report.page_folders import write_comparison, write_run
from tests.lab.report.test_figures import rows_of
from tests.lab.report.test_terminal import cells
from tests.lab.test_tuning import TUNING

from adabatch.lab.comparison import Difference, Ratio
from adabatch.lab.report import blocks, contents, figures, headline, words
from adabatch.lab.report.folders import read, read_run
from adabatch.lab.report.terminal import compare_table, plain


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
    assert words.interval_note(Ratio(2.0, 1.6, 2.5)) == "95 % interval [1.60, 2.50]"
    assert words.interval_note(Ratio(0.5, 0.4, 0.8).inverse) == "95 % interval [1.25, 2.50]"
    assert words.interval_note(Ratio(1.0, 0.4, 1.8)).endswith("; no difference shown")
    assert words.interval_note(Ratio(1.0, None, None)) == ""
    assert words.ratio_cell(Ratio(None, None, None)) == "–"
    assert words.ratio_cell(Ratio(2.0, None, None)) == "2.00×"
    assert words.difference(Difference(0.0025, None, None)) == "+0.25"


def test_plain_values():
    assert [words.plain(value) for value in (None, True, False, 0.5, 1e-5, 12345, "sgd")] == [
        "none", "yes", "no", "0.5", "1e-05", "12,345", "sgd",
    ]  # fmt: skip
    assert words.sizes([16]) == "16"
    assert words.sizes([16, 32, 64]) == "16, 32, 64"
    assert words.sizes([256, 512, 1024, 2048]) == "256 to 2,048"


# Beside every claim "within the margin", in the terminal, in compare.md and on the page.


SCOPE = "Within 1 %: in absolute points, over 3 seeds, on one fixed test set."
RARE = "3 seeds cannot show rare failures: where none of 3 runs fails, up to 63 % may (at 95 %)."
OVER = "The interval over test samples is for the networks trained here: how far another test set would move the diff"


def told(*, skewed=False, over=True, **how):
    """A comparison with the findings that stand beside a claim."""
    compare = comparison(**how)
    for found in compare["against_fixed_small"].values():
        mean = found["accuracy_difference"]["mean"]
        found["accuracy_difference_by_seed"] = {
            "worst": mean - 0.0123, "skewed": skewed, "unseen_failures": 0.6316,
        }  # fmt: skip
        kept = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "samples": 1360}
        found["accuracy_difference_over_samples"] = kept if over else None
    return compare


def test_words_in_the_terminal():
    sentences = headline.sentences(made(told()))
    assert sentences[1].endswith("accuracy within 1 %: shown by the interval; worst seed -0.93.")
    (scope,) = [sentence for sentence in sentences if sentence.startswith("Within")]
    assert scope.startswith(f"{SCOPE} {RARE} {OVER}")
    skewed = headline.sentences(made(told(skewed=True, over=False)))
    assert skewed[1].endswith(f"; worst seed -0.93; {words.SKEWED}.")
    assert words.SKEWED == "the differences are skewed, so the interval may miss more often than 5 %"
    assert f"{SCOPE} {RARE}" in skewed


def test_rows_in_the_terminal():
    text = plain(compare_table(made(told()))).split("against fixed-large")[0]
    assert cells(text, "- worst seed, points") == ["-", "-11.23", "-0.93", "-5.43"]
    assert cells(text, "- over 1,360 test samples")[2] == "+0.30 [-1.70, +2.30]"
    compare = told()
    compare["against_fixed_small"]["adaptive"]["accuracy_difference_over_samples"] = None
    assert cells(plain(compare_table(made(compare))), "- over 1,360 test samples")[2] == "-"
    assert "test samples" not in plain(compare_table(made(told(over=False))))


def test_one_seed_shows_nothing_that_a_word_could_stand_beside():
    compare = told(seeds=1)
    compare = made(compare)
    assert words.scope(compare) == words.beside(compare, compare.against_fixed_small["adaptive"]) == ""


def test_a_file_of_before_is_told_as_far_as_it_goes():
    compare = comparison()
    assert SCOPE in headline.sentences(made(compare))
    assert "worst seed" not in " ".join([plain(compare_table(made(compare))), *headline.sentences(made(compare))])
    assert headline.of_comparison(made(compare)).lead.endswith("within 1 % is shown.")


def test_the_page_says_it_in_its_headline_its_words_and_its_table():
    compare = told(skewed=True)
    assert headline.of_comparison(made(compare)).lead.endswith(f"is shown; worst seed −0.93; {words.SKEWED}.")
    assert headline.arm_sentence(made(compare), "adaptive").endswith(f"is shown; worst seed −0.93; {words.SKEWED}.")
    rows = rows_of(blocks.table(figures.comparison(made(compare))))
    assert rows["worst seed, points"] == ["–", "−11.23", "−0.93", "−5.43"]
    assert rows["over 1,360 test samples"][2] == "+0.30 [−1.70, +2.30]"
    del compare["against_fixed_small"]["adaptive"]["accuracy_difference_by_seed"]
    assert rows_of(blocks.table(figures.comparison(made(compare))))["worst seed, points"][2] == "–"


def test_the_page_of_a_folder_says_what_its_claim_is_over(tmp_path):
    compare = write_comparison(tmp_path)
    body = contents.of_comparison(read(tmp_path)).body.replace("&nbsp;", " ")
    assert f"{SCOPE} {RARE}" in body
    assert "The interval is over seeds, on one fixed test set." in body
    worst = compare["against_fixed_small"]["adaptive"]["accuracy_difference_by_seed"]["worst"]
    assert f"worst seed {words.points(worst)}" in body


@pytest.mark.parametrize("arms", [("fixed-small",), ("fixed-large", "adaptive")])
def test_without_a_baseline_there_is_no_claim(arms):
    assert words.scope(made(comparison(names=arms) | {"against_fixed_small": {}})) == ""


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


def test_what_a_tuning_chose():
    assert words.tuned(TUNING) == [
        "--tune takes channels last, each measured on top of those before it.",
        "channels last: it saves at least 2.5 s of 27 s.",
        "compile: it failed: no compiler.",
        "bf16, not measured: it is given.",
        "Measured in 20.2 s. An option that is given stays as it is.",
    ]
    nothing = replace(TUNING, tried=())
    assert words.tuned(nothing)[0] == "--tune takes nothing: no switch is shown to pay, and settings stay as they are."
