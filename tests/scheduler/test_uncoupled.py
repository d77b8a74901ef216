"""An optimizer without a coupling that steps in the place of a coupled one is noticed; what is legal stays silent."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from tests.scheduler.checks import backward, loader_of, model_of, sgd
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import optimizer as torch_optimizer

import adabatch as ab
from adabatch.scheduler import _uncoupled

GROWN = ab.schedules.steps("0:4 8:8")  # two batches of 4, then of 8
INSTEAD = (
    r"no optimizer of this BatchSizeScheduler \(SGD\) stepped for the batch at sample {clock}, but another {name} did, "
    r"over the same parameters and {without} what the coupling puts in force; `close\(\)` this one and make a "
    r"BatchSizeScheduler for the optimizer that steps: the one made last, of a wrapper such as SAM the one within, or "
    r"a list of both"
)


@pytest.fixture
def hooks(monkeypatch):
    """Counts torch's hooks beyond those that schedulers of other tests may have left alive."""
    gc.collect()
    monkeypatch.setattr(_uncoupled, "_watching", weakref.WeakSet())
    monkeypatch.setattr(_uncoupled, "_handles", [])
    before = len(torch_optimizer._global_optimizer_pre_hooks)
    return lambda: len(torch_optimizer._global_optimizer_pre_hooks) - before


def forever(loader):
    return itertools.chain.from_iterable(loader for _ in itertools.count())


def started(schedule=GROWN, *, coupling="linear", model=None):
    model, loader = model or model_of(), loader_of()
    optimizer = sgd(model)
    return model, loader, optimizer, ab.BatchSizeScheduler(optimizer, loader, schedule, coupling=coupling)


def test_an_optimizer_that_is_made_again():
    """A notebook cell run twice: a warning at the first batch, an error at the first that would be wrong."""
    model, loader, optimizer, batches = started()
    optimizer = sgd(model)
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    with pytest.warns(RuntimeWarning, match=INSTEAD.format(clock=0, name="SGD", without="later without")) as told:
        batches.step()
    assert told[0].filename == __file__
    backward(model, next(stream))
    optimizer.step()
    batches.step()  # told once
    backward(model, next(stream))
    optimizer.step()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=INSTEAD.format(clock=8, name="SGD", without="without")):
            batches.step()
    place, state = loader.state_dict(), batches.state_dict()
    stream.close()
    batches.close()
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWN)
    loader.load_state_dict(place)
    batches.load_state_dict(state)
    for batch in loader:
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert (loader.clock, batches.last_lr) == (64, [0.2])


def test_an_optimizer_that_is_made_again_once_the_batch_has_grown():
    model, loader, optimizer, batches = started()
    for number, batch in enumerate(loader):
        if number == 4:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        backward(model, batch)
        optimizer.step()
        if number == 4:
            break
        batches.step()
    with pytest.raises(RuntimeError, match=INSTEAD.format(clock=24, name="Adam", without="without")):
        batches.step()


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, by the usual interface: two steps around a second backward pass."""

    def __init__(self, params, kind, rho=0.05, **arguments):
        super().__init__(params, {"rho": rho, **arguments})
        self.base = kind(self.param_groups, **arguments)
        self.param_groups = self.base.param_groups
        self.defaults |= self.base.defaults

    def params(self):
        return [param for group in self.param_groups for param in group["params"] if param.grad is not None]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([param.grad.norm() for param in self.params()]).norm()
        for param in self.params():
            self.state[param]["at"] = param.clone()
            param.add_(param.grad * (self.param_groups[0]["rho"] / norm))

    @torch.no_grad()
    def second_step(self):
        for param in self.params():
            param.copy_(self.state[param]["at"])
        self.base.step()

    @torch.no_grad()
    def step(self, closure):  # type: ignore[override]
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        closure()
        self.second_step()


def sam_course(way, coupling="linear"):
    """Weights and LRs in force over an epoch."""
    model, loader = model_of(), loader_of()
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    batches = None
    if way == "by hand":
        batches = ab.BatchSizeScheduler(sgd(model_of()), loader, GROWN)
    elif way.startswith("base"):
        batches = ab.BatchSizeScheduler(sam.base, loader, GROWN, coupling=coupling)
    else:
        insist = ab.couplings.linear(any_optimizer=True) if coupling == "linear" else coupling
        batches = ab.BatchSizeScheduler(sam, loader, GROWN, coupling=insist)
    for batch in loader:
        if way == "by hand":
            sam.param_groups[0]["lr"] = 0.1 * batches.factor
        if way.endswith("step"):
            sam.step(lambda batch=batch: backward(model, batch))
        else:
            backward(model, batch)
            sam.first_step()
            backward(model, batch)
            sam.second_step()
        if way == "by hand":
            loader.commit()
        else:
            batches.step()
    return model.weight.detach().clone()


def test_a_wrapper_that_is_not_stepped_through():
    with (
        pytest.warns(RuntimeWarning, match=r"\(SAM\) stepped for the batch at sample 0, but another SGD did, over the"),
        pytest.raises(RuntimeError, match=r"\(SAM\) stepped for the batch at sample 8, .* such as SAM the one within"),
    ):
        sam_course("outer, two steps")


def test_the_optimizer_within_a_wrapper_is_coupled_however_it_is_stepped():
    expected = sam_course("by hand")
    for way in ("base, two steps", "base, step", "outer, step"):
        assert torch.equal(sam_course(way), expected), way


def test_where_the_coupling_changes_nothing_there_is_nothing_to_say():
    sam_course("outer, two steps", coupling="none")
    model, loader, _, batches = started(ab.schedules.constant())
    other = sgd(model)
    for _, batch in zip(range(50), forever(loader), strict=False):
        backward(model, batch)
        other.step()
        batches.step()


# Legal, and silent: warnings are errors here.


def test_networks_that_take_turns_with_one_or_both_coupled():
    for both in (True, False):
        one, two, loader = model_of(), model_of(), loader_of()
        optimizers = [sgd(one), sgd(two)]
        batches = ab.BatchSizeScheduler(optimizers if both else optimizers[0], loader, GROWN)
        for number, batch in zip(range(60), forever(loader), strict=False):
            turn = int(number % 6 != 5)  # the second five times, then the first
            backward((one, two)[turn], batch)
            optimizers[turn].step()
            batches.step()


def test_optimizers_over_the_same_parameters_that_take_turns_in_one_list():
    model, loader = model_of(), loader_of()
    optimizers = [sgd(model), torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)]
    batches = ab.BatchSizeScheduler(optimizers, loader, GROWN)
    for number, batch in zip(range(60), forever(loader), strict=False):
        backward(model, batch)
        optimizers[number >= 30].step()
        batches.step()


def test_an_optimizer_beside_the_coupled_one_may_step_where_that_one_is_skipped():
    """As if a scaler skipped the one for its gradients, and stepped the other over part of the parameters."""
    model, loader, optimizer, batches = started()
    beside = torch.optim.SGD([model.bias], lr=0.001)
    for number, batch in enumerate(loader):
        backward(model, batch)
        beside.step()
        if number not in (4, 5):
            optimizer.step()
        batches.step()
    assert number == 8


def test_phantom_steps_and_steps_between_batches_are_no_training():
    """A checkpoint fills the state of the other one by a step at an LR of 0; weights are polished between epochs."""
    model, loader, optimizer, batches = started()
    other = torch.optim.Adam(model.parameters())
    for number, batch in enumerate(loader):
        backward(model, batch)
        if number in (3, 4):
            model.zero_grad()
            other.state.clear()
            get_optimizer_state_dict(model, other)
        else:
            optimizer.step()
        batches.step()
        backward(model, batch)
        other.step()


def test_a_batch_that_another_stepped_for_and_that_was_left_out_says_nothing_of_the_next():
    model, loader, _, batches = started()
    other, stream = sgd(model), iter(loader)
    for _ in range(3):
        backward(model, next(stream))
    other.step()
    next(stream)
    with pytest.warns(RuntimeWarning, match="was left without") as told:
        batches.step()
    assert len(told) == 1


def test_steps_that_are_skipped_are_silent_for_a_while():
    """GradScaler's first scale takes some; a guard against NaN a few."""
    _, loader, _, batches = started()
    for _, _batch in zip(range(19), forever(loader), strict=False):
        batches.step()
    assert loader.clock > 64


# Told after 20 batches in a row.


def test_nothing_that_steps_at_all_is_told_once():
    model, loader, optimizer, batches = started()
    told = []
    for number, batch in zip(range(80), forever(loader), strict=False):
        backward(model, batch)
        if number == 10:
            optimizer.step()
        if number == 30:
            with pytest.warns(
                RuntimeWarning,
                match=r"no optimizer of this BatchSizeScheduler \(SGD\) stepped for 20 batches in a row; call "
                r"`optimizer.step\(\)` before `step\(\)`, give a BatchSizeScheduler the optimizers that train, or look",
            ):
                batches.step()
            told.append(number)
        else:
            batches.step()
    assert told == [30]


def test_model_and_optimizer_that_are_made_again_are_told():
    """They share no parameter with the coupled one: a second network may be trained alone for a while."""
    _, loader, _, batches = started()
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters())
    for number, batch in zip(range(40), forever(loader), strict=False):
        backward(model, batch)
        optimizer.step()
        if number == 19:
            with pytest.warns(
                RuntimeWarning,
                match=r"\(SGD\) stepped for 20 batches in a row, but another AdamW did, which it does not couple; "
                "give a BatchSizeScheduler the optimizers that train, unless those of this one are meant to wait",
            ):
                batches.step()
        else:
            batches.step()


def test_a_state_that_is_loaded_begins_the_count_afresh():
    _, loader, _, batches = started()
    stream = forever(loader)
    for _, _batch in zip(range(15), stream, strict=False):
        batches.step()
    stream = iter(())
    state, place = batches.state_dict(), loader.state_dict()
    loader.load_state_dict(place)
    batches.load_state_dict(state)
    for _, _batch in zip(range(15), forever(loader), strict=False):
        batches.step()


# The hook.


def test_the_hook_is_one_for_all_and_goes_with_the_last(hooks):
    one, two = started()[3], started()[3]
    assert hooks() == 1
    one.close()
    assert hooks() == 1
    two.close()
    two.close()
    assert hooks() == 0
    started()
    assert hooks() == 1
    gc.collect()
    assert hooks() == 0, "a scheduler that was collected leaves none"


def test_a_scheduler_that_is_collected_while_torch_goes_through_its_hooks(hooks):
    """Torch cannot lose a hook there; the next one takes it off."""
    other, seen = sgd(model_of()), []
    started()

    def collect(*_):
        gc.collect()
        seen.append(hooks())

    handles = [torch_optimizer.register_optimizer_step_pre_hook(collect) for _ in range(2)]
    other.step()
    for handle in handles:
        handle.remove()
    assert seen == [3, 3]
    assert hooks() == 1
    started()[3].close()
    assert hooks() == 0


def test_steps_of_optimizers_elsewhere_keep_nothing_alive():
    *_, batches = kept = started()
    next(iter(kept[1]))
    other = sgd(model_of())
    other.step()
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    batches.close()
