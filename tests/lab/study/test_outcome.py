from dataclasses import replace

import pytest
import torch

from adabatch.lab.comparison import Comparison, Difference, Verdict
from adabatch.lab.study.outcome import outcome as found_outcome
from adabatch.lab.study.outcome import verdict
from adabatch.lab.study.statistics import paired_difference
from adabatch.lab.training import Evaluation, RunResult
from adabatch.lab.training.records import packed


def outcome(results, *, target):
    """The findings, as they are written to compare.json."""
    seeds = tuple(range(len(results["adaptive"])))
    found = Comparison(task="digits", model="mlp", device="cpu", seeds=seeds, **found_outcome(results, target=target))
    return found.to_json()


def run(*, accuracy, seconds, updates=100, sizes=(16,), target_at=0.5):
    """A run of two evaluations; the first one, at `target_at` of the way, is half a point short of the end."""
    history = tuple(
        Evaluation(
            samples=int(1000 * part),
            epoch=1,
            updates=int(updates * part),
            seconds=seconds * part,
            batch_size=sizes[-1],
            lr=0.1,
            train_loss=1.0,
            test_loss=1.0,
            test_accuracy=accuracy - (0.005 if part < 1 else 0),
        )
        for part in (target_at, 1.0)
    )
    return RunResult(
        test_accuracy=accuracy,
        best_accuracy=accuracy,
        updates=updates,
        samples=1000,
        epochs=2,
        train_seconds=seconds,
        samples_per_second={size: size * 10.0 for size in sizes},
        batch_sizes=sizes,
        history=history,
        decisions=(),
        target=0.5,
        updates_to_target=1,  # of another target: must not be used
        seconds_to_target=1.0,
    )


@pytest.fixture
def results():
    return {
        "fixed-small": [run(accuracy=a, seconds=s) for a, s in ((0.95, 2.0), (0.96, 2.2), (0.955, 2.4))],
        "adaptive": [
            run(accuracy=a, seconds=s, updates=40, sizes=(16, 32))
            for a, s in ((0.951, 1.0), (0.962, 1.0), (0.957, 1.2))
        ],
        "fixed-large": [run(accuracy=0.9, seconds=0.5, updates=10, sizes=(64,)) for _ in range(3)],
    }


def test_every_key_and_figure(results):
    found = outcome(results, target=0.949)
    small, adaptive, large = found["arms"]
    assert adaptive["batch_sizes"] == [16, 32]
    assert (adaptive["updates"], adaptive["samples"]) == (40, 1000)
    assert adaptive["test_accuracy"]["mean"] == pytest.approx(0.9566667)
    assert adaptive["test_accuracy"]["std"] == pytest.approx(0.0055076, rel=1e-4)
    assert adaptive["test_accuracy"]["values"] == [0.951, 0.962, 0.957]
    assert adaptive["train_seconds"] == {"median": 1.0, "min": 1.0, "max": 1.2, "values": [1.0, 1.0, 1.2]}
    assert adaptive["samples_per_second"] == {"16": 160.0, "32": 320.0}
    assert large["updates_to_target"] is None
    against = found["against_fixed_small"]
    assert list(against) == ["adaptive", "fixed-large"]
    assert against["adaptive"]["updates_ratio"] == 2.5
    assert against["adaptive"]["seconds_ratio"]["median"] == 2.0
    assert against["adaptive"]["accuracy_difference"]["mean"] == pytest.approx(0.0016667, rel=1e-4)
    assert list(found["against_fixed_large"]) == ["fixed-small", "adaptive"]
    assert found["against_fixed_large"]["adaptive"]["updates_ratio"] == 0.25
    assert small["to_target"]["n"] == 3


def test_the_target_is_the_one_asked_for(results):
    """The first run of fixed-small gets to 0.95 only at its end, the others at half of the way."""
    small = outcome(results, target=0.95)["arms"][0]
    assert small["to_target"] == {"reached": 3, "n": 3, "updates": [100, 50, 50], "seconds": [2.0, 1.1, 1.2]}
    assert (small["updates_to_target"], small["seconds_to_target"]) == (50, 1.2)


def test_runs_that_never_arrive_count_as_late(results):
    """Two of three below the target: the median lies there, so it is None, and no ratio is formed."""
    found = outcome(results, target=0.9555)
    small, adaptive, _ = found["arms"]
    assert small["to_target"] == {"reached": 1, "n": 3, "updates": [None, 100, None], "seconds": [None, 2.2, None]}
    assert small["seconds_to_target"] is None
    assert adaptive["to_target"]["reached"] == 2
    assert adaptive["seconds_to_target"] == 1.2  # of 0.5, 1.2 and never
    ratio = found["against_fixed_small"]["adaptive"]["seconds_to_target_ratio"]
    assert ratio == {"median": None, "low": None, "high": None}


def test_ratio_of_seconds_to_target(results):
    ratio = outcome(results, target=0.94)["against_fixed_small"]["adaptive"]["seconds_to_target_ratio"]
    assert ratio["median"] == 2.0
    assert ratio["low"] < 2 < ratio["high"]


def test_one_seed_has_null_intervals(results):
    one = {name: runs[:1] for name, runs in results.items()}
    against = outcome(one, target=0.94)["against_fixed_small"]["adaptive"]
    assert against["seconds_ratio"] == {"median": 2.0, "low": None, "high": None}
    assert against["accuracy_difference"]["low"] is None
    assert against["within_margin"] == {"verdict": "not shown", "words": "not shown, one seed gives no interval"}


def diverged(found):
    """The run with a loss that was not finite half of the way."""
    return replace(found, history=(replace(found.history[0], train_loss=None), *found.history[1:]))


def test_nothing_is_shown_of_runs_that_diverged(results):
    results["adaptive"][1] = diverged(results["adaptive"][1])
    within = outcome(results, target=0.9)["against_fixed_small"]["adaptive"]["within_margin"]
    assert within == {"verdict": "not shown", "words": "not shown, 1 of its 3 runs diverged"}
    results["fixed-small"] = [diverged(run) for run in results["fixed-small"]]
    against = outcome(results, target=0.9)["against_fixed_small"]
    words = "not shown, 1 of its 3 runs and 3 of the baseline's 3 runs diverged"
    assert against["adaptive"]["within_margin"] == {"verdict": "not shown", "words": words}
    assert against["fixed-large"]["within_margin"]["words"] == "not shown, 3 of the baseline's 3 runs diverged"


def test_without_a_baseline_nothing_is_set_against_it(results):
    del results["fixed-large"]
    assert outcome(results, target=0.9)["against_fixed_large"] == {}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.0099, 0.01, "shown"),
        (-0.01, 0.01, "not shown"),  # the mean alone would do
        (-0.012, 0.03, "not shown"),
        (-0.03, -0.0101, "worse"),
        (0.002, 0.004, "shown"),
    ],
)
def test_the_verdict_is_the_intervals_not_the_means(low, high, expected):
    found = verdict(Difference((low + high) / 2, low, high), margin=0.01)
    assert found.verdict == expected
    assert f"[{100 * low:+.2f}, {100 * high:+.2f}] points" in found.words


@pytest.mark.parametrize("accuracies", [[0.95, 0.9611], [0.95, 0.96, 0.97], [0.5, 0.6]])
@pytest.mark.parametrize("behind", [0.0, 0.0028, 0.2])
def test_differences_that_are_all_the_same_show_nothing(accuracies, behind):
    """Student's t would take equal differences for certainty."""
    difference = paired_difference(accuracies, [value + behind for value in accuracies])
    assert difference.high - difference.low < 1e-12
    reason = "the seeds do not differ, so their spread is unknown"
    assert verdict(difference, margin=0.01) == Verdict("not shown", f"not shown, {reason}")


def test_one_test_sample_of_millions_is_a_difference():
    difference = paired_difference([0.95, 0.95], [0.95, 0.95 + 1e-7])
    assert verdict(difference, margin=0.01).verdict == "shown"


def test_the_median_of_what_runs_took_is_told_not_their_mean(results):
    updates, samples, rates = (100, 110, 300), (1000, 1010, 5000), (160.0, 170.0, 900.0)
    results["fixed-small"] = [
        replace(found, updates=u, samples=s, samples_per_second={16: r})
        for found, u, s, r in zip(results["fixed-small"], updates, samples, rates, strict=True)
    ]
    results["adaptive"] = [
        replace(found, updates=u) for found, u in zip(results["adaptive"], (40, 44, 400), strict=True)
    ]
    found = outcome(results, target=0.94)
    small = found["arms"][0]
    assert (small["updates"], small["samples"], small["samples_per_second"]) == (110, 1010, {"16": 170.0})
    assert found["against_fixed_small"]["adaptive"]["updates_ratio"] == 110 / 44


def test_the_margin_is_allowed_to_both_verdicts():
    """An interval that lies below 0 and reaches above minus the margin refutes nothing."""
    for low, high, expected in ((-0.02, -0.004, "not shown"), (-0.009, -0.004, "shown"), (-0.02, -0.011, "worse")):
        assert verdict(Difference((low + high) / 2, low, high), margin=0.01).verdict == expected
    assert verdict(Difference(-0.012, -0.02, -0.004), margin=0.003).verdict == "worse"


def test_the_worst_seed_and_the_skew_stand_beside_the_difference(results):
    found = outcome(results, target=0.9)["against_fixed_small"]
    assert found["adaptive"]["accuracy_difference_by_seed"] == {
        "worst": pytest.approx(0.001), "skewed": None, "unseen_failures": pytest.approx(0.632, abs=1e-3),
    }  # fmt: skip
    assert found["fixed-large"]["accuracy_difference_by_seed"]["worst"] == pytest.approx(-0.06)
    ends = [0.951, 0.952, 0.949, 0.95, 0.951, 0.7]
    six = {
        "fixed-small": [run(accuracy=0.95, seconds=2.0)] * 6,
        "adaptive": [run(accuracy=a, seconds=1.0) for a in ends],
    }
    by_seed = outcome(six, target=0.9)["against_fixed_small"]["adaptive"]["accuracy_difference_by_seed"]
    assert (by_seed["worst"], by_seed["skewed"]) == (pytest.approx(-0.25), True)


def test_the_interval_over_samples_is_there_where_every_run_kept_what_was_right(results):
    key = "accuracy_difference_over_samples"
    assert outcome(results, target=0.9)["against_fixed_small"]["adaptive"][key] is None  # of runs of before
    right = {"fixed-small": [1, 0, 1, 1], "adaptive": [1, 1, 1, 1], "fixed-large": [1, 0, 0, 0]}
    kept = {
        name: [replace(found, test_right=packed(torch.tensor(right[name]).bool())) for found in runs]
        for name, runs in results.items()
    }
    found = outcome(kept, target=0.9)["against_fixed_small"]
    assert (found["adaptive"][key]["mean"], found["adaptive"][key]["samples"]) == (0.25, 4)
    assert found["fixed-large"][key]["mean"] == -0.5
    assert found["adaptive"][key]["low"] < 0 < found["adaptive"][key]["high"]
    kept["adaptive"][1] = results["adaptive"][1]
    found = outcome(kept, target=0.9)["against_fixed_small"]
    assert found["adaptive"][key] is None
    assert found["fixed-large"][key] is not None


def test_nothing_is_shown_against_a_baseline_at_chance(results):
    """As good as chance is no praise, however firmly it is shown."""
    results["fixed-small"] = [replace(found, chance=0.95, at_chance=True) for found in results["fixed-small"]]
    results["adaptive"] = [replace(found, chance=0.95, at_chance=True) for found in results["adaptive"]]
    found = outcome(results, target=0.9)
    assert [arm["at_chance"] for arm in found["arms"]] == [3, 3, 0]
    words = "not shown, 3 of the baseline's 3 runs ended no better than chance"
    assert found["against_fixed_small"]["adaptive"]["within_margin"] == {"verdict": "not shown", "words": words}
    results["fixed-small"][0] = diverged(results["fixed-small"][0])
    found = outcome(results, target=0.9)
    assert (found["arms"][0]["diverged"], found["arms"][0]["at_chance"]) == (1, 2)
    words = "not shown, 1 of the baseline's 3 runs diverged"
    assert found["against_fixed_small"]["adaptive"]["within_margin"]["words"] == words


def test_an_arm_at_chance_against_a_baseline_that_learned_is_counted_and_judged_by_its_interval(results):
    results["fixed-large"] = [replace(found, at_chance=True) for found in results["fixed-large"]]
    found = outcome(results, target=0.9)
    assert [arm["at_chance"] for arm in found["arms"]] == [0, 0, 3]
    assert found["against_fixed_small"]["fixed-large"]["within_margin"]["verdict"] == "worse"
