"""The curve of a torch LR scheduler, from a copy: exact for every kind, and the user's objects stay untouched."""

import copy
import functools
import math
import types

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

from adabatch.lr_clock import last_step, sample

STEPS = 40

# Every scheduler of torch that is a function of progress.
MAKERS = {
    "step": lambda o: torch_lr.StepLR(o, step_size=7, gamma=0.5),
    "multistep": lambda o: torch_lr.MultiStepLR(o, milestones=[5, 5, 20], gamma=0.2),
    "constant": lambda o: torch_lr.ConstantLR(o, factor=0.5, total_iters=6),
    "linear": lambda o: torch_lr.LinearLR(o, start_factor=0.1, total_iters=8),
    "exponential": lambda o: torch_lr.ExponentialLR(o, gamma=0.9),
    "polynomial": lambda o: torch_lr.PolynomialLR(o, total_iters=30, power=2.0),
    "cosine": lambda o: torch_lr.CosineAnnealingLR(o, T_max=39, eta_min=0.001),
    "restarts": lambda o: torch_lr.CosineAnnealingWarmRestarts(o, T_0=7, T_mult=2),
    "lambda": lambda o: torch_lr.LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: torch_lr.MultiplicativeLR(o, lambda step: 0.95),
    "cyclic": lambda o: torch_lr.CyclicLR(o, base_lr=0.01, max_lr=0.3, step_size_up=5, mode="exp_range", gamma=0.99),
    "onecycle": lambda o: torch_lr.OneCycleLR(o, max_lr=0.5, total_steps=40),
    "sequential": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.LinearLR(o, start_factor=0.1, total_iters=5),
            torch_lr.ConstantLR(o, factor=1.0),
            torch_lr.CosineAnnealingLR(o, T_max=20),
        ],
        milestones=[5, 19],
    ),
    "chained": lambda o: torch_lr.ChainedScheduler(
        [torch_lr.LinearLR(o, start_factor=0.2, total_iters=4), torch_lr.ExponentialLR(o, gamma=0.9)]
    ),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=9),
}


def optimizer_of(*, tensor=False, groups=1, kind=torch.optim.SGD, **settings):
    lr = torch.tensor(0.4) if tensor else 0.4
    return kind([{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(groups)], lr=lr, **settings)


def stepped(make, optimizer, steps):
    """The reference: the real scheduler on the real optimizer."""
    scheduler = make(optimizer)
    found = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_the_curve_is_that_of_the_scheduler_and_nothing_is_touched(name, tensor):
    expected = stepped(MAKERS[name], optimizer_of(tensor=tensor, momentum=0.9), STEPS)
    optimizer = optimizer_of(tensor=tensor, momentum=0.9)
    scheduler = MAKERS[name](optimizer)
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    state = copy.deepcopy(scheduler.state_dict())
    assert sample(scheduler, STEPS) == expected
    assert optimizer.state_dict()["param_groups"] == groups
    assert str(scheduler.state_dict()) == str(state)
    assert sample(scheduler, STEPS) == expected
    optimizer.step()
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == expected[1]


def test_adam_with_a_cycled_beta():
    def make(optimizer):
        return torch_lr.OneCycleLR(optimizer, max_lr=0.5, total_steps=40)

    expected = stepped(make, optimizer_of(kind=torch.optim.AdamW), STEPS)
    optimizer = optimizer_of(kind=torch.optim.AdamW)
    scheduler = make(optimizer)
    betas = optimizer.param_groups[0]["betas"]
    assert sample(scheduler, STEPS) == expected
    assert optimizer.param_groups[0]["betas"] == betas


def test_no_parameter_no_optimizer_and_no_trainer_behind_a_bound_method_is_copied():
    class Huge(torch.nn.Parameter):
        def __deepcopy__(self, memo):
            raise AssertionError("a parameter was copied")

    class Adam(torch.optim.Adam):
        def __deepcopy__(self, memo):
            raise AssertionError("the optimizer was copied, with its moments")

    class Trainer:
        def __init__(self):
            self.calls = 0

        def __deepcopy__(self, memo):
            raise AssertionError("the trainer was copied")

        def factor(self, step):
            return 0.5**step

    parameter = Huge(torch.ones(2))
    optimizer = Adam([parameter], lr=0.4)
    scheduler = torch_lr.LambdaLR(optimizer, Trainer().factor)
    vars(scheduler)["parameter"] = parameter
    assert sample(scheduler, 3) == [0.4, 0.2, 0.1]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def __deepcopy__(self, memo):
        raise AssertionError("the model was copied")

    def factor(self, step):
        return 0.5**step


class Weights(torch.Tensor):
    def __deepcopy__(self, memo):
        raise AssertionError("a tensor was copied")


class Factor:
    """A callable that holds its argument and a count."""

    def __init__(self, **held):
        self.calls = 0
        self.own = self.count
        vars(self).update(held)

    def count(self):
        self.calls += 1

    def __call__(self, step):
        self.own()
        return 0.5 ** (self.calls - 1)


def of_model(model, step, **_):
    return 0.5**step


HOLDERS = {
    "partial": lambda model: functools.partial(of_model, model),
    "keyword": lambda model: functools.partial(lambda step, model: 0.5**step, model=model),
    "nested partial": lambda model: functools.partial(functools.partial(of_model, model), other=[{"a": model}]),
    "partial of a bound method": lambda model: functools.partial(model.factor),
    "callable": lambda model: Factor(model=model),
    "callable with weights": lambda model: Factor(weights={"weight": torch.ones(2).as_subclass(Weights)}),
    "callable with a holder": lambda model: Factor(trainer=Factor(model=model)),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_no_model_that_a_function_holds_is_copied(name):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    factor = HOLDERS[name](model)
    scheduler = torch_lr.LambdaLR(optimizer, factor)
    assert sample(scheduler, 3) == [0.4, 0.2, 0.1]
    assert getattr(factor, "calls", 1) == 1, "its own state is copied"


@pytest.mark.parametrize(
    "held",
    [
        lambda model: model,
        lambda model: types.SimpleNamespace(model=model, name="trainer"),
        lambda model: {"models": [model]},
        lambda model: [[model, model.weight]],
        lambda model: types.SimpleNamespace(optimizers={"ema": torch.optim.SGD(model.parameters(), lr=1.0)}),
    ],
)
def test_no_model_that_a_scheduler_holds_is_copied(held):
    class Weight(torch.nn.Parameter):
        def __deepcopy__(self, memo):
            raise AssertionError("a parameter was copied")

    model = Model()
    model.weight = Weight(torch.ones(3))  # one that the optimizer does not have
    scheduler = torch_lr.StepLR(optimizer_of(), step_size=1, gamma=0.5)
    vars(scheduler)["held"] = held(model)
    assert sample(scheduler, 3) == [0.4, 0.2, 0.1]


def test_a_stateful_factor_is_copied():
    class Counter:
        def __init__(self):
            self.calls = 0

        def __call__(self, step):
            self.calls += 1
            return 1 / self.calls

    factor = Counter()
    scheduler = torch_lr.LambdaLR(optimizer_of(), factor)
    assert sample(scheduler, 4) == [0.4, 0.2, 0.4 / 3, 0.1]
    assert factor.calls == 1


def test_groups_in_proportion_are_one_course():
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.0, 0.01, 0.3)], lr=1.0
    )
    assert sample(torch_lr.ExponentialLR(optimizer, gamma=0.5), 3) == [0.01, 0.005, 0.0025]


@pytest.mark.parametrize("steps", [STEPS, 3000])
@pytest.mark.parametrize("name", MAKERS)
def test_groups_in_proportion_are_one_course_also_where_their_lrs_are_tensors(name, steps):
    lrs = [1e-3, 3e-4, 7e-5]

    def make(kind):
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": kind(lr)} for lr in lrs]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        if name == "onecycle":
            return torch_lr.OneCycleLR(optimizer, max_lr=[kind(lr) for lr in lrs], total_steps=steps)
        if name == "cosine":
            return torch_lr.CosineAnnealingLR(optimizer, T_max=steps - 1)
        return MAKERS[name](optimizer)

    if name == "swa":
        with pytest.raises(ValueError, match="must give all parameter groups LRs that keep their proportions"):
            sample(make(torch.tensor), steps, freeze=True)
    else:
        exact = sample(make(float), steps, freeze=True)
        found = sample(make(torch.tensor), steps, freeze=True)
        assert found == pytest.approx(exact, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("total", range(2, 12))
def test_rounding_below_0_is_0(total, tensor):
    optimizer = optimizer_of(tensor=tensor)
    found = sample(torch_lr.LinearLR(optimizer, start_factor=0.9, end_factor=0.0, total_iters=total), total + 1)
    assert found[0] == pytest.approx(0.36)
    assert 0 <= found[-1] < 1e-6


def test_groups_of_different_courses_are_refused():
    scheduler = torch_lr.LambdaLR(optimizer_of(groups=2), [lambda step: 1.0, lambda step: 0.5**step])
    with pytest.raises(ValueError, match="must give all parameter groups LRs that keep their proportions"):
        sample(scheduler, 3)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_lrs_that_are_none_are_refused(lr):
    scheduler = torch_lr.LambdaLR(optimizer_of(), lambda step: 1.0 if step < 2 else lr)
    with pytest.raises(ValueError, match=r"must give finite LRs of at least 0, got .* after 2 steps"):
        sample(scheduler, 4)


def test_a_measured_schedule_is_refused_with_what_to_use():
    with pytest.raises(TypeError, match=r"got ReduceLROnPlateau, .* MultiStepLR"):
        sample(torch_lr.ReduceLROnPlateau(optimizer_of()), 4)
    with pytest.raises(TypeError, match=r"must be one of torch.optim.lr_scheduler, got float"):
        sample(0.1, 4)


def test_a_scheduler_that_was_stepped_is_refused():
    optimizer = optimizer_of()
    for make in (MAKERS["step"], MAKERS["chained"], MAKERS["sequential"]):
        scheduler = make(optimizer)
        optimizer.step()
        scheduler.step()
        with pytest.raises(ValueError, match="must stand at its first step to be sampled, got one that took 1"):
            sample(scheduler, 4)


def test_a_chain_of_which_one_part_was_stepped_is_refused():
    optimizer = optimizer_of()
    parts = [torch_lr.ConstantLR(optimizer), torch_lr.ExponentialLR(optimizer, gamma=0.5)]
    scheduler = torch_lr.ChainedScheduler([torch_lr.ChainedScheduler(parts), torch_lr.StepLR(optimizer, 3)])
    optimizer.step()
    parts[1].step()
    with pytest.raises(RuntimeError, match="ChainedScheduler whose parts have taken as many steps each, got 0, 1;"):
        sample(scheduler, 4)


def test_an_end_before_the_length_is_said():
    scheduler = torch_lr.OneCycleLR(optimizer_of(momentum=0.9), max_lr=0.5, total_steps=10)
    with pytest.raises(ValueError, match="must last for 20 steps, got OneCycleLR, which ended before step 11"):
        sample(scheduler, 20)
    frozen = sample(scheduler, 20, freeze=True)
    assert frozen[9:] == [frozen[9]] * 11
    assert frozen[9] == min(frozen)


@pytest.mark.parametrize(
    ("name", "last"),
    [("step", None), ("cosine", 39), ("onecycle", 39), ("sequential", 39), ("chained", None), ("cyclic", None)],
)
def test_the_last_step(name, last):
    assert last_step(MAKERS[name](optimizer_of(momentum=0.9))) == last


def test_a_chain_ends_with_its_first_part_to_end():
    optimizer = optimizer_of()
    parts = [torch_lr.CosineAnnealingLR(optimizer, T_max=size) for size in (9, 7)]
    assert last_step(torch_lr.ChainedScheduler([torch_lr.ConstantLR(optimizer), *parts])) == 7
