"""`from_lr`: the batch grows where the LR would fall, exactly, and every rounding is left to the coupling."""

import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adabatch import couplings, epochs, samples, tokens, updates
from adabatch.schedules import Schedule, clamp, constant, from_lr, round_to, then

N, E = 50_000, 200
STEPS = {0: 0.1, epochs(60): 0.02, epochs(120): 0.004, epochs(160): 0.0008}


def plan(lr, *, batch_size=128, dataset_size=N, length=E, **options):
    mode = {key: options.pop(key) for key in ("run_on", "drop_last") if key in options}
    return from_lr(lr, **options).plan(dataset_size=dataset_size, epochs=length, batch_size=batch_size, **mode)


@pytest.mark.parametrize(
    ("batch_size", "options", "updates", "sizes"),
    [
        (128, {"maximum": 5120, "rule": "hybrid(0)"}, 78_200, (128,)),
        (128, {"maximum": 5120, "rule": "hybrid(1)"}, 34_520, (128, 640)),
        (128, {"maximum": 5120}, 29_240, (128, 640, 3200, 5120)),
        (128, {"maximum": N}, 29_000, (128, 640, 3200, 16_000)),
        (640, {"maximum": 5120}, 6_500, (640, 3200, 5120)),
        (3200, {"maximum": 5120}, 2_360, (3200, 5120)),
        (128, {}, 29_240, (128, 640, 3200, 5000)),
    ],
)
def test_updates_of_the_paper_on_cifar(batch_size, options, updates, sizes):
    found = plan(STEPS, batch_size=batch_size, **options)
    assert (found.updates, found.sizes) == (updates, sizes)
    assert found.samples == N * E


@pytest.mark.parametrize(
    ("batch_size", "options", "updates"),
    [
        (8192, {"rule": "hybrid(0)"}, 14_075),
        (8192, {"rule": "hybrid(1)", "maximum": 81_920}, 5_630),
        (32_768, {"maximum": 65_536}, 2_346),
    ],
)
def test_updates_of_the_paper_on_imagenet(batch_size, options, updates):
    """The arithmetic of whole batches: each counts as the part of the size asked for that it holds."""
    lr = {0: 3.0, epochs(30): 0.3, epochs(60): 0.03, epochs(80): 0.003}
    found = plan(lr, batch_size=batch_size, dataset_size=1_281_167, length=90, run_on=True, **options)
    assert round(sum(batch.size / batch.requested for batch in found)) == updates
    assert found.updates - updates in (0, 1)


@pytest.mark.parametrize(
    ("lr", "share"),
    [
        (lambda clock: math.cos(math.pi / 2 * clock / (N * E)), 2 / math.pi),
        (lambda clock: 0.05 * (1 + math.cos(math.pi * clock / (N * E))), 0.5),
    ],
)
def test_updates_under_an_uncapped_cosine(lr, share):
    found = plan(lr, rule="seesaw", start=128, maximum=N, end=N * E)
    assert found.updates / 78_200 == pytest.approx(share, rel=0.005)


def growth_of(lr, clock, start, multiple, maximum):
    """The definition: the size of a batch that starts at `clock`."""
    peak = max(lr(at) for at in range(clock + 1))
    if peak == 0 or lr(clock) == peak:
        return start
    bound = maximum // multiple * multiple
    if lr(clock) == 0:
        return bound
    return min(math.floor(start * peak / lr(clock) / multiple + 0.5 + 1e-9) * multiple, bound)


def one_cycle(clock):
    return clock / 300 if clock < 300 else 0.5 * (1 + math.cos(math.pi * (clock - 300) / 700))


def restarts(clock):
    return 0.1 + 0.5 * (1 + math.cos(math.pi * (clock % 350) / 350))


def wsd(clock):
    return min(1.0, (clock + 1) / 100) if clock < 700 else max(0.0, 1 - (clock - 700) / 250)


def steps_down(clock):
    return 0.3 ** (clock // 190)


@pytest.mark.parametrize("lr", [one_cycle, restarts, wsd, steps_down])
@pytest.mark.parametrize(("start", "multiple", "maximum"), [(8, 1, 90), (8, 4, 90), (12, 3, 1000), (1, 1, 17)])
def test_a_batch_has_the_size_of_the_definition_where_it_starts(lr, start, multiple, maximum):
    schedule = from_lr(lr, start=start, round_to=multiple, maximum=maximum, end=1000)
    found = schedule.plan(dataset_size=1000, epochs=1)
    for batch in found:
        assert batch.requested == growth_of(lr, batch.clock, start, multiple, maximum)


def test_positions_of_a_long_smooth_curve_are_exact():
    def lr(clock):
        return 1 / (1 + clock / 1e9)

    schedule = from_lr(lr, start=100, end=10**10, maximum=2000)
    changes = schedule.plan(dataset_size=None).starts_samples
    for at, size in zip(changes[1:], range(101, 2000), strict=False):
        assert math.floor(100 / lr(at) + 0.5 + 1e-9) == size
        assert math.floor(100 / lr(at - 1) + 0.5 + 1e-9) == size - 1
    assert len(changes) == pytest.approx(1000, abs=2)


def test_warm_up_asks_for_no_growth_and_a_restart_returns_to_the_start():
    found = plan(
        {0: 0.0, 10: 0.5, 20: 1.0, 30: 0.5, 40: 1.0, 50: 2.0, 60: 1.0}, batch_size=5, dataset_size=100, length=1
    )
    assert found.starts_samples == (0, 30, 40, 60)
    assert found.batch_sizes == (5, 10, 5, 10)


def test_an_lr_of_zero_is_the_maximum():
    assert plan({0: 1.0, 50: 0.0}, batch_size=5, dataset_size=100, length=1, maximum=77).batch_sizes == (5, 77)
    with pytest.raises(ValueError, match="`maximum` must be given where the LR falls to 0, got None"):
        from_lr({0: 1.0, 50: 0.0}).plan(dataset_size=None, batch_size=5)


def test_the_cap_is_a_tenth_of_the_data_set_if_nothing_is_said():
    lr = {0: 1.0, 10: 1e-6}
    assert plan(lr, batch_size=4, dataset_size=100, length=1).batch_sizes == (4, 10)
    assert plan(lr, batch_size=4, dataset_size=100, length=1, round_to=4).batch_sizes == (4, 8)
    assert from_lr(lr).plan(dataset_size=None, batch_size=4).batch_sizes == (4, 4_000_000)
    with pytest.raises(ValueError, match="`maximum` must be given where the start, 11, is above a tenth of the 100"):
        plan(lr, batch_size=11, dataset_size=100, length=1)
    assert plan({0: 1.0}, batch_size=11, dataset_size=100, length=1).batch_sizes == (11,)  # no growth, no cap


@pytest.mark.parametrize(
    ("rule", "coupling", "factor"),
    [
        ("smith", "linear(any_optimizer=True)", 4.0),
        ("hybrid(2)", "linear(any_optimizer=True)", 4.0),
        ("seesaw", "sqrt", 2.0),
        ("power(0.5)", "power(0.5)", 2.0),
        ("power( 0.25 )", "power(0.25)", 2**0.5),
        ("power(1)", "power(1.0)", 4.0),
    ],
)
def test_each_rule_brings_its_coupling(rule, coupling, factor):
    """Where the schedule cuts the LR by 4: times 4 under smith it is flat, under seesaw it is halved."""
    schedule = from_lr({0: 0.4, 100: 0.1}, rule=rule, maximum=1000)
    assert schedule.coupling == coupling
    assert couplings.get(schedule.coupling).lr_factor(4) == pytest.approx(factor)
    assert schedule.plan(dataset_size=None, batch_size=16).batch_sizes == (16, 64)


def test_hybrid_lets_the_first_falls_grow_and_the_rest_fall():
    lr = {0: 1.0, 10: 0.5, 20: 0.1, 30: 1.0, 40: 0.25}
    assert plan(lr, rule="hybrid(1)", batch_size=2, dataset_size=100, length=1).batch_sizes == (2, 4, 2, 4)
    assert plan(lr, rule="hybrid(9)", batch_size=2, dataset_size=200, length=1).batch_sizes == (2, 4, 20, 2, 8)


def test_hybrid_takes_every_lower_entry_for_a_fall_and_no_function():
    def lr(clock):
        return 0.1 if clock < 3000 else (0.099 if clock < 6000 else 0.004)

    table = {0: lr(0), 3000: lr(3000), 6000: lr(6000)}
    options = {"batch_size": 10, "dataset_size": 1000, "length": 10, "maximum": 1000}
    assert plan(table, rule="hybrid(1)", **options).sizes == (10,)
    assert plan(table, rule="hybrid(2)", **options).sizes == (10, 250)
    message = r"`lr` must be a table under the rule hybrid\(1\), which counts falls, got a function of samples; give"
    with pytest.raises(ValueError, match=message):
        from_lr(lr, rule="hybrid(1)", start=10, maximum=1000, end=10_000)
    assert plan(lr, rule="hybrid(0)", start=10, end=10_000, **options).sizes == (10,)


thresholds = st.lists(st.integers(1, 400), max_size=8, unique=True).map(lambda found: [0, *sorted(found)])


@pytest.mark.filterwarnings("ignore:the LR of `from_lr` changes")  # tables are drawn as they come
@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    starts=thresholds,
    batch_size=st.integers(1, 20),
    multiple=st.integers(1, 6),
    headroom=st.integers(0, 60),
    rule=st.sampled_from(["smith", "hybrid(0)", "hybrid(1)", "hybrid(3)"]),
    momentum=st.sampled_from([0.0, 0.5, 0.9, 0.98]),
    mode=st.sampled_from([{}, {"run_on": True}]),
)
def test_noise_scale_stays_on_course_and_every_sample_is_trained_on(
    data, starts, batch_size, multiple, headroom, rule, momentum, mode
):
    """LR * N / (B * (1 - m)) is that of the LR schedule at the constant batch, at every update."""
    lrs = data.draw(st.lists(st.floats(0, 10), min_size=len(starts), max_size=len(starts)))
    assume(max(lrs) > 0)
    start = batch_size * multiple
    lr = dict(zip(starts, lrs, strict=True))
    schedule = from_lr(lr, maximum=start + headroom, round_to=multiple, rule=rule)
    found = schedule.plan(dataset_size=180, epochs=3, batch_size=start, **mode)
    factor = couplings.get(schedule.coupling).lr_factor
    for batch in found:
        base = next(lr[at] for at in reversed(starts) if at <= batch.clock)
        in_force = base * factor(batch.requested / start)
        course = base * 180 / (start * (1 - momentum))
        assert in_force * 180 / (batch.requested * (1 - momentum)) == pytest.approx(course, rel=1e-9)
        assert start <= batch.requested <= start + headroom
        assert batch.requested % multiple == 0
    assert sum(batch.size for batch in found) == 540
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    assert again == schedule
    assert again.fingerprint() == schedule.fingerprint()


def test_a_known_start_keeps_only_what_changes_a_size():
    lr = {at: 1 / (1 + at / 1e5) for at in range(0, 100_000, 10)}
    long, short = from_lr(lr), from_lr(lr, start=16)
    assert len(long.lr) == 10_000
    assert len(short.lr) == 17
    settings = {"dataset_size": 100_000, "epochs": 1, "batch_size": 16}
    assert long.plan(**settings) == short.plan(**settings)
    assert Schedule.from_json(short.to_json()) == short


def test_units_and_composition():
    schedule = from_lr({epochs(0): 1.0, tokens(400): 0.5, epochs(1.5): 0.25}, maximum=50)
    assert schedule.plan(dataset_size=100, epochs=2, batch_size=5, tokens_per_sample=8).starts_samples == (0, 50, 150)
    later = then(from_lr({0: 1.0, 10: 0.5}, maximum=50), from_lr({0: 1.0, 20: 0.5}, maximum=50), after=samples(100))
    assert later.plan(dataset_size=None, batch_size=5).starts_samples == (0, 10, 120)
    assert later.plan(dataset_size=None, batch_size=5).batch_sizes == (5, 10, 20)


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        ({0: 0.1, 5: -0.1}, {}, "`lr` must be at least 0, got -0.1; found at 5"),
        ({0: 0.1, 5: math.nan}, {}, "`lr` must be finite, got nan; found at 5"),
        ({0: 0.0, 5: 0.0}, {}, "`lr` must be above 0 somewhere"),
        ({5: 0.1}, {}, "`lr` must begin at threshold 0, got 5"),
        ({}, {}, "`lr` must begin at threshold 0, got nothing"),
        ([(0, 0.1), (9, 0.2), (9, 0.1)], {}, "`lr` must have increasing thresholds, got 9 after 9"),
        ({0: 0.1, updates(5): 0.1}, {}, "`lr` must have thresholds in epochs, samples or tokens, got 5 updates"),
        ({0: 0.1}, {"end": 5}, "`end` must be left out for a table, got 5"),
        (lambda clock: 0.1, {"end": 5}, "`start` must be given with a function of samples, got None"),
        (lambda clock: 0.1, {"start": 5}, "`end` must be given with a function of samples, got None"),
        (lambda clock: -0.1, {"start": 5, "end": 5}, "`lr` must be at least 0, got -0.1; found at 0 samples"),
        ({0: 0.1}, {"maximum": 4, "start": 5}, "`maximum` must be at least the batch size that growth starts from, 5"),
        ({0: 0.1}, {"maximum": 0}, "`maximum` must be at least 1, got 0"),
        ({0: 0.1}, {"round_to": 4, "start": 6}, "`round_to` must divide the batch size that training starts with, 6"),
        ({0: 0.1}, {"rule": "cosine"}, "`rule` must be one of smith, seesaw, hybrid\\(k\\) and power\\(p\\)"),
        ({0: 0.1}, {"rule": "smith(1)"}, "`rule` must be one of smith"),
        ({0: 0.1}, {"rule": "hybrid(-1)"}, "`rule` must be one of smith"),
        ({0: 0.1}, {"rule": "power(2)"}, "`rule` must have a power from 0 to 1, got 'power\\(2\\)'"),
    ],
)
def test_errors(lr, options, message):
    with pytest.raises(ValueError, match=message):
        from_lr(lr, **options)


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        ("cosine", {}, "`lr` must be a function of samples or a table"),
        (0.1, {}, "`lr` must be a function of samples or a table"),
        ([0.1, 0.2], {}, "`lr` must be pairs of a threshold and an LR, got 0.1"),
        ({0: "high"}, {}, "`lr` must be a number, got 'high'"),
        ({0.5: 0.1}, {}, "`lr` must have whole numbers of samples or Durations as thresholds, got 0.5"),
        ({0: 0.1}, {"rule": 1}, "`rule` must be text, got 1"),
        ({0: 0.1}, {"start": 1.5}, "`start` must be a whole number, got 1.5"),
    ],
)
def test_errors_of_kind(lr, options, message):
    with pytest.raises(TypeError, match=message):
        from_lr(lr, **options)


def test_errors_of_a_plan():
    with pytest.raises(
        ValueError, match="`maximum` must be at least the batch size that growth starts from, 60, got 50"
    ):
        from_lr({0: 0.1}, maximum=50).plan(dataset_size=None, batch_size=60)
    with pytest.raises(ValueError, match="`round_to` must divide the batch size that training starts with, 6, got 4"):
        from_lr({0: 0.1}, round_to=4).plan(dataset_size=None, batch_size=6)
    with pytest.raises(ValueError, match="`lr` must have increasing thresholds, got 1 epoch"):
        from_lr({0: 0.1, 150: 0.05, epochs(1): 0.02}).plan(dataset_size=100, batch_size=6)
    with pytest.raises(ValueError, match="`lr` must be at least 0, got -1"):
        Schedule.from_json({**from_lr({0: 0.1}).to_json(), "lr": [[0, -1.0]]})


def test_positions_in_another_unit_are_said():
    in_epochs = from_lr({0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}, maximum=5120)
    message = (
        "the LR of `from_lr` changes for the last time at sample 160 of the 10,000,000 samples of the training; a bare "
        "number counts samples, and `counts` says what a step of an LR scheduler counts"
    )
    for schedule in (in_epochs, clamp(in_epochs, maximum=4000), round_to(in_epochs, 2)):
        with pytest.warns(UserWarning, match=message) as caught:
            schedule.plan(dataset_size=50_000, epochs=200, batch_size=128)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="for the last time at sample 160 of the 50,000 samples of an epoch;"):
        in_epochs.plan(dataset_size=50_000, batch_size=128)
    with pytest.warns(UserWarning, match="changes first at sample 3,000,000, after the 1,000,000 samples of the train"):
        from_lr({0: 0.1, epochs(60): 0.02}).plan(dataset_size=50_000, epochs=20, batch_size=128)


def test_positions_that_fit_pass_in_silence():
    for at in (epochs(60), epochs(3), 150_000, tokens(60_000_000)):
        schedule = from_lr({0: 0.1, at: 0.02}, maximum=5120)
        schedule.plan(dataset_size=50_000, epochs=200, batch_size=128, tokens_per_sample=100)
        schedule.plan(dataset_size=50_000, batch_size=128, tokens_per_sample=100)
        schedule.plan(dataset_size=None, batch_size=128, tokens_per_sample=100) if at == 150_000 else None
    from_lr({0: 0.1, 200_000: 0.1}).plan(dataset_size=50_000, epochs=2, batch_size=128)
    then(from_lr({0: 0.1, 60: 0.02}, maximum=5120), constant(), epochs(1)).plan(
        dataset_size=50_000, epochs=200, batch_size=128
    )
