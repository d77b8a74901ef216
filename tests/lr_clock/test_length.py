"""An LR scheduler in the wrong unit: said when the length of the training is known, and never of a sensible one."""

import warnings

import pytest
from tests.lr_clock.test_from_lr import RECIPES, UPDATES
from tests.lr_clock.test_sample import optimizer_of
from torch.optim import lr_scheduler as torch_lr

import adabatch as ab
from adabatch.lr_clock import curve

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


@pytest.mark.parametrize("convert", [ab.from_lr, curve])
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
        ab.from_lr(make(optimizer_of(momentum=0.9)), **RUN)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("convert", [ab.from_lr, curve])
def test_the_line_of_the_caller_is_the_one_that_is_named(convert):
    with pytest.warns(UserWarning, match="falls first after 30 such steps, the training of 20 epochs ends") as caught:
        convert(torch_lr.StepLR(optimizer_of(), step_size=30), epochs=20)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_curve_that_is_over_in_the_first_tenth_is_said_and_in_the_first_hundredth_refused():
    def convert(milestone):
        decay = torch_lr.MultiStepLR(optimizer_of(), milestones=[milestone], gamma=0.2)
        return ab.from_lr(decay, counts=ab.updates(1), dataset_size=1000, epochs=10, batch_size=10)  # 1,000 updates

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
        ab.from_lr(cosine, dataset_size=30, **settings)
    if end > 4:
        ab.from_lr(cosine, dataset_size=20, **settings)  # half of the training


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
        lambda o: torch_lr.LambdaLR(o, lambda step: ([1.0] * UPDATES)[step]),  # none behind the training
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2),
        lambda o: torch_lr.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=200),
    ],
)
def test_sensible_ones_in_updates_pass_in_silence(make):
    ab.from_lr(
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
    ab.from_lr(make(optimizer_of(momentum=0.9)), dataset_size=50_000, epochs=90, batch_size=128).plan(
        dataset_size=50_000, epochs=90
    )


def test_a_length_that_only_the_plan_knows():
    in_updates = ab.from_lr(
        torch_lr.CosineAnnealingLR(optimizer_of(), T_max=6), counts=ab.updates(1), dataset_size=2000, batch_size=8
    )
    with pytest.warns(
        UserWarning, match="changes for the last time at sample 48 of the 12,000 samples of the training"
    ):
        in_updates.plan(dataset_size=2000, epochs=6)
    in_epochs = ab.from_lr(torch_lr.CosineAnnealingLR(optimizer_of(), T_max=1500), batch_size=8)
    with pytest.warns(
        UserWarning, match=r"changes first at sample .*, behind the 12,000 samples of the training, so n"
    ):
        in_epochs.plan(dataset_size=2000, epochs=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.from_lr(torch_lr.CosineAnnealingLR(optimizer_of(), T_max=6), batch_size=8).plan(dataset_size=2000, epochs=6)
