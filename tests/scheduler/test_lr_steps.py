"""LR schedulers of torch that count updates while the batch grows are told of, once; all others are not."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from tests.scheduler.checks import backward, loader_of, model_of, sgd

import adabatch as ab
from adabatch.lr_clock import MEANT

torch_lr = torch.optim.lr_scheduler
DOUBLING = ab.schedules.geometric(2, ab.epochs(1), maximum=8)
FASTER = ab.schedules.geometric(2, ab.epochs(1), maximum=16)
EPOCHS = 3
UPDATES = 16 + 8 + 8  # 64 samples, from 4 on


def cosine(optimizer):
    return torch_lr.CosineAnnealingLR(optimizer, T_max=EPOCHS * 16)


def told(make, *, each="update", schedule=DOUBLING, epochs=EPOCHS, by=None):
    """The warnings of a training whose LR scheduler is stepped after each update or epoch, or in another way."""
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    lr_scheduler = make(optimizer)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling="none", epochs=epochs)
    step = lr_scheduler.step if by is None else by(lr_scheduler, loader)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step")  # of an optimizer that makes no step
        for _ in range(EPOCHS):
            for batch in loader:
                backward(model, batch)
                optimizer.step()
                if each == "before":
                    step()
                batches.step()
                if each == "update":
                    step()
            if each == "epoch":
                step()
    assert all(warning.filename == __file__ for warning in seen)
    return [str(warning.message) for warning in seen]


def sequential(optimizer):
    parts = [torch_lr.ConstantLR(optimizer, 0.5, 8), torch_lr.PolynomialLR(optimizer, 40)]
    return torch_lr.SequentialLR(optimizer, parts, [8])


def to_a_tenth(end):
    """A cosine that ends at a tenth, and stays there."""
    return lambda step: 0.55 + 0.45 * math.cos(math.pi * min(1, step / end))


def warmed_up(optimizer, rest):
    parts = [torch_lr.LinearLR(optimizer, 0.1, total_iters=8), torch_lr.PolynomialLR(optimizer, rest)]
    return torch_lr.SequentialLR(optimizer, parts, [8])


@pytest.mark.parametrize("each", ["update", "before"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (cosine, "CosineAnnealingLR"),
        (lambda optimizer: torch_lr.StepLR(optimizer, 16), "StepLR"),
        (lambda optimizer: torch_lr.LinearLR(optimizer, 1, 0, total_iters=48), "LinearLR"),
        (lambda optimizer: torch_lr.PolynomialLR(optimizer, total_iters=48), "PolynomialLR"),
        (lambda optimizer: torch_lr.LambdaLR(optimizer, to_a_tenth(48)), "LambdaLR"),
        (lambda optimizer: torch_lr.OneCycleLR(optimizer, 0.1, total_steps=48, cycle_momentum=False), "OneCycleLR"),
        (lambda optimizer: torch_lr.CosineAnnealingWarmRestarts(optimizer, 48), "CosineAnnealingWarmRestarts"),
        (lambda optimizer: torch_lr.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 48)), "LambdaLR"),
        (sequential, "SequentialLR"),
        (lambda optimizer: torch_lr.ChainedScheduler([torch_lr.ExponentialLR(optimizer, 0.99)]), "ExponentialLR"),
    ],
)
def test_steps_after_each_update_are_told_once(make, name, each):
    (message,) = told(make, each=each)
    assert message == (
        f"{name} is stepped once an update, and the batch has another size than at the start: there are other numbers "
        f"of updates now, {UPDATES} in this plan, so its course may not end with the training. Write `lr = "
        "ab.by_samples(lr_scheduler, loader)`, and `lr.step()` in its place"
    )


def test_a_training_without_a_known_end_is_told_too():
    (message,) = told(cosine, epochs=None)
    assert "there are other numbers of updates now, so its course" in message


def test_a_batch_that_shrinks_is_told_too():
    assert len(told(cosine, schedule=ab.schedules.steps("0:4 64:2"))) == 1


def stepped_twice(lr_scheduler, loader):
    def step():
        for _ in range(loader.current.requested // 4 if loader.current else 2):
            lr_scheduler.step()

    return step


def times(k):
    """Steps as a framework's wrapper does on `k` processes."""

    def by(lr_scheduler, loader):
        def step():
            for _ in range(k):
                lr_scheduler.step()

        return step

    return by


@pytest.mark.parametrize("each", ["update", "before"])
@pytest.mark.parametrize("k", [2, 3])  # 2 is also what follows the data while the batch has doubled
def test_several_steps_after_each_update_are_told(k, each):
    (message,) = told(lambda optimizer: torch_lr.StepLR(optimizer, 16), each=each, by=times(k), schedule=FASTER)
    assert message.startswith(f"StepLR is stepped {k} times an update, and the batch has another size than at")


@pytest.mark.parametrize(
    "other",
    [
        {"each": "epoch"},
        {"by": lambda lr_scheduler, loader: ab.by_samples(lr_scheduler, loader).step},
        {"each": "before", "by": stepped_twice},
        {"each": "before", "by": stepped_twice, "schedule": FASTER},
        {"make": lambda optimizer: torch_lr.LinearLR(optimizer, 1, 0, total_iters=3 * UPDATES), "by": times(3)},
        {"schedule": ab.schedules.constant()},
        {"make": lambda optimizer: torch_lr.CosineAnnealingLR(optimizer, T_max=UPDATES)},
        {"make": lambda optimizer: torch_lr.OneCycleLR(optimizer, 0.1, total_steps=UPDATES, cycle_momentum=False)},
        {"make": lambda optimizer: torch_lr.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / UPDATES))},
        {"by": lambda lr_scheduler, loader: MEANT.add(lr_scheduler) or lr_scheduler.step},
        {"make": lambda optimizer: torch_lr.PolynomialLR(optimizer, total_iters=UPDATES)},
        {"make": lambda optimizer: torch_lr.LinearLR(optimizer, 1, 0, total_iters=UPDATES)},
        {"make": lambda optimizer: torch_lr.LambdaLR(optimizer, to_a_tenth(UPDATES))},
        {"make": lambda optimizer: torch_lr.LambdaLR(optimizer, lambda step: min(1.0, (1 + step) / 8))},
        {"make": lambda optimizer: torch_lr.LinearLR(optimizer, 0.1, total_iters=8)},
        {"make": lambda optimizer: torch_lr.ConstantLR(optimizer, 0.5, total_iters=8), "epochs": None},
        {"make": lambda optimizer: warmed_up(optimizer, UPDATES - 8)},
        {"each": "never"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_ways_are_not_told(other):
    assert told(**({"make": cosine} | other)) == []


def test_an_epoch_of_one_update_is_no_count_of_updates():
    assert told(cosine, each="epoch", schedule=ab.schedules.steps("0:4 64:64")) == []


def test_an_lr_scheduler_of_another_optimizer_is_not_told_of():
    other = cosine(sgd(model_of()))
    assert told(lambda optimizer: other) == []


def test_one_that_is_gone_is_not_told_of():
    def make(optimizer):
        cosine(optimizer)
        return torch_lr.StepLR(sgd(model_of()), 3)

    assert told(make) == []
