import json

import pytest
from tests.lab.advices import advice, no_gain, outcome

from adabatch.lab.advice import Advice, holds
from adabatch.lab.scaling import Estimate


@pytest.mark.parametrize("found", [advice(), advice(outcome=outcome()), no_gain()])
def test_it_is_read_as_it_was_written(found):
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(Advice.faults(values)) == []
    assert Advice.of_json(values) == Advice.of_json(found.to_json())
    assert Advice.of_json(values).verdict == found.verdict
    assert Advice.of_json(values).choice == found.choice


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": "never"}, "without the schedule that it chose"),
        ({"best_fixed": 64}, "without the trainings at the best fixed batch size"),
        ({"verdict": 3}, "with verdict 3, which must be text"),
        ({"fixed": [{}]}, "without fixed[0].batch_size"),
        ({"seconds": None}, "with seconds None, which must be a number from 0 on"),
        ({"outcome": {}}, "without outcome.seeds"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    assert words in list(Advice.faults({**advice().to_json(), **change}))


def test_a_bound_is_held_by_an_interval_without_end_alone():
    assert holds(Estimate(1.2, 1.0, None), 1.4, None)
    assert not holds(Estimate(1.2, 1.0, 2.0), 1.4, None)
    assert not holds(Estimate(1.2, 1.0, None), 0.9, 0.9)
    assert holds(Estimate(1.2, 0.0, 2.0), 0.0, 2.0)
