import json
import math

import pytest

from adabatch import couplings, epochs, schedules
from adabatch.lab.planner import Course, Timing, forecast

N, E = 50_000, 200
TABLE = {0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}


def forecast_of(rule, **options):
    growth = schedules.from_lr(TABLE, rule=rule, maximum=5120)
    plan = growth.plan(dataset_size=N, epochs=E, batch_size=128)
    return forecast(Course.of_table(TABLE.items(), N), plan, coupling=growth.coupling, momentum=0.9, **options)


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
    course = Course((0,), (0.1,))
    found = forecast(course, plan, coupling="noise_scale(maximum_lr_factor=5)", momentum=0.9)
    assert found.lr == pytest.approx((0.1, 0.5))
    assert found.noise_scale == pytest.approx((0.1 * N / (128 * 0.1), 0.5 * N / (3200 * 0.02)))
    assert found.noise_scale[1] == pytest.approx(found.noise_scale[0])
    found = forecast(course, plan, coupling="adam_sde", momentum=0.9)
    assert found.lr == pytest.approx((0.1, 0.5))


def test_what_changes_at_the_very_end_is_no_row():
    plan = schedules.constant(10).plan(dataset_size=100, epochs=2)
    found = forecast(Course((0, 100, 200), (0.1, 0.01, 0.001)), plan, coupling="none")
    assert (found.starts_samples, found.lr) == ((0, 100), (0.1, 0.01))


@pytest.mark.parametrize(("mode", "updates"), [({}, 60), ({"drop_last": True}, 50), ({"run_on": True}, 53)])
def test_the_constant_batch_is_planned_in_the_same_mode(mode, updates):
    plan = schedules.steps("0:4 200:8").plan(dataset_size=21, epochs=10, **mode)
    found = forecast(Course((0,), (0.1,)), plan, coupling="none")
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
        found = forecast(Course((0,), (0.1,)), plan, coupling=RootAndTheRest(), momentum=0.9)
    finally:
        del couplings.Coupling.kinds["RootAndTheRest"]
    assert found.lr == pytest.approx((0.1, 0.2))
    assert found.noise_scale == pytest.approx((0.1 * N / (128 * 0.1), 0.2 * N / (512 * 0.1)))


def test_seconds_and_json():
    timing = Timing((128, 1280), (0.01, 0.02))
    found = forecast_of("smith", timing=timing)
    assert found.seconds_before == pytest.approx(timing.plan_seconds(found.before))
    assert found.seconds_after == pytest.approx(timing.plan_seconds(found.after))
    values = json.loads(json.dumps(found.to_json()))
    expected = "updates_before updates_after sizes starts_samples lr noise_scale seconds_before seconds_after"
    assert set(expected.split()) <= set(values)
    assert len(values["sizes"]) == len(values["starts_samples"]) == len(values["lr"]) == len(values["noise_scale"])


def test_errors():
    course, plan = Course((0,), (0.1,)), schedules.constant(4).plan(dataset_size=10)
    with pytest.raises(ValueError, match="`plan` must have an end to be forecast"):
        forecast(course, plan, coupling="linear")
    with pytest.raises(ValueError, match="`momentum` must be less than 1, got 1"):
        forecast(course, plan, coupling="linear", momentum=1)
