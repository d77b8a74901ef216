"""What stands beside every claim "within the margin", in the terminal, in compare.md and on the page."""

import pytest
from tests.lab.report.checks import comparison
from tests.lab.report.page_folders import write_comparison
from tests.lab.report.test_page_tables import rows_of
from tests.lab.report.test_table import cells

from adabatch.lab.report import caution, headline, page_parts, page_tables
from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import read
from adabatch.lab.report.table import compare_table, compare_words, plain

SCOPE = "Within 1 %: in absolute points, over 3 seeds, on one fixed test set."
RARE = "3 seeds cannot show rare failures: where none of 3 runs fails, up to 63 % may (at 95 %)."
OVER = "The interval over test samples is for the networks trained here: how far another test set would move the diff"


def told(*, skewed=False, over=True, **how):
    """A comparison that holds what stands beside a claim."""
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
    sentences = compare_words(told())
    assert sentences[1].endswith("accuracy within 1 %: shown by the interval; worst seed -0.93.")
    (scope,) = [sentence for sentence in sentences if sentence.startswith("Within")]
    assert scope.startswith(f"{SCOPE} {RARE} {OVER}")
    skewed = compare_words(told(skewed=True, over=False))
    assert skewed[1].endswith(f"; worst seed -0.93; {caution.SKEWED}.")
    assert caution.SKEWED == "the differences are skewed, so the interval may miss more often than 5 %"
    assert f"{SCOPE} {RARE}" in skewed


def test_rows_in_the_terminal():
    text = plain(compare_table(told())).split("against fixed-large")[0]
    assert cells(text, "- worst seed, points") == ["-", "-11.23", "-0.93", "-5.43"]
    assert cells(text, "- over 1,360 test samples")[2] == "+0.30 [-1.70, +2.30]"
    compare = told()
    compare["against_fixed_small"]["adaptive"]["accuracy_difference_over_samples"] = None
    assert cells(plain(compare_table(compare)), "- over 1,360 test samples")[2] == "-"
    assert "test samples" not in plain(compare_table(told(over=False)))


def test_one_seed_shows_nothing_that_a_word_could_stand_beside():
    compare = told(seeds=1)
    assert caution.scope(compare) == caution.beside(compare, compare["against_fixed_small"]["adaptive"]) == ""


def test_a_file_of_before_is_told_as_far_as_it_goes():
    compare = comparison()
    assert SCOPE in compare_words(compare)
    assert "worst seed" not in " ".join([plain(compare_table(compare)), *compare_words(compare)])
    assert headline.of_comparison(compare).lead.endswith("within 1 % is shown.")


def test_the_page_says_it_in_its_headline_its_words_and_its_table():
    compare = told(skewed=True)
    assert headline.of_comparison(compare).lead.endswith(f"is shown; worst seed −0.93; {caution.SKEWED}.")
    assert headline.arm_sentence(compare, "adaptive").endswith(f"is shown; worst seed −0.93; {caution.SKEWED}.")
    rows = rows_of(page_tables.comparison_table(compare))
    assert rows["worst seed, points"] == ["–", "−11.23", "−0.93", "−5.43"]
    assert rows["over 1,360 test samples"][2] == "+0.30 [−1.70, +2.30]"
    del compare["against_fixed_small"]["adaptive"]["accuracy_difference_by_seed"]
    assert rows_of(page_tables.comparison_table(compare))["worst seed, points"][2] == "–"


def test_the_page_of_a_folder_says_what_its_claim_is_over(tmp_path):
    compare = write_comparison(tmp_path)
    body = page_parts.of_comparison(read(tmp_path)).body.replace("&nbsp;", " ")
    assert f"{SCOPE} {RARE}" in body
    assert "The interval is over seeds, on one fixed test set." in body
    worst = compare["against_fixed_small"]["adaptive"]["accuracy_difference_by_seed"]["worst"]
    assert f"worst seed {words.signed(100 * worst)}" in body


@pytest.mark.parametrize("arms", [("fixed-small",), ("fixed-large", "adaptive")])
def test_without_a_baseline_there_is_no_claim(arms):
    assert caution.scope(comparison(names=arms) | {"against_fixed_small": {}}) == ""
