"""Base LR and LR in force follow the closed form, whatever is done in whatever order."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.checks import backward, loader_of, model_of
from torch.optim import lr_scheduler

import adabatch as ab

# Both directions, in sizes that divide the epoch of 48 and sizes that do not.
GROWING = ab.schedules.steps("0:4 20:8 48:12 90:20 140:4 200:16")


def sequential(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.PolynomialLR(optimizer, total_iters=30)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[5])


def chained(optimizer):
    parts = [lr_scheduler.ConstantLR(optimizer, total_iters=6), lr_scheduler.ExponentialLR(optimizer, gamma=0.95)]
    return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)


SCHEDULERS = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.95),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 9], gamma=0.1),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, total_iters=7),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, total_iters=9),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=2.0),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(
        optimizer, base_lr=0.01, max_lr=0.1, step_size_up=4, cycle_momentum="momentum" in optimizer.defaults
    ),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=80),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "SWALR": lambda optimizer: torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.01, anneal_epochs=8),
}
COUPLINGS = {
    "linear": lambda model, lr: torch.optim.SGD(groups(model), lr=lr, momentum=0.9),
    "constant_noise(maximum_lr_factor=2)": lambda model, lr: torch.optim.SGD(groups(model), lr=lr, momentum=0.9),
    "sqrt": lambda model, lr: torch.optim.AdamW(groups(model), lr=lr),
    "adam_sde": lambda model, lr: torch.optim.Adam(groups(model), lr=lr),
    "token_half_life": lambda model, lr: torch.optim.AdamW(groups(model), lr=lr, fused=True),
}
WATCHED = ("lr", "momentum", "betas", "eps", "weight_decay")


def groups(model):
    return [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.02}]


def held(optimizer):
    return [{key: value_of(group[key]) for key in WATCHED if key in group} for group in optimizer.param_groups]


def value_of(value):
    return float(value) if isinstance(value, torch.Tensor) else value


class Run:
    """A training in parts that can be remade, with a twin: the same LR scheduler on an optimizer without coupling."""

    def __init__(self, user, coupling, *, tensor_lr):
        self.coupling = ab.couplings.get(coupling)
        self.make = lambda model: COUPLINGS[coupling](model, torch.tensor(0.05) if tensor_lr else 0.05)
        self.make_user = SCHEDULERS[user]
        self.model, twin = model_of(), model_of()
        self.twin = self.make(twin)
        self.twin_user = self.make_user(self.twin)
        self.build()

    def build(self):
        self.optimizer = self.make(self.model)
        self.user = self.make_user(self.optimizer)
        self.loader = loader_of(48)
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, GROWING, coupling=self.coupling)
        self.stream = iter(self.loader)

    def update(self):
        batch = next(self.stream, None)
        if batch is None:
            self.stream = iter(self.loader)
            batch = next(self.stream)
        size = self.loader.current.requested
        assert size == self.batches.plan.batch_size_at(self.loader.current.clock)
        backward(self.model, batch)
        self.optimizer.step()
        self.twin.step()
        self.check(size)
        self.batches.step()
        self.check(size)

    def check(self, size=None):
        """The base LRs are the twin's; the LRs in force theirs times the factor of the batch size."""
        assert held(self.optimizer) == held(self.twin)
        if size is not None:
            expected = [group["lr"] * self.coupling.lr_factor(size / 4) for group in held(self.twin)]
            assert self.batches.last_lr == pytest.approx(expected, rel=1e-6)

    def user_step(self):
        for user in (self.user, self.twin_user):
            user.step(*([1.0] if isinstance(user, lr_scheduler.ReduceLROnPlateau) else []))
        self.check()

    def save(self):
        names = ("optimizer", "user", "loader", "batches", "twin", "twin_user")
        state = copy.deepcopy({name: getattr(self, name).state_dict() for name in names})
        state["model"] = copy.deepcopy(self.model.state_dict())
        assert json.loads(json.dumps(state["batches"])) == state["batches"]
        return state

    def load(self, state, order):
        state = copy.deepcopy(state)
        self.stream = iter(self.loader)
        self.model.load_state_dict(state["model"])
        for name in ("twin", "twin_user", *order):
            getattr(self, name).load_state_dict(state[name])
        self.check()


ORDERS = st.permutations(["optimizer", "user", "loader", "batches"])
ACTIONS = st.one_of(
    st.just("update"),
    st.just("update"),
    st.just("user"),
    st.just("save"),
    st.tuples(st.just("load"), ORDERS),
    st.tuples(st.just("recreate"), ORDERS),
)


@pytest.mark.parametrize("user", SCHEDULERS)
@settings(max_examples=10, deadline=None)
@given(coupling=st.sampled_from(sorted(COUPLINGS)), tensor_lr=st.booleans(), actions=st.lists(ACTIONS, max_size=25))
def test_random_sequences_leave_every_lr_where_closed_form_says(user, coupling, tensor_lr, actions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch, of LR schedulers that step before the optimizer
        run = Run(user, coupling, tensor_lr=tensor_lr and user not in ("CyclicLR", "OneCycleLR", "SWALR"))
        saved = run.save()
        for action in actions:
            match action:
                case "update":
                    run.update()
                case "user":
                    run.user_step()
                case "save":
                    saved = run.save()
                case ("load", order):
                    run.load(saved, order)
                case ("recreate", order):
                    saved = run.save()
                    run.batches.close()
                    run.build()
                    run.load(saved, order)
        run.update()
        run.user_step()


def test_every_scheduler_of_torch_is_named():
    kinds = {
        name
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert kinds - {"LRScheduler"} <= set(SCHEDULERS)


@pytest.mark.filterwarnings("ignore:.* is stepped once an update:UserWarning")  # on purpose
@pytest.mark.parametrize("coupling", COUPLINGS)
@settings(max_examples=8, deadline=None)
@given(before=st.integers(1, 14))
def test_without_the_state_of_the_optimizer_the_lrs_are_those_of_its_lr_scheduler(coupling, before):
    """A new optimizer under an old LR scheduler, loader and batch scheduler: only the moments start afresh."""
    run = Run("ExponentialLR", coupling, tensor_lr=False)
    for _ in range(before):
        run.update()
        run.user_step()
    saved = run.save()
    run.batches.close()
    run.build()
    for name in ("user", "loader", "batches"):
        getattr(run, name).load_state_dict(copy.deepcopy(saved[name]))
    # torch's LR schedulers write the LR at their next step; till then the optimizer has that of its making.
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.05, 0.02]
    for group, lr in zip(run.optimizer.param_groups, run.user.get_last_lr(), strict=True):
        group["lr"] = lr
    for _ in range(3):
        run.update()
        run.user_step()


# An LR of 0 trains nothing, but it is a step like any other.

ZEROS = {
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(
        optimizer, base_lr=0, max_lr=0.1, step_size_up=2, cycle_momentum=False
    ),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: (0, 1, 0, 0.5, 0)[step % 5]),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=2),
}


@pytest.mark.filterwarnings("ignore:.* is stepped once an update:UserWarning")  # on purpose
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("coupling", ["constant_noise", "adam_sde", "linear", "sqrt"])
@pytest.mark.parametrize("user", ZEROS)
def test_a_step_at_an_lr_of_0_is_a_step(user, coupling, tensor_lr):
    """Its LR is the latest in force, and moments are made with the coupling's values for the current batch."""
    rule, sizes = ab.couplings.get(coupling), "0:4 8:8 20:4 24:12"
    model, lr = model_of(), torch.tensor(0.1) if tensor_lr and user != "CyclicLR" else 0.1
    if coupling in ("constant_noise", "linear"):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    by_lr, loader, seen = ZEROS[user](optimizer), loader_of(64), []
    optimizer.register_step_pre_hook(lambda made, *_: seen.append(held(made)[0]))
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps(sizes), coupling=rule)
    optimizer.register_step_pre_hook(lambda made, *_: seen.append(held(made)[0]))
    zeros = 0
    for batch in loader:
        ratio = loader.current.requested / 4
        backward(model, batch)
        optimizer.step()
        base, used = seen[-2:]
        expected = base | {key: value_of(value) for key, value in rule.in_force(base, ratio).items()}
        expected = {key: value for key, value in expected.items() if key in ("lr", "momentum", "betas")}
        assert batches.last_lr == pytest.approx([expected["lr"]], rel=1e-6)
        moments = expected.keys() - {"lr"}
        assert {key: used[key] for key in moments} == {key: expected[key] for key in moments}
        zeros += expected["lr"] == 0
        batches.step()
        by_lr.step()
    assert zeros >= 2, "the case is there"


def test_a_forgotten_call_is_noticed_at_an_lr_of_0():
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"was not called after `optimizer.step\(\)`"):
        next(stream)
    batches.step()
    backward(model, next(stream))
    batches.step()
    with pytest.raises(RuntimeError, match=r"came after `step\(\)` of BatchSizeScheduler"):
        optimizer.step()
