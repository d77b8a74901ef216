import itertools
import math

import pytest

from adabatch.lab.report.folders import SavedRun
from adabatch.lab.report.thinning import thinned


def run(count=10_000, *, seed=0, changes=(2000, 5000), spike=None, every=128):
    sizes = [16 * 2 ** sum(place >= change for change in changes) for place in range(count)]
    history = [
        {
            "samples": every * (place + 1),
            "updates": place + 1,
            "seconds": place / 100,
            "batch_size": size,
            "lr": 0.1,
            "test_accuracy": 0.9 - 0.8 * math.exp(-place / 900) + 0.01 * math.sin(place + seed),
            "test_loss": 2.0 if place == spike else 1.0,
        }
        for place, size in enumerate(sizes)
    ]
    decisions = [{"clock": every * change, "batch_size": sizes[change]} for change in changes if change < count]
    return SavedRun({"batch_size": 16}, {}, history, decisions, None)


def test_a_short_run_is_left_as_it_is():
    whole = run(300)
    (found,) = thinned([whole], 300)
    assert found == whole


def test_first_last_extremes_and_changes_stay():
    whole = run(spike=7003)
    (found,) = thinned([whole], 400)
    assert 100 < len(found.history) <= 600
    assert (found.history[0], found.history[-1]) == (whole.history[0], whole.history[-1])
    for place in (1999, 2000, 4999, 5000, 7003):
        assert whole.history[place] in found.history
    for pick in (min, max):
        assert pick(e["test_accuracy"] for e in found.history) == pick(e["test_accuracy"] for e in whole.history)
    assert found.decisions == whole.decisions
    places = [entry["samples"] for entry in found.history]
    assert places == sorted(set(places))
    assert max(b - a for a, b in itertools.pairwise(places)) < 128 * 10_000 / 20, "evenly"


def test_runs_evaluated_at_the_same_samples_keep_the_same_evaluations():
    one, other = thinned([run(seed=1), run(seed=2)], 200)
    assert [e["samples"] for e in one.history] == [e["samples"] for e in other.history]
    assert one.history != other.history


def test_runs_evaluated_at_different_samples_are_thinned_one_by_one():
    found = thinned([run(), run(7000, every=64)], 200)
    assert [len(each.history) <= 300 for each in found] == [True, True]
    assert found[1].history[-1]["samples"] == 7000 * 64


def test_a_batch_that_changes_all_the_time_is_thinned_too():
    (found,) = thinned([_restless()], 500)
    assert len(found.history) <= 750
    assert len(found.decisions) <= 500
    assert {found.decisions[0]["clock"], found.decisions[-1]["clock"]} == {0, 128 * 9999}


def _restless():
    steady = run(changes=())
    history = [entry | {"batch_size": 16 + place % 7} for place, entry in enumerate(steady.history)]
    decisions = [{"clock": 128 * place, "batch_size": 16 + place % 7} for place in range(10_000)]
    return SavedRun(steady.config, {}, history, decisions, None)


@pytest.mark.parametrize("most", [60, 400, 1000])
def test_there_are_about_so_many(most):
    (found,) = thinned([run()], most)
    assert most / 4 < len(found.history) <= 1.5 * most
