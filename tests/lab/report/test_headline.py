"""The headline of a comparison: for which arm a gain is claimed, and when for none."""

import json
import re
from dataclasses import replace

import pytest
from tests.lab.report.checks import comparison, made
from tests.lab.report.page_folders import write_comparison, write_run
from tests.lab.report.test_terminal import cells

from adabatch.lab.report import blocks, contents, figures, headline
from adabatch.lab.report.folders import read, read_run
from adabatch.lab.report.terminal import compare_table, plain


def against(compare, arm="adaptive", **changes):
    compare["against_fixed_small"][arm] |= changes
    return compare


def points(mean, low, high):
    return {"mean": mean / 100, "low": None if low is None else low / 100, "high": None if high is None else high / 100}


def ratio(median, low, high):
    return {"median": median, "low": low, "high": high}


def judged(verdict, words=""):
    return {"verdict": verdict, "words": words}


def lost(compare, **counts):
    """The comparison with these numbers of diverged runs, and the verdicts that `study.outcome` then gives."""
    for arm in compare["arms"]:
        arm["diverged"] = counts.get(arm["name"].replace("-", "_"), 0)
    for name, found in compare["against_fixed_small"].items():
        if counts.get(name.replace("-", "_")) or counts.get("fixed_small"):
            found["within_margin"] = judged("not shown", "not shown, some runs diverged")
    return compare


def own(**verdicts):
    """A comparison of a user's own arms, from the verdict on each one's accuracy."""
    compare = comparison(names=("fixed-small", "adaptive"))
    arm, found = compare["arms"].pop(), compare["against_fixed_small"].pop("adaptive")
    for name, verdict in verdicts.items():
        compare["arms"].append(arm | {"name": name})
        compare["against_fixed_small"][name] = found | {"within_margin": judged(verdict)}
    return compare


def test_a_gain_of_an_arm_that_keeps_the_accuracy():
    compare = against(
        comparison(),
        updates_ratio=3.351,
        seconds_ratio=ratio(2.24, 2.1, 2.4),
        accuracy_difference=points(-0.1, -0.4, 0.2),
    )
    found = headline.of_comparison(made(compare))
    gain = "takes 3.4× fewer updates and is 2.2× faster than a fixed batch of 16."
    assert found.title == f"adaptive, a batch growing from 16 to 256, {gain}"
    assert found.lead == "Test accuracy differs by −0.10 [−0.40, +0.20] points: within 1 % is shown."
    assert found.sign == "good"
    assert headline.arm_sentence(made(compare), "adaptive") == (
        "adaptive: 3.4× fewer updates, 2.2× faster; accuracy −0.10 [−0.40, +0.20] points: within 1 % is shown."
    )
    assert headline.plain(made(compare)) == (
        f"adaptive, a batch growing from 16 to 256, {gain.replace('×', 'x')}",
        "Test accuracy differs by -0.10 [-0.40, +0.20] points: within 1 % is shown.",
    )


@pytest.mark.parametrize(
    ("updates", "seconds", "end"),
    [
        (
            3.4,
            ratio(1.3, 0.9, 1.8),
            "takes 3.4× fewer updates than a fixed batch of 16; a difference in time is not shown.",
        ),
        (0.5, ratio(0.5, 0.4, 0.6), "takes 2.0× more updates and is 2.0× slower than a fixed batch of 16."),
        (1.0, ratio(1.5, 1.4, 1.6), "takes as many updates as a fixed batch of 16 and is 1.50× faster."),
        (1.0, ratio(1.0, 0.9, 1.1), "takes as many updates as a fixed batch of 16; a difference in time is not shown."),
    ],
)
def test_what_is_not_shown_is_not_claimed(updates, seconds, end):
    compare = against(comparison(), updates_ratio=updates, seconds_ratio=seconds)
    assert headline.of_comparison(made(compare)).title == f"adaptive, a batch growing from 16 to 256, {end}"


def test_accuracy_that_is_not_shown_to_be_kept_earns_no_praise():
    reason = "the 95 % interval [-1.40, +0.60] points reaches below -1.00"
    compare = against(
        comparison(),
        seconds_ratio=ratio(2.2, 2.1, 2.3),
        within_margin=judged("not shown", f"not shown, {reason}"),
        accuracy_difference=points(-0.4, -1.4, 0.6),
    )
    found = headline.of_comparison(made(compare))
    assert found.title == (
        "adaptive, a batch growing from 16 to 256, is not shown to be as accurate as a fixed batch of 16."
    )
    assert found.lead == (
        "Test accuracy differs by −0.40 [−1.40, +0.60] points: within 1 % is not shown. 3 seeds give a wide interval; "
        "take 6 or more."
    )
    assert found.sign == headline.standing(made(compare), "adaptive") == "open"
    assert headline.arm_sentence(made(compare), "adaptive").startswith(
        "adaptive: accuracy −0.40 [−1.40, +0.60] points: within"
    )
    assert headline.sentences(made(compare))[1].startswith(
        f"adaptive against fixed-small: accuracy within 1 %: not shown, {reason}"
    )


def test_a_loss_of_accuracy_is_said_loudly():
    compare = against(
        comparison(),
        seconds_ratio=ratio(2, 1.9, 2.1),
        within_margin=judged("worse"),
        accuracy_difference=points(-10, -11, -9),
    )
    found = headline.of_comparison(made(compare))
    assert found.title == "adaptive, a batch growing from 16 to 256, is less accurate than a fixed batch of 16."
    assert found.lead == "Test accuracy falls: −10.00 [−11.00, −9.00] points: within 1 % is refuted."
    assert found.sign == "bad"


def test_seeds_that_do_not_differ_are_named_as_the_reason():
    reason = "the seeds do not differ, so their spread is unknown"
    compare = against(
        comparison(), within_margin=judged("not shown", f"not shown, {reason}"), accuracy_difference=points(0, 0, 0)
    )
    assert headline.of_comparison(made(compare)).lead.endswith(f"within 1 % is not shown, {reason}.")
    assert headline.standing(made(compare), "adaptive") == "open"


def test_runs_that_diverged_are_all_that_is_said():
    compare = lost(comparison(), adaptive=2, fixed_small=1)
    found = headline.of_comparison(made(compare))
    assert found.title == "adaptive diverged in 2 of 3 runs and fixed-small diverged in 1 of 3 runs: no gain is shown."
    assert found.lead == "A loss was not finite, and accuracy within 1 % is not shown."
    assert found.sign == "bad"
    assert headline.arm_sentence(made(compare), "adaptive").endswith("; updates and time tell nothing.")
    assert "faster" not in headline.arm_sentence(made(compare), "adaptive") + headline.sentences(made(compare))[1]
    assert "<td>2 of 3</td>" in blocks.table(figures.comparison(made(compare)))
    found = headline.of_comparison(made(compare | {"against_fixed_small": {}}))
    assert found.lead == (
        "uncoupled reaches the highest test accuracy: 90.70 ± 0.20 %. fixed-small diverged in 1 of 3 runs and "
        "adaptive diverged in 2 of 3 runs: a loss was not finite."
    )
    assert found.sign == "bad"


def test_an_old_file_that_does_not_count_what_diverged_is_judged_by_its_verdict():
    compare = against(comparison(), within_margin=judged("not shown", "not shown, 2 of its 3 runs diverged"))
    for arm in compare["arms"]:
        del arm["diverged"]
    found = headline.of_comparison(made(compare))
    assert found.title.endswith("is not shown to be as accurate as a fixed batch of 16.")
    assert found.lead.endswith("within 1 % is not shown, 2 of its 3 runs diverged.")


def test_another_arm_that_diverged_stands_beside_the_gain():
    found = headline.of_comparison(made(lost(comparison(), uncoupled=3)))
    assert found.sign == "good"
    assert found.lead.endswith("within 1 % is shown. uncoupled diverged in 3 of 3 runs.")


def test_of_a_users_own_arms_the_fastest_that_keeps_the_accuracy_is_praised():
    compare = own(broken="worse", slow="shown", fast="shown", vague="not shown")
    for name, median in (("broken", 9.0), ("slow", 1.5), ("fast", 2.0), ("vague", 8.0)):
        against(compare, name, seconds_ratio=ratio(median, 0.9 * median, 1.1 * median))
    assert headline.hero(made(compare)) == "fast"
    found = headline.of_comparison(made(compare))
    assert found.title.startswith("fast, a batch growing from 16 to 256, takes 5.0× fewer updates and is 2.0× faster")
    assert found.lead.startswith("Of 4 arms it is the fastest of those shown to keep the accuracy. Test accuracy")


def test_where_no_speed_is_shown_the_fewest_updates_are_praised():
    compare = own(some="shown", fewest="shown")
    for name, updates, median in (("some", 2.0, 1.4), ("fewest", 4.0, 1.2)):
        against(compare, name, updates_ratio=updates, seconds_ratio=ratio(median, 0.8, 1.9))
    assert headline.hero(made(compare)) == "fewest"
    lead = headline.of_comparison(made(compare)).lead
    assert lead.startswith("Of 2 arms it takes the fewest updates of those shown to keep the accuracy.")


def test_one_arm_is_praised_without_a_word_on_others():
    compare = comparison(names=("fixed-small", "fixed-large"))
    assert headline.hero(made(compare)) == "fixed-large"
    found = headline.of_comparison(made(compare))
    assert found.title.startswith(
        "fixed-large, a fixed batch of 256, takes 16.1× fewer updates and is 2.2× faster than"
    )
    assert found.lead.startswith("Test accuracy differs by −10.00")


def test_a_users_own_arms_that_all_lose_are_not_praised():
    """The first arm was praised, unnamed: 17.6 % against 93.3 %."""
    compare = own(first="worse", second="not shown")
    against(compare, "first", accuracy_difference=points(-75.7, -80, -70))
    against(compare, "second", accuracy_difference=points(-1.2, -2, -0.4))
    assert headline.hero(made(compare)) is None
    found = headline.of_comparison(made(compare))
    assert found.title == "No arm is shown to be as accurate as a fixed batch of 16."
    assert found.lead == ("second comes closest in accuracy, by −1.20 [−2.00, −0.40] points: within 1 % is not shown.")
    assert found.sign == "open"
    against(compare, "second", within_margin=judged("worse"))
    assert headline.of_comparison(made(compare)).sign == "bad"


def test_arms_that_keep_the_accuracy_and_gain_nothing():
    compare = own(same="shown")
    against(compare, "same", updates_ratio=1.0, seconds_ratio=ratio(1.0, 0.9, 1.1))
    found = headline.of_comparison(made(compare))
    assert found.title == "No arm is shown to be faster than a fixed batch of 16 or to take fewer updates."


def test_a_users_own_arms_that_diverged():
    compare = lost(own(one="shown", two="shown"), one=3, two=1)
    found = headline.of_comparison(made(compare))
    assert found.title == "one diverged in 3 of 3 runs and two diverged in 1 of 3 runs: no gain is shown."
    assert (found.lead, found.sign) == ("A loss was not finite.", "bad")
    compare = lost(own(one="shown", two="not shown"), one=3)
    found = headline.of_comparison(made(compare))
    assert found.title == "No arm is shown to be as accurate as a fixed batch of 16."
    assert found.lead.startswith("two comes closest in accuracy, by ")
    assert found.lead.endswith(". one diverged in 3 of 3 runs.")


def test_without_fixed_small_the_best_arm_is_named():
    compare = comparison(names=("fixed-large", "adaptive")) | {"against_fixed_small": {}}
    found = headline.of_comparison(made(compare))
    assert (found.title, found.sign) == ("2 arms on digits.", "")
    assert found.lead == "adaptive reaches the highest test accuracy: 95.20 ± 0.20 %."
    found = headline.of_comparison(made(lost(compare, adaptive=3, fixed_large=3)))
    assert (
        found.lead == "fixed-large diverged in 3 of 3 runs and adaptive diverged in 3 of 3 runs: a loss was not finite."
    )


def test_a_batch_that_shrinks_does_not_grow():
    compare = comparison()
    compare["arms"][2]["batch_sizes"] = [64, 16]
    assert headline.of_comparison(made(compare)).title.startswith("adaptive, a batch going from 64 to 16, takes")


@pytest.mark.parametrize("compare", [comparison(), lost(comparison(), adaptive=1), own(a="worse", b="worse")])
def test_the_table_begins_with_the_same_title(compare):
    first = plain(compare_table(made(compare))).splitlines()[0]
    assert first == f"digits, cnn_small on cpu, 3 seeds: {headline.plain(made(compare))[0]}"


def test_of_runs_that_diverged_no_table_tells_gains():
    compare = lost(comparison(), uncoupled=1)
    small, large = plain(compare_table(made(compare))).split("against fixed-large")
    for part in (small, large):
        assert [cells(part, label)[3] for label in ("- fewer updates", "- faster")] == ["-", "-"]
    html = blocks.table(figures.comparison(made(compare)))
    assert (
        len(re.findall('<th scope="row">(?:faster|fewer updates)</th>(?:<td>[^<]*</td>){3}<td>–</td></tr>', html)) == 4
    )


def cards_of(folder, change):
    return contents._comparison_cards(made(change(read(folder).compare.to_json())))


def test_the_cards_praise_what_the_headline_praises(tmp_path):
    write_comparison(tmp_path)
    labels = {
        "good": ["fewer updates", "faster", "points of test accuracy", "faster to 95 %"],
        "open": ["points of test accuracy", "fewer updates", "faster", "faster to 95 %"],
        "bad": ["points of test accuracy", "test accuracy"],
    }
    for verdict, standing in (("shown", "good"), ("not shown", "open"), ("worse", "bad")):
        cards = cards_of(tmp_path, lambda compare, v=verdict: against(compare, within_margin=judged(v, v)))
        assert [card.split('"label">')[1].split("<")[0] for card in cards] == labels[standing]
    cards = cards_of(tmp_path, lambda compare: lost(compare, adaptive=2))
    assert '<p class="value">2 of 3</p>' in cards[-1]
    assert "runs diverged" in cards[-1]


def test_no_chart_tells_the_speed_of_runs_that_diverged(tmp_path):
    compare = lost(write_comparison(tmp_path), uncoupled=2)
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    charts = contents.of_comparison(read(tmp_path)).charts
    assert [trace["name"] for trace in charts["time"]["traces"]] == ["fixed-large", "adaptive"]
    assert [trace["name"] for trace in charts["accuracy"]["traces"]] == ["fixed-large", "adaptive", "uncoupled"]
    (tmp_path / "compare.json").write_text(json.dumps(lost(compare, fixed_small=3)))
    page = contents.of_comparison(read(tmp_path))
    assert "time" not in page.charts
    assert 'id="time"' not in page.body


def test_runs_no_better_than_chance_are_counted_and_earn_no_praise():
    reason = "3 of the baseline's 3 runs ended no better than chance"
    compare = against(comparison(), within_margin=judged("not shown", f"not shown, {reason}"))
    for arm in compare["arms"]:
        arm["at_chance"] = 3 if arm["name"] in ("fixed-small", "adaptive") else 0
    found = headline.of_comparison(made(compare))
    assert found.title.endswith("is not shown to be as accurate as a fixed batch of 16.")
    assert found.lead.endswith(f"within 1 % is not shown, {reason}.")
    assert "fixed-small ended no better than chance in 3 of 3 runs." in headline.sentences(made(compare))
    html = blocks.table(figures.comparison(made(compare)))
    assert "runs no better than chance</th><td>3 of 3</td><td>0 of 3</td>" in html


def test_words_say_what_is_shown():
    assert headline.sentences(made(comparison()))[1] == (
        "adaptive against fixed-small: 5.00x fewer updates, 1.67x faster [1.62, 1.72]; "
        "accuracy within 1 %: shown by the interval."
    )
    compare = comparison()
    compare["against_fixed_small"]["adaptive"]["seconds_ratio"] = {"median": 0.8, "low": 0.5, "high": 1.25}
    compare["against_fixed_small"]["adaptive"]["updates_ratio"] = 0.5
    assert headline.sentences(made(compare))[1].startswith(
        "adaptive against fixed-small: 2.00x more updates, 1.25x slower [0.80, 2.00] "
        "(a difference in speed is not shown);"
    )


def test_words_about_as_many_updates():
    compare = comparison()
    compare["against_fixed_small"]["adaptive"]["updates_ratio"] = 1.0
    assert headline.sentences(made(compare))[1].startswith(
        "adaptive against fixed-small: as many updates, 1.67x faster [1.62, 1.72];"
    )


def test_words_about_the_target():
    compare = comparison()
    assert any("reached by fixed-large in 0 of 3 runs" in sentence for sentence in headline.sentences(made(compare)))
    for arm in compare["arms"]:
        arm["to_target"]["reached"] = 0
    assert "Target 94 %: never reached by any arm." in headline.sentences(made(compare))
    for arm in compare["arms"]:
        arm["to_target"]["reached"] = 3
    assert "Target 94 %: reached in every run." in headline.sentences(made(compare))


def test_a_single_arm_is_not_called_the_highest():
    compare = comparison(names=("adaptive",)) | {"against_fixed_small": {}}
    found = headline.of_comparison(made(compare))
    assert (found.title, found.lead) == ("1 arm on digits.", "adaptive reaches a test accuracy of 95.20 ± 0.20 %.")
    said = " ".join(headline.sentences(made(compare)))
    assert "Seconds: median" in said
    assert "paired" not in said, "with nothing compared there are no ratios"
    assert "are paired by seed" in " ".join(headline.sentences(made(comparison())))


def test_one_run_is_no_runs():
    compare = lost(comparison(seeds=1), adaptive=1)
    assert headline.of_comparison(made(compare)).title == "adaptive diverged in 1 of 1 run: no gain is shown."
    compare["arms"][3] |= {"diverged": 1, "at_chance": 1}
    said = " ".join(headline.sentences(made(compare)))
    assert "uncoupled diverged in 1 of 1 run: a loss was not finite." in said
    assert "uncoupled ended no better than chance in 1 of 1 run." in said


def test_other_arms_that_diverged_are_named_where_the_first_did():
    compare = lost(comparison(), adaptive=3, fixed_large=2)
    assert headline.of_comparison(made(compare)).lead == (
        "A loss was not finite, and accuracy within 1 % is not shown. fixed-large diverged in 2 of 3 runs."
    )


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("key", ["train_loss", "test_loss"])
@pytest.mark.parametrize("loss", [None, float("nan")])
def test_a_run_that_diverged_says_so_first(tmp_path, finished, key, loss):
    write_run(tmp_path, finished=finished)
    run = read_run(tmp_path)
    healthy = headline.of_run(run)
    assert (healthy.sign, "iverged" in healthy.title) == ("", False)
    history = [dict(found) for found in run.history]
    history[1][key] = history[2][key] = loss
    found = headline.of_run(replace(run, history=history))
    assert found.title.startswith("Diverged: 97." if finished else "Not finished, diverged: 93.")
    assert f"The loss was not finite {history[1]['updates']} updates after the start." in found.lead
    assert found.sign == "bad"


def test_a_run_no_better_than_chance_says_so_first(tmp_path):
    write_run(tmp_path)
    run = read_run(tmp_path)
    found = headline.of_run(replace(run, result={**run.result, "at_chance": True, "chance": 0.1028}))
    assert found.title.startswith("No better than chance: 97.")
    assert found.lead.startswith("Always answering the most frequent class gets 10.3 %. The batch went from 16 to 256")
    assert found.sign == "bad"
    assert headline.of_run(replace(run, result={**run.result, "at_chance": False, "chance": 0.1})).sign == ""
