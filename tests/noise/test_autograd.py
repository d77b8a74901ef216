"""Hearing of backward passes and of scaled losses, and letting go of torch afterwards."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import adabatch as ab
from adabatch.noise._autograd import Passes


@pytest.fixture(autouse=True)
def nobody_else():
    """Taps of other tests that nobody closed are gone."""
    gc.collect()


def listening(heard):
    return Passes(lambda: heard.append("begins"), lambda: heard.append("over"))


def test_outer_passes_are_heard():
    heard = []
    passes = listening(heard)
    layer, x = torch.nn.Linear(2, 2), torch.randn(3, 2, requires_grad=True)
    checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert heard == ["begins", "over"]
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.zeros(()).backward()
    assert heard == ["begins", "over", "begins"]
    layer(x).sum().backward()
    assert heard[3:] == ["begins", "over"]
    passes.close()
    layer(x).sum().backward()
    assert len(heard) == 5


def test_torch_is_as_it_was_after_the_last_one():
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    one, other = listening([]), listening([])
    assert torch.autograd.backward is not backward
    one.close()
    assert torch.autograd.backward is not backward
    other.close()
    other.close()
    assert torch.autograd.backward is backward
    assert torch.amp.GradScaler.scale is scale


def test_one_that_nobody_closes_lets_go_when_it_is_gone():
    backward = torch.autograd.backward
    passes = listening([])
    assert torch.autograd.backward is not backward
    del passes
    gc.collect()
    assert torch.autograd.backward is backward


def test_another_wrapper_on_top_stays_whole():
    """As `accumulate`, which wraps the same function while it goes on."""
    backward, heard = torch.autograd.backward, []
    passes = listening(heard)
    data = torch.utils.data.TensorDataset(torch.randn(4, 2))
    loader, model = ab.DataLoader(data, batch_size=4), torch.nn.Linear(2, 1)
    for micro in ab.accumulate(loader, model):
        with micro as (inputs,):
            model(inputs).sum().backward()
        passes.close()
    assert heard == ["begins", "over"]
    model(torch.randn(4, 2)).sum().backward()
    assert len(heard) == 2
    again = listening(heard)
    model(torch.randn(4, 2)).sum().backward()
    assert len(heard) == 4
    again.close()
    assert torch.autograd.backward is backward


def test_the_factor_of_the_scaler_that_was_used_last():
    passes = listening([])
    assert passes.factor() == 1
    torch.amp.GradScaler("cpu", init_scale=64.0).scale(torch.zeros(()))
    assert passes.factor() == 64
    torch.amp.GradScaler("cpu", enabled=False).scale(torch.zeros(()))
    assert passes.factor() == 1
    passes.close()
