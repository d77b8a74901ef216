import pytest

from adabatch import epochs
from adabatch.lab.planner import Timing
from adabatch.schedules import geometric

CURVE = [{"batch_size": 32, "samples_per_second": 160.0}, {"batch_size": 16, "samples_per_second": {"median": 100.0}}]


def test_what_a_probe_measured():
    timing = Timing.of_probe({"task": "digits", "curve": CURVE})
    assert timing.batch_sizes == (16, 32)
    assert timing.seconds == pytest.approx((0.16, 0.2))
    assert timing.update_seconds(24) == pytest.approx(0.18)
    assert timing.update_seconds(1) == pytest.approx(0.16)
    assert timing.update_seconds(320) == pytest.approx(2.0)


def test_seconds_of_a_plan_are_those_of_its_batches():
    timing = Timing.of_probe({"curve": CURVE})
    plan = geometric(2, every=epochs(1), maximum=64).plan(dataset_size=100, epochs=3, batch_size=16)
    assert timing.plan_seconds(plan) == pytest.approx(sum(timing.update_seconds(batch.size) for batch in plan))
    assert timing.plan_seconds(plan) == pytest.approx(
        6 * 0.16 + 0.16 + 3 * 0.2 + 0.16 + 0.4 + timing.update_seconds(36)
    )


@pytest.mark.parametrize(
    "probe",
    [
        {},
        {"curve": []},
        {"curve": [{"batch_size": 1}]},
        {"curve": [{"batch_size": 1, "samples_per_second": 0}]},
        {"curve": 3},
        {"curve": [*CURVE, {"batch_size": 8, "samples_per_second": float("inf")}]},
        {"curve": [*CURVE, {"batch_size": 8, "samples_per_second": float("nan")}]},
        {"curve": [*CURVE, {"batch_size": 8, "samples_per_second": 1e-320}]},
        {"curve": [*CURVE, {"batch_size": 8, "samples_per_second": -1.0}]},
        {"curve": [*CURVE, {"batch_size": 0, "samples_per_second": 1.0}]},
        {"curve": [*CURVE, {"batch_size": float("inf"), "samples_per_second": 1.0}]},
        {"curve": [*CURVE, {"batch_size": 10**400, "samples_per_second": 1.0}]},
    ],
)
def test_another_file(probe):
    with pytest.raises(
        ValueError, match="`probe` must be what `adabatch probe` wrote: a curve of batch sizes and samples per second"
    ):
        Timing.of_probe(probe)


@pytest.mark.timeout(20)
def test_a_long_training_takes_no_longer_to_ask_about():
    timing = Timing.of_probe({"curve": CURVE})
    plan = geometric(2, every=epochs(1), maximum=64).plan(dataset_size=10**18 + 1, epochs=3, batch_size=16)
    expected = 10**18 / 16 * 0.16 + 10**18 / 32 * 0.2 + 10**18 / 64 * 0.4
    assert timing.plan_seconds(plan) == pytest.approx(expected)
