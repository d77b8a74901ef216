"""`ab.from_lr_scheduler`: a user's LR scheduler, converted and trained with, stays on course at every update."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lr_clock.test_sample import MAKERS, optimizer_of
from torch.optim import lr_scheduler as torch_lr

import adabatch as ab
from adabatch.lr_clock import Baseline, sample, table

# Published recipes for 20 epochs of 50,000 samples in batches of 128.
UPDATES = 7_820
RECIPES = {
    "step": lambda o: torch_lr.MultiStepLR(o, milestones=[2_346, 4_692, 6_256], gamma=0.2),
    "cosine": lambda o: torch_lr.CosineAnnealingLR(o, T_max=UPDATES),
    "onecycle": lambda o: torch_lr.OneCycleLR(o, max_lr=0.1, total_steps=UPDATES),
    "wsd": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.LinearLR(o, start_factor=0.01, total_iters=100),
            torch_lr.ConstantLR(o, factor=1.0),
            torch_lr.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=UPDATES // 5),
        ],
        milestones=[100, UPDATES - UPDATES // 5],
    ),
    "exponential": lambda o: torch_lr.ExponentialLR(o, gamma=0.999),
}


@pytest.mark.parametrize(
    ("name", "updates"), [("step", 2_924), ("cosine", None), ("onecycle", None), ("wsd", None), ("exponential", None)]
)
def test_five_recipes_convert_with_no_new_number_but_the_cap(name, updates):
    scheduler = RECIPES[name](optimizer_of(momentum=0.9))
    growth = ab.from_lr_scheduler(
        scheduler, counts=ab.updates(1), dataset_size=50_000, epochs=20, batch_size=128, maximum=5120
    )
    plan = growth.plan(dataset_size=50_000, epochs=20)
    lrs = sample(scheduler, UPDATES, freeze=True)
    assert plan.samples == 1_000_000
    assert plan.sizes[0] == 128
    assert 1000 < max(plan.sizes) <= 5120
    assert updates is None or plan.updates == updates
    peaks = [0.0]
    for lr in lrs:
        peaks.append(max(peaks[-1], lr))
    # As many updates as the mean of LR / highest LR so far says, batches of a size at the cap counted as they are.
    share = sum(max(lr / peak, 128 / 5120) for lr, peak in zip(lrs, peaks[1:], strict=True)) / UPDATES
    assert plan.updates / UPDATES == pytest.approx(share, rel=0.01)


def parts_of(name, base, *, counts, rule, maximum, multiple, options):
    loader = ab.DataLoader(torch.arange(60), batch_size=base, **options)
    optimizer = optimizer_of(momentum=0.9)
    scheduler = MAKERS[name](optimizer)
    growth = ab.from_lr_scheduler(
        scheduler,
        counts=counts,
        dataset_size=60,
        epochs=4,
        batch_size=base,
        maximum=maximum,
        round_to=multiple,
        rule=rule,
        **options,
    )
    return loader, optimizer, scheduler, growth


@pytest.mark.filterwarnings(  # four epochs are too short for some and too long for others
    "ignore:`counts` must be what one step",
    "ignore:the LR under `by_samples` is below",
    "ignore:the LR of `from_lr` changes",
)
@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MAKERS)),
    by_update=st.booleans(),
    multiple=st.integers(1, 3),
    factor=st.integers(1, 4),
    headroom=st.integers(0, 40),
    options=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    rule=st.sampled_from(["smith", "hybrid(1)"]),
)
def test_trained_with_the_noise_scale_is_on_course(name, by_update, multiple, factor, headroom, options, rule):
    """The real optimizer, loader, LR scheduler and coupling: lr * N / (B * (1 - m)) at every update."""
    base = multiple * factor
    counts = ab.updates(1) if by_update else ab.epochs(1)
    settings = {"rule": rule, "maximum": base + headroom, "multiple": multiple, "options": options}
    loader, optimizer, scheduler, growth = parts_of(name, base, counts=counts, **settings)
    optimizer.param_groups[0]["params"][0].grad = torch.zeros(2)  # else a step at LR 0 is taken for a checkpoint's
    lrs = sample(scheduler, 400, freeze=True)
    baseline = Baseline(base, 60, **options)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=growth.coupling, epochs=4)
    lr = ab.by_samples(scheduler, loader, base_batch_size=base) if by_update else None
    trained, planned = 0, iter(batches.plan)
    for epoch in range(4):
        for batch in loader:
            current, expected = loader.current, next(planned)
            assert (current.clock, current.requested) == (expected.clock, expected.requested)
            assert len(batch) == expected.size or (expected.end == 240 and options.get("run_on"))
            momentum = optimizer.param_groups[0]["momentum"]
            optimizer.step()
            batches.step()
            trained += expected.size
            if lr is not None:
                lr.step()
            asked = lrs[baseline.update_at(current.clock) if by_update else epoch]
            course = asked * 60 / (base * (1 - momentum))
            assert batches.last_lr[0] * 60 / (current.requested * (1 - momentum)) == pytest.approx(course, rel=1e-9)
        if lr is None:
            scheduler.step()
    assert next(planned, None) is None
    assert trained == batches.plan.samples
    assert trained == 240 or options.get("drop_last")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_smith_with_adam_is_the_papers_own_experiment(kind):
    optimizer = optimizer_of(kind=kind)
    loader = ab.DataLoader(torch.arange(60), batch_size=4)
    growth = ab.from_lr_scheduler(torch_lr.StepLR(optimizer, 1, 0.5), epochs=3, maximum=30)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=growth.coupling)
    assert batches.plan.batch_sizes == (4, 8, 16)


def test_seesaw_is_for_adam():
    growth = ab.from_lr_scheduler(torch_lr.StepLR(optimizer_of(), 1, 0.5), epochs=3, maximum=30, rule="seesaw")
    loader = ab.DataLoader(torch.arange(60), batch_size=4)
    ab.BatchSizeScheduler(optimizer_of(kind=torch.optim.AdamW), loader, growth, coupling=growth.coupling).close()
    with pytest.raises(ValueError, match=r"`coupling` 'sqrt' was derived for .*, got SGD"):
        ab.BatchSizeScheduler(optimizer_of(), loader, growth, coupling=growth.coupling)


def test_epochs_stay_symbolic_and_the_loader_gives_the_start():
    growth = ab.from_lr_scheduler(torch_lr.StepLR(optimizer_of(), 2, 0.25), epochs=6, maximum=64)
    assert growth.plan(dataset_size=1000, epochs=6, batch_size=2).starts_samples == (0, 2000, 4000)
    assert growth.plan(dataset_size=77, epochs=6, batch_size=4).batch_sizes == (4, 16, 64)


@pytest.mark.parametrize("lr", [{0: 1.0, ab.epochs(1): 0.25}, lambda clock: math.exp(-clock / 500), 0.1])
def test_functions_and_tables_go_to_the_other_name(lr):
    with pytest.raises(
        TypeError, match=r"`lr_scheduler` must be one of torch.optim.lr_scheduler, got (dict|function|float)"
    ):
        ab.from_lr_scheduler(lr, dataset_size=1000, epochs=2, batch_size=8, maximum=100)


def test_the_default_cap_and_other_counts():
    decay = torch_lr.ExponentialLR(optimizer_of(), gamma=0.5)
    settings = {"dataset_size": 1000, "epochs": 10, "batch_size": 8}
    assert ab.from_lr_scheduler(decay, **settings).maximum == 100
    assert ab.from_lr_scheduler(decay, counts=ab.samples(500), **settings).plan(
        dataset_size=1000, epochs=1
    ).starts_samples == (
        0,
        500,
    )
    assert ab.from_lr_scheduler(decay, counts=ab.epochs(0.5), **settings).plan(
        dataset_size=1000, epochs=1
    ).starts_samples == (
        0,
        500,
    )
    stream = ab.from_lr_scheduler(
        torch_lr.OneCycleLR(optimizer_of(momentum=0.9), max_lr=1.0, total_steps=50),
        counts=ab.updates(1),
        batch_size=4,
        maximum=64,
    )
    plan = stream.plan(dataset_size=None)
    assert plan.batch_sizes[0] == 4
    assert max(plan.batch_sizes) == 64
    assert plan.starts_samples[-1] < 200


def test_a_scheduler_that_the_user_steps_climbs_after_its_end_and_so_does_its_table():
    cosine = torch_lr.CosineAnnealingLR(optimizer_of(), T_max=4)
    lrs = [lr for _, lr in table(cosine, epochs=9)]
    assert lrs[4] == pytest.approx(0.0)
    assert lrs[8] == pytest.approx(0.4)
    frozen = table(cosine, counts=ab.updates(1), batch_size=10, dataset_size=10, epochs=9)
    assert frozen[-1][0] == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`epochs` must be given, got None: StepLR does not say how long it lasts"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        (
            {"counts": ab.updates(1), "epochs": 5, "dataset_size": 9},
            "`batch_size` must be given for a scheduler that counts",
        ),
        (
            {"counts": ab.updates(1), "epochs": 5, "batch_size": 3},
            "`dataset_size` must be given for a length in epochs",
        ),
        ({"counts": ab.updates(0), "epochs": 5}, "`counts` must be a length such as epochs\\(1\\) or updates\\(1\\)"),
        (
            {"epochs": 5, "batch_size": 8, "maximum": 4},
            "`maximum` must be at least the batch size that growth starts from, 8",
        ),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        ab.from_lr_scheduler(torch_lr.StepLR(optimizer_of(), 2, 0.5), **settings)


@pytest.mark.parametrize("counts", [1, "1 epochs"])
def test_counts_that_are_no_length(counts):
    with pytest.raises(TypeError, match=f"`counts` must be a length such as epochs.1. or updates.1., got {counts!r}"):
        ab.from_lr_scheduler(torch_lr.StepLR(optimizer_of(), 2, 0.5), counts=counts, epochs=5)


def test_a_class_in_the_place_of_an_lr_scheduler():
    with pytest.raises(TypeError, match=r"`lr_scheduler` must be one of .*, got the class StepLR; make one of it"):
        ab.from_lr_scheduler(torch_lr.StepLR, dataset_size=100, epochs=5, batch_size=8)


@pytest.mark.parametrize("momentum", [1, 1.5])
@pytest.mark.parametrize("rule", ["smith", "hybrid(1)"])
def test_a_momentum_at_which_the_noise_has_no_scale_is_refused(rule, momentum):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    optimizer.param_groups[1]["momentum"] = momentum
    with pytest.raises(
        ValueError, match=f"`momentum` must be less than 1, got {float(momentum)}; at 1 the noise scale"
    ):
        ab.from_lr_scheduler(torch_lr.StepLR(optimizer, 2, 0.5), epochs=5, rule=rule)
    ab.from_lr_scheduler(torch_lr.StepLR(optimizer, 2, 0.5), epochs=5, rule="seesaw")


def test_a_momentum_that_a_cycle_raises_to_1_is_refused():
    cycle = torch_lr.OneCycleLR(optimizer_of(momentum=0.9), max_lr=0.1, total_steps=5, max_momentum=1.0)
    with pytest.raises(ValueError, match=r"`(max_)?momentum` must be less than 1, got 1.0"):
        ab.from_lr_scheduler(cycle, epochs=5)


def test_what_is_no_function_of_progress():
    with pytest.raises(TypeError, match=r"must be a function of progress, got ReduceLROnPlateau"):
        ab.from_lr_scheduler(torch_lr.ReduceLROnPlateau(optimizer_of()), epochs=5)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("total", range(1, 8))
@pytest.mark.parametrize("milestone", range(1, 8))
def test_a_warm_up_that_ends_beside_its_peak_by_rounding_is_no_fall(total, milestone, tensor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=torch.tensor(0.1) if tensor else 0.1)
    warmup = torch_lr.LinearLR(optimizer, start_factor=0.1, total_iters=total)
    decay = torch_lr.MultiStepLR(optimizer, [10, 20], gamma=0.2)
    scheduler = torch_lr.SequentialLR(optimizer, [warmup, decay], [milestone])
    settings = {"dataset_size": 10_000, "epochs": 40, "batch_size": 8}
    for k, sizes in ((1, (8, 40)), (2, (8, 40, 200))):
        growth = ab.from_lr_scheduler(scheduler, epochs=40, batch_size=8, maximum=1000, rule=f"hybrid({k})")
        assert growth.plan(**settings).sizes == sizes


# In the wrong unit: said when the length of the training is known, and never of a sensible one.

RUN = {"dataset_size": 12_800, "epochs": 200, "batch_size": 128}  # 100 updates an epoch, 20,000 in all
IN_UPDATES = {"counts": ab.updates(1), **RUN}

# Schedulers for epochs, 200 of them, taken for ones that count updates.
OF_EPOCHS = {
    "cosine": (lambda o: torch_lr.CosineAnnealingLR(o, T_max=200), 200),
    "one cycle": (lambda o: torch_lr.OneCycleLR(o, max_lr=0.1, total_steps=200), 199),
    "milestones": (lambda o: torch_lr.MultiStepLR(o, milestones=[60, 120, 160], gamma=0.2), 160),
    "step": (lambda o: torch_lr.StepLR(o, step_size=30, gamma=0.1), 90),
    "exponential": (lambda o: torch_lr.ExponentialLR(o, gamma=0.95), 122),
    "polynomial": (lambda o: torch_lr.PolynomialLR(o, total_iters=200), 200),
    "lambda": (lambda o: torch_lr.LambdaLR(o, lambda epoch: max(0.0, 1 - epoch / 200)), 200),
    "warm-up": (
        lambda o: torch_lr.SequentialLR(
            o, [torch_lr.LinearLR(o, 0.1, total_iters=5), torch_lr.CosineAnnealingLR(o, T_max=195)], milestones=[5]
        ),
        200,
    ),
}

# Schedulers for updates, 20,000 of them, taken for ones that count epochs.
OF_UPDATES = {
    "cosine": (lambda o: torch_lr.CosineAnnealingLR(o, T_max=20_000), "ends after 20,000"),
    "one cycle": (lambda o: torch_lr.OneCycleLR(o, max_lr=0.1, total_steps=20_000), "ends after 19,999"),
    "milestones": (
        lambda o: torch_lr.MultiStepLR(o, milestones=[5_000, 10_000], gamma=0.2),
        "falls first after 5,000",
    ),
    "step": (lambda o: torch_lr.StepLR(o, step_size=201, gamma=0.97), "falls first after 201"),
    "lambda": (
        lambda o: torch_lr.LambdaLR(o, lambda step: max(0.0, min(1.0, (step + 1) / 500, 3 - step / 500))),
        "falls first after 1,006",
    ),
    "warm-up": (
        lambda o: torch_lr.SequentialLR(
            o,
            [torch_lr.LinearLR(o, 0.1, total_iters=500), torch_lr.CosineAnnealingLR(o, T_max=19_500)],
            milestones=[500],
        ),
        "ends after 20,000",
    ),
}


@pytest.mark.parametrize("convert", [ab.from_lr_scheduler, table])
@pytest.mark.parametrize("name", OF_EPOCHS)
def test_epochs_taken_for_updates_are_refused(name, convert):
    make, over = OF_EPOCHS[name]
    with pytest.raises(
        ValueError,
        match=r"`counts` must be what one step of the LR scheduler counts, got 1 update: \w+ is over after "
        rf"{over:,} of the 20,000 such steps in 200 epochs; give a longer unit such as `counts=ab.epochs\(1\)`, or the",
    ):
        convert(make(optimizer_of(momentum=0.9)), **IN_UPDATES)


@pytest.mark.parametrize("name", OF_UPDATES)
def test_updates_taken_for_epochs_are_said(name):
    make, where = OF_UPDATES[name]
    with pytest.warns(
        UserWarning,
        match=rf"`counts` must be what one step .* got 1 epoch: \w+ {where} such steps, the training of 200 epochs .*"
        r"200.*; give a shorter unit such as `counts=ab.updates\(1\)`, or the LR scheduler the length of the training",
    ) as caught:
        ab.from_lr_scheduler(make(optimizer_of(momentum=0.9)), **RUN)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("convert", [ab.from_lr_scheduler, table])
def test_the_line_of_the_caller_is_the_one_that_is_named(convert):
    with pytest.warns(UserWarning, match="falls first after 30 such steps, the training of 20 epochs ends") as caught:
        convert(torch_lr.StepLR(optimizer_of(), step_size=30), epochs=20)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_scheduler_that_is_over_in_the_first_tenth_is_said_and_in_the_first_hundredth_refused():
    def convert(milestone):
        decay = torch_lr.MultiStepLR(optimizer_of(), milestones=[milestone], gamma=0.2)
        return ab.from_lr_scheduler(
            decay, counts=ab.updates(1), dataset_size=1000, epochs=10, batch_size=10
        )  # 1,000 updates

    with pytest.raises(ValueError, match="is over after 10 of the 1,000 such steps in 10 epochs"):
        convert(10)
    for milestone in (11, 100):
        with pytest.warns(UserWarning, match=f"is over after {milestone} of the 1,000 such steps in 10 epochs"):
            convert(milestone)
    convert(101)


@pytest.mark.parametrize("end", [4, 5, 6])
def test_an_end_at_the_number_of_epochs_is_refused_however_few_updates_an_epoch_has(end):
    cosine = torch_lr.CosineAnnealingLR(optimizer_of(), T_max=end)
    settings = {"counts": ab.updates(1), "epochs": 5, "batch_size": 10}
    with pytest.raises(ValueError, match=f"is over after {end} of the 15 such steps in 5 epochs"):
        ab.from_lr_scheduler(cosine, dataset_size=30, **settings)
    if end > 4:
        ab.from_lr_scheduler(cosine, dataset_size=20, **settings)  # half of the training


@pytest.mark.parametrize(
    "make",
    [
        *RECIPES.values(),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=UPDATES // 2),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=UPDATES - 1),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=UPDATES + 1),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=UPDATES * 10),
        lambda o: torch_lr.LinearLR(o, start_factor=0.1, total_iters=100),
        lambda o: torch_lr.LambdaLR(o, lambda step: 1.0),
        lambda o: torch_lr.LambdaLR(o, lambda step: (1 + step) ** -0.5),
        lambda o: torch_lr.LambdaLR(o, lambda step: ([1.0] * UPDATES)[step]),  # none after the training
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2),
        lambda o: torch_lr.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=200),
    ],
)
def test_sensible_ones_in_updates_pass_in_silence(make):
    ab.from_lr_scheduler(
        make(optimizer_of(momentum=0.9)), counts=ab.updates(1), dataset_size=50_000, epochs=20, batch_size=128
    ).plan(dataset_size=50_000, epochs=20)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=90),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=45),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=5),  # up and down
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=900),
        lambda o: torch_lr.OneCycleLR(o, max_lr=0.1, total_steps=90),
        lambda o: torch_lr.MultiStepLR(o, milestones=[1]),
        lambda o: torch_lr.MultiStepLR(o, milestones=[89, 200]),
        lambda o: torch_lr.ConstantLR(o, factor=0.1, total_iters=5),
        lambda o: torch_lr.LambdaLR(o, lambda epoch: 1.0),
    ],
)
def test_sensible_ones_in_epochs_pass_in_silence(make):
    ab.from_lr_scheduler(make(optimizer_of(momentum=0.9)), dataset_size=50_000, epochs=90, batch_size=128).plan(
        dataset_size=50_000, epochs=90
    )


def test_a_length_that_only_the_plan_knows():
    in_updates = ab.from_lr_scheduler(
        torch_lr.CosineAnnealingLR(optimizer_of(), T_max=6), counts=ab.updates(1), dataset_size=2000, batch_size=8
    )
    with pytest.warns(
        UserWarning, match="changes for the last time at sample 48 of the 12,000 samples of the training"
    ):
        in_updates.plan(dataset_size=2000, epochs=6)
    in_epochs = ab.from_lr_scheduler(torch_lr.CosineAnnealingLR(optimizer_of(), T_max=1500), batch_size=8)
    with pytest.warns(UserWarning, match=r"changes first at sample .*, after the 12,000 samples of the training, so n"):
        in_epochs.plan(dataset_size=2000, epochs=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.from_lr_scheduler(torch_lr.CosineAnnealingLR(optimizer_of(), T_max=6), batch_size=8).plan(
            dataset_size=2000, epochs=6
        )
