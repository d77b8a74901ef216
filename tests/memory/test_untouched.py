"""A measured step leaves no trace: bit for bit, in the same tensors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.memory.checks import data, everything, network, step_of
from torch.utils.data import DataLoader

import adabatch as ab
from adabatch import norm
from adabatch.memory import untouched


def identities(model, optimizer):
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    return [id(tensor) for tensor in tensors]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("own_step", [False, True])
def test_no_trace_is_left(make, begun, own_step):
    torch.set_printoptions(precision=20, threshold=10**6)
    model = network()
    lr = torch.tensor(0.1) if make is torch.optim.AdamW else 0.1
    optimizer = make(model.parameters(), lr=lr, weight_decay=0.1)
    loader = ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0)
    batches = ab.BatchSizeScheduler(
        optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), coupling="none", epochs=3
    )
    step = step_of(model)

    def updating(batch):
        step(batch)
        random.random()
        np.random.rand()
        model.eval()
        model.train()
        optimizer.step()

    if begun:
        for batch in loader:
            optimizer.zero_grad()
            step(batch)
            optimizer.step()
            batches.step()
    hooks = list(optimizer._optimizer_step_pre_hooks.items()), list(optimizer._optimizer_step_post_hooks.items())
    before, there, position = everything(model, optimizer), identities(model, optimizer), loader.state_dict()
    profile = ab.profile_step(updating if own_step else step, loader, model, optimizer, maximum=16)
    assert profile.largest == 16
    assert everything(model, optimizer) == before
    assert identities(model, optimizer) == there
    assert hooks == (
        list(optimizer._optimizer_step_pre_hooks.items()),
        list(optimizer._optimizer_step_post_hooks.items()),
    )
    assert len(hooks[0]) == len(hooks[1]) == 1
    assert (loader.state_dict(), loader.current, loader.clock) == (position, None, 32 * begun)
    expected = iter(ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0))
    if not begun:
        assert torch.equal(next(iter(loader))[0], next(expected)[0])
        optimizer.step()
        batches.step()
    torch.set_printoptions(profile="default")


def test_training_goes_on_as_if_nothing_had_been():
    results = []
    for probed in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loader = DataLoader(data(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                step_of(model)(batch)
                optimizer.step()
            if probed:
                ab.profile_step(step_of(model), loader, model, optimizer, maximum=4)
        results.append(list(model.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_an_error_in_the_step_leaves_no_trace_either():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        step_of(model)(batch)
        if len(batch[0]) > 4:
            raise ZeroDivisionError

    before = everything(model, optimizer)
    with pytest.raises(ZeroDivisionError):
        ab.profile_step(step, ab.DataLoader(data(), batch_size=4, seed=0), model, optimizer)
    assert everything(model, optimizer) == before
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_what_only_the_optimizer_knows_is_left_alone():
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["step"] = group.get("step", 0) + 1
            return super().step(closure)

    model, head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    optimizer = Counting([*model.parameters(), *head.parameters()], lr=0.1)
    before = head.weight.detach().clone()
    ab.profile_step(
        lambda batch: head(model(batch[0])).sum().backward(), DataLoader(data(), 4), model, optimizer, maximum=4
    )
    assert "step" not in optimizer.param_groups[0]
    assert head.weight.grad is None
    assert torch.equal(head.weight, before)


def test_the_last_batch_stays_the_one_trained_on():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    handle = norm.last_batch(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = torch.randn(8, 2)
    with untouched.Untouched(model, [optimizer]):
        model(inputs)
    with pytest.raises(RuntimeError, match="needs a batch before the first evaluation"):
        model.eval()(inputs)
    model.train()(inputs)
    (count, mean, _), running = model[1].batch_so_far, model[1].running_mean.clone()
    with untouched.Untouched(model, [optimizer]):
        model(inputs[:3] + 5)
    assert (model[1].batch_so_far[0], model[1].batch_so_far[1] is mean) == (count, True)
    handle.settle()
    assert model[1].running_mean.equal(running)
