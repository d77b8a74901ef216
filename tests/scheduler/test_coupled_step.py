"""The coupling around `optimizer.step()`: nothing else changes, whatever the optimizer, LR scheduler or accident."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from typing import Any

import pytest
import torch
from tests.scheduler.checks import backward, equal, loader_of, model_of, sgd
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict, set_state_dict
from torch.optim import lr_scheduler

import adabatch as ab

GROWING = ab.schedules.steps("0:4 8:8 24:16 56:4")
CONSTANT = ab.schedules.constant()


def train(model, optimizer, loader, *, schedule=None, user=None, epochs=2, coupling="linear"):
    """A user's loop; without a schedule the same loop without the scheduler. Returns the base LRs after each update."""
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling=coupling) if schedule else None
    lrs = []
    for _ in range(epochs):
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            if batches:
                batches.step()
            if user:
                user.step()
            lrs.append([float(group["lr"]) for group in optimizer.param_groups])
    return lrs


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd-foreach": (torch.optim.SGD, {"momentum": 0.9, "foreach": True}),
    "sgd-fused": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "adam": (torch.optim.Adam, {}),
    "adam-foreach": (torch.optim.Adam, {"foreach": True}),
    "adamw-fused": (torch.optim.AdamW, {"fused": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
}


@pytest.mark.parametrize(
    ("name", "tensor_lr"),
    # torch: foreach takes a tensor LR with capturable=True only
    [(name, tensor) for name in OPTIMIZERS for tensor in (False, True) if not (tensor and "foreach" in name)],
)
def test_a_constant_schedule_is_bit_for_bit_no_scheduler(name, tensor_lr):
    kind, arguments = OPTIMIZERS[name]
    runs = []
    for schedule in (None, CONSTANT):
        model = model_of()
        optimizer = kind(model.parameters(), lr=torch.tensor(0.03) if tensor_lr else 0.03, **arguments)
        user = lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        loader = loader_of(30, 4)  # with a short batch at the end
        coupling = ab.couplings.linear(any_optimizer=True)
        lrs = train(model, optimizer, loader, schedule=schedule, user=user, coupling=coupling)
        runs.append((model, optimizer, lrs))
    (plain, plain_optimizer, plain_lrs), (model, optimizer, lrs) = runs
    assert len(lrs) == 16
    assert lrs == plain_lrs
    assert equal(model, plain)
    for one, other in zip(plain_optimizer.state.values(), optimizer.state.values(), strict=True):
        assert all(
            torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one if one[key] is not None
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_growth_is_the_same_as_setting_the_lr_by_hand(name):
    kind, arguments = OPTIMIZERS[name]
    model, by_hand = model_of(), model_of()
    optimizer = kind(model.parameters(), lr=0.03, **arguments)
    reference = kind(by_hand.parameters(), lr=0.03, **arguments)
    loader = loader_of()
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING, coupling=ab.couplings.power(0.5))
    for batch in loader:
        backward(model, batch)
        optimizer.step()
        backward(by_hand, batch)
        reference.param_groups[0]["lr"] = 0.03 * (batches.batch_size / 4) ** 0.5
        reference.step()
        batches.step()
    assert equal(model, by_hand)


SCHEDULERS = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.1),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.001),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.95),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.PolynomialLR(optimizer, total_iters=20)],
        milestones=[4],
    ),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1, step_size_up=4),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=20),
}


def course(make_user, *, tensor_lr, growing):
    """LR and momentum before and after each of 18 updates."""
    model = model_of()
    optimizer = sgd(model, lr=torch.tensor(0.1) if tensor_lr else 0.1, momentum=0.9)
    user = make_user(optimizer)
    loader = loader_of(128)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING) if growing else None
    seen, forces = [], []
    for _, batch in zip(range(18), itertools.chain(loader, loader), strict=False):
        backward(model, batch)
        optimizer.step()
        if batches:
            forces.append(batches.last_lr[0] / batches.factor)
            batches.step()
        seen.append((float(optimizer.param_groups[0]["lr"]), optimizer.param_groups[0]["momentum"]))
        user.step()
        assert user.get_last_lr() == [optimizer.param_groups[0]["lr"]]
    if batches:
        assert max(each.batch_size for each in batches.decisions) == 16
        assert forces == pytest.approx([lr for lr, _ in seen])
    return seen


@pytest.mark.filterwarnings("ignore:.* is stepped once an update:UserWarning")  # on purpose
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_lr_schedulers_give_the_same_base_lrs(name, tensor_lr):
    plain = course(SCHEDULERS[name], tensor_lr=tensor_lr, growing=False)
    assert len({lr for lr, _ in plain}) > 1
    assert course(SCHEDULERS[name], tensor_lr=tensor_lr, growing=True) == plain
    if name == "OneCycleLR":
        assert len({momentum for _, momentum in plain}) > 10


def test_reduce_on_plateau_gives_the_same_base_lrs():
    courses = []
    for growing in (False, True):
        model = model_of()
        optimizer = sgd(model)
        user = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        loader = loader_of()
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWING) if growing else None
        lrs = []
        for metric in (1.0, 0.9, 1.1, 1.2, 0.8, 0.9):
            for batch in loader:
                backward(model, batch)
                optimizer.step()
                if batches:
                    batches.step()
            user.step(metric)
            lrs.append(optimizer.param_groups[0]["lr"])
        courses.append(lrs)
    assert courses[0] == courses[1] == [0.1, 0.1, 0.05, 0.025, 0.025, 0.0125]


@pytest.mark.parametrize("first", ["hook", "coupling"])
def test_an_lr_scheduler_in_a_post_hook_finds_its_own_lr(first):
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    user = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    if first == "hook":
        optimizer.register_step_post_hook(lambda *_: user.step())
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    if first == "coupling":
        optimizer.register_step_post_hook(lambda *_: user.step())
    for _, batch in zip(range(3), loader, strict=False):
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**3


# Tensor LRs.


def test_a_tensor_lr_shared_by_groups_is_scaled_once_and_stays_the_same_object():
    model, loader = model_of(), loader_of()
    lr = torch.tensor(0.1)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=lr)
    assert optimizer.param_groups[0]["lr"] is optimizer.param_groups[1]["lr"] is lr
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:12"))
    before = lr.clone()
    for _, batch in zip(range(3), loader, strict=False):
        backward(model, batch)
        weight = model.weight.detach().clone()
        optimizer.step()
        factor = batches.factor
        assert torch.allclose(model.weight, weight - 0.1 * factor * model.weight.grad)
        assert batches.last_lr == pytest.approx([0.1 * factor] * 2)
        assert torch.equal(lr, before)
        assert all(group["lr"] is lr for group in optimizer.param_groups)
        batches.step()
    assert factor == 3
    lr.fill_(5.0)
    assert batches.last_lr == pytest.approx([0.3] * 2), "a record, not the tensor itself"


# Steps that GradScaler skips, clipping, several optimizers, evaluation.


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_grad_scaler_skips(fused):
    """Unfused, the optimizer is not called at all; fused, it is called with its hooks and does nothing."""
    model, loader = model_of(), loader_of()
    optimizer = sgd(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    by_hand = copy.deepcopy(model)
    for number, (inputs, targets) in enumerate(loader):
        skipped = number in (0, 3)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        scaler.scale(loss * torch.inf if skipped else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if not skipped:
            backward(by_hand, (inputs, targets))
            with torch.no_grad():
                for p in by_hand.parameters():
                    p -= 0.1 * (1 if number == 0 else 2) * p.grad
        batches.step()
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True)
        )
    assert (loader.clock, number) == (64, 8)


def test_gradient_clipping_comes_before_the_coupling():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        batches.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01 * 0.2, rel=1e-3)


def test_two_optimizers():
    model, loader = model_of(), loader_of()
    one, two = torch.optim.SGD([model.weight], lr=0.1), torch.optim.SGD([model.bias], lr=0.5)
    batches = ab.BatchSizeScheduler([one, two], loader, ab.schedules.steps("0:4 4:8"))
    for number, batch in zip(range(4), loader, strict=False):
        backward(model, batch)
        bias, weight = model.bias.detach().clone(), model.weight.detach().clone()
        one.step()
        if number % 2:
            two.step()
        assert torch.allclose(model.weight, weight - 0.1 * batches.factor * model.weight.grad)
        assert torch.allclose(model.bias, bias - 0.5 * batches.factor * model.bias.grad * (number % 2))
        batches.step()
    assert batches.last_lr == [0.2, 1.0]
    batches.close()
    assert not one._optimizer_step_pre_hooks
    assert not two._optimizer_step_pre_hooks


def test_evaluation_in_mid_epoch_with_another_loader():
    runs = []
    for evaluate in (False, True):
        model, loader, other = model_of(), loader_of(), loader_of(40, 8)
        optimizer = sgd(model)
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
            if evaluate:
                with torch.no_grad():
                    assert sum(len(inputs) for inputs, _ in other) == 40
        runs.append(model)
    assert equal(*runs)


def test_several_steps_for_one_batch():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        before = model.weight.detach().clone()
        optimizer.step()
        optimizer.step()
        factor = batches.factor
        batches.step()
    assert factor == 2
    assert torch.allclose(model.weight, before - 2 * 0.2 * model.weight.grad)


def test_a_step_between_batches_is_scaled_as_the_last_batch():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8 12:16"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert batches.batch_size == 16
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.2 * model.weight.grad)


class Outer(torch.optim.SGD):
    """A subclass whose step calls its parent's: torch wraps both, so that hooks run twice, one inside the other."""

    def step(self, closure=None):
        return super().step(closure)


def test_a_step_within_a_step_is_scaled_once():
    sgd(model_of())  # torch wraps a class when its first instance is made
    model, loader = model_of(), loader_of()
    optimizer = Outer(model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        before = model.weight.detach().clone()
        optimizer.step()
        batches.step()
    assert len(calls) == 4
    assert torch.allclose(model.weight, before - 0.2 * model.weight.grad)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_group_added_later_is_coupled_too():
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    for number, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        if number == 1:
            optimizer.add_param_group({"params": [model.bias], "lr": 1.0})
        optimizer.step()
        batches.step()
    assert batches.last_lr == [0.2, 2.0]


# Steps that raise.


def raising(model, optimizer, batch):
    """A step that raises after the LR was put in force, past the guard, like a `step` kept from before the coupling."""
    backward(model, batch)

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        type(optimizer).step(optimizer, closure)


def second_batch(lr=0.1):
    model, loader = model_of(), loader_of()
    optimizer = sgd(model, lr=lr)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    return model, optimizer, batches, loader, stream, next(stream)


RECOVERIES = {
    "batches.step": lambda optimizer, batches, stream: batches.step(),
    "next batch": lambda optimizer, batches, stream: next(stream),
    "state of the optimizer": lambda optimizer, batches, stream: optimizer.state_dict(),
    "state of the scheduler": lambda optimizer, batches, stream: batches.state_dict(),
    "next optimizer step": lambda optimizer, batches, stream: optimizer.step(),
    "close": lambda optimizer, batches, stream: batches.close(),
}


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", RECOVERIES)
def test_a_step_that_raises_leaves_base_lrs_as_they_were(name, tensor_lr):
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    model, optimizer, batches, _, stream, batch = second_batch(lr)
    raising(model, optimizer, batch)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.2), "the case is there"
    result = RECOVERIES[name](optimizer, batches, stream)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.1, rel=1e-7)
    if name == "state of the optimizer":
        assert float(result["param_groups"][0]["lr"]) == pytest.approx(0.1, rel=1e-7)


def test_the_step_after_one_that_raised_is_scaled_once():
    model, optimizer, batches, _, _, batch = second_batch()
    raising(model, optimizer, batch)
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.2 * model.weight.grad)
    batches.step()


def test_a_raised_step_is_no_forgotten_step():
    model, optimizer, _, loader, stream, batch = second_batch()
    raising(model, optimizer, batch)
    next(stream)
    assert loader.current.clock == 12


def test_a_coupling_of_what_the_optimizer_lacks_is_refused_at_once():
    class OfRho(ab.couplings.Coupling):
        def lr_factor(self, ratio):
            return ratio

        def in_force(self, group, ratio):
            return super().in_force(group, ratio) | ({} if ratio == 1 else {"rho": ratio})

    try:
        optimizer = sgd(model_of())
        with pytest.raises(ValueError, match="'OfRho' must change what SGD has, got 'rho', which is none of lr, mom"):
            ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling=OfRho())
        ab.BatchSizeScheduler(optimizer, loader_of(), ab.schedules.constant(), coupling=OfRho())
        assert optimizer.param_groups[0]["lr"] == 0.1
    finally:
        del ab.couplings.Coupling.kinds["OfRho"]


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (lambda ratio: float("nan") if ratio > 1 else 1.0, r"`Odd.lr_factor\(\d+\)` must be finite, got nan"),
        (lambda ratio: 2 - ratio, r"`Odd.lr_factor\(\d+\)` must be at least 0, got -"),
        (lambda ratio: 2 * ratio, "'Odd' must leave the base batch size alone, got the factor 2"),
        (lambda ratio: str(ratio), r"`Odd.lr_factor\(1\)` must be a number, got '1.0'"),
    ],
)
def test_a_coupling_whose_factor_is_none_is_refused_at_once(factor, message):
    class Odd(ab.couplings.Coupling):
        def lr_factor(self, ratio):
            return factor(ratio)

    try:
        optimizer = sgd(model_of())
        with pytest.raises((ValueError, TypeError), match=message):
            ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling=Odd())
        assert optimizer.param_groups[0]["lr"] == 0.1
    finally:
        del ab.couplings.Coupling.kinds["Odd"]


@pytest.mark.parametrize(
    ("name", "value", "lr"),
    [("weight_decay", 0.1, 0.1), ("lr", 0.2, 0.1), ("lr", 0.2, torch.tensor(0.1)), ("lr", torch.tensor(0.2), 0.1)],
)
def test_a_coupling_that_changes_the_base_batch_size_is_refused_at_once(name, value, lr):
    class Always(ab.couplings.Coupling):
        def lr_factor(self, ratio):
            return 1.0

        def in_force(self, group, ratio):
            return {name: value}

    try:
        with pytest.raises(
            ValueError, match=f"'Always' must leave the base batch size alone, got another '{name}' from"
        ):
            ab.BatchSizeScheduler(sgd(model_of(), lr=lr), loader_of(), GROWING, coupling=Always())
    finally:
        del ab.couplings.Coupling.kinds["Always"]


@pytest.mark.parametrize("held", [None, ["lr"], 2.0])
def test_a_coupling_that_says_nothing_of_what_it_changes_is_refused_at_once(held):
    class Mute(ab.couplings.Coupling):
        def lr_factor(self, ratio):
            return 1.0

        def in_force(self, group, ratio):
            return held

    try:
        message = re.escape(f"`in_force` of the coupling 'Mute' must return a dict of what differs, got {held!r}")
        with pytest.raises(TypeError, match=message):
            ab.BatchSizeScheduler(sgd(model_of()), loader_of(), GROWING, coupling=Mute())
    finally:
        del ab.couplings.Coupling.kinds["Mute"]


LARGE = "`coupling` power\\(p=400.0\\) must keep the LR in force below 1e\\+35, where float32 ends, got 2.58e\\+119 at "


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_an_lr_in_force_beyond_float32_is_refused_at_once(name, tensor_lr):
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    optimizer = getattr(torch.optim, name)(model_of().parameters(), lr=lr)
    with pytest.raises(ValueError, match=LARGE + "2 times the base batch size"):
        ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling="power(400)")
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)
    ab.BatchSizeScheduler(optimizer, loader_of(), CONSTANT, coupling="power(400)")


@pytest.mark.parametrize(
    "warm_up",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10, div_factor=1e200),
    ],
    ids=["LambdaLR", "OneCycleLR"],
)
def test_an_lr_in_force_beyond_float32_after_a_warm_up_is_refused_at_once(warm_up):
    optimizer = sgd(model_of())
    warm_up(optimizer)
    with pytest.raises(ValueError, match=LARGE):
        ab.BatchSizeScheduler(optimizer, loader_of(), GROWING, coupling="power(400)")


def test_double_precision_has_room_for_larger_lrs():
    model = model_of().double()
    ab.BatchSizeScheduler(sgd(model), loader_of(), GROWING, coupling="power(400)")


# Phantom steps of torch.distributed.checkpoint.


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("moment", ["before", "between", "within", "micro"])
def test_phantom_steps_are_harmless(tensor_lr, moment):
    """If an optimizer has no state, checkpointing runs a step at an LR of 0."""
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    model, loader = model_of(), loader_of(micro_batch_size=2)
    optimizer = sgd(model, lr=lr)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)

    def save():
        optimizer.zero_grad()
        before = copy.deepcopy(model.state_dict())
        count = len(calls)
        state: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
        assert len(calls) == count + 1, "the phantom step is there"
        assert float(state["param_groups"][0]["lr"]) == pytest.approx(0.1, rel=1e-7)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1, rel=1e-7)

    if moment == "before":
        save()
        assert batches.last_lr == pytest.approx([0.1])
    for micro in ab.accumulate(loader):
        if moment == "micro" and not micro.is_last:
            save()
        with micro as batch:
            inputs, targets = batch
            (torch.nn.functional.mse_loss(model(inputs), targets) * micro.weight).backward()
        if not micro.is_last:
            continue
        optimizer.step()
        factor = batches.factor
        if moment == "within":
            save()
        assert batches.last_lr == pytest.approx([0.1 * factor])
        optimizer.zero_grad()
        batches.step()
        if moment == "between":
            save()
            assert batches.last_lr == pytest.approx([0.1 * factor])


def test_a_phantom_step_does_not_count_as_training():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)
    stream = iter(loader)
    next(stream)
    get_optimizer_state_dict(model, optimizer)
    next(stream)  # the first batch was left out
    with pytest.warns(RuntimeWarning, match="the batch at sample 0 was left without"):
        batches.step()
    get_optimizer_state_dict(model, optimizer)  # and is no optimizer step that came too late


def test_a_checkpoint_by_torch_distributed_checkpoint(tmp_path):
    model, loader = model_of(), loader_of()
    optimizer = sgd(model, momentum=0.9)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)

    def train(stream, count):
        for _, batch in zip(range(count), stream, strict=False):
            backward(model, batch)
            optimizer.step()
            batches.step()

    def whole():
        weights, state = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": state, "loader": loader.state_dict(), "batches": batches.state_dict()}

    stream = iter(loader)
    train(stream, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_saver.save(whole(), checkpoint_id=tmp_path / "checkpoint")
    train(stream, 3)
    expected = [p.detach().clone() for p in model.parameters()]

    model, loader = model_of(), loader_of()
    optimizer = sgd(model, lr=9.0, momentum=0.9)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)
    target = whole()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_loader.load(target, checkpoint_id=tmp_path / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
    loader.load_state_dict(target["loader"])
    batches.load_state_dict(target["batches"])
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert batches.batch_size == 16
    train(iter(loader), 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected, strict=True))


def test_a_step_is_refused_while_torch_says_that_it_captures(monkeypatch):
    """The half of the next test that needs no GPU."""
    model = model_of()
    optimizer = sgd(model, lr=0.1)
    loader = loader_of()
    ab.BatchSizeScheduler(optimizer, loader, GROWING)
    backward(model, next(iter(loader)))
    before = [p.detach().clone() for p in model.parameters()]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="must not be captured in a CUDA graph"):
        optimizer.step()
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.step()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # what a refused capture leaves
def test_capture_in_a_cuda_graph_is_refused():
    model = model_of().cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1, device="cuda"), capturable=True)
    loader = loader_of()
    ab.BatchSizeScheduler(optimizer, loader, GROWING, coupling="sqrt")
    inputs, targets = next(iter(loader))
    backward(model, (inputs.cuda(), targets.cuda()))
    with (
        pytest.raises(RuntimeError, match="must not be captured in a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
