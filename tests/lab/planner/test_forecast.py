import json
import math
import re

import pytest
import torch

from adabatch import couplings, epochs, samples, schedules, updates
from adabatch.lab.planner import LRTable, Timing, forecast
from adabatch.lab.planner.forecast import _GROUP
from adabatch.schedules import geometric

N, E = 50_000, 200
TABLE = {0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}


def forecast_of(rule, **options):
    growth = schedules.from_lr(TABLE, rule=rule, maximum=5120)
    plan = growth.plan(dataset_size=N, epochs=E, batch_size=128)
    return forecast(LRTable.of(TABLE, N), plan, coupling=growth.coupling, momentum=0.9, **options)


def test_smith_keeps_the_noise_scale_with_a_flat_lr_up_to_the_cap():
    found = forecast_of("smith")
    assert (found.before.updates, found.after.updates) == (78_200, 29_240)
    assert found.starts_samples == (0, 60 * N, 120 * N, 160 * N)
    assert found.sizes == (128, 640, 3200, 5120)
    assert found.lr_before == (0.1, 0.02, 0.004, 0.0008)
    assert found.lr == pytest.approx((0.1, 0.1, 0.1, 0.032))
    assert found.noise_scale == pytest.approx(found.noise_scale_before, rel=1e-9)
    assert found.noise_scale[0] == pytest.approx(0.1 * N / (128 * 0.1))
    assert found.update_ratio == pytest.approx(2.674, abs=0.001)
    assert (found.seconds_before, found.seconds_after) == (None, None)


def test_seesaw_cuts_the_lr_by_the_root():
    found = forecast_of("seesaw")
    assert found.after.updates == 29_240
    assert found.lr == pytest.approx((0.1, 0.1 / math.sqrt(5), 0.1 / 5, 0.0008 * math.sqrt(40)))
    assert [lr / math.sqrt(size) for lr, size in zip(found.lr, found.sizes, strict=True)] == pytest.approx(
        [lr / math.sqrt(128) for lr in found.lr_before]
    )


def test_hybrid_lets_the_later_falls_cut():
    found = forecast_of("hybrid(1)")
    assert found.sizes == (128, 640, 640, 640)
    assert found.lr == pytest.approx((0.1, 0.1, 0.02, 0.004))


def test_the_noise_scale_is_that_of_the_momentum_in_force():
    plan = schedules.steps("0:128 25000:3200").plan(dataset_size=N, epochs=1)
    lrs = LRTable((0,), (0.1,))
    found = forecast(lrs, plan, coupling="constant_noise(maximum_lr_factor=5)", momentum=0.9)
    assert found.lr == pytest.approx((0.1, 0.5))
    assert found.noise_scale == pytest.approx((0.1 * N / (128 * 0.1), 0.5 * N / (3200 * 0.02)))
    assert found.noise_scale[1] == pytest.approx(found.noise_scale[0])
    found = forecast(lrs, plan, coupling="adam_sde", momentum=0.9)
    assert found.lr == pytest.approx((0.1, 0.5))


def test_a_schedule_whose_mean_is_the_loader_s_batch_size():
    """Of `last_iterate` the first size is another one: constant batch, coupling and noise scale are the loader's."""
    growth = schedules.last_iterate({0: 0.1}, over=epochs(30), minimum=16, maximum=256)
    plan = growth.plan(dataset_size=N, epochs=30, batch_size=64, run_on=True)
    timing = Timing((1, 1000), (1.0, 1.0))
    lrs = LRTable((0,), (0.1,))
    found = forecast(lrs, plan, coupling="linear", batch_size=64, momentum=0.9, timing=timing)
    assert plan.batch_sizes[0] < 64 < plan.batch_sizes[-1]
    assert found.before == schedules.constant(64).plan(dataset_size=N, epochs=30, run_on=True)
    assert found.update_ratio == pytest.approx(1, rel=1e-3)
    assert (found.seconds_before, found.seconds_after) == (found.before.updates, found.after.updates)
    assert found.lr == pytest.approx([0.1 * size / 64 for size in found.sizes])
    assert found.noise_scale_before[0] == pytest.approx(0.1 * N / (64 * 0.1))
    assert found.noise_scale == pytest.approx(found.noise_scale_before)
    assert found.to_json()["batch_size"] == 64
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        forecast(lrs, plan, coupling="linear", batch_size=0)


def test_what_changes_at_the_very_end_is_no_row():
    plan = schedules.constant(10).plan(dataset_size=100, epochs=2)
    found = forecast(LRTable((0, 100, 200), (0.1, 0.01, 0.001)), plan, coupling="none")
    assert (found.starts_samples, found.lr) == ((0, 100), (0.1, 0.01))


@pytest.mark.parametrize(("mode", "updates"), [({}, 60), ({"drop_last": True}, 50), ({"run_on": True}, 53)])
def test_the_constant_batch_is_planned_in_the_same_mode(mode, updates):
    plan = schedules.steps("0:4 200:8").plan(dataset_size=21, epochs=10, **mode)
    found = forecast(LRTable((0,), (0.1,)), plan, coupling="none")
    assert found.before.updates == updates
    assert (found.before.drop_last, found.before.run_on) == (plan.drop_last, plan.run_on)


def test_a_coupling_of_ones_own_is_forecast():
    class RootAndTheRest(couplings.Coupling):
        def lr_factor(self, ratio):
            return ratio**0.5

        def in_force(self, group, ratio):
            others = {name: group[name] * ratio**0.5 for name in ("weight_decay", "eps")}
            return super().in_force(group, ratio) | others | {"betas": group["betas"]}

    try:
        plan = schedules.steps("0:128 25000:512").plan(dataset_size=N, epochs=1)
        found = forecast(LRTable((0,), (0.1,)), plan, coupling=RootAndTheRest(), momentum=0.9)
    finally:
        del couplings.Coupling.kinds["RootAndTheRest"]
    assert found.lr == pytest.approx((0.1, 0.2))
    assert found.noise_scale == pytest.approx((0.1 * N / (128 * 0.1), 0.2 * N / (512 * 0.1)))


def test_worker_hours_are_seconds_times_the_ranks_wanted():
    growth = schedules.world_sizes(schedules.geometric(2, every=epochs(1), maximum=32), {0: 1, 16: 2, 32: 4})
    plan = growth.plan(dataset_size=70, epochs=4, batch_size=8)
    timing = Timing((1, 32), (3600.0, 3600.0))  # an hour each
    found = forecast(LRTable((0,), (0.1,)), plan, coupling="linear", timing=timing)
    # 70 = 8 * 8 + 6 = 4 * 16 + 6 = 2 * 32 + 6, the last size for two epochs
    parts = [(share.world_size, share.updates, share.samples, share.seconds) for share in found.shares]
    assert parts == [(1, 9, 70, 9 * 3600), (2, 5, 70, 5 * 3600), (4, 6, 140, 6 * 3600)]
    assert found.worker_hours == 1 * 9 + 2 * 5 + 4 * 6
    assert found.to_json()["world_sizes"] == [1, 2, 4]
    untimed = forecast(LRTable((0,), (0.1,)), plan, coupling="linear")
    assert [share.seconds for share in untimed.shares] == [None, None, None]
    assert untimed.worker_hours is None
    plain = growth.schedule.plan(dataset_size=70, epochs=4, batch_size=8)
    found = forecast(LRTable((0,), (0.1,)), plain, coupling="linear", timing=timing)
    assert (found.shares, found.worker_hours, found.to_json()["world_sizes"]) == ((), 20, None)


def test_seconds_and_json():
    timing = Timing((128, 1280), (0.01, 0.02))
    found = forecast_of("smith", timing=timing)
    assert found.seconds_before == pytest.approx(timing.plan_seconds(found.before))
    assert found.seconds_after == pytest.approx(timing.plan_seconds(found.after))
    values = json.loads(json.dumps(found.to_json()))
    expected = "updates_before updates_after sizes starts_samples lr noise_scale seconds_before seconds_after"
    assert set(expected.split()) <= set(values)
    assert len(values["sizes"]) == len(values["starts_samples"]) == len(values["lr"]) == len(values["noise_scale"])


def test_what_cannot_be_forecast():
    lrs, plan = LRTable((0,), (0.1,)), schedules.constant(4).plan(dataset_size=10)
    with pytest.raises(ValueError, match="`plan` must have an end to be forecast"):
        forecast(lrs, plan, coupling="linear")
    with pytest.raises(ValueError, match="`momentum` must be less than 1, got 1"):
        forecast(lrs, plan, coupling="linear", momentum=1)


# LRs.


def test_a_table_in_samples():
    lrs = LRTable.of([(0, 1.0), (epochs(0.5), 0.5), (samples(80), 0.1)], dataset_size=101)
    assert lrs.starts_samples == (0, 51, 80)
    assert [lrs.lr_at(clock) for clock in (0, 50, 51, 79, 80, 1000)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_a_mapping_is_a_table_too():
    pairs = [(0, 0.1), (epochs(1), 0.05)]
    assert LRTable.of(dict(pairs), dataset_size=100) == LRTable.of(pairs, dataset_size=100)


def test_a_table_in_samples_needs_no_data_set():
    assert LRTable.of({0: 0.1, samples(50): 0}, dataset_size=None) == LRTable((0, 50), (0.1, 0.0))


@pytest.mark.parametrize(
    ("table", "size", "kind", "message"),
    [
        ([(0, 0.1), (1000, math.nan)], 1000, ValueError, "`table` must be finite, got nan; it is the LR from 1000 on"),
        ([(0, 0.1), (epochs(1), math.inf)], 1000, ValueError, "`table` must be finite, got inf; it is the LR from 1 e"),
        ([(0, -0.1)], 1000, ValueError, "`table` must be at least 0, got -0.1; it is the LR from 0 on"),
        ([(0, "0.1")], 1000, TypeError, "`table` must be a number, got '0.1'; it is the LR from 0 on"),
        ([(0, 0.1), (epochs(1), 0.05)], None, ValueError, "`dataset_size` must be given to count 1 epoch, got None"),
        ([(0, 0.1), (epochs(1), 0.05)], "9", TypeError, "`dataset_size` must be a whole number, got '9'"),
        ([0, 1000], 1000, TypeError, "`table` must be pairs of a threshold and an LR, got 0"),
        ([(0, 0.1), (0.5, 0.05)], 1000, TypeError, "`table` must have whole numbers of samples or Durations as thresh"),
        (0.1, 1000, TypeError, "`table` must be a mapping or pairs such as {0: 0.1, 5000: 0.02}, got 0.1"),
        ("0.1", 1000, TypeError, "`table` must be a mapping or pairs such as {0: 0.1, 5000: 0.02}, got '0.1'"),
        ([], 1000, ValueError, "`starts_samples` must be 0 and then increasing"),
    ],
)
def test_what_is_no_table(table, size, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        LRTable.of(table, size)


@pytest.mark.parametrize(
    ("starts", "lrs", "message"),
    [
        ((1,), (0.1,), "`starts_samples` must be 0 and then increasing"),
        ((0, 0), (0.1, 0.2), "`starts_samples` must be 0 and then increasing"),
        ((0, 5), (0.1,), "`lrs` must be one per start, got 1 for 2"),
        ((0, 5), (0.1, math.nan), "`lrs` must be finite, got nan"),
        ((0,), (-0.1,), "`lrs` must be at least 0, got -0.1"),
    ],
)
def test_what_no_table_holds(starts, lrs, message):
    with pytest.raises(ValueError, match=message):
        LRTable(starts, lrs)


def test_a_unit_that_it_cannot_count():
    with pytest.raises(ValueError, match="`table` must be one of epochs, samples, got 'updates'"):
        LRTable.of([(updates(0), 1.0)], 10)


# Seconds.

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


def test_defaults_of_a_group_are_torch_s():
    param = [torch.nn.Parameter(torch.zeros(1))]
    theirs = torch.optim.AdamW(param).defaults | torch.optim.SGD(param).defaults
    assert {name: theirs[name] for name in _GROUP} == _GROUP
