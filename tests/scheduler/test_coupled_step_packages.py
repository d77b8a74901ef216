"""Optimizers of other packages, and torch's newer ones: coupled like any other, or refused with what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from tests.scheduler.checks import backward, equal, loader_of

import adabatch as ab

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the package imports
    import pytorch_optimizer
    import schedulefree

GROWING = ab.schedules.steps("0:4 16:8 40:16")
KINDS = {
    "Muon": (torch.optim.Muon, {"momentum": 0.9}),
    "NAdam": (torch.optim.NAdam, {}),
    "SGDScheduleFree": (schedulefree.SGDScheduleFree, {}),
    "AdamWScheduleFree": (schedulefree.AdamWScheduleFree, {"foreach": False}),
    "AdamWScheduleFree-foreach": (schedulefree.AdamWScheduleFree, {"foreach": True}),
    "RAdamScheduleFree": (schedulefree.RAdamScheduleFree, {}),
    "Lamb": (pytorch_optimizer.Lamb, {}),
    "Lion": (pytorch_optimizer.Lion, {}),
    "LARS": (pytorch_optimizer.LARS, {"momentum": 0.9}),
    "AdaBelief": (pytorch_optimizer.AdaBelief, {}),
    "SOAP": (pytorch_optimizer.SOAP, {}),
    "StableAdamW": (pytorch_optimizer.StableAdamW, {}),
}


def model_of():
    torch.manual_seed(1)
    return torch.nn.Linear(3, 1, bias=False)  # a matrix: Muon takes nothing else


def optimizer_of(name, model, lr=0.03):
    kind, arguments = KINDS[name]
    optimizer = kind(model.parameters(), lr=lr, **arguments)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def course(name, schedule, *, by_hand=False):
    """The weights after an epoch, and the LRs that the optimizer held after each update."""
    model, loader = model_of(), loader_of(64)
    optimizer = optimizer_of(name, model)
    driven = model_of()
    batches = None
    if schedule is not None:
        coupled = optimizer_of(name, driven) if by_hand else optimizer
        batches = ab.BatchSizeScheduler(coupled, loader, schedule, coupling=ab.couplings.sqrt(any_optimizer=True))
    lrs = []
    for batch in loader:
        backward(model, batch)
        if by_hand:
            optimizer.param_groups[0]["lr"] = 0.03 * (batches.batch_size / 4) ** 0.5
        optimizer.step()
        lrs.append(optimizer.param_groups[0]["lr"])
        if batches:
            batches.step()
    return model, lrs


@pytest.mark.parametrize("name", KINDS)
def test_growth_is_the_same_as_setting_the_lr_by_hand(name):
    model, lrs = course(name, GROWING)
    reference, by_hand = course(name, GROWING, by_hand=True)
    assert equal(model, reference)
    assert lrs == [0.03] * len(by_hand)
    assert by_hand[-1] == pytest.approx(0.06)
    assert not equal(model, model_of())


@pytest.mark.parametrize("name", KINDS)
def test_a_constant_schedule_is_bit_for_bit_no_scheduler(name):
    assert equal(course(name, ab.schedules.constant())[0], course(name, None)[0])


@pytest.mark.parametrize("coupling", ["linear", "sqrt", "constant_noise", "adam_sde", "token_half_life"])
@pytest.mark.parametrize("name", KINDS)
def test_couplings_that_were_not_derived_for_it_say_what_to_do(name, coupling):
    optimizer = optimizer_of(name, model_of())
    if (name, coupling) in {("LARS", "linear"), ("Lamb", "sqrt")}:
        ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling=coupling)
        return
    said = rf"`coupling` '{coupling}' was derived for .*, got {type(optimizer).__name__}; .*`none`"
    with pytest.raises(ValueError, match=said):
        ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling=coupling)
    ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling="power(0.5)")  # nothing was left behind


def test_evaluation_of_a_schedule_free_optimizer_between_updates():
    """Its `eval()` and `train()` move the weights by the groups' values, which are the user's own again by then."""
    courses = []
    for evaluate in (False, True):
        model, loader = model_of(), loader_of()
        optimizer = optimizer_of("AdamWScheduleFree", model)
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWING, coupling="power(0.5)")
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
            if evaluate:
                optimizer.eval()
                optimizer.train()
        courses.append(model.weight.detach().clone())
    assert torch.allclose(*courses, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrapper", "error", "said"),
    [
        (
            lambda optimizer: schedulefree.ScheduleFreeWrapper(optimizer, momentum=0.9),
            TypeError,
            "unwrap one that is wrapped",
        ),
        (pytorch_optimizer.Lookahead, ValueError, "got Lookahead; use .* or insist with"),
    ],
    ids=["ScheduleFreeWrapper", "Lookahead"],
)
def test_a_wrapper_is_refused_and_what_it_wraps_is_coupled(wrapper, error, said):
    model, loader = model_of(), loader_of()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = wrapper(inner)
    with pytest.raises(error, match=said):
        ab.BatchSizeScheduler(outer, loader, GROWING)
    batches = ab.BatchSizeScheduler(inner, loader, GROWING)
    if hasattr(outer, "train"):
        outer.train()
    lrs = []
    for batch in loader:
        backward(model, batch)
        outer.step()
        lrs += batches.last_lr
        batches.step()
    assert lrs == pytest.approx([0.1] * 4 + [0.2] * 3 + [0.4] * 2)
    assert inner.param_groups[0]["lr"] == 0.1
