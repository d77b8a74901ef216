"""The optimizer holds the user's values after any exception that leaves `optimizer.step()`."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import types
import warnings
import weakref

import pytest
import torch
from tests.scheduler.checks import backward, equal, loader_of, model_of, sgd
from torch.optim import lr_scheduler

import adabatch as ab

GROWN = ab.schedules.steps("0:4 4:8")


class Planted(BaseException):
    """Like KeyboardInterrupt, no Exception."""


def second_batch(make=sgd, *, user=None, coupling="linear", **arguments):
    """A run at its second batch, whose LR in force is twice the base; `user` makes an LR scheduler before."""
    model, loader = model_of(), loader_of()
    optimizer = make(model, **arguments)
    by_lr = user(optimizer) if user else None
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWN, coupling=coupling)
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    backward(model, next(stream))
    return model, optimizer, batches, by_lr


def fails(*_):
    raise Planted


def by_closure(optimizer, batches):
    optimizer.step(fails)


def by_closure_in_words(optimizer, batches):
    optimizer.step(closure=fails)


def by_a_hook(where):
    def leave(optimizer, batches):
        handle = getattr(optimizer, f"register_step_{where}_hook")(fails)
        try:
            optimizer.step()
        finally:
            handle.remove()

    return leave


def by_the_coupling(optimizer, batches):
    """An exception from the pre-hook itself, half way through the groups."""
    second = optimizer.param_groups[1]
    held = second.pop("lr")
    try:
        optimizer.step()
    except KeyError as error:
        raise Planted from error
    finally:
        second["lr"] = held


LEAVING = {
    "closure": by_closure,
    "closure=": by_closure_in_words,
    "pre-hook": by_a_hook("pre"),
    "post-hook": by_a_hook("post"),
    "coupling": by_the_coupling,
}


def in_groups(model, lr=0.1, **arguments):
    return torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.3}], lr=lr, **arguments)


@pytest.mark.parametrize("order", ["before", "after", "none"])
@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_base_lrs_are_back_at_once(leave, order):
    """The user's LR scheduler goes on from its own LR, made before or after the coupling, or after the exception."""
    user = functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.1)
    model, optimizer, batches, by_lr = second_batch(in_groups, user=user if order == "before" else None)
    if order == "after":
        by_lr = user(optimizer)
    with pytest.raises(Planted):
        leave(optimizer, batches)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]
    by_lr = by_lr or user(optimizer)
    assert by_lr.base_lrs == [0.1, 0.3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of an LR scheduler whose optimizer has not stepped since
        by_lr.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03])
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.02 * model.weight.grad)
    assert batches.last_lr == pytest.approx([0.02, 0.06])
    batches.step()


def test_a_tensor_lr_is_back_at_once_in_the_same_object():
    lr = torch.tensor(0.1)
    _, optimizer, _, _ = second_batch(lr=lr)
    with pytest.raises(Planted):
        optimizer.step(fails)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.1, rel=1e-7)


def test_momentum_and_betas_are_back_at_once():
    def adam(model):
        return torch.optim.Adam(model.parameters(), lr=0.1)

    _, optimizer, _, _ = second_batch(adam, coupling="adam_sde")
    with pytest.raises(Planted):
        optimizer.step(fails)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.9, 0.999), 1e-8)
    _, optimizer, _, _ = second_batch(momentum=0.9, coupling="constant_noise")
    with pytest.raises(Planted):
        optimizer.step(fails)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_a_step_that_raised_in_parts_leaves_the_groups_whole():
    """During a step, parameters with different past betas are in different groups."""
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWN, coupling="adam_sde")
    for number, batch in zip(range(6), loader, strict=False):
        backward(model, batch)
        if number % 2:
            model.bias.grad = None
        if number < 5:
            optimizer.step()
            batches.step()
    within = []

    def closure():
        within.append((len(optimizer.param_groups), batches.last_lr))
        raise Planted

    with pytest.raises(Planted):
        optimizer.step(closure)
    [(count, lrs)] = within
    assert count == 2, "the case is there"
    assert lrs == pytest.approx([0.1 * 2**0.5])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_after_an_exception_states_and_the_latest_lr_are_as_documented():
    model, optimizer, batches, _ = second_batch()
    saved = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(Planted):
        optimizer.step(fails)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    assert batches.last_lr == [0.2], "it was in force"
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert batches.last_lr == [0.2], "that of the next step"
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.2 * model.weight.grad)
    batches.step()


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_lr_scheduler_still_warns_of_the_order_of_calls(order):
    """No warning comes if the order is right."""
    for right in (True, False):
        model, loader = model_of(), loader_of()
        optimizer = sgd(model)
        user = lr_scheduler.StepLR(optimizer, 1) if order == "before" else None
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWN)
        user = user or lr_scheduler.StepLR(optimizer, 1)
        backward(model, next(iter(loader)))
        if right:
            optimizer.step()
            batches.step()
            user.step()
        else:
            with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before"):
                user.step()


@pytest.mark.parametrize("wrapped", ["nothing", "an LR scheduler before", "an LR scheduler after"])
def test_close_takes_the_guard_off_and_several_do_not_pile_up(wrapped):
    optimizer = sgd(model_of())
    if wrapped == "an LR scheduler before":
        lr_scheduler.StepLR(optimizer, 1)
    held = vars(optimizer).get("step")

    def depth():
        frames = []
        handle = optimizer.register_step_pre_hook(lambda *_: frames.extend(inspect.stack()))
        optimizer.step()
        handle.remove()
        return sum("scheduler/_coupled_step" in frame.filename for frame in frames), len(frames)

    bare = depth()
    assert bare[0] == 0
    depths = set()
    for _ in range(5):
        batches = ab.BatchSizeScheduler(optimizer, loader_of(), ab.schedules.constant())
        if wrapped == "an LR scheduler after" and not depths:
            lr_scheduler.StepLR(optimizer, 1)
        depths.add(depth())
        batches.close()
    assert {guards for guards, _ in depths} == {1}
    assert len(depths) == 1
    if wrapped == "an LR scheduler after":  # under another's wrapper it stays, once, and passes on
        assert depth()[0] == 1
    else:
        assert vars(optimizer).get("step") is held
        assert depth() == bare
    with pytest.raises(Planted):
        optimizer.step(fails)


def test_copies_have_no_guard():
    model, optimizer, batches, _ = second_batch(user=functools.partial(lr_scheduler.StepLR, step_size=1))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), copy.copy(optimizer)):
        assert "step" not in vars(copied)
        with pytest.raises(Planted):
            copied.step(fails)
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.2 * model.weight.grad)
    batches.close()


def test_the_step_looks_as_it_did():
    """GradScaler, for one, reads its signature."""
    optimizer = sgd(model_of())
    name, signature = optimizer.step.__qualname__, inspect.signature(optimizer.step)
    ab.BatchSizeScheduler(optimizer, loader_of(), GROWN)
    assert isinstance(optimizer.step, types.MethodType)
    assert (optimizer.step.__qualname__, inspect.signature(optimizer.step)) == (name, signature)
    assert optimizer.step(lambda: 7.0) == 7.0


def test_a_step_kept_from_before_the_coupling_is_coupled_and_restored_later():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    kept = optimizer.step
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWN)
    for number, batch in zip(range(3), loader, strict=False):
        backward(model, batch)
        if number == 2:
            with pytest.raises(Planted):
                kept(fails)
            assert optimizer.param_groups[0]["lr"] == 0.2, "nothing saw the exception"
        before = model.weight.detach().clone()
        kept()
        assert torch.allclose(model.weight, before - 0.1 * batches.factor * model.weight.grad)
        batches.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wrapper_that_exchanges_the_step_goes_on_working(when):
    """As Accelerate does under a GradScaler: the method is exchanged while the scaler steps, and put back."""

    class Exchanging:
        def __init__(self, optimizer):
            self.optimizer, self.called = optimizer, 0
            self.original = optimizer.step
            self.patched = types.MethodType(self._count, optimizer)

        def _count(self, *args, **kwargs):
            self.called += 1
            return self.original(*args[1:], **kwargs)

        def step(self):
            self.optimizer.step = self.patched
            self.optimizer.step()
            self.optimizer.step = self.original

    runs = []
    for exchanged in (True, False):
        model, loader = model_of(), loader_of()
        optimizer = sgd(model)
        outer = Exchanging(optimizer) if exchanged and when == "before" else optimizer
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWN)
        outer = Exchanging(optimizer) if exchanged and when == "after" else outer
        for batch in loader:
            backward(model, batch)
            outer.step()
            batches.step()
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert batches.last_lr == [0.2]
        batches.close()
        backward(model, batch)
        outer.step()  # now without a coupling
        runs.append(model)
    assert equal(*runs)


def test_an_optimizer_is_collected_with_its_guard():
    gone = []
    for remade in (False, True):
        optimizer = sgd(model_of())
        batches = ab.BatchSizeScheduler(optimizer, loader_of(), GROWN)
        if remade:
            lr_scheduler.StepLR(optimizer, 1)
            batches.close()
        gone.append(weakref.ref(optimizer))
        del optimizer, batches
    gc.collect()
    assert [each() for each in gone] == [None, None]
