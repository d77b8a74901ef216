"""Optimizers inside wrappers, and what is no optimizer."""

from __future__ import annotations

import pytest
import torch

from adabatch._optimizers import is_steppable, unwrapped


class Wrapper(torch.optim.Optimizer):
    """As frameworks write them: without torch's own beginning, so without its hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


def sgd():
    return torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)


def test_the_optimizer_inside_wrappers():
    inner = sgd()
    assert unwrapped(inner) is inner
    assert unwrapped(Wrapper(inner)) is unwrapped(Wrapper(Wrapper(inner))) is inner
    assert is_steppable(inner)
    assert not is_steppable(Wrapper(inner))


def test_one_that_holds_another_by_chance_stays():
    other = Wrapper(sgd())
    other.param_groups = []
    assert unwrapped(other) is other
    for given in (None, 3, [sgd()]):
        assert unwrapped(given) is given
        assert not is_steppable(given)


def test_accelerates_wrapper():
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    inner = sgd()
    wrapped = accelerate.Accelerator(cpu=True).prepare(inner)
    assert not is_steppable(wrapped)
    assert unwrapped(wrapped) is inner
