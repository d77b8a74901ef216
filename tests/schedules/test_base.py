import copy
import json
import pickle
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from tests.schedules.checks import schedules as any_schedule

from adabatch import epochs, samples, tokens, updates
from adabatch.schedules import Schedule, clamp, constant, geometric, linear_ramp, steps, then
from adabatch.schedules._base import check_length


@settings(deadline=None)
@given(any_schedule())
def test_json_and_back(schedule):
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    assert again == schedule
    assert again.fingerprint() == schedule.fingerprint()
    assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule


def test_json_is_readable():
    schedule = clamp(geometric(1.5, every=epochs(0.1)), maximum=256)
    assert schedule.to_json() == {
        "kind": "clamp",
        "schedule": {
            "kind": "geometric",
            "factor": 1.5,
            "every": {"count": 0.1, "unit": "epochs"},
            "start": None,
            "maximum": None,
        },
        "minimum": None,
        "maximum": 256,
    }


def test_fingerprints_differ_where_schedules_do():
    different = [
        constant(),
        constant(1),
        geometric(2, every=epochs(1)),
        geometric(2, every=updates(1)),
        geometric(2, every=epochs(1), maximum=8),
        steps("0:8 10:9"),
        steps("0:8 10:9", unit="tokens"),
        then(constant(), constant(1), epochs(1)),
        then(constant(1), constant(), epochs(1)),
    ]
    assert len({schedule.fingerprint() for schedule in different}) == len(different)
    assert all(len(schedule.fingerprint()) == 16 for schedule in different)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "`data` must be a schedule with a `kind`, got None"),
        ({"batch_size": 8}, "`data` must be a schedule with a `kind`, got fields batch_size"),
        ({"kind": "cubic"}, "`kind` must be one of clamp, constant, .*, got 'cubic'"),
        ({"kind": ["constant"]}, r"`kind` must be one of clamp, constant, .*, got \['constant'\]"),
        ({"kind": "constant"}, "`data` of kind constant must have the fields batch_size, got none$"),
        ({"kind": "constant", "batch_size": 8, "x": 1}, "must have the fields batch_size, got batch_size, x"),
        ({"kind": "constant", "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (
            {"kind": "clamp", "schedule": {"kind": "cubic"}, "minimum": 1, "maximum": 2},
            "`kind` must be one of .*, got 'cubic'",
        ),
        (
            {"kind": "linear_ramp", "end": 8, "over": {"count": 1, "unit": "steps"}, "start": 1, "increment": 1},
            "`unit` must be one of epochs, samples, updates, tokens, got 'steps'",
        ),
    ],
)
def test_json_that_is_damaged(data, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_json(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_size": 0}, "`dataset_size` must be at least 1, got 0"),
        ({"dataset_size": 10, "epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"dataset_size": 10, "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (
            {"dataset_size": 10, "batch_size": 1, "tokens_per_sample": 0},
            "`tokens_per_sample` must be at least 1, got 0",
        ),
        ({"dataset_size": 10, "batch_size": 11}, "`batch_size` must be at most the 10 samples of the data set, got 11"),
        ({"dataset_size": 10}, "`batch_size` must be given for a schedule without a start of its own, got None"),
        ({"dataset_size": 10, "drop_last": True, "run_on": True}, "`drop_last` and `run_on` must not both be True"),
    ],
)
def test_bad_settings_of_a_plan(settings, message):
    with pytest.raises(ValueError, match=message):
        constant().plan(**settings)


def test_units_that_need_to_know_more():
    of_stream = "`dataset_size` must be given to count 2 epochs, got None, as of a stream; or use `samples`"
    with pytest.raises(ValueError, match=of_stream):
        linear_ramp(8, over=epochs(2), start=7).plan(dataset_size=None)
    with pytest.raises(ValueError, match="`tokens_per_sample` must be given to count 20 tokens, got None"):
        linear_ramp(8, over=tokens(20), start=7).plan(dataset_size=100)


def test_all_units_of_one_length_agree():
    expected = steps({0: 4, 30: 5}).plan(dataset_size=20, epochs=4)
    for threshold in (samples(30), epochs(1.5), tokens(30 * 7)):
        plan = steps({0: 4, threshold: 5}).plan(dataset_size=20, epochs=4, tokens_per_sample=7)
        assert plan == expected
    # The eighth update is the third of the second epoch, and ends at 32; the one that starts at 28 is the last of 4.
    assert steps({0: 4, updates(8): 5}).plan(dataset_size=20, epochs=4).starts_samples == (0, 32)


def test_a_threshold_between_samples_holds_for_the_first_batch_after_it():
    plan = steps({0: 1, epochs(0.25): 2}).plan(dataset_size=10, epochs=1)
    assert plan.starts_samples == (0, 3)
    assert [batch.clock for batch in plan] == [0, 1, 2, 3, 5, 7, 9]


@pytest.mark.parametrize(("value", "error"), [(epochs(0), ValueError), (20, TypeError), ("20 epochs", TypeError)])
def test_lengths(value, error):
    with pytest.raises(error, match="`every` must be"):
        check_length("every", value)


def test_a_schedule_of_the_users_own_is_checked_like_ours():
    @dataclass(frozen=True)
    class zigzag(Schedule):  # noqa: N801
        backwards: bool = False
        initial = 4
        finite = True

        def stages(self, context):
            yield context.origin, 4
            yield Fraction(20), 8
            yield Fraction(10) if self.backwards else Fraction(30), 2

        def describe(self):
            return "4, 8, 2"

    assert zigzag().plan(dataset_size=50).batch_sizes == (4, 8, 2)
    assert Schedule.from_json(zigzag().to_json()) == zigzag()
    try:
        with pytest.raises(ValueError, match="stages must come in the order of the clock, got 10 after 20"):
            zigzag(backwards=True).plan(dataset_size=50)
    finally:
        del Schedule.kinds["zigzag"]


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(
        ValueError, match=r"`class steps` must have a name of its own, got that of adabatch.schedules.steps"
    ):

        class steps(Schedule):  # noqa: N801
            pass

    assert Schedule.from_json(constant(8).to_json() | {"kind": "constant"}) == constant(8)


def test_schedules_are_values():
    assert constant(8) == constant(8) != constant(9)
    assert len({constant(8), constant(8), geometric(2, every=epochs(1))}) == 2
    with pytest.raises(AttributeError):
        constant(8).batch_size = 9
